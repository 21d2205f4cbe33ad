//! What the operator counts, for Prometheus.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::cluster::Kind;

/// The type of the rendered text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciled: Family<Labels<2>, Counter>,
    writes: Family<Labels<2>, Counter>,
    watch_errors: Family<Labels<1>, Counter>,
    /// Shares and bridges that wait for their turn.
    pub waiting: Gauge,
    /// Whether this instance leads.
    pub leading: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("lustre_bridge_operator"),
            reconciled: Family::default(),
            writes: Family::default(),
            watch_errors: Family::default(),
            waiting: Gauge::default(),
            leading: Gauge::default(),
        };
        let Self { registry, reconciled, writes, watch_errors, waiting, leading } = &mut metrics;
        registry.register("reconciliations", "Reconciliations, by kind and result", reconciled.clone());
        registry.register("writes", "Requests that change something, by verb and kind", writes.clone());
        registry.register("watch_errors", "Watches that failed, by kind", watch_errors.clone());
        registry.register("waiting", "Shares and bridges that wait for their turn", waiting.clone());
        registry.register("leading", "Whether this instance leads", leading.clone());
        Arc::new(metrics)
    }

    /// A share or a bridge was reconciled.
    pub fn reconciled(&self, kind: Kind, result: &'static str) {
        self.reconciled.get_or_create(&[("kind", kind.name()), ("result", result)]).inc();
    }

    /// Something is about to be written.
    pub fn wrote(&self, verb: &'static str, kind: Kind) {
        self.writes.get_or_create(&[("verb", verb), ("kind", kind.name())]).inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: Kind) {
        self.watch_errors.get_or_create(&[("kind", kind.name())]).inc();
    }

    /// All of it, as text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let _ = encode(&mut text, &self.registry);
        text
    }
}
