//! The MD5 of bodies that arrive side by side.
//!
//! MD5 is a chain of small steps, each waiting for the last, that leaves most of a core idle. Bodies that are under way
//! at the same time are therefore hashed together, each in a lane of the vector registers: a thread that brings a piece
//! works, on its own and on those that wait, or waits for one that does. Eight together take a fifth of the time.

mod lanes;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::Bytes;

use lanes::{BLOCK, LANES, Lane, START, State};

/// Pieces shorter than this are not worth meeting for.
const ALONE: usize = 32 << 10;

/// So many bytes of each lane are hashed before others may join.
const STRIDE: usize = 32 << 10;

/// Where bodies meet to be hashed.
#[derive(Debug)]
pub(crate) struct Together {
    queue: Mutex<Queue>,
    /// So many threads work as soon as there is something to do. Few: who has to wait is not alone.
    some: usize,
    /// So many work when there is enough to do for all lanes. More would share the same cores.
    most: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Job>,
    working: usize,
}

/// A piece of a body.
#[derive(Debug)]
struct Job {
    state: State,
    /// Whole blocks.
    rest: Bytes,
    reply: Arc<Reply>,
}

/// How a thread that waits is told.
#[derive(Debug, Default)]
struct Reply {
    told: Mutex<Option<Told>>,
    ready: Condvar,
}

#[derive(Debug)]
enum Told {
    Done(State),
    /// It is to work itself, on what is left.
    Work(State, Bytes),
}

