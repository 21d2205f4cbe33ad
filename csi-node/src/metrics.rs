//! What is counted.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tonic::{Code, Response, Status};

use crate::error::Error;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// The driver's metrics. Clones count the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<Call, Counter>,
    seconds: Family<Method, Histogram>,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let calls = Family::default();
        let seconds = Family::new_with_constructor(
            (|| Histogram::new(exponential_buckets(0.0005, 2.0, 18))) as fn() -> _,
        );
        let mut registry = Registry::with_prefix("lustre_bridge_csi");
        registry.register(
            "calls",
            "Calls of the Container Storage Interface, by method and code",
            calls.clone(),
        );
        registry.register("call_seconds", "How long they took", seconds.clone());
        Metrics { calls, seconds, registry: Arc::new(registry) }
    }
}

impl Metrics {
    /// Runs a call, counts it, and says in the log why it did not succeed.
    pub async fn observe<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let begin = Instant::now();
        let result = call.await;
        let code = result.as_ref().map_or_else(Error::code, |_| Code::Ok);
        self.seconds.get_or_create(&Method { method }).observe(begin.elapsed().as_secs_f64());
        self.calls.get_or_create(&Call { method, code: name(code) }).inc();
        match result {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                tracing::warn!(method, code = name(code), %error, "a call did not succeed");
                Err(error.into())
            }
        }
    }

    /// In the text format that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// As the specification writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}
