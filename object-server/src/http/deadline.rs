//! Deadlines that cost next to nothing when they are not reached.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for all the waits of one task.
///
/// Setting a timer takes the lock of the runtime's timer wheel, twice per request if done plainly. Here the timer
/// is left where it is when the next deadline lies later; if it then goes off early it is moved, which happens
/// once per timeout and not once per wait.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Waits for `future`, at most so long; `None` if it took longer. The clock is only looked at if the future
    /// is not ready at once.
    pub(super) async fn limit<F: Future>(&mut self, longest: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut due = None;
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            let due = *due.get_or_insert_with(|| Instant::now() + longest);
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if sleep.deadline() > due {
                sleep.as_mut().reset(due);
            }
            while sleep.as_mut().poll(context).is_ready() {
                if sleep.deadline() >= due {
                    return Poll::Ready(None);
                }
                sleep.as_mut().reset(due);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn http_deadline_holds_after_longer_and_shorter_ones() {
        let mut deadline = Deadline::default();
        for wait in [200, 20, 60, 20] {
            let wait = Duration::from_millis(wait);
            assert_eq!(deadline.limit(wait, async { 1 }).await, Some(1));
            let start = Instant::now();
            assert_eq!(deadline.limit(wait, pending::<()>()).await, None);
            assert!(start.elapsed() >= wait && start.elapsed() < wait + Duration::from_millis(150));
            let early = tokio::time::sleep(Duration::from_millis(5));
            assert_eq!(deadline.limit(wait, early).await, Some(()));
        }
    }
}
