//! What one account and one client address may take: requests per second, bytes per second, requests under way.
//!
//! Each rate is one number, the moment at which the next request would be exactly on time: a request moves it on by its
//! cost, and is early by as much as it lies ahead of now beyond what may come at once. So a limit costs one map look-up
//! and one atomic addition, and forgets nothing while it matters.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::auth::address::network_of;
use crate::auth::clock::Clock;
use crate::auth::generations::Generations;
use crate::config::{Limits as Config, Share};
use crate::http::Pace;

/// Maps by which the accounts, and the addresses, are divided, so that few threads meet at one lock.
const SHARDS: usize = 16;
/// Names that one map remembers in each of its two halves.
const REMEMBERED: usize = 1024;

/// Keeps every client within its share.
#[derive(Debug)]
pub struct Throttle {
    clock: Arc<dyn Clock>,
    max_wait: Duration,
    accounts: Shares,
    addresses: Shares,
}

/// Why a request is not served now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Too many requests per second: 498 `Rate Limited`, as Swift says it, with the body `Slow down`.
    TooOften {
        /// When the request would be on time.
        retry_after: Duration,
    },
    /// Too many requests under way: 503.
    TooMany,
}

/// Leave to serve a request. Dropping it ends the request.
#[derive(Debug)]
pub struct Permit {
    clock: Arc<dyn Clock>,
    wait: Duration,
    usages: Vec<Arc<Usage>>,
}

#[derive(Debug)]
struct Shares {
    share: Share,
    hasher: RandomState,
    shards: Vec<Mutex<Generations<u64, Arc<Usage>>>>,
}

/// What one account or address has taken.
#[derive(Debug)]
struct Usage {
    in_flight: AtomicU32,
    in_flight_most: u32,
    requests: Rate,
    bytes: Rate,
}

/// A rate, in nanoseconds of the clock.
#[derive(Debug)]
struct Rate {
    /// When the next unit would be on time.
    next: AtomicU64,
    /// What a unit costs; 0 is no limit.
    cost: f64,
    /// How far ahead of now `next` may lie.
    ahead: u64,
}

impl Throttle {
    /// Limits as configured.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            max_wait: Duration::from_secs(config.max_wait_seconds),
            accounts: Shares::new(config.account),
            addresses: Shares::new(config.address),
        }
    }

    /// Asks leave for a request. `account` is none where the path names none that exists, so that made-up names cost
    /// only their address.
    pub fn admit(&self, account: Option<&str>, client: IpAddr) -> Result<Permit, Refusal> {
        let now = nanoseconds(self.clock.elapsed());
        let mut permit = Permit { clock: self.clock.clone(), wait: Duration::ZERO, usages: Vec::new() };
        let usages =
            [self.addresses.usage(network_of(client)), account.and_then(|name| self.accounts.usage(name))];
        for usage in usages.into_iter().flatten() {
            if !usage.enter() {
                return Err(Refusal::TooMany);
            }
            permit.usages.push(usage);
        }
        // A request that is refused costs nothing: whoever hammers is not put off ever further.
        for (done, usage) in permit.usages.iter().enumerate() {
            let wait = usage.requests.take(1, now);
            if wait > self.max_wait {
                permit.usages.iter().take(done + 1).for_each(|usage| usage.requests.give_back(1));
                return Err(Refusal::TooOften { retry_after: wait });
            }
            // Who has moved more than is allowed begins later, but is not refused.
            let owed = usage.bytes.owed(now).min(self.max_wait);
            permit.wait = permit.wait.max(wait).max(owed);
        }
        Ok(permit)
    }
}

impl Refusal {
    /// The status: 498 or 503.
    pub fn status(self) -> u16 {
        match self {
            Self::TooOften { .. } => 498,
            Self::TooMany => 503,
        }
    }

    /// The `Retry-After` header, in whole seconds, at least one.
    pub fn retry_after_seconds(self) -> u64 {
        match self {
            Self::TooOften { retry_after } => (retry_after.as_secs_f64().ceil() as u64).max(1),
            Self::TooMany => 1,
        }
    }
}

impl Permit {
    /// How long to hold the request back before it is served.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Whether bytes are limited.
    pub fn is_paced(&self) -> bool {
        self.usages.iter().any(|usage| usage.bytes.cost > 0.0)
    }
}

impl Pace for Permit {
    fn take(&self, bytes: u64) -> Duration {
        let limited = self.usages.iter().filter(|usage| usage.bytes.cost > 0.0);
        let mut limited = limited.peekable();
        if limited.peek().is_none() {
            return Duration::ZERO;
        }
        let now = nanoseconds(self.clock.elapsed());
        limited.map(|usage| usage.bytes.take(bytes, now)).max().unwrap_or_default()
    }

    /// What flows in a quarter of a second: often enough to look like a stream.
    fn stride(&self) -> u64 {
        let rates = self.usages.iter().map(|usage| usage.bytes.cost).filter(|cost| *cost > 0.0);
        rates.map(|cost| (0.25e9 / cost) as u64).min().unwrap_or(u64::MAX).max(16 << 10)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for usage in &self.usages {
            usage.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Shares {
    fn new(share: Share) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Generations::new(REMEMBERED))).collect();
        Self { share, hasher: RandomState::new(), shards }
    }

