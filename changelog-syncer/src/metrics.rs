//! What is counted. All names begin with `lustre_bridge_sync_`.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::hub::Hub;
use crate::source::Kind;

/// The type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = [(&'static str, String); 2];

/// See the module. There is nothing to count until the source is open.
#[derive(Default)]
pub struct Metrics {
    source: OnceLock<(Arc<Hub>, Kind)>,
}

impl Metrics {
    /// The source is open.
    pub fn opened(&self, hub: Arc<Hub>, kind: Kind) {
        // There is one source in a process.
        let _ = self.source.set((hub, kind));
    }

    /// What is followed, once it is.
    pub fn hub(&self) -> Option<&Hub> {
        self.source.get().map(|(hub, _)| &**hub)
    }

    /// Everything as text of type [`CONTENT_TYPE`].
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("lustre_bridge_sync");
        registry.register("build", "The version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        if let Some((hub, kind)) = self.source.get() {
            register(&mut registry, hub, *kind);
        }
        let mut text = String::new();
        // Writing to a string fails only where an encoder does, and then the rest is what there is.
        _ = encode(&mut text, &registry);
        text
    }
}

fn register(registry: &mut Registry, hub: &Hub, kind: Kind) {
    let ((marks, dropped), state) = (hub.counts(), hub.state());
    registry.register("source", "What changes are seen by", Info::new([("kind", kind.name())]));
    let mut counter = |name, help, value: u64| registry.register(name, help, ConstCounter::new(value));
    counter("marks", "Marks that the source yielded", marks);
    counter("overflows", "How often the source lost changes, and everything is looked at", state.overflows);
    counter("dropped_tails", "How often what was kept for a bridge grew past its bound", dropped);
    let immediate = ConstGauge::new(i64::from(state.immediate));
    registry.register("immediate", "Whether changes are seen as they happen, not by scans alone", immediate);
    let directories = ConstGauge::new(state.directories as i64);
    registry.register("directories", "Directories that the source has in memory", directories);

    let (records, lag) =
        (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge<f64, AtomicU64>>::default());
    let mut connected = 0;
    for standing in hub.standings() {
        connected += i64::from(standing.connected);
        let labels = [("bridge", standing.bridge.name), ("sub_path", standing.bridge.scope.to_string())];
        records.get_or_create(&labels).set(standing.records as i64);
        lag.get_or_create(&labels).set(standing.lag.as_secs_f64());
    }
    registry.register("bridges", "Bridges that are connected", ConstGauge::new(connected));
    registry.register("tail_records", "Marks kept until they are durable with a bridge", records);
    registry.register("lag_seconds", "Age of the oldest of them", lag);
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use namespace::Mark;

    use super::*;
    use crate::hub::{Bounds, Bridge};
    use crate::scope::Scope;
    use crate::source::{Batch, State};

    #[test]
    fn a_bridge_and_a_source_are_counted() {
        let metrics = Metrics::default();
        assert!(metrics.text().contains("lustre_bridge_sync_build_info") && metrics.hub().is_none());
        let state = State { text: "fine".into(), immediate: true, overflows: 3, directories: 5 };
        let hub = Arc::new(Hub::new(Bounds::default(), state.clone()).unwrap());
        metrics.opened(Arc::clone(&hub), Kind::Fanotify);
        let bridge = Bridge { scope: Scope::parse(b"a").unwrap(), name: "b\"1".into() };
        hub.begin(&bridge, None).unwrap();
        let batch = Batch { marks: vec![Mark::Everything; 2], newest: SystemTime::now(), drained: true };
        hub.publish(batch, state, SystemTime::now());
        let text = metrics.text();
        for line in [
            "lustre_bridge_sync_marks_total 2",
            "lustre_bridge_sync_overflows_total 3",
            "lustre_bridge_sync_dropped_tails_total 0",
            "lustre_bridge_sync_immediate 1",
            "lustre_bridge_sync_directories 5",
            "lustre_bridge_sync_bridges 1",
            "lustre_bridge_sync_source_info{kind=\"fanotify\"} 1",
            "lustre_bridge_sync_tail_records{bridge=\"b\\\"1\",sub_path=\"a\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(text.contains("lustre_bridge_sync_lag_seconds{bridge=") && text.ends_with("# EOF\n"));
    }
}
