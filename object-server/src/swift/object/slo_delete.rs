//! DELETE of a static large object with its segments, first these, then the manifest.

use std::collections::VecDeque;
use std::sync::Arc;

use namespace::ObjectName;

use super::{authorize, delete, look};
use crate::http::Response;
use crate::swift::call::{self, Call, Doing};
use crate::swift::errors::Answer;
use crate::swift::slo::report::Format;
use crate::swift::slo::stored::{Manifest, Source};
use crate::swift::tally::Tally;

/// Most objects that may wait to be deleted, in multiples of what one manifest may name.
const MOST: usize = 10;

/// An object to delete.
struct Doomed {
    name: ObjectName,
    /// Whether it is a manifest whose segments were not queued yet.
    manifest: bool,
}

/// Answers a DELETE with `multipart-manifest=delete`.
pub async fn delete(call: &Arc<Call>, name: ObjectName) -> Result<Response, Answer> {
    let Some(format) = Format::choose(call.header("accept"), false) else {
        return Ok(Tally::refused(406, "").report(Format::Text));
    };
    let mut tally = Tally::default();
    let most = call.service.limits.max_manifest_segments.saturating_mul(MOST);
    let mut queue = VecDeque::from([Doomed { name, manifest: true }]);
    while let Some(doomed) = queue.pop_front() {
        if queue.len() > most {
            tally.stop(400, "Too many buffered slo segments to delete.");
            break;
        }
        if doomed.manifest {
            match segments(call, &doomed.name).await {
                Ok(manifest) => {
                    queue.extend(named(&doomed.name.account, &manifest));
                    // After its segments.
                    queue.push_back(Doomed { manifest: false, ..doomed });
                }
                Err((404, _)) => tally.missing(),
                Err((_, reason)) => tally.fail(&path(&doomed.name), reason, 400),
            }
            continue;
        }
        remove(call, doomed.name, &mut tally).await;
    }
    Ok(tally.report(format))
}

fn path(name: &ObjectName) -> Vec<u8> {
    format!("/{}/{}", name.container, name.object).into_bytes()
}

fn named(account: &str, manifest: &Manifest) -> Vec<Doomed> {
    let doomed = |entry: &crate::swift::slo::stored::Entry| match &entry.source {
        Source::Data(_) => None,
        Source::Object { container, object, sub_slo, .. } => {
            Some(Doomed { name: ObjectName::new(account, container, object), manifest: *sub_slo })
        }
    };
    manifest.entries.iter().filter_map(doomed).collect()
}

/// The segments of a manifest, or status and reason.
async fn segments(call: &Arc<Call>, name: &ObjectName) -> Result<Manifest, (u16, String)> {
    let failed = |answer: Answer| match answer.status {
        404 => (404, "SLO manifest not found".to_owned()),
        401 => (401, "401 Unauthorized".to_owned()),
        _ => (500, "Unable to load SLO manifest or segment.".to_owned()),
    };
    authorize(call, "GET", name).await.map_err(failed)?;
    let who = call.identity(&name.account).await.map_err(failed)?;
    let wanted = name.clone();
    let found = call.run(who, move |ns| look::open_manifest(ns, &wanted));
    match found.await.map_err(failed)? {
        Ok(Some(Some(manifest))) => Ok(manifest),
        Ok(Some(None)) => Err((500, "Unable to load SLO manifest".to_owned())),
        Ok(None) => Err((400, "Not an SLO manifest".to_owned())),
        Err(e) => Err(failed(call::failure(&e, Doing::Other))),
    }
}

async fn remove(call: &Arc<Call>, name: ObjectName, tally: &mut Tally) {
    let path = path(&name);
    let result = match authorize(call, "DELETE", &name).await {
        Ok(()) => delete::remove(call, name).await,
        Err(answer) => Err(answer),
    };
    tally.count(&path, result);
}
