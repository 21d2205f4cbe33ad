use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;

/// Jobs that wait until they are let go.
#[derive(Clone)]
struct Gate {
    open: Arc<(Mutex<bool>, std::sync::Condvar)>,
    passed: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Gate {
        Gate { open: Arc::default(), passed: Arc::default() }
    }

    fn job(&self) -> impl FnOnce() + Send + 'static {
        let gate = self.clone();
        move || {
            let open = gate.open.0.lock().unwrap();
            drop(gate.open.1.wait_while(open, |open| !*open).unwrap());
            gate.passed.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }

    fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many threads of this process have a name that begins so.
fn threads(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(|task| name(task.ok()?)).filter(|name| name.starts_with(prefix)).count()
}

#[tokio::test]
async fn a_result_comes_back() {
    let pool = Pool::new("back", 2, 2);
    assert_eq!(pool.run(None, || 6 * 7).await.unwrap(), 42);
    let name = pool.run(None, || thread::current().name().map(str::to_owned)).await.unwrap();
    assert!(name.unwrap().starts_with("back-"));
    until("idle", || pool.running() == 0);
    assert_eq!(pool.depth(), 0);
}

#[tokio::test]
async fn threads_are_started_when_needed_and_end_with_the_pool() {
    let pool = Pool::new("lazy", 3, 8);
    assert_eq!(threads("lazy-"), 0);
    for _ in 0..10 {
        pool.run(None, || ()).await.unwrap();
        until("idle", || pool.running() == 0);
    }
    assert_eq!(threads("lazy-"), 1);
    let gate = Gate::new();
    for _ in 0..5 {
        pool.run_detached(None, gate.job()).unwrap();
    }
    until("three run", || pool.running() == 3);
    assert_eq!((threads("lazy-"), pool.depth()), (3, 2));
    let clone = pool.clone();
    drop(pool);
    clone.run_detached(None, gate.job()).unwrap();
    drop(clone);
    // What is queued is still run.
    gate.open();
    until("all run", || gate.passed() == 6);
    until("threads end", || threads("lazy-") == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_refuses() {
    let pool = Pool::new("full", 2, 3);
    let gate = Gate::new();
    for _ in 0..2 {
        pool.run_detached(None, gate.job()).unwrap();
    }
    until("both run", || pool.running() == 2);
    let waiting = (0..3)
        .map(|number| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.run(None, move || number).await })
        })
        .collect::<Vec<_>>();
    until("three wait", || pool.depth() == 3);
    for _ in 0..3 {
        assert!(matches!(pool.run(None, || ()).await, Err(PoolError::Busy)));
        assert!(matches!(pool.run_detached(None, || ()), Err(PoolError::Busy)));
    }
    gate.open();
    for (number, task) in waiting.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap(), number);
    }
    assert_eq!(pool.run(None, || 1).await.unwrap(), 1);
}

#[tokio::test]
async fn a_pool_without_a_queue_runs_what_it_has_threads_for() {
    let pool = Pool::new("none", 0, 0);
    for _ in 0..100 {
        pool.run(None, || ()).await.unwrap();
        until("idle", || pool.handle.shared.lock().idle.len() == 1);
    }
    let gate = Gate::new();
    pool.run_detached(None, gate.job()).unwrap();
    until("it runs", || pool.running() == 1);
    assert!(matches!(pool.run(None, || ()).await, Err(PoolError::Busy)));
    gate.open();
}

