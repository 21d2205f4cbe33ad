//! What was told, kept for each bridge until it is durable there.
//!
//! Nothing here waits for a bridge: one that is too slow, or away for too long, loses what was kept for it and is told so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use namespace::Mark;
use tokio::sync::watch;

use crate::scope::Scope;
use crate::source::{Batch, State};

/// How much is kept for a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Marks.
    pub records: usize,
    /// How old the oldest may be.
    pub age: Duration,
    /// Bridges that are known, whether they are there or away.
    pub bridges: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { records: 250_000, age: Duration::from_mins(15), bridges: 256 }
    }
}

/// A run of a source, at random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch([u8; 16]);

impl Epoch {
    fn random() -> Result<Epoch, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Epoch(bytes))
    }

    /// As the wire has it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Who follows: what it serves, and its name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bridge {
    /// What it is told of.
    pub scope: Scope,
    /// Its own among the bridges of the scope.
    pub name: String,
}

/// Where a bridge begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// What follows is all after this sequence.
    pub sequence: u64,
    /// What was before is not known.
    pub gap: bool,
    /// Of this connection, for the other calls.
    pub connection: u64,
}

/// Why a bridge is told no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ended {
    /// What was kept for it grew past its bound.
    #[error(
        "the bridge was too slow and what was kept for it was dropped: open again, and look at everything"
    )]
    Dropped,
    /// The same bridge follows by another connection.
    #[error("another bridge of the same name and sub-path has taken its place")]
    Replaced,
    /// It acknowledged what it was never told.
    #[error("sequence {0} was acknowledged, and was never sent")]
    Ahead(u64),
    /// There are too many bridges.
    #[error("{0} bridges follow already, which is as many as may")]
    Full(usize),
}

/// What a bridge is to be told next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// As they are here, not yet narrowed to the bridge's scope.
    pub marks: Vec<Arc<Mark>>,
    /// With these it has all up to here.
    pub sequence: u64,
    /// When the newest happened.
    pub newest: SystemTime,
    /// When the source had read all, if the bridge has all of that with these.
    pub drained: Option<SystemTime>,
}