impl Together {
    pub(crate) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { queue: Mutex::default(), some: (cores / 4).max(1), most: cores }
    }

    /// Hashes whole blocks.
    fn advance(&self, mut state: State, blocks: Bytes) -> State {
        if blocks.len() < ALONE {
            lanes::alone(&mut state, &blocks);
            return state;
        }
        let reply = Arc::<Reply>::default();
        let job = Job { state, rest: blocks, reply: Arc::clone(&reply) };
        let mut queue = self.lock();
        let wanted = if queue.waiting.len() + 1 < LANES { self.some } else { self.most };
        if queue.working < wanted {
            queue.working += 1;
            drop(queue);
            return self.work(job);
        }
        queue.waiting.push_back(job);
        drop(queue);
        match reply.wait() {
            Told::Done(state) => state,
            Told::Work(state, rest) => self.work(Job { state, rest, reply }),
        }
    }

    /// Hashes `mine`, and whatever waits beside it, until `mine` is done.
    fn work(&self, mine: Job) -> State {
        let mut jobs = vec![mine];
        loop {
            let mut queue = self.lock();
            let joining = queue.waiting.len().min(LANES - jobs.len());
            jobs.extend(queue.waiting.drain(..joining));
            drop(queue);
            let stride = jobs.iter().map(|job| job.rest.len()).min().unwrap_or_default().min(STRIDE);
            let mut lanes: Vec<Lane<'_>> = jobs
                .iter_mut()
                .map(|job| Lane { state: &mut job.state, bytes: &job.rest[..stride] })
                .collect();
            lanes::advance(&mut lanes);
            for job in &mut jobs {
                job.rest = job.rest.slice(stride..);
            }
            let mut others = jobs.split_off(1);
            for done in others.extract_if(.., |job| job.rest.is_empty()) {
                done.reply.tell(Told::Done(done.state));
            }
            if jobs[0].rest.is_empty() {
                self.hand_over(others);
                return jobs[0].state;
            }
            jobs.append(&mut others);
        }
    }

    /// Puts back what is not done, and lets one of those who wait go on in this thread's stead.
    fn hand_over(&self, unfinished: Vec<Job>) {
        let mut queue = self.lock();
        for job in unfinished.into_iter().rev() {
            queue.waiting.push_front(job);
        }
        match queue.waiting.pop_front() {
            Some(job) => {
                drop(queue);
                job.reply.tell(Told::Work(job.state, job.rest));
            }
            None => queue.working -= 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply {
    fn tell(&self, what: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        self.ready.notify_one();
    }

    fn wait(&self) -> Told {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match told.take() {
                Some(told) => return told,
                None => told = self.ready.wait(told).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The MD5 of one body, piece by piece.
#[derive(Debug)]
pub(crate) struct Hasher {
    state: State,
    /// The beginning of a block.
    held: [u8; BLOCK],
    length: u64,
    together: Arc<Together>,
}

impl Hasher {
    pub(crate) fn new(together: Arc<Together>) -> Self {
        Self { state: START, held: [0; BLOCK], length: 0, together }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &Bytes) {
        let mut rest = bytes.clone();
        let held = (self.length % BLOCK as u64) as usize;
        self.length += rest.len() as u64;
        if held > 0 {
            let missing = rest.split_to(rest.len().min(BLOCK - held));
            self.held[held..held + missing.len()].copy_from_slice(&missing);
            if held + missing.len() < BLOCK {
                return;
            }
            lanes::alone(&mut self.state, &self.held);
        }
        let blocks = rest.split_to(rest.len() / BLOCK * BLOCK);
        self.state = self.together.advance(self.state, blocks);
        self.held[..rest.len()].copy_from_slice(&rest);
    }

    /// The MD5 of what came so far.
    pub(crate) fn digest(&self) -> [u8; 16] {
        let held = (self.length % BLOCK as u64) as usize;
        let mut end = [0; 2 * BLOCK];
        end[..held].copy_from_slice(&self.held[..held]);
        end[held] = 0x80;
        let len = if held < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        end[len - 8..len].copy_from_slice(&(self.length << 3).to_le_bytes());
        let mut state = self.state;
        lanes::alone(&mut state, &end[..len]);
        let mut md5 = [0; 16];
        for (bytes, word) in md5.as_chunks_mut().0.iter_mut().zip(state) {
            *bytes = word.to_le_bytes();
        }
        md5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::{Digest, Md5};
    use proptest::prelude::*;

    fn expected(bytes: &[u8]) -> [u8; 16] {
        Md5::digest(bytes).into()
    }

    fn together(some: usize) -> Arc<Together> {
        Arc::new(Together { queue: Mutex::default(), some, most: 2 * some })
    }

    /// Bytes that differ from body to body.
    fn body(seed: usize, len: usize) -> Bytes {
        (0..len).map(|i| (i * 31 + seed * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn every_length_about_the_block_is_padded_right() {
        for len in 0..300 {
            let body = body(1, len);
            let mut hasher = Hasher::new(together(1));
            hasher.update(&body);
            assert_eq!(hasher.digest(), expected(&body), "{len}");
        }
    }

    #[test]
    fn lanes_do_not_mix() {
        for count in 1..=LANES {
            let bodies: Vec<Bytes> = (0..count).map(|seed| body(seed, 5 * BLOCK)).collect();
            let mut states = vec![START; count];
            let mut lanes: Vec<Lane<'_>> =
                states.iter_mut().zip(&bodies).map(|(state, bytes)| Lane { state, bytes }).collect();
            lanes::advance(&mut lanes);
            for (state, body) in states.iter().zip(&bodies) {
                let mut one = START;
                lanes::alone(&mut one, body);
                assert_eq!(*state, one, "{count} lanes");
            }
        }
    }

    #[test]
    fn bodies_that_meet_get_their_own_digest() {
        for workers in [1, 2, 3] {
            let together = together(workers);
            thread::scope(|scope| {
                for number in 0..24 {
                    let together = Arc::clone(&together);
                    scope.spawn(move || {
                        let body = body(number, 40_000 + number * 37_123);
                        let mut hasher = Hasher::new(together);
                        for piece in body.chunks(100_003) {
                            hasher.update(&body.slice_ref(piece));
                        }
                        assert_eq!(hasher.digest(), expected(&body), "body {number}, {workers} workers");
                    });
                }
            });
            let queue = together.lock();
            assert_eq!((queue.working, queue.waiting.len()), (0, 0));
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_the_same_digest(
            body in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec(0_usize..2000, 0..8),
        ) {
            let body = Bytes::from(body);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let mut hasher = Hasher::new(together(1));
            for pair in cuts.windows(2) {
                hasher.update(&body.slice(pair[0]..pair[1]));
            }
            prop_assert_eq!(hasher.digest(), expected(&body));
        }
    }
}