#[tokio::test]
async fn a_panicking_job_is_lost_and_its_thread_goes_on() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("bomb"));
        }
    }
    let pool = Pool::new("panic", 1, 4);
    for _ in 0..3 {
        let lost = pool.run(None, || -> u8 { std::panic::resume_unwind(Box::new("job")) }).await;
        assert!(matches!(lost, Err(PoolError::Lost)));
        // Even if what is thrown throws.
        let lost = pool.run(None, || -> u8 { std::panic::resume_unwind(Box::new(Bomb)) }).await;
        assert!(matches!(lost, Err(PoolError::Lost)));
        until("idle", || pool.running() == 0);
        assert_eq!(pool.run(None, || 1).await.unwrap(), 1);
    }
    assert_eq!(threads("panic-"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_nobody_waits_for_is_skipped_unless_it_runs() {
    let pool = Pool::new("drop", 1, 4);
    let gate = Gate::new();
    let kept = Arc::new(());
    let running = {
        let (pool, job) = (pool.clone(), gate.job());
        tokio::spawn(async move { pool.run(None, job).await })
    };
    until("it runs", || pool.running() == 1);
    let queued = {
        let (pool, gate, kept) = (pool.clone(), gate.clone(), Arc::clone(&kept));
        tokio::spawn(async move {
            let job = gate.job();
            pool.run(None, move || {
                job();
                drop(kept);
            })
            .await
        })
    };
    until("it waits", || pool.depth() == 1);
    pool.run_detached(None, gate.job()).unwrap();
    running.abort();
    queued.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert!(queued.await.unwrap_err().is_cancelled());
    gate.open();
    until("all gone", || pool.depth() == 0 && pool.running() == 0);
    // The one that ran and the detached one; the other was dropped with all it held.
    assert_eq!(gate.passed(), 2);
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[tokio::test]
async fn an_identity_that_cannot_be_assumed_is_an_error() {
    let pool = Pool::new("who", 1, 4);
    let nobody = Arc::new(Identity { uid: u32::MAX, gid: 1, groups: Vec::new() });
    let ran = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ran);
    let result = pool.run(Some(Arc::clone(&nobody)), move || flag.store(true, Ordering::SeqCst)).await;
    assert!(matches!(result, Err(PoolError::Identity(error)) if error.kind() == io::ErrorKind::InvalidInput));
    let flag = Arc::clone(&ran);
    pool.run_detached(Some(nobody), move || flag.store(true, Ordering::SeqCst)).unwrap();
    pool.run(None, || ()).await.unwrap();
    assert!(!ran.load(Ordering::SeqCst));
}

/// The file-system uid of the calling thread, as the kernel tells it.
fn fsuid() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    line.split_whitespace().nth(4).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_as_whom_they_are_told() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("NOT RUN: pool::jobs_run_as_whom_they_are_told needs root");
    }
    let pool = Pool::new("as", 4, 1000);
    let tasks = (0..400_u32).map(|number| {
        let pool = pool.clone();
        let uid = if number % 5 == 0 { 0 } else { 60_000 + number % 16 };
        let who = (uid != 0).then(|| Arc::new(Identity { uid, gid: uid, groups: vec![uid + 1] }));
        tokio::spawn(async move {
            let seen = pool
                .run(who, move || {
                    let seen = fsuid();
                    if number % 7 == 0 {
                        std::panic::resume_unwind(Box::new(()));
                    }
                    seen
                })
                .await;
            (number, uid, seen)
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            (number, _, Err(PoolError::Lost)) => assert_eq!(number % 7, 0),
            (_, uid, seen) => assert_eq!(seen.unwrap(), uid),
        }
    }
    for _ in 0..20 {
        assert_eq!(pool.run(None, fsuid).await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_started_by_a_job_does_not_inherit_its_identity() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!(
            "NOT RUN: pool::a_thread_started_by_a_job_does_not_inherit_its_identity needs root"
        );
    }
    let pool = Pool::new("inherit", 2, 4);
    let (tell, told) = mpsc::channel();
    let other = pool.clone();
    let who = Arc::new(Identity { uid: 2001, gid: 2001, groups: vec![2002] });
    let outer = pool.run(Some(who), move || {
        // Both threads at once, so that this job starts the second.
        let both = Arc::new(Barrier::new(2));
        let meet = Arc::clone(&both);
        other
            .run_detached(None, move || {
                meet.wait();
                tell.send(fsuid()).unwrap();
            })
            .unwrap();
        both.wait();
        fsuid()
    });
    assert_eq!(outer.await.unwrap(), 2001);
    assert_eq!(told.recv().unwrap(), 0);
    assert_eq!(threads("inherit-"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_is_forgotten_under_load() {
    let pool = Pool::new("load", 3, 64);
    let done = Arc::new(AtomicUsize::new(0));
    let tasks = (0..16).map(|_| {
        let (pool, done) = (pool.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            for round in 0..2000 {
                let counter = Arc::clone(&done);
                let result = pool.run(None, move || counter.fetch_add(1, Ordering::Relaxed)).await;
                assert!(result.is_ok());
                if round % 50 == 0 {
                    // So that threads fall asleep in between.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), 32_000);
    until("idle", || pool.running() == 0);
    let state = pool.handle.shared.lock();
    assert_eq!((state.waiting.len(), state.coming, state.idle.len()), (0, 0, state.started));
}

#[test]
fn names_with_a_nul_are_no_panic() {
    let pool = Pool::new("a\0b", 1, 1);
    let (tell, told) = mpsc::channel();
    pool.run_detached(None, move || tell.send(thread::current().name().map(str::to_owned)).unwrap()).unwrap();
    assert_eq!(told.recv().unwrap().as_deref(), Some("a?b-0"));
}