    /// None where nothing is limited.
    fn usage(&self, name: impl Hash) -> Option<Arc<Usage>> {
        let Share { requests_per_second, burst_requests: _, bytes_per_second, in_flight } = self.share;
        if requests_per_second <= 0.0 && bytes_per_second == 0 && in_flight == 0 {
            return None;
        }
        let key = self.hasher.hash_one(name);
        let shard = &self.shards[key as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = shard.get(&key) {
            return Some(usage.clone());
        }
        let usage = Arc::new(Usage::new(&self.share));
        // One that a request holds must not be forgotten, or the account would have its share twice.
        shard.insert(key, usage.clone(), |usage| Arc::strong_count(usage) > 1);
        Some(usage)
    }
}

impl Usage {
    fn new(share: &Share) -> Self {
        let second = share.requests_per_second.max(1.0);
        let burst = if share.burst_requests == 0 { second } else { f64::from(share.burst_requests) };
        Self {
            in_flight: AtomicU32::new(0),
            in_flight_most: share.in_flight,
            requests: Rate::new(share.requests_per_second, burst),
            bytes: Rate::new(share.bytes_per_second as f64, share.bytes_per_second as f64),
        }
    }

    fn enter(&self) -> bool {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let free = self.in_flight_most == 0 || before < self.in_flight_most;
        if !free {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        free
    }
}

impl Rate {
    /// `burst` units may come at once.
    fn new(per_second: f64, burst: f64) -> Self {
        let cost = if per_second > 0.0 { 1e9 / per_second } else { 0.0 };
        Self { next: AtomicU64::new(0), cost, ahead: (cost * burst) as u64 }
    }

    fn price(&self, units: u64) -> u64 {
        // So much that no sum of it with a clock's reading overflows.
        (self.cost * units as f64).min(1e18) as u64
    }

    /// Takes units, and says how early that is.
    fn take(&self, units: u64, now: u64) -> Duration {
        let price = self.price(units);
        if price == 0 {
            return Duration::ZERO;
        }
        let advance = |next: u64| Some(next.max(now).saturating_add(price));
        let (Ok(next) | Err(next)) = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance);
        let early = next.max(now).saturating_add(price).saturating_sub(now).saturating_sub(self.ahead);
        Duration::from_nanos(early)
    }

    /// How early it would be to take anything.
    fn owed(&self, now: u64) -> Duration {
        let next = self.next.load(Ordering::Relaxed);
        Duration::from_nanos(next.saturating_sub(now).saturating_sub(self.ahead))
    }

