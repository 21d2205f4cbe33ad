//! Bulk delete: many objects and empty containers in one request, named in its body.

use std::collections::HashMap;
use std::sync::Arc;

use namespace::{ObjectName, Timestamp};
use tokio::task::JoinSet;

use super::call::Call;
use super::container;
use super::errors::Answer;
use super::object::{self, delete, put};
use super::slo::report::Format;
use super::tally::Tally;
use super::text;
use crate::config::Limits;
use crate::http::{Body, Response};

/// Most names in a request; `/info` tells.
pub const MAX_DELETES: usize = 10_000;
/// So many failures end a request; `/info` tells.
pub const MAX_FAILED: usize = 1000;

/// Deletions of one request that run at the same time.
const AT_ONCE: usize = 4;

/// Whether a request is a bulk delete. As in Swift, what the URL names beneath the account does not count then: it
/// is not what is deleted.
pub fn is_meant(call: &Call) -> bool {
    ["POST", "DELETE"].contains(&call.method.as_str()) && call.target.query.has("bulk-delete")
}

/// Answers a bulk delete. Everybody may ask for one; whether they may delete is decided for each name.
pub async fn handle(call: &Arc<Call>, account: &str, mut body: Body) -> Result<Response, Answer> {
    let Some(format) = Format::choose(call.header("accept"), false) else {
        return Ok(Tally::refused(406, "").report(Format::Text));
    };
    let kind = call.header("content-type").unwrap_or_default();
    if !kind.is_empty() && !kind.starts_with(b"text/plain") {
        return Ok(Tally::refused(406, "").report(format));
    }
    if !call.headers.contains("content-length") && !call.headers.contains("transfer-encoding") {
        return Ok(Tally::refused(411, "").report(format));
    }
    let mut names = Names::new(&call.service.limits, MAX_DELETES);
    while let Some(chunk) = body.chunk().await.map_err(put::body_failure)? {
        if let Err(refused) = names.push(&chunk) {
            return Ok(refused.tally().report(format));
        }
    }
    match names.finish() {
        Ok(names) => run(call, account, names).await.map(|tally| tally.report(format)),
        Err(refused) => Ok(refused.tally().report(format)),
    }
}

/// Why none of the names is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    TooMany(usize),
    TooLong,
}

impl Refused {
    fn tally(self) -> Tally {
        match self {
            Self::TooMany(most) => Tally::refused(413, &format!("Maximum Bulk Deletes: {most} per request")),
            Self::TooLong => Tally::refused(400, "Invalid File Name"),
        }
    }
}

/// Takes the body apart: one percent-encoded name a line.
#[derive(Debug)]
struct Names {
    /// Those that have ended. Blank lines leave empty ones, which count.
    decoded: Vec<Vec<u8>>,
    /// The line that has not ended yet.
    line: Vec<u8>,
    most: usize,
    longest: usize,
}

