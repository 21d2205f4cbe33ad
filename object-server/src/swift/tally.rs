//! What the client is told about the deletion of many things in one request.

use super::errors::{self, Answer};
use super::slo::report::{Field, Format};
use super::text;
use crate::http::Response;

/// The outcomes so far.
#[derive(Debug, Default)]
pub struct Tally {
    deleted: u64,
    missing: u64,
    problems: Vec<(String, String)>,
    /// The status of the whole, if something failed.
    status: Option<u16>,
    /// Why the whole failed.
    body: String,
}

impl Tally {
    /// Nothing was done at all.
    pub fn refused(status: u16, why: &str) -> Self {
        let mut tally = Self::default();
        tally.stop(status, why);
        tally
    }

    /// Counts the deletion of `path`, which is not quoted yet.
    pub fn count(&mut self, path: &[u8], result: Result<(), Answer>) {
        match result {
            Ok(()) => self.deleted += 1,
            Err(answer) if answer.status == 404 => self.missing(),
            Err(answer) => {
                let status = if answer.status >= 500 { 502 } else { 400 };
                self.fail(path, answer.line(), status);
            }
        }
    }

    /// Counts something that was not there.
    pub fn missing(&mut self) {
        self.missing += 1;
    }

    /// Lists a failure. Of the statuses the highest becomes that of the whole.
    pub fn fail(&mut self, path: &[u8], reason: String, status: u16) {
        self.problems.push((text::quote(path), reason));
        self.status = Some(self.status.map_or(status, |known| known.max(status)));
    }

    /// How many failures are listed.
    pub fn failures(&self) -> usize {
        self.problems.len()
    }

    /// The whole ends here, with this status.
    pub fn stop(&mut self, status: u16, why: &str) {
        self.status = Some(status);
        why.clone_into(&mut self.body);
    }

    /// The answer: always a 200, whose body tells the status.
    pub fn report(mut self, format: Format) -> Response {
        if self.status.is_none() && self.deleted + self.missing == 0 {
            self.stop(400, "Invalid bulk delete.");
        }
        let fields = [
            ("Response Status", Field::Text(errors::line(self.status.unwrap_or(200)))),
            ("Response Body", Field::Text(self.body)),
            ("Number Deleted", Field::Count(self.deleted)),
            ("Number Not Found", Field::Count(self.missing)),
        ];
        let body = format.write("delete", &fields, &self.problems);
        Response::with_body(200, body).header("Content-Type", format.content_type())
    }
}
