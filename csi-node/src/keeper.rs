//! Who keeps the leases of a node: its driver, or a holder of their own, which stays while drivers come and go.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::holder::Client;
use crate::id::VolumeId;
use crate::lease::{self, Leases};
use crate::locks::{Guard, Locks};
use crate::share::{Share, Shares};
use crate::store::Store;
use crate::tree::Tree;

/// Where a driver's leases are.
#[derive(Clone, Debug)]
pub enum Keeper {
    /// With itself: they go when it does.
    Own(Leases),
    /// With the node's holder.
    Holder(Client),
}

impl Keeper {
    /// As [`Leases::take`]. Blocks.
    pub fn take(&self, store: &Store, id: &VolumeId) -> Result<(), Error> {
        match self {
            Keeper::Own(leases) => leases.take(store, id),
            Keeper::Holder(holder) => holder.take(id),
        }
    }

    /// As [`Leases::release`]. Blocks.
    pub fn release(&self, store: &Store, id: &VolumeId) -> Result<(), Error> {
        match self {
            Keeper::Own(leases) => leases.release(store, id),
            Keeper::Holder(holder) => holder.release(id),
        }
    }

    /// What is known of whether the node has the lease of a volume.
    pub async fn ask(&self, id: &VolumeId) -> Known {
        let concerns = match self {
            Keeper::Own(leases) => Ok(leases.concerns(id)),
            Keeper::Holder(holder) => holder.concerns(id).await,
        };
        match concerns {
            Ok(true) => Known::Maybe,
            Ok(false) => Known::No,
            Err(error) => Known::Nothing(error),
        }
    }

    /// Gives back what may be the node's. Blocks.
    ///
    /// A holder that is away is waited for, by an error, only if there is something that it would have to give back.
    pub fn give_back(&self, store: &Store, id: &VolumeId, known: Known) -> Result<(), Error> {
        match (known, self) {
            (Known::Nothing(error), Keeper::Holder(holder)) => {
                if lease::is_of(store, &id.uuid, holder.node())? { Err(error) } else { Ok(()) }
            }
            _ => self.release(store, id),
        }
    }
}

/// What a keeper says of a lease.
#[derive(Debug)]
pub enum Known {
    /// The node does not have it.
    No,
    /// The node may have it.
    Maybe,
    /// It cannot be asked.
    Nothing(Error),
}

/// Takes leases again that were held before a restart, and gives the signs of life that others wait for. A share that
/// hangs stops no other.
pub async fn keep(shares: Shares, leases: Leases, stop: CancellationToken) {
    let locks = Locks::default();
    loop {
        for share in shares.all().unwrap_or_default() {
            let Ok(guard) = locks.take(&share.name) else { continue };
            if share.check_node(leases.node()).is_ok() {
                tokio::spawn(keep_of(share, leases.clone(), guard));
            }
        }
        if tokio::time::timeout(lease::BEAT, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn keep_of(share: Arc<Share>, leases: Leases, guard: Guard) {
    let name = share.name.clone();
    let job = move |tree: &Tree| {
        let _guard = guard;
        let store = tree.store()?;
        leases.recover(store.as_ref(), &name)?;
        match store {
            Some(store) if leases.any_of(&name) => leases.beat(&store),
            _ => Ok(()),
        }
    };
    if let Err(error) = share.run(job).await {
        tracing::debug!(share = share.name, %error, "no sign of life on the share");
    }
}
