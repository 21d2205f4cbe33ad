//! What a hop through the pool costs, in nanoseconds of wall clock and of CPU (all threads).
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lustre::identity::Identity;
use lustre::pool::Pool;
use rustix::time::{ClockId, clock_gettime};

const HOPS: u32 = 200_000;

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn hops(pool: Pool, who: Option<Arc<Identity>>, count: u32) {
    for number in 0..count {
        assert_eq!(pool.run(who.clone(), move || number).await.unwrap(), number);
    }
}

async fn measure(title: &str, tasks: u32, who: Option<Arc<Identity>>) {
    let pool = Pool::new("hop", 8, 1024);
    let (start, used) = (Instant::now(), cpu());
    let running =
        (0..tasks).map(|_| tokio::spawn(hops(pool.clone(), who.clone(), HOPS / tasks))).collect::<Vec<_>>();
    for task in running {
        task.await.unwrap();
    }
    let per = |time: Duration| time.as_nanos() / u128::from(HOPS);
    println!(
        "{title:40} {:6} ns wall {:6} ns CPU per hop",
        per(start.elapsed()),
        per(cpu().saturating_sub(used))
    );
}

#[tokio::main]
async fn main() {
    measure("one task, as the process", 1, None).await;
    measure("64 tasks, as the process", 64, None).await;
    let own = Arc::new(Identity::of_process().unwrap());
    measure("64 tasks, the process's own identity", 64, Some(own)).await;
    let other = Arc::new(Identity { uid: 1001, gid: 1002, groups: vec![1003, 1004] });
    if other.assume().is_ok() {
        measure("one task, another identity", 1, Some(Arc::clone(&other))).await;
        measure("64 tasks, another identity", 64, Some(other)).await;
    } else {
        println!("NOT RUN: another identity needs root");
    }
    let (start, used) = (Instant::now(), cpu());
    for number in 0..HOPS {
        assert_eq!(tokio::task::spawn_blocking(move || number).await.unwrap(), number);
    }
    let per = |time: Duration| time.as_nanos() / u128::from(HOPS);
    println!(
        "{:40} {:6} ns wall {:6} ns CPU per hop",
        "for comparison: tokio's spawn_blocking",
        per(start.elapsed()),
        per(cpu().saturating_sub(used))
    );
}
