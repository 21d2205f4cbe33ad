//! What the server counts, for Prometheus. All names begin with `lustre_bridge_`.
//!
//! Handles for the hot paths are made once, so that a request costs a few atomic additions and no lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

pub use prometheus_client::metrics::counter::Counter;

use crate::auth::LogInOutcome;
use crate::limits::Refusal;

/// The type of the rendered text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Methods with a label of their own; the last stands for all others, so that clients make no labels.
const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const SECONDS: [f64; 16] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    requests: [[Counter; CLASSES.len()]; METHODS.len()],
    durations: [Durations; METHODS.len()],
    received: Counter,
    sent: Counter,
    in_flight: Gauge,
    log_ins: Family<Labels<1>, Counter>,
    throttled: Family<Labels<1>, Counter>,
    unserved: Family<Labels<1>, Gauge>,
    pools: Family<Labels<1>, Gauge>,
    watched: Mutex<Vec<Watched>>,
    /// Access log lines that were not written, because the disk was too slow or failed.
    pub log_lines_dropped: Counter,
    /// Abandoned uploads removed.
    pub reaped: Counter,
    /// Metadata files whose object is gone, removed.
    pub orphans: Counter,
    /// The index and the relay that it follows; all 0 without one.
    pub index: IndexGauges,
    /// What the background workers did.
    pub expirer: Worker,
    /// See [`Self::expirer`].
    pub hasher: Worker,
    /// See [`Self::expirer`].
    pub assembler: Worker,
}

/// What one background worker did.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Rounds over everything.
    pub rounds: Counter,
    /// Objects removed, hashed or assembled.
    pub objects: Counter,
    /// Bytes read or copied.
    pub bytes: Counter,
    /// Objects that failed.
    pub errors: Counter,
}

/// How the index is doing.
#[derive(Clone, Debug)]
pub struct IndexGauges {
    /// 1 while listings may come from it.
    pub current: Gauge,
    /// Containers and accounts in it.
    pub containers: Gauge,
    /// Those of which listings come from the tree.
    pub unproven: Gauge,
    /// How old what it knows is.
    pub lag: Gauge,
    /// Names looked at.
    pub looks: Gauge,
    /// 1 while a relay is followed.
    pub connected: Gauge,
    /// Marks that the relay sent.
    pub marks: Counter,
}

type Depth = Box<dyn Fn() -> usize + Send + Sync>;