/// What there is to say of a bridge.
#[derive(Clone, PartialEq, Debug)]
pub struct Standing {
    /// Which.
    pub bridge: Bridge,
    /// Whether it is connected.
    pub connected: bool,
    /// Marks that it has not acknowledged.
    pub records: usize,
    /// The age of the oldest of them.
    pub lag: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    epoch: Epoch,
    bounds: Bounds,
    inner: Mutex<Inner>,
    published: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    head: u64,
    drained: Option<SystemTime>,
    state: State,
    tails: HashMap<Bridge, Tail>,
    connections: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Tail {
    records: VecDeque<Record>,
    /// All up to here is durable with the bridge.
    acknowledged: u64,
    /// What was here was too much; only until the connection ends.
    dropped: bool,
    connection: Option<u64>,
    seen: Instant,
}

#[derive(Debug)]
struct Record {
    sequence: u64,
    mark: Arc<Mark>,
    newest: SystemTime,
    since: Instant,
}

impl Hub {
    /// With a new epoch, as nothing is known of what was before.
    pub fn new(bounds: Bounds, state: State) -> Result<Hub, getrandom::Error> {
        let inner =
            Inner { head: 0, drained: None, state, tails: HashMap::new(), connections: 0, dropped: 0 };
        Ok(Hub {
            epoch: Epoch::random()?,
            bounds,
            inner: Mutex::new(inner),
            published: watch::Sender::new(()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of this run.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Changes with each batch.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.published.subscribe()
    }

    /// Keeps a batch for each bridge that it concerns; it was `asked` for then. An empty one says that time has passed.
    pub fn publish(&self, batch: Batch, state: State, asked: SystemTime) {
        let now = Instant::now();
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.state = state;
        for mark in batch.marks {
            inner.head += 1;
            let mark = Arc::new(mark);
            for (bridge, tail) in &mut inner.tails {
                if !tail.dropped && bridge.scope.concerns(&mark) {
                    let (sequence, mark) = (inner.head, Arc::clone(&mark));
                    tail.records.push_back(Record { sequence, mark, newest: batch.newest, since: now });
                }
            }
        }
        inner.drained = batch.drained.then_some(asked);
        inner.bound(self.bounds, now);
        self.published.send_replace(());
    }

    /// A bridge follows, with what is durable there if that is of this epoch.
    pub fn begin(&self, bridge: &Bridge, durable: Option<u64>) -> Result<Begin, Ended> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.make_room(bridge, self.bounds.bridges)?;
        inner.connections += 1;
        let (head, connection) = (inner.head, inner.connections);
        let known = inner.tails.get(bridge).filter(|tail| !tail.dropped).map(|tail| tail.acknowledged);
        let resumed = durable.filter(|sequence| known.is_some_and(|known| (known..=head).contains(sequence)));
        let tail = inner.tails.entry(bridge.clone()).or_insert_with(|| Tail::new(head));
        tail.connection = Some(connection);
        if let Some(sequence) = resumed {
            tail.acknowledge(sequence);
        } else {
            (tail.records, tail.acknowledged, tail.dropped) = (VecDeque::new(), head, false);
        }
        Ok(Begin { sequence: resumed.unwrap_or(head), gap: resumed.is_none(), connection })
    }

    /// What comes after `cursor`, at most so many marks.
    pub fn news(&self, bridge: &Bridge, connection: u64, cursor: u64, most: usize) -> Result<News, Ended> {
        let mut inner = self.lock();
        let (head, drained) = (inner.head, inner.drained);
        let tail = inner.connected(bridge, connection)?;
        let first = tail.records.partition_point(|record| record.sequence <= cursor);
        let chosen: Vec<&Record> = tail.records.range(first..).take(most).collect();
        let marks: Vec<Arc<Mark>> = chosen.iter().map(|record| Arc::clone(&record.mark)).collect();
        let last = chosen.last();
        let newest = last.map_or_else(SystemTime::now, |record| record.newest);
        let all = first + marks.len() == tail.records.len();
        let sequence = if all { head } else { last.map_or(cursor, |record| record.sequence) };
        Ok(News { marks, sequence, newest, drained: drained.filter(|_| all) })
    }

    /// All up to `sequence` is durable with the bridge, which was sent all up to `sent`.
    pub fn acknowledge(
        &self,
        bridge: &Bridge,
        connection: u64,
        sequence: u64,
        sent: u64,
    ) -> Result<(), Ended> {
        if sequence > sent {
            return Err(Ended::Ahead(sequence));
        }
        self.lock().connected(bridge, connection)?.acknowledge(sequence);
        Ok(())
    }

    /// A connection ended; what is kept is kept on.
    pub fn leave(&self, bridge: &Bridge, connection: u64) {
        let mut inner = self.lock();
        if let Some(tail) = inner.tails.get_mut(bridge)
            && tail.connection == Some(connection)
        {
            tail.connection = None;
            tail.seen = Instant::now();
        }
    }

    /// How the source is doing.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Marks so far, and how often what was kept for a bridge was dropped.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.head, inner.dropped)
    }

    /// Of all bridges that are known.
    pub fn standings(&self) -> Vec<Standing> {
        let standing = |(bridge, tail): (&Bridge, &Tail)| Standing {
            bridge: bridge.clone(),
            connected: tail.connection.is_some(),
            records: tail.records.len(),
            lag: tail.records.front().map_or(Duration::ZERO, |oldest| oldest.since.elapsed()),
        };
        self.lock().tails.iter().map(standing).collect()
    }

    /// Whether any bridge is connected.
    pub fn followed(&self) -> bool {
        self.lock().tails.values().any(|tail| tail.connection.is_some())
    }
}

impl Inner {
    fn connected(&mut self, bridge: &Bridge, connection: u64) -> Result<&mut Tail, Ended> {
        match self.tails.get_mut(bridge) {
            Some(tail) if tail.connection == Some(connection) && tail.dropped => Err(Ended::Dropped),
            Some(tail) if tail.connection == Some(connection) => Ok(tail),
            _ => Err(Ended::Replaced),
        }
    }

    /// Drops what is too much or too old.
    fn bound(&mut self, bounds: Bounds, now: Instant) {
        for (bridge, tail) in &mut self.tails {
            let old = tail.records.front().is_some_and(|oldest| oldest.since + bounds.age < now);
            if !tail.dropped && (old || tail.records.len() > bounds.records) {
                let (records, connected) = (tail.records.len(), tail.connection.is_some());
                tracing::warn!(bridge = bridge.name, sub_path = %bridge.scope, records, connected, "what was kept for a bridge is dropped");
                (tail.records, tail.dropped) = (VecDeque::new(), true);
                self.dropped += 1;
            }
        }
        self.tails.retain(|_, tail| !tail.dropped || tail.connection.is_some());
    }

    /// Forgets the bridge that is away for the longest, if there is one too many.
    fn make_room(&mut self, bridge: &Bridge, most: usize) -> Result<(), Ended> {
        if self.tails.len() < most || self.tails.contains_key(bridge) {
            return Ok(());
        }
        let away = self.tails.iter().filter(|(_, tail)| tail.connection.is_none());
        let longest = away.min_by_key(|(_, tail)| tail.seen).map(|(bridge, _)| bridge.clone());
        let forgotten = longest.ok_or(Ended::Full(most))?;
        tracing::warn!(bridge = forgotten.name, sub_path = %forgotten.scope, "a bridge that is away is forgotten: there are too many");
        self.tails.remove(&forgotten);
        self.dropped += 1;
        Ok(())
    }
}

impl Tail {
    fn new(head: u64) -> Tail {
        Tail {
            records: VecDeque::new(),
            acknowledged: head,
            dropped: false,
            connection: None,
            seen: Instant::now(),
        }
    }

    fn acknowledge(&mut self, sequence: u64) {
        let durable = self.records.partition_point(|record| record.sequence <= sequence);
        self.records.drain(..durable);
        self.acknowledged = self.acknowledged.max(sequence);
    }
}

#[cfg(test)]
#[path = "hub/tests.rs"]
mod tests;
