//! The server put together: from a configuration to listening sockets, and to a clean stop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use lustre::pool::Pool;
use namespace::{MetadataMode, Namespace, Options};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access_log::{AccessLog, Line};
use crate::admin::{Admin, Readiness};
use crate::auth::clock::{Clock, SystemClock};
use crate::auth::{Authenticator, LogInOutcome};
use crate::background::Background;
use crate::config::{self, Config, Durability};
use crate::follower::Follower;
use crate::http::{self, Outcome, Request, Response, Version};
use crate::identities::Identities;
use crate::indexing;
use crate::limits::{Refusal, Throttle};
use crate::metrics::Metrics;
use crate::swift::call::Service;
use crate::swift::info::Features;
use crate::swift::server::{Observer, Record, Server};
use crate::tls;
use crate::trans_id::TransIds;

/// Serves until `shutdown` becomes true; then requests in flight are finished.
///
/// `bound` is told the addresses once they listen, plain ones first.
pub async fn run(
    config: Config,
    shutdown: watch::Receiver<bool>,
    bound: impl FnOnce(&[SocketAddr]),
) -> Result<()> {
    let metrics = Arc::new(Metrics::default());
    let readiness = Arc::new(Readiness::default());
    let mut tasks = JoinSet::new();
    // First of all: a start that hangs on a dead file system shows as not ready, not as dead.
    let admin = Admin { metrics: Arc::clone(&metrics), readiness: Arc::clone(&readiness) };
    let listener = http::bind(config.admin_listen)
        .with_context(|| format!("admin_listen: cannot listen on {}", config.admin_listen))?;
    let limits = http_limits(&config);
    let (handler, here) = (Arc::new(AdminHandler(admin)), http::Workers::here());
    tasks.spawn(http::serve(listener, None, handler, limits.clone(), here, shutdown.clone()));
    let workers = http::Workers::start().context("cannot start the threads for connections")?;

    let pool = Pool::new("files", config.pool.threads, config.pool.queue);
    let identities = Arc::new(Identities::new(config.identity.clone()).context("identity.map")?);
    let namespace = open_namespace(&config, &pool, &identities).await?;
    indexing::watch(&metrics, &namespace);
    {
        let pool = pool.clone();
        metrics.watch_pool("files", move || pool.depth());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let auth = Arc::new(Authenticator::new(&config.auth, Arc::clone(&clock)).context("auth")?);
    let reporter = Arc::new(Reporter::new(&config, &metrics)?);
    let service = Arc::new(Service {
        namespace: Arc::clone(&namespace),
        pool: pool.clone(),
        auth: Arc::clone(&auth),
        identities: Arc::clone(&identities),
        limits: config.limits.clone(),
        features: features(&config),
        clock_skew: Duration::from_secs(config.clock_skew_seconds),
        max_upload: Duration::from_secs(config.tombstone_seconds),
    });
    let local = config.listen.first().or_else(|| config.tls.as_ref().and_then(|tls| tls.listen.first()));
    let handler = Arc::new(Server::new(
        service,
        Throttle::new(&config.limits, clock),
        TransIds::new(&config.trans_id_suffix),
        config.trusted_proxies.clone(),
        local.copied().unwrap_or(config.admin_listen),
        Arc::<Reporter>::clone(&reporter),
    ));

    let mut addresses = Vec::new();
    for address in &config.listen {
        let listener = http::bind(*address).with_context(|| format!("listen: cannot listen on {address}"))?;
        addresses.push(listener.local_addr()?);
        let (handler, workers) = (Arc::clone(&handler), workers.clone());
        tasks.spawn(http::serve(listener, None, handler, limits.clone(), workers, shutdown.clone()));
    }
    if let Some(tls) = &config.tls {
        let reloading = tls::Reloading::load(&tls.certificate, &tls.key).context("tls")?;
        for address in &tls.listen {
            let listener =
                http::bind(*address).with_context(|| format!("tls.listen: cannot listen on {address}"))?;
            addresses.push(listener.local_addr()?);
            let (tls, handler) = (Some(reloading.clone()), Arc::clone(&handler));
            tasks.spawn(http::serve(
                listener,
                tls,
                handler,
                limits.clone(),
                workers.clone(),
                shutdown.clone(),
            ));
        }
    }
    let mut helpers = JoinSet::new();
    helpers.spawn(auth.watch());
    helpers.spawn(Arc::clone(&identities).watch());
    if let Some(index) = &config.index {
        tasks.spawn(indexing::run(Arc::clone(&namespace), index.clone(), shutdown.clone()));
        let (namespace, config, metrics) = (Arc::clone(&namespace), index.clone(), Arc::clone(&metrics));
        tasks.spawn(Follower { namespace, config, metrics }.run(shutdown.clone()));
    }
    let background = Background {
        namespace: Arc::clone(&namespace),
        identities,
        expirer: config.expirer.clone(),
        hasher: config.hasher.clone(),
        assembler: config.assembler.clone(),
        metrics,
    };
    tasks.spawn(background.run(shutdown.clone()));
    if config.durability == Durability::Relaxed {
        tracing::warn!(
            "durability is relaxed: a power cut may take what was acknowledged in the last seconds"
        );
    }
    tracing::info!(root = %config.root.display(), ?addresses, metadata = ?namespace.metadata_mode(), "ready");
    readiness.ready();
    bound(&addresses);
    let mut stop = shutdown;
    http::stopped(&mut stop).await;
    readiness.not_ready("stopping");
    while tasks.join_next().await.is_some() {}
    helpers.shutdown().await;
    reporter.flush();
    tracing::info!("stopped");
    Ok(())
}

fn features(config: &Config) -> Features {
    Features {
        policies: vec!["default".to_owned()],
        account_management: false,
        account_autocreate: config.account_autocreate,
    }
}

/// Tells log and metrics of every request.
#[derive(Debug)]
struct Reporter {
    metrics: Arc<Metrics>,
    log: Option<AccessLog>,
}

impl Reporter {
    fn new(config: &Config, metrics: &Arc<Metrics>) -> Result<Self> {
        let settings = &config.access_log;
        let dropped = metrics.log_lines_dropped.clone();
        let log = if settings.enabled {
            let log = AccessLog::open(&settings.path, settings.buffer_bytes, dropped)
                .with_context(|| format!("access_log.path: {}", settings.path.display()))?;
            Some(log)
        } else {
            None
        };
        Ok(Self { metrics: Arc::clone(metrics), log })
    }

    fn flush(&self) {
        if let Some(log) = &self.log {
            log.flush();
        }
    }
}

impl Observer for Reporter {
    fn answered(&self, record: Record) {
        let Outcome { sent, received, status, total, .. } = record.outcome;
        self.metrics.request(&record.method, status, received, sent, total);
        let Some(log) = &self.log else { return };
        log.write(&Line {
            client: record.client,
            peer: record.peer.ip(),
            start: SystemTime::now().checked_sub(total).unwrap_or(SystemTime::UNIX_EPOCH),
            duration: total,
            method: &record.method,
            target: &record.target,
            protocol: match record.version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            status,
            referer: record.referer.as_deref().map(str::as_bytes),
            user_agent: record.user_agent.as_deref().map(str::as_bytes),
            auth_token: record.auth_token.as_deref().map(str::as_bytes),
            received,
            sent,
            client_etag: record.client_etag.as_deref().map(str::as_bytes),
            trans_id: &record.trans_id,
            identity: record.identity,
            user: &record.user,
            source: None,
            log_info: &[],
            policy_index: None,
        });
    }

    fn logged_in(&self, outcome: LogInOutcome) {
        self.metrics.log_in(outcome);
    }

    fn throttled(&self, refusal: Refusal) {
        self.metrics.throttled(refusal);
    }

    fn refused(&self, _peer: SocketAddr, status: u16) {
        self.metrics.request("other", status, 0, 0, Duration::ZERO);
    }
}

async fn open_namespace(
    config: &Config,
    pool: &Pool,
    identities: &Arc<Identities>,
) -> Result<Arc<Namespace>> {
    let options = Options {
        metadata: match config.metadata {
            config::Metadata::Auto => MetadataMode::Auto,
            config::Metadata::Xattr => MetadataMode::Xattr,
            config::Metadata::Sidecar => MetadataMode::Sidecar,
        },
        durable: config.durability == Durability::Full,
        tombstone_life: Duration::from_secs(config.tombstone_seconds),
        prefixes_may_be_objects: config.prefixes_may_be_objects,
        accounts: config.accounts.clone(),
    };
    let root = config.root.clone();
    let opened = pool.run(None, move || Namespace::open(Path::new(&root), options)).await?;
    let namespace = opened.with_context(|| format!("root: {}", config.root.display()))?;
    let Some(index) = config.index.clone() else { return Ok(Arc::new(namespace)) };
    let identities = Arc::clone(identities);
    let index = tokio::task::spawn_blocking(move || indexing::open(&index, &identities)).await??;
    Ok(Arc::new(namespace.with_index(index)))
}

fn http_limits(config: &Config) -> http::Limits {
    let seconds = Duration::from_secs;
    http::Limits {
        header_line: config.limits.max_header_size,
        request_line: config.limits.max_header_size,
        headers: config.limits.max_header_count().max(128) * 4,
        idle_timeout: seconds(config.http.idle_timeout_seconds),
        head_timeout: seconds(config.http.header_timeout_seconds),
        client_timeout: seconds(config.http.body_timeout_seconds),
        connections: config.http.max_connections,
        ..http::Limits::default()
    }
}

struct AdminHandler(Admin);

impl http::Handler for AdminHandler {
    async fn call(&self, request: Request) -> Response {
        let path = String::from_utf8_lossy(&request.target).into_owned();
        let answer = self.0.answer(&request.method, &path);
        Response::with_body(answer.status, answer.body).header("Content-Type", answer.content_type)
    }
}