struct Watched {
    gauge: Gauge,
    depth: Depth,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lustre_bridge");
        registry.register(
            "build",
            "The server's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );

        let requests = Family::<Labels<2>, Counter>::default();
        let durations = Family::<Labels<1>, Durations>::default();
        let by_class = |method| {
            CLASSES.map(|class| requests.get_or_create(&[("method", method), ("status", class)]).clone())
        };
        let handles = METHODS.map(by_class);
        let timers = METHODS.map(|method| durations.get_or_create(&[("method", method)]).clone());
        registry.register("requests", "Requests answered", requests);
        registry.register_with_unit(
            "request_duration",
            "From the head of a request to the last byte of its answer",
            Unit::Seconds,
            durations,
        );

        let received = counter(&mut registry, "received_bytes", "Bytes of bodies received");
        let sent = counter(&mut registry, "sent_bytes", "Bytes of bodies sent");
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests under way", in_flight.clone());
        let log_ins = Family::default();
        registry.register("log_ins", "Log-ins by what came of them", log_ins.clone());
        let throttled = Family::default();
        registry.register("throttled", "Requests refused by a limit", throttled.clone());
        let unserved = Family::default();
        registry.register(
            "unserved_names",
            "Entries that are no objects, by reason, as of the last round over everything",
            unserved.clone(),
        );
        let pools = Family::default();
        registry.register("pool_waiting", "File-system calls that wait for a thread", pools.clone());
        let log_lines_dropped =
            counter(&mut registry, "access_log_dropped_lines", "Access log lines not written");
        let reaped = counter(
            &mut registry,
            "abandoned_uploads_removed",
            "Temporary files of uploads cut short, removed",
        );
        let orphans = counter(
            &mut registry,
            "orphaned_metadata_removed",
            "Metadata files whose object is gone, removed",
        );
        let marks = counter(&mut registry, "relay_marks", "Marks that the relay of changes sent");
        let index = IndexGauges::new(&mut registry, marks);
        let expirer = Worker::new(&mut registry, "expirer", "Remover of expired objects");
        let hasher = Worker::new(&mut registry, "hasher", "Reader that learns missing hashes");
        let assembler = Worker::new(&mut registry, "assembler", "Assembler of static large objects");
        Self {
            registry,
            requests: handles,
            durations: timers,
            received,
            sent,
            in_flight,
            log_ins,
            throttled,
            unserved,
            pools,
            watched: Mutex::new(Vec::new()),
            log_lines_dropped,
            reaped,
            orphans,
            index,
            expirer,
            hasher,
            assembler,
        }
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

impl IndexGauges {
    fn new(registry: &mut Registry, marks: Counter) -> Self {
        let gauges = Self {
            current: Gauge::default(),
            containers: Gauge::default(),
            unproven: Gauge::default(),
            lag: Gauge::default(),
            looks: Gauge::default(),
            connected: Gauge::default(),
            marks,
        };
        let Self { current, containers, unproven, lag, looks, connected, .. } = &gauges;
        registry.register("index_current", "1 while listings may come from the index", current.clone());
        registry.register("index_containers", "Containers and accounts in the index", containers.clone());
        registry.register(
            "index_unproven_containers",
            "Containers and accounts listed from the tree",
            unproven.clone(),
        );
        registry.register("index_lag_seconds", "How old what the index knows is", lag.clone());
        registry.register("index_looks", "Names looked at since the start", looks.clone());
        registry.register("relay_connected", "1 while a relay of changes is followed", connected.clone());
        gauges
    }
}

impl Worker {
    fn new(registry: &mut Registry, name: &str, help: &str) -> Self {
        let mut counter =
            |what, text| counter(registry, &format!("{name}_{what}"), &format!("{help}: {text}"));
        Self {
            rounds: counter("rounds", "rounds over everything"),
            objects: counter("objects", "objects done"),
            bytes: counter("bytes", "bytes moved"),
            errors: counter("errors", "objects that failed"),
        }
    }
}

impl Metrics {
    /// Counts a request as under way.
    pub fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an answered request: bytes of both bodies, and the time from its head to the last byte of the answer.
    pub fn request(&self, method: &str, status: u16, received: u64, sent: u64, total: Duration) {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[method][class].inc();
        self.durations[method].observe(total);
        self.received.inc_by(received);
        self.sent.inc_by(sent);
    }

    /// Counts a log-in.
    pub fn log_in(&self, outcome: LogInOutcome) {
        let label = match outcome {
            LogInOutcome::Granted => "granted",
            LogInOutcome::Denied => "denied",
            LogInOutcome::Malformed => "malformed",
            LogInOutcome::BackedOff => "backed_off",
            LogInOutcome::Busy => "busy",
        };
        self.log_ins.get_or_create(&[("outcome", label)]).inc();
    }

    /// Counts a request that a limit refused.
    pub fn throttled(&self, refusal: Refusal) {
        let label = match refusal {
            Refusal::TooOften { .. } => "rate",
            Refusal::TooMany => "in_flight",
        };
        self.throttled.get_or_create(&[("limit", label)]).inc();
    }

    /// Sets how many entries cannot be served, by reason; a reason that is not named has none.
    pub fn set_unserved(&self, counts: &BTreeMap<&'static str, u64>) {
        self.unserved.clear();
        for (reason, count) in counts {
            self.unserved.get_or_create(&[("reason", *reason)]).set(*count as i64);
        }
    }

    /// Shows a pool: `depth` tells how many calls wait in it, and is asked at each scrape.
    pub fn watch_pool(&self, name: &'static str, depth: impl Fn() -> usize + Send + Sync + 'static) {
        self.watch(self.pools.get_or_create(&[("pool", name)]).clone(), depth);
    }

    /// Shows what `depth` tells at each scrape.
    pub fn watch(&self, gauge: Gauge, depth: impl Fn() -> usize + Send + Sync + 'static) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push(Watched { gauge, depth: Box::new(depth) });
    }

    /// Everything as text of type [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        for watched in self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            watched.gauge.set((watched.depth)() as i64);
        }
        let mut text = String::with_capacity(16 << 10);
        // Writing to a string fails only where an encoder does, and then the rest is what there is.
        _ = encode(&mut text, &self.registry);
        text
    }
}