    fn give_back(&self, units: u64) {
        let price = self.price(units);
        let back = |next: u64| Some(next.saturating_sub(price));
        _ = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }
}

fn nanoseconds(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::clock::fake::FakeClock;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn throttle(account: Share, address: Share, max_wait_seconds: u64) -> (Arc<FakeClock>, Throttle) {
        let clock = Arc::new(FakeClock::default());
        let config = Config { max_wait_seconds, account, address, ..Config::default() };
        (clock.clone(), Throttle::new(&config, clock))
    }

    fn rate(requests_per_second: f64, burst_requests: u32) -> Share {
        Share { requests_per_second, burst_requests, ..Share::default() }
    }

    fn there(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn without_limits_nothing_is_kept() {
        let (_, throttle) = throttle(Share::default(), Share::default(), 0);
        for _ in 0..1000 {
            let permit = throttle.admit(Some("a"), HERE).unwrap();
            assert_eq!((permit.wait(), permit.take(u64::MAX)), (Duration::ZERO, Duration::ZERO));
            assert!(permit.usages.is_empty() && !permit.is_paced());
            assert_eq!(permit.stride(), u64::MAX);
        }
    }

    #[test]
    fn requests_come_at_their_rate() {
        let (clock, throttle) = throttle(rate(10.0, 3), Share::default(), 0);
        let admit = |account| throttle.admit(Some(account), HERE).map(|permit| permit.wait());
        for _ in 0..3 {
            assert_eq!(admit("a"), Ok(Duration::ZERO));
        }
        let early = Refusal::TooOften { retry_after: Duration::from_millis(100) };
        // However often it is tried.
        for _ in 0..5 {
            assert_eq!(admit("a"), Err(early));
        }
        assert_eq!((early.status(), early.retry_after_seconds()), (498, 1));
        assert_eq!(admit("b"), Ok(Duration::ZERO));
        clock.advance(Duration::from_millis(100));
        assert_eq!(admit("a"), Ok(Duration::ZERO));
        assert_eq!(admit("a"), Err(early));
        clock.advance(Duration::from_mins(1));
        for _ in 0..3 {
            assert_eq!(admit("a"), Ok(Duration::ZERO));
        }
        assert_eq!(admit("a"), Err(early));
        assert_eq!(throttle.admit(None, HERE).unwrap().wait(), Duration::ZERO);
    }

    #[test]
    fn early_requests_are_held_back_as_long_as_allowed() {
        let (clock, throttle) = throttle(rate(1.0, 1), Share::default(), 2);
        let admit = || throttle.admit(Some("a"), HERE).map(|permit| permit.wait().as_secs());
        assert_eq!((admit(), admit(), admit()), (Ok(0), Ok(1), Ok(2)));
        let refusal = throttle.admit(Some("a"), HERE).unwrap_err();
        assert_eq!(refusal, Refusal::TooOften { retry_after: Duration::from_secs(3) });
        assert_eq!(refusal.retry_after_seconds(), 3);
        clock.advance(Duration::from_secs(1));
        assert_eq!(admit(), Ok(2));
    }

    #[test]
    fn an_address_has_a_share_and_a_refusal_costs_nobody() {
        let (_, throttle) = throttle(rate(1.0, 2), rate(1.0, 1), 0);
        assert!(throttle.admit(Some("a"), there(1)).is_ok());
        assert!(throttle.admit(Some("b"), there(1)).is_err());
        // "b" was not charged.
        assert!(throttle.admit(Some("b"), there(2)).is_ok());
        assert!(throttle.admit(Some("b"), there(3)).is_ok());
        assert!(throttle.admit(Some("b"), there(4)).is_err());
        // Nor was the address.
        assert!(throttle.admit(Some("c"), there(4)).is_ok());
    }

    #[test]
    fn neighbours_in_ipv6_share() {
        let (_, throttle) = throttle(Share::default(), rate(1.0, 1), 0);
        let admit = |text: &str| throttle.admit(None, text.parse().unwrap()).is_ok();
        assert!(admit("2001:db8::1") && !admit("2001:db8::2") && admit("2001:db8:0:1::1"));
    }

    #[test]
    fn requests_under_way_are_counted_until_they_end() {
        let share = |in_flight| Share { in_flight, ..Share::default() };
        let (_, throttle) = throttle(share(2), share(3), 0);
        let first = throttle.admit(Some("a"), HERE).unwrap();
        let second = throttle.admit(Some("a"), HERE).unwrap();
        let refusal = throttle.admit(Some("a"), HERE).unwrap_err();
        assert_eq!(refusal, Refusal::TooMany);
        assert_eq!((refusal.status(), refusal.retry_after_seconds()), (503, 1));
        // The refused one holds no place at its address.
        let third = throttle.admit(Some("b"), HERE).unwrap();
        assert!(throttle.admit(Some("c"), HERE).is_err());
        drop((first, third));
        let again = throttle.admit(Some("a"), HERE).unwrap();
        drop((second, again));
        assert!(throttle.admit(Some("a"), HERE).is_ok());
    }

    #[test]
    fn bytes_flow_at_their_rate() {
        let share = |bytes_per_second| Share { bytes_per_second, ..Share::default() };
        let (clock, throttle) = throttle(share(1000), share(4000), 5);
        let permit = throttle.admit(Some("a"), HERE).unwrap();
        assert!(permit.is_paced());
        assert_eq!(permit.stride(), 16 << 10);
        assert_eq!(permit.take(1000), Duration::ZERO);
        assert_eq!(permit.take(0), Duration::ZERO);
        assert_eq!(permit.take(500), Duration::from_millis(500));
        let other = throttle.admit(Some("b"), HERE).unwrap();
        assert_eq!(other.take(1000), Duration::ZERO);
        assert_eq!(throttle.admit(Some("a"), HERE).unwrap().take(500), Duration::from_secs(1));
        clock.advance(Duration::from_secs(1));
        assert_eq!(permit.take(1000), Duration::from_secs(1));
        // What is owed holds back the next request, as long as a request is held back at most.
        assert_eq!(throttle.admit(Some("a"), HERE).unwrap().wait(), Duration::from_secs(1));
        // Absurd sizes neither panic nor wrap.
        assert!(permit.take(u64::MAX) > Duration::from_hours(1000));
        assert!(permit.take(u64::MAX) > Duration::from_hours(1000));
    }

    #[test]
    fn memory_is_bounded_and_what_is_held_stays() {
        let (_, throttle) = throttle(Share { in_flight: 1, ..Share::default() }, Share::default(), 0);
        let held = throttle.admit(Some("held"), HERE).unwrap();
        for account in 0..100_000 {
            drop(throttle.admit(Some(&account.to_string()), HERE));
        }
        assert_eq!(throttle.admit(Some("held"), HERE).unwrap_err(), Refusal::TooMany);
        let known: usize = throttle.accounts.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(known <= SHARDS * (2 * REMEMBERED + 1), "{known}");
        drop(held);
    }

    #[test]
    fn threads_never_take_more_than_the_share() {
        let (_, throttle) = throttle(rate(1.0, 1000), Share::default(), 0);
        let admitted: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..1000).filter(|_| throttle.admit(Some("a"), HERE).is_ok()).count())
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        // A refusal in between may turn away one that would have fitted; none is let in too much.
        assert!((990..=1000).contains(&admitted), "{admitted}");
    }
}
