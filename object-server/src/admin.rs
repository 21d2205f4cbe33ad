//! What the admin address answers: metrics and health. No secrets, no users, no names of objects.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Whether the server takes requests, and if not, why.
#[derive(Debug)]
pub struct Readiness(ArcSwapOption<String>);

impl Default for Readiness {
    fn default() -> Self {
        Self(ArcSwapOption::from_pointee("starting".to_owned()))
    }
}

impl Readiness {
    /// The server takes requests.
    pub fn ready(&self) {
        self.0.store(None);
    }

    /// It does not, for this reason; shown to whoever asks.
    pub fn not_ready(&self, reason: &str) {
        self.0.store(Some(Arc::new(reason.to_owned())));
    }
}

/// The admin endpoints.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` shows.
    pub readiness: Arc<Readiness>,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminAnswer {
    /// The status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body; for HEAD its length counts.
    pub body: String,
}

impl Admin {
    /// Answers a GET or HEAD of a path (the query, if any, is ignored); other methods are 405.
    pub fn answer(&self, method: &str, path: &str) -> AdminAnswer {
        if !["GET", "HEAD"].contains(&method) {
            return text(405, "method not allowed\n");
        }
        match path.split('?').next() {
            Some("/metrics") => {
                AdminAnswer { status: 200, content_type: CONTENT_TYPE, body: self.metrics.render() }
            }
            // Alive is whoever answers: a hung file system must not get the server killed.
            Some("/healthz") => text(200, "ok\n"),
            Some("/readyz") => match &*self.readiness.0.load() {
                None => text(200, "ok\n"),
                Some(reason) => text(503, &format!("{reason}\n")),
            },
            _ => text(404, "/metrics, /healthz, /readyz\n"),
        }
    }
}

fn text(status: u16, body: &str) -> AdminAnswer {
    AdminAnswer { status, content_type: "text/plain; charset=utf-8", body: body.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_answered() {
        let admin = Admin { metrics: Arc::default(), readiness: Arc::default() };
        let get = |path| admin.answer("GET", path);
        let metrics = get("/metrics?x=y");
        assert_eq!((metrics.status, metrics.content_type), (200, CONTENT_TYPE));
        assert!(metrics.body.contains("lustre_bridge_requests_in_flight 0"));
        assert_eq!(get("/healthz"), text(200, "ok\n"));
        assert_eq!(get("/readyz"), text(503, "starting\n"));
        admin.readiness.ready();
        assert_eq!(get("/readyz"), text(200, "ok\n"));
        admin.readiness.not_ready("stopping");
        assert_eq!(admin.answer("HEAD", "/readyz"), text(503, "stopping\n"));
        assert_eq!(get("/").status, 404);
        assert_eq!(admin.answer("POST", "/metrics").status, 405);
    }
}