/// A histogram of durations without a lock.
#[derive(Clone, Debug, Default)]
struct Durations(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; SECONDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Durations {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.nanoseconds.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = SECONDS.into_iter().chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }

    #[test]
    fn requests_are_counted() {
        let metrics = Metrics::default();
        let under_way = metrics.enter();
        drop(metrics.enter());
        metrics.request("PUT", 201, 100, 0, Duration::from_millis(2));
        metrics.request("GET", 404, 0, 70, Duration::from_secs(100));
        metrics.request("BREW", 0, 0, 0, Duration::ZERO);
        metrics.request("GET", 999, 0, 0, Duration::from_micros(250));
        let text = metrics.render();
        has(&text, r#"lustre_bridge_requests_total{method="PUT",status="2xx"} 1"#);
        has(&text, r#"lustre_bridge_requests_total{method="GET",status="4xx"} 1"#);
        has(&text, r#"lustre_bridge_requests_total{method="other",status="1xx"} 1"#);
        has(&text, r#"lustre_bridge_requests_total{method="GET",status="5xx"} 1"#);
        has(&text, "lustre_bridge_received_bytes_total 100");
        has(&text, "lustre_bridge_sent_bytes_total 70");
        has(&text, "lustre_bridge_requests_in_flight 1");
        has(&text, r#"lustre_bridge_request_duration_seconds_bucket{le="0.00025",method="GET"} 1"#);
        has(&text, r#"lustre_bridge_request_duration_seconds_bucket{le="60.0",method="GET"} 1"#);
        has(&text, r#"lustre_bridge_request_duration_seconds_bucket{le="+Inf",method="GET"} 2"#);
        has(&text, r#"lustre_bridge_request_duration_seconds_count{method="GET"} 2"#);
        has(&text, r#"lustre_bridge_request_duration_seconds_sum{method="PUT"} 0.002"#);
        has(&text, &format!("lustre_bridge_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
        assert!(text.ends_with("# EOF\n"));
        assert!(matches!(Durations::default().metric_type(), MetricType::Histogram));
        drop(under_way);
        has(&metrics.render(), "lustre_bridge_requests_in_flight 0");
        assert_eq!(format!("{metrics:?}"), "Metrics");
    }

    #[test]
    fn everything_else_is_counted() {
        let metrics = Metrics::default();
        let outcomes = [
            LogInOutcome::Granted,
            LogInOutcome::Denied,
            LogInOutcome::Malformed,
            LogInOutcome::BackedOff,
            LogInOutcome::Busy,
        ];
        for outcome in outcomes {
            metrics.log_in(outcome);
        }
        metrics.throttled(Refusal::TooMany);
        metrics.throttled(Refusal::TooOften { retry_after: Duration::ZERO });
        metrics.set_unserved(&[("fifo", 3)].into());
        metrics.log_lines_dropped.inc();
        metrics.expirer.objects.inc_by(2);
        metrics.hasher.bytes.inc_by(9);
        metrics.hasher.errors.inc();
        metrics.assembler.rounds.inc();
        metrics.orphans.inc();
        let depth = Arc::new(AtomicU64::new(7));
        let watched = depth.clone();
        metrics.watch_pool("data", move || watched.load(Ordering::Relaxed) as usize);
        let text = metrics.render();
        for outcome in ["granted", "denied", "malformed", "backed_off", "busy"] {
            has(&text, &format!("lustre_bridge_log_ins_total{{outcome=\"{outcome}\"}} 1"));
        }
        has(&text, r#"lustre_bridge_throttled_total{limit="rate"} 1"#);
        has(&text, r#"lustre_bridge_throttled_total{limit="in_flight"} 1"#);
        has(&text, r#"lustre_bridge_unserved_names{reason="fifo"} 3"#);
        has(&text, "lustre_bridge_access_log_dropped_lines_total 1");
        has(&text, "lustre_bridge_expirer_objects_total 2");
        has(&text, "lustre_bridge_hasher_bytes_total 9");
        has(&text, "lustre_bridge_hasher_errors_total 1");
        has(&text, "lustre_bridge_assembler_rounds_total 1");
        has(&text, "lustre_bridge_orphaned_metadata_removed_total 1");
        has(&text, r#"lustre_bridge_pool_waiting{pool="data"} 7"#);
        depth.store(0, Ordering::Relaxed);
        has(&metrics.render(), r#"lustre_bridge_pool_waiting{pool="data"} 0"#);
    }
}
