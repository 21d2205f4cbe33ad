//! Works on one share: plans, makes, says what came of it.

use std::sync::Arc;
use std::time::Duration;

use crds::{LustreShare, SwiftBridge};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::View;
use super::make::{Outcome, make};
use super::plan::{Plan, plan};
use super::status;
use crate::daemon::Parts;

/// How often the share is looked at when nothing changes: its file system may go, and come back.
const LOOK: Duration = Duration::from_mins(1);
/// After something went wrong.
const RETRY: Duration = Duration::from_secs(5);
/// A file system that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of one share.
pub(super) struct Worker {
    name: String,
    client: Client,
    parts: Parts,
    node: String,
    view: View,
    /// What was made when all went well.
    done: Option<(Plan, Outcome)>,
}

impl Worker {
    pub(super) fn new(name: &str, client: &Client, parts: &Parts, node: &str, view: &View) -> Worker {
        Worker {
            name: name.into(),
            client: client.clone(),
            parts: parts.clone(),
            node: node.into(),
            view: view.clone(),
            done: None,
        }
    }

    /// Works whenever it is called, and from time to time. Ends with the task: the name may come back.
    pub(super) async fn run(mut self, call: Arc<Notify>) {
        loop {
            let again = match self.look().await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::warn!(share = self.name, %error, "the share's status is not written; trying again");
                    RETRY
                }
            };
            if timeout(again, call.notified()).await.is_err() {
                // The present is looked at, whatever was found before.
                self.done = None;
            }
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let Some(share) = self.view.share(&self.name) else { return Ok(()) };
        if share.spec.suspend || share.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let bridges = self.view.bridges(&self.name);
        let working: Vec<&SwiftBridge> = bridges.iter().filter(|bridge| is_worked_on(bridge)).collect();
        let plan = match plan(&share, &self.view.namespaces(), &working) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::warn!(share = self.name, %error, "the share cannot be used");
                return Ok(());
            }
        };
        match self.outcome(&plan).await {
            Some(outcome) => self.say(&share, &working, &plan, &outcome).await,
            None => Ok(()),
        }
    }

    /// Does not touch the file system again for what was made already.
    async fn outcome(&mut self, plan: &Plan) -> Option<Outcome> {
        if let Some((_, outcome)) = self.done.as_ref().filter(|(made, _)| made == plan) {
            return Some(outcome.clone());
        }
        let outcome = self.make(plan).await?;
        self.done = is_well(&outcome).then(|| (plan.clone(), outcome.clone()));
        Some(outcome)
    }

    /// `None`: the table of shares, which follows the same watch, is about to change.
    async fn make(&self, plan: &Plan) -> Option<Outcome> {
        if let Some(node) = plan.spec.node.as_ref().filter(|node| **node != self.node) {
            return Some(Outcome::OtherNode(node.clone()));
        }
        let share = self.parts.shares.get(&self.name).ok().flatten();
        let share = share.filter(|share| share.spec == plan.spec)?;
        let planned = plan.clone();
        let job = share.run_unopened(move |share| make(share, &planned));
        Some(match timeout(PATIENCE, job).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Outcome::Unreachable(error.to_string()),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                Outcome::Unreachable(format!("{} did not answer in {seconds} seconds", plan.spec.host_path))
            }
        })
    }

    async fn say(
        &self,
        share: &LustreShare,
        bridges: &[&SwiftBridge],
        plan: &Plan,
        outcome: &Outcome,
    ) -> Result<(), kube::Error> {
        let now = Time(k8s_openapi::jiff::Timestamp::now());
        if let Some(patch) = status::of_share(share, plan, outcome, &now) {
            apply(&Api::<LustreShare>::all(self.client.clone()), &self.name, &patch).await?;
        }
        for (bridge, made) in bridges.iter().zip(status::bridges(plan, outcome)) {
            if let Some(patch) = status::of_bridge(bridge, &made, &now) {
                let namespace = bridge.namespace().unwrap_or_default();
                let api = Api::<SwiftBridge>::namespaced(self.client.clone(), &namespace);
                apply(&api, &bridge.name_any(), &patch).await?;
            }
        }
        Ok(())
    }
}

fn is_worked_on(bridge: &SwiftBridge) -> bool {
    !bridge.spec.suspend && bridge.metadata.deletion_timestamp.is_none()
}

/// Whether there is nothing that another attempt could better.
fn is_well(outcome: &Outcome) -> bool {
    use super::make::Made;
    match outcome {
        Outcome::OtherNode(_) => true,
        Outcome::Unreachable(_) => false,
        Outcome::Reachable { share, grants, bridges } => {
            share.is_none()
                && grants.iter().all(Result::is_ok)
                && !bridges.iter().any(|made| matches!(made, Made::Failed(_)))
        }
    }
}

async fn apply<K>(api: &Api<K>, name: &str, patch: &Value) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = PatchParams::apply(crds::CSI).force();
    match api.patch_status(name, &params, &Patch::Apply(patch)).await {
        // It went meanwhile: there is nothing to say it of.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        written => written.map(|_| ()),
    }
}
