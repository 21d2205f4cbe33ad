//! One client's connection, from request to request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Buf;

use super::Body;
use super::head::{self, Framing, Head, Scanner};
use super::intake::Intake;
use super::link::Link;
use super::message::{Handler, Request, Version};
use super::outlet::Outlet;
use super::render::Asked;
use super::report::Report;

/// How long a handler's task that still holds the body after the answer is waited for.
const BODY_BACK: Duration = Duration::from_secs(1);

/// What came next on a connection.
enum Next {
    Request(Head, Instant),
    /// Nothing, or nothing that deserves an answer.
    End,
    /// Something that is answered with this status, and the connection closed.
    Refused(u16),
}

/// How a connection ends.
enum End {
    /// The client has gone, or the body was cut: nothing more to say.
    Now,
    /// The client shall see the end of our answer.
    Goodbye,
    /// The client may still be sending: it shall see the answer rather than a reset.
    Linger,
}

/// Serves requests until the client, an error or `draining` ends it.
pub(super) async fn run<H: Handler>(handler: &H, link: Arc<Link>, secure: bool, draining: &AtomicBool) {
    let end = serve(handler, &link, secure, draining).await;
    let farewell = async {
        match end {
            End::Now => {}
            End::Goodbye if !secure => {}
            End::Goodbye => drop(link.finish().await),
            End::Linger => {
                if link.finish().await.is_ok() {
                    // However it ends, it has ended.
                    let _ = link.swallow().await;
                }
            }
        }
    };
    let _ = tokio::time::timeout(link.limits.linger, farewell).await;
    if Arc::strong_count(&link) > 1 {
        // A handler's task or a job on a pool still has a hold on it.
        link.stop();
    }
}

async fn serve<H: Handler>(handler: &H, link: &Arc<Link>, secure: bool, draining: &AtomicBool) -> End {
    let mut intake = Box::new(Intake::new());
    let mut outlet = Outlet::new(Arc::clone(link));
    loop {
        let (head, started) = match next(&mut intake, link, draining).await {
            Next::Request(head, started) => (head, started),
            Next::End => return End::Goodbye,
            Next::Refused(status) => {
                handler.refused(link.peer, status);
                let asked = Asked { head: false, version: Version::Http11, keep_alive: false, named: false };
                let mut report = Report::new(Arc::clone(link), None, Instant::now());
                let sent = outlet.refuse(status, asked, &mut report).await;
                return if sent.is_ok() { End::Linger } else { End::Now };
            }
        };
        let head_only = head.method == "HEAD";
        let (version, keep_alive) = (head.version, head.keep_alive);
        let named = keep_alive && head.headers.contains("Connection");
        let (request, kept) = admit(head, intake, link, secure, started);
        let mut response = handler.call(request).await;
        link.answered.store(true, Ordering::Release);

        let mut report = Report::new(Arc::clone(link), response.done.take(), started);
        let back = kept.or_else(|| link.take_back());
        let drains = back.as_ref().is_none_or(|intake| intake.can_drain(link.limits.drain));
        let keep_alive = keep_alive && drains && !draining.load(Ordering::Acquire);
        let asked = Asked { head: head_only, version, keep_alive, named };
        let sent = outlet.answer(response, asked, &mut report).await;
        report.finish();

        let back = match back {
            Some(back) => Some(back),
            None => link.wait_back(BODY_BACK).await,
        };
        let (Ok(keep_alive), Some(back)) = (sent, back) else { return End::Now };
        intake = back;
        if !keep_alive {
            let quiet = intake.is_done() && intake.buffer.is_empty();
            return if quiet { End::Goodbye } else { End::Linger };
        }
        if !intake.drain(link).await {
            return End::Linger;
        }
        intake.shrink();
    }
}

/// Makes a request of a head. The reading side goes with the body, if there is one, and comes back when that is
/// dropped.
fn admit(
    head: Head,
    mut intake: Box<Intake>,
    link: &Arc<Link>,
    secure: bool,
    started: Instant,
) -> (Request, Option<Box<Intake>>) {
    link.received.store(0, Ordering::Relaxed);
    link.answered.store(false, Ordering::Relaxed);
    intake.begin(head.framing, head.expects);
    let (body, kept) = match head.framing {
        Framing::Length(0) => (Body::empty(), Some(intake)),
        Framing::Length(length) => (Body::wire(intake, Arc::clone(link), Some(length)), None),
        Framing::Chunked => (Body::wire(intake, Arc::clone(link), None), None),
    };
    let request = Request {
        method: head.method,
        target: head.target,
        version: head.version,
        headers: head.headers,
        body,
        peer: link.peer,
        secure,
        received: started,
    };
    (request, kept)
}

/// Reads the next head.
async fn next(intake: &mut Intake, link: &Link, draining: &AtomicBool) -> Next {
    let limits = &link.limits;
    let mut scanner = Scanner::default();
    let mut started = None;
    loop {
        let idle = intake.buffer.is_empty();
        if !idle {
            let started = *started.get_or_insert_with(Instant::now);
            match scanner.scan(&intake.buffer, limits) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    let bytes = intake.buffer.get(..length).unwrap_or_default();
                    return match head::parse(bytes, scanner.fields()) {
                        Ok(head) => {
                            intake.buffer.advance(length);
                            Next::Request(head, started)
                        }
                        Err(error) => Next::Refused(error.status()),
                    };
                }
                Err(error) => return Next::Refused(error.status()),
            }
        }
        let longest = match started {
            None => limits.idle_timeout,
            Some(started) => limits.head_timeout.saturating_sub(started.elapsed()),
        };
        intake.make_room();
        if idle {
            // First idle, then the question: whoever drains sets his flag first and then looks who is idle.
            link.idle.store(true, Ordering::SeqCst);
            if draining.load(Ordering::SeqCst) {
                return Next::End;
            }
        }
        let read = intake.deadline.limit(longest, link.read_buf(&mut intake.buffer)).await;
        if idle {
            link.idle.store(false, Ordering::SeqCst);
        }
        match read {
            None if idle => return Next::End,
            None => return Next::Refused(408),
            Some(Ok(0) | Err(_)) => return Next::End,
            Some(Ok(_)) => {}
        }
    }
}
