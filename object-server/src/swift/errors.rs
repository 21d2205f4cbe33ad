//! Answers that carry no object data: the status lines and bodies that Swift clients expect.

use bytes::Bytes;

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
        let (title, text) = phrases(status);
        let body = if text.is_empty() {
            Bytes::new()
        } else {
            Bytes::from(format!("<html><h1>{title}</h1><p>{text}</p></html>"))
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

/// The reason phrase of a status.
pub fn reason(status: u16) -> &'static str {
    phrases(status).0
}

/// Reason phrase and sentence, as reports print what failed.
pub fn explanation(status: u16) -> String {
    let (title, text) = phrases(status);
    format!("{title}\n{text}")
}

/// Reason phrase and sentence of the default page; an empty sentence means no page.
fn phrases(status: u16) -> (&'static str, &'static str) {
    match status {
        100 => ("Continue", ""),
        200 => ("OK", ""),
        201 => ("Created", ""),
        202 => ("Accepted", "The request is accepted for processing."),
        204 => ("No Content", ""),
        206 => ("Partial Content", ""),
        301 => ("Moved Permanently", "The resource has moved permanently."),
        302 => ("Found", "The resource has moved temporarily."),
        303 => ("See Other", "The response to the request can be found under a different URI."),
        304 => ("Not Modified", ""),
        307 => ("Temporary Redirect", "The resource has moved temporarily."),
        400 => (
            "Bad Request",
            "The server could not comply with the request since it is either malformed or otherwise incorrect.",
        ),
        401 => (
            "Unauthorized",
            "This server could not verify that you are authorized to access the document you requested.",
        ),
        402 => ("Payment Required", "Access was denied for financial reasons."),
        403 => ("Forbidden", "Access was denied to this resource."),
        404 => ("Not Found", "The resource could not be found."),
        405 => ("Method Not Allowed", "The method is not allowed for this resource."),
        406 => ("Not Acceptable", "The resource is not available in a format acceptable to your browser."),
        408 => {
            ("Request Timeout", "The server has waited too long for the request to be sent by the client.")
        }
        409 => ("Conflict", "There was a conflict when trying to complete your request."),
        410 => ("Gone", "This resource is no longer available."),
        411 => ("Length Required", "Content-Length header required."),
        412 => ("Precondition Failed", "A precondition for this request was not met."),
        413 => ("Request Entity Too Large", "The body of your request was too large for this server."),
        414 => ("Request URI Too Long", "The request URI was too long for this server."),
        415 => ("Unsupported Media Type", "The request media type is not supported by this server."),
        416 => ("Requested Range Not Satisfiable", "The Range requested is not available."),
        417 => ("Expectation Failed", "Expectation failed."),
        422 => ("Unprocessable Entity", "Unable to process the contained instructions"),
        429 => ("Too Many Requests", "Too many requests. Slow down."),
        499 => ("Client Disconnect", "The client was disconnected during request."),
        501 => ("Not Implemented", "The requested method is not implemented by this server."),
        502 => ("Bad Gateway", "Bad gateway."),
        503 => {
            ("Service Unavailable", "The server is currently unavailable. Please try again at a later time.")
        }
        504 => ("Gateway Timeout", "A timeout has occurred speaking to a backend server."),
        507 => ("Insufficient Storage", "There was not enough space to save the resource. Drive: unknown"),
        _ => (
            "Internal Error",
            "The server has either erred or is incapable of performing the requested operation.",
        ),
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
        assert_eq!(Answer::new(599).line(), "599 Internal Error");
    }

    #[test]
    fn texts_replace_the_page() {
        let answer = Answer::plain(400, "no").with("Allow", "GET");
        assert_eq!((answer.content_type, &answer.body[..]), (PLAIN, &b"no"[..]));
        assert_eq!(answer.headers, [("Allow", "GET".to_owned())]);
    }
}
