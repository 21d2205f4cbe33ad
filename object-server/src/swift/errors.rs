//! Answers that carry no object data: the status lines and bodies that Swift clients expect.

use bytes::Bytes;

use crate::http::reason;

/// A complete short answer: an error, or a success without a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers besides Content-Type and Content-Length.
    pub headers: Vec<(&'static str, String)>,
    /// Content-Type of the body.
    pub content_type: &'static str,
    /// The body; sent for every method but HEAD.
    pub body: Bytes,
}

/// The content type of Swift's own error pages.
pub const HTML: &str = "text/html; charset=UTF-8";
/// The content type of the terse errors.
pub const PLAIN: &str = "text/plain";

impl Answer {
    /// The status with the body that it has by default.
    pub fn new(status: u16) -> Self {
        let body = match sentence(status) {
            "" => Bytes::new(),
            text => Bytes::from(format!("<html><h1>{}</h1><p>{text}</p></html>", reason(status))),
        };
        Self { status, headers: Vec::new(), content_type: HTML, body }
    }

    /// The status with `body`, labelled as HTML (as Swift labels most of its texts).
    pub fn html(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), content_type: HTML, body: body.into() }
    }

    /// The status with `body` as plain text.
    pub fn plain(status: u16, body: impl Into<Bytes>) -> Self {
        Self { content_type: PLAIN, ..Self::html(status, body) }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Status code and reason, as reports print it: `404 Not Found`.
    pub fn line(&self) -> String {
        line(self.status)
    }
}

/// `404 Not Found` and so on.
pub fn line(status: u16) -> String {
    format!("{status} {}", reason(status))
}

/// Reason phrase and sentence, as reports print what failed.
pub fn explanation(status: u16) -> String {
    format!("{}\n{}", reason(status), sentence(status))
}

/// The sentence of the default page; empty: there is no page.
fn sentence(status: u16) -> &'static str {
    match status {
        202 => "The request is accepted for processing.",
        ..400 => "",
        400 => {
            "The server could not comply with the request since it is either malformed or otherwise incorrect."
        }
        401 => "This server could not verify that you are authorized to access the document you requested.",
        403 => "Access was denied to this resource.",
        404 => "The resource could not be found.",
        405 => "The method is not allowed for this resource.",
        406 => "The resource is not available in a format acceptable to your browser.",
        408 => "The server has waited too long for the request to be sent by the client.",
        409 => "There was a conflict when trying to complete your request.",
        411 => "Content-Length header required.",
        412 => "A precondition for this request was not met.",
        413 => "The body of your request was too large for this server.",
        416 => "The Range requested is not available.",
        422 => "Unable to process the contained instructions",
        429 => "Too many requests. Slow down.",
        499 => "The client was disconnected during request.",
        503 => "The server is currently unavailable. Please try again at a later time.",
        507 => "There was not enough space to save the resource. Drive: unknown",
        _ => "The server has either erred or is incapable of performing the requested operation.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_pages_are_html_and_successes_are_empty() {
        let gone = Answer::new(404);
        assert_eq!(gone.body, "<html><h1>Not Found</h1><p>The resource could not be found.</p></html>");
        assert_eq!(gone.content_type, "text/html; charset=UTF-8");
        assert!(Answer::new(201).body.is_empty());
        assert!(Answer::new(304).body.is_empty());
        assert_eq!(Answer::new(507).line(), "507 Insufficient Storage");
    }

    #[test]
    fn every_status_has_its_words() {
        for status in
            [400, 401, 403, 404, 405, 406, 408, 409, 411, 412, 413, 416, 422, 429, 499, 500, 503, 507]
        {
            let words = explanation(status);
            let (title, text) = words.split_once('\n').unwrap();
            assert!(title != "Unknown" && text.len() > 20, "{status}: {words}");
            let page = format!("<html><h1>{title}</h1><p>{text}</p></html>");
            assert_eq!(Answer::new(status).body, page.as_bytes());
            assert_eq!(line(status), format!("{status} {title}"));
        }
    }

    #[test]
    fn texts_replace_the_page() {
        let answer = Answer::plain(400, "no").with("Allow", "GET");
        assert_eq!((answer.content_type, &answer.body[..]), (PLAIN, &b"no"[..]));
        assert_eq!(answer.headers, [("Allow", "GET".to_owned())]);
    }
}
