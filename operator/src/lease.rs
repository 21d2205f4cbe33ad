//! One instance leads: whoever holds the Lease.
//!
//! A lease is taken over when it has not changed for its whole duration by this instance's own clock; what other clocks
//! say does not count. The holder stops writing a margin before that, counted from when it *began* its last renewal.
//! A conflict while renewing means that somebody else was faster, and is the end of this instance's claim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;

/// How long a lease holds without a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How long the holder itself believes in it.
const MARGIN: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at.
const INTERVAL: Duration = Duration::from_secs(3);

/// What this instance knows of its claim to lead. Cheap to copy, and to ask before every write.
#[derive(Clone, Default, Debug)]
pub struct Claim(Arc<Mutex<Option<Instant>>>);

impl Claim {
    /// A claim that holds for ever, for tests and for a single instance.
    pub fn for_ever() -> Self {
        let claim = Self::default();
        claim.set(Some(Instant::now() + Duration::from_hours(24 * 365)));
        claim
    }

    /// Whether this instance leads.
    pub fn holds(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// The Lease, and who wants it.
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    claim: Claim,
    /// The version of another's lease, and since when it is seen.
    seen: Option<(Option<String>, Instant)>,
}

impl Election {
    /// An election for `me` in a namespace.
    pub fn new(client: Client, namespace: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: crds::OPERATOR.to_owned(),
            me: me.to_owned(),
            claim: Claim::default(),
            seen: None,
        }
    }

    /// What this instance knows of its claim.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    /// Waits until this instance leads. One that waits for its turn is ready: nothing is missing to it, and an update
    /// replaces the one that leads only when the next is ready.
    pub async fn win(&mut self, ready: &AtomicBool) {
        loop {
            match self.attempt().await {
                Ok(true) => break,
                Ok(false) => ready.store(true, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "cannot get at the lease; trying again"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
        ready.store(false, Ordering::Relaxed);
        tracing::info!(me = self.me, "leading");
    }

    /// Renews until the claim is lost.
    pub async fn keep(&mut self) {
        while self.claim.holds() {
            tokio::time::sleep(INTERVAL).await;
            match tokio::time::timeout(INTERVAL, self.attempt()).await {
                Ok(Ok(true)) | Err(_) => {}
                Ok(Ok(false)) => self.claim.set(None),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
            }
        }
        tracing::error!("no longer leading");
    }

    /// Gives the lease back, so that the next one need not wait.
    pub async fn release(&mut self) {
        self.claim.set(None);
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else { return };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.me) {
            spec.holder_identity = None;
            // Whoever changed it meanwhile has it.
            let _ = self.api.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }

    /// One look: takes or renews the lease if it is there to be taken. Whether this instance has it.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let began = Instant::now();
        let parameters =
            PostParams { field_manager: Some(crds::OPERATOR.to_owned()), ..PostParams::default() };
        let written = match self.api.get_opt(&self.name).await? {
            None => self.api.create(&parameters, &self.lease(None)).await,
            Some(lease) if !self.may_take(&lease, began) => return Ok(false),
            Some(lease) => self.api.replace(&self.name, &parameters, &self.lease(Some(lease))).await,
        };
        match written {
            Ok(_) => self.claim.set(Some(began + MARGIN)),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn may_take(&mut self, lease: &Lease, now: Instant) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == self.me {
            return true;
        }
        let version = &lease.metadata.resource_version;
        match &self.seen {
            Some((seen, since)) if seen == version => now.duration_since(*since) > DURATION,
            _ => {
                self.seen = Some((version.clone(), now));
                false
            }
        }
    }

    /// The lease as it is to be written. It keeps its version, so that only one can write it.
    fn lease(&self, old: Option<Lease>) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let mut lease = old.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&self.me) {
            spec.holder_identity = Some(self.me.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1).saturating_add(1));
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
        lease
    }
}
