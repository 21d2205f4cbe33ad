//! Applying: every object as it should be, and none that should not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::World;
use crate::child::{Child, Parent};
use crate::cluster::write::Outcome;
use crate::cluster::{Key, Kind, WriteError};
use crate::queue::Next;

/// How often it is looked whether something in the way is gone. A watch tells it too, but not of what was never kept.
const PAUSE: Duration = Duration::from_secs(5);

/// What became of the objects of a share or a bridge.
#[derive(Default, Debug)]
pub struct Applied {
    /// By object: what was done, or what the API server had against it.
    pub outcomes: BTreeMap<Key, Result<Outcome, String>>,
    /// Whether it is worth another try.
    pub retry: bool,
}

impl Applied {
    /// What stands in the way, for people; names that are taken come first.
    pub fn obstacles(&self) -> Vec<String> {
        let taken = self.taken().map(|key| format!("{key} exists and was made by somebody else"));
        let failed = self
            .outcomes
            .iter()
            .filter_map(|(key, outcome)| Some(format!("{key}: {}", outcome.as_ref().err()?)));
        taken.chain(failed).collect()
    }

    /// What is to follow: another try, a look whether what was in the way is gone, or nothing.
    pub fn next(&self) -> Next {
        let replacing = self.outcomes.values().any(|outcome| *outcome == Ok(Outcome::Replacing));
        match self.retry {
            true => Next::Retry(None),
            false if replacing => Next::Look(PAUSE),
            false => Next::Rest,
        }
    }

    /// Names that are taken by what somebody else made.
    pub fn taken(&self) -> impl Iterator<Item = &Key> {
        self.outcomes.iter().filter(|(_, outcome)| **outcome == Ok(Outcome::Taken)).map(|(key, _)| key)
    }
}

/// Makes the objects of a parent what they should be, and deletes those of its objects that are not among them. What is
/// wrong with one object stops no other.
pub async fn apply(world: &World, parent: &Parent, children: &[Child]) -> Result<Applied, WriteError> {
    let mut applied = Applied::default();
    for child in children {
        let outcome = match world.writer.ensure(child).await {
            Ok(outcome) => Ok(outcome),
            // What a class says cannot be changed, and it belongs to nobody: it is made anew.
            Err(error) if child.key.kind == Kind::StorageClass && error.code() == Some(422) => {
                world.writer.delete(&child.key, None).await?;
                applied.retry = true;
                Err(error.said())
            }
            Err(error) if error.is_of_the_object() => {
                tracing::warn!(object = %child.key, said = error.said(), "cannot be applied");
                applied.retry = true;
                Err(error.said())
            }
            Err(error) => return Err(error),
        };
        applied.outcomes.insert(child.key.clone(), outcome);
    }
    delete_orphans(world, parent, children, &mut applied).await?;
    Ok(applied)
}

async fn delete_orphans(
    world: &World,
    parent: &Parent,
    children: &[Child],
    applied: &mut Applied,
) -> Result<(), WriteError> {
    let wanted: BTreeSet<&Key> = children.iter().map(|child| &child.key).collect();
    for key in world.cache.owned_by(&parent.uid) {
        let Some(kept) = world.cache.get(&key).filter(|_| !wanted.contains(&key)) else { continue };
        let metadata = &kept.value()["metadata"];
        if metadata["deletionTimestamp"].is_string() {
            continue;
        }
        match world.writer.delete(&key, metadata["uid"].as_str()).await {
            Err(error) if error.is_of_the_object() => applied.retry = true,
            other => other?,
        }
    }
    Ok(())
}
