//! What the file system itself gives for one durable object: write, attribute, fsync, rename, fsync of the directory.

use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Objects of 4 KiB a second, raw.
pub(crate) struct Floor {
    threads: usize,
    durable: bool,
    /// Objects a second.
    rate: f64,
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.durable { "with fsync of file and directory" } else { "without fsync" };
        write!(
            f,
            "- raw floor, 4 KiB + attribute + rename {how}, {} threads: {:.0}/s",
            self.threads, self.rate
        )
    }
}

/// Measures with 1, 16 and 64 threads durable, and 16 not durable.
pub(crate) fn measure(dir: &Path, time: Duration) -> Result<Vec<Floor>> {
    let mut floors = Vec::new();
    for (threads, durable) in [(1, true), (16, true), (64, true), (16, false)] {
        let place = crate::paths::RunDir::under(dir, "floor")?;
        let rate = rate(place.path(), threads, durable, time)?;
        floors.push(Floor { threads, durable, rate });
    }
    Ok(floors)
}

fn rate(dir: &Path, threads: usize, durable: bool, time: Duration) -> Result<f64> {
    let start_line = Barrier::new(threads);
    let done: Result<Vec<f64>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|id| {
                let start_line = &start_line;
                scope.spawn(move || {
                    start_line.wait();
                    let start = Instant::now();
                    let mut count = 0_u32;
                    while start.elapsed() < time {
                        object(dir, &format!("{id}-{count}"), durable)?;
                        count += 1;
                    }
                    Ok(f64::from(count) / start.elapsed().as_secs_f64())
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread was lost"))))
            .collect()
    });
    Ok(done?.iter().sum())
}

fn object(dir: &Path, name: &str, durable: bool) -> Result<()> {
    let temporary = dir.join(format!(".{name}.tmp"));
    let mut file = File::create_new(&temporary)?;
    file.write_all(&[b'x'; 4096])?;
    rustix::fs::fsetxattr(&file, "user.floor", &[b'm'; 160], rustix::fs::XattrFlags::empty())?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, dir.join(name))?;
    if durable {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}