impl Names {
    fn new(limits: &Limits, most: usize) -> Self {
        let path = limits.max_container_name_length + limits.max_object_name_length + 2;
        // With every byte escaped. Swift allows for fewer escapes, and so cannot delete some of what it stores.
        Self { decoded: Vec::new(), line: Vec::new(), most, longest: path.saturating_mul(3) }
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), Refused> {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() > self.longest {
                return Err(Refused::TooLong);
            }
            if piece.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), Refused> {
        if self.decoded.len() == self.most {
            return Err(Refused::TooMany(self.most));
        }
        self.decoded.push(text::unquote(self.line.trim_ascii()));
        self.line.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Vec<u8>>, Refused> {
        if !self.line.trim_ascii().is_empty() {
            self.end_line()?;
        }
        self.decoded.retain(|name| !name.is_empty());
        Ok(self.decoded)
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Object(String, String),
    Container(String),
}

impl Target {
    fn of(name: &[u8]) -> Result<Self, Answer> {
        let path = std::str::from_utf8(name).ok().filter(|path| !path.contains('\0'));
        let path = path.ok_or_else(|| Answer::new(412))?.trim_start_matches('/');
        match path.split_once('/').unwrap_or((path, "")) {
            // The account itself, which does not go this way.
            ("", _) => Err(Answer::new(405)),
            (container, "") => Ok(Self::Container(container.to_owned())),
            (container, object) => Ok(Self::Object(container.to_owned(), object.to_owned())),
        }
    }
}

/// Something to delete.
#[derive(Debug, PartialEq, Eq)]
struct Doomed {
    /// As the client spells it.
    name: Vec<u8>,
    target: Target,
    /// How often it is named.
    times: usize,
}

impl Doomed {
    /// What is named again is deleted once, for deletions at the same time would get into each other's way: the
    /// others find nothing, or fail like the first.
    fn count(&self, result: &Result<(), Answer>, tally: &mut Tally) {
        tally.count(&self.name, result.clone());
        for _ in 1..self.times {
            tally.count(&self.name, result.clone().and_then(|()| Err(Answer::new(404))));
        }
    }
}

/// Objects first, then containers, which may be empty by then. Names that cannot be are counted.
fn sort(names: Vec<Vec<u8>>, tally: &mut Tally) -> [Vec<Doomed>; 2] {
    let mut sorted = [Vec::<Doomed>::new(), Vec::new()];
    let mut known = HashMap::new();
    for name in names {
        let target = match Target::of(&name) {
            Ok(target) => target,
            Err(answer) => {
                tally.count(&name, Err(answer));
                continue;
            }
        };
        let list = &mut sorted[usize::from(matches!(target, Target::Container(_)))];
        let at = *known.entry(target.clone()).or_insert(list.len());
        match list.get_mut(at) {
            Some(doomed) => doomed.times += 1,
            None => list.push(Doomed { name, target, times: 1 }),
        }
    }
    sorted
}

async fn run(call: &Arc<Call>, account: &str, names: Vec<Vec<u8>>) -> Result<Tally, Answer> {
    let mut tally = Tally::default();
    let mut rights = Rights::default();
    for list in sort(names, &mut tally) {
        delete_all(call, account, list, &mut rights, &mut tally).await?;
    }
    if tally.failures() >= MAX_FAILED {
        tally.stop(400, "Max delete failures exceeded");
    }
    Ok(tally)
}

/// Deletes a few at a time, until too much has failed.
async fn delete_all(
    call: &Arc<Call>,
    account: &str,
    list: Vec<Doomed>,
    rights: &mut Rights,
    tally: &mut Tally,
) -> Result<(), Answer> {
    let mut running = JoinSet::new();
    let mut list = list.into_iter();
    loop {
        while running.len() < AT_ONCE && tally.failures() < MAX_FAILED {
            let Some(doomed) = list.next() else { break };
            match rights.check(call, account, &doomed.target).await {
                Ok(()) => {
                    let (call, account) = (Arc::clone(call), account.to_owned());
                    running.spawn(async move {
                        let result = remove(&call, &account, &doomed.target).await;
                        (doomed, result)
                    });
                }
                Err(answer) => doomed.count(&Err(answer), tally),
            }
        }
        match running.join_next().await {
            Some(Ok((doomed, result))) => doomed.count(&result, tally),
            Some(Err(error)) => {
                tracing::error!(%error, "a deletion broke off");
                return Err(Answer::new(500));
            }
            None => return Ok(()),
        }
    }
}

/// In which containers the caller may delete objects: the lists of each are read once.
#[derive(Debug, Default)]
struct Rights(HashMap<String, Result<(), Answer>>);

impl Rights {
    async fn check(&mut self, call: &Call, account: &str, target: &Target) -> Result<(), Answer> {
        let (container, object) = match target {
            Target::Container(container) => {
                return container::authorize(call, "DELETE", account, container).await.map(|_| ());
            }
            Target::Object(container, object) => (container, object),
        };
        if let Some(known) = self.0.get(container) {
            return known.clone();
        }
        let name = ObjectName::new(account, container, object);
        let result = object::authorize(call, "DELETE", &name).await;
        // A failure to decide is not a decision.
        if result.as_ref().err().is_none_or(|answer| answer.status < 500) {
            self.0.insert(container.clone(), result.clone());
        }
        result
    }
}

async fn remove(call: &Call, account: &str, target: &Target) -> Result<(), Answer> {
    match target {
        Target::Container(container) => container::remove(call, account, container).await,
        Target::Object(container, object) => {
            // The list may have taken its time to arrive: each deletion counts as made when it begins.
            let now = Timestamp::now();
            let timestamp = if call.headers.contains("x-timestamp") { call.timestamp } else { now };
            delete::remove_at(call, ObjectName::new(account, container, object), timestamp, None).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(body: &[u8], most: usize) -> Result<Vec<String>, Refused> {
        let mut names = Names::new(&Limits::default(), most);
        names.push(body)?;
        let shown = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
        Ok(names.finish()?.into_iter().map(shown).collect())
    }

    fn object(container: &str, object: &str) -> Target {
        Target::Object(container.to_owned(), object.to_owned())
    }

    fn target(name: &[u8]) -> Result<Target, u16> {
        Target::of(name).map_err(|answer| answer.status)
    }

    #[test]
    fn a_name_a_line_unquoted_once() {
        let body = b"/c/f\r\n\n  c/%2525 \n\t\nc/a%20b+%zz\nc/%E2%99%A1\nd";
        assert_eq!(names(body, 9).unwrap(), ["/c/f", "c/%25", "c/a b+%zz", "c/♡", "d"]);
        // Blanks and ends of lines that are escaped belong to the name.
        assert_eq!(names(b"1%20\r\nc/a%0Ab\n", 9).unwrap(), ["1 ", "c/a\nb"]);
        assert_eq!(names(b" \n \r\n ", 9).unwrap(), [""; 0]);
    }

    #[test]
    fn too_many_lines_are_refused_even_if_blank() {
        assert_eq!(names(b"1\n2\n3", 3).unwrap().len(), 3);
        assert_eq!(names(b"1\n2\n3\n \n", 3), Err(Refused::TooMany(3)));
        assert_eq!(names(b"\n\n\n\n", 3), Err(Refused::TooMany(3)));
        assert_eq!(names(b"1\n2\n3\n4", 3), Err(Refused::TooMany(3)));
        assert_eq!(names(b"1\n2\n3\n ", 3).unwrap().len(), 3);
    }

    #[test]
    fn any_name_that_can_be_stored_fits_a_line() {
        let limits = Limits::default();
        let (container, object) = (limits.max_container_name_length, limits.max_object_name_length);
        let longest = format!("/{}/{}\n", "%41".repeat(container), "%C3".repeat(object));
        assert_eq!(names(longest.as_bytes(), 1).unwrap().len(), 1);
        assert_eq!(names(&longest.as_bytes().repeat(2), 2).unwrap().len(), 2);
        assert_eq!(names("x".repeat(longest.len() + 4).as_bytes(), 1), Err(Refused::TooLong));
    }

    #[test]
    fn names_are_objects_or_containers() {
        assert_eq!(target(b"c/o"), Ok(object("c", "o")));
        assert_eq!(target(b"//c/o/p/"), Ok(object("c", "o/p/")));
        assert_eq!(target(b"c//o"), Ok(object("c", "/o")));
        assert_eq!(target(b"c"), Ok(Target::Container("c".to_owned())));
        assert_eq!(target(b"/c/"), Ok(Target::Container("c".to_owned())));
        assert_eq!(target(b"/"), Err(405));
        assert_eq!(target(b"c/\xff"), Err(412));
        assert_eq!(target(b"c/\0"), Err(412));
    }

    #[test]
    fn objects_go_first_and_each_once() {
        let mut tally = Tally::default();
        let list = ["c", "c/o", "/c/o", "c/\0", "d/p", "/c/"].map(|name| name.as_bytes().to_vec());
        let [objects, containers] = sort(list.to_vec(), &mut tally);
        let shown = |list: &[Doomed]| {
            let show = |doomed: &Doomed| (String::from_utf8_lossy(&doomed.name).into_owned(), doomed.times);
            list.iter().map(show).collect::<Vec<_>>()
        };
        assert_eq!(shown(&objects), [("c/o".to_owned(), 2), ("d/p".to_owned(), 1)]);
        assert_eq!(shown(&containers), [("c".to_owned(), 2)]);
        assert_eq!(tally.failures(), 1);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_body_arrives(body in "[a%\n /0-9\r]{0,60}", at in 0_usize..60) {
            let (start, end) = body.as_bytes().split_at(at.min(body.len()));
            let mut split = Names::new(&Limits::default(), 5);
            let split = split.push(start).and_then(|()| split.push(end)).and_then(|()| split.finish());
            let mut whole = Names::new(&Limits::default(), 5);
            let whole = whole.push(body.as_bytes()).and_then(|()| whole.finish());
            prop_assert_eq!(split, whole);
        }
    }
}
