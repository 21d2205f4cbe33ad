//! The tables of a benchmark.

use std::fmt::Write as _;
use std::time::Duration;

use super::floor::Floor;
use super::memory::Memory;
use super::servers::Name;
use crate::report::Table;

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) server: Name,
    pub(crate) op: &'static str,
    /// Bytes of an object.
    pub(crate) size: usize,
    pub(crate) connections: u32,
    pub(crate) requests: u64,
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// CPU time of all of the server's processes for one request.
    pub(crate) cpu: Duration,
    /// Most memory resident while it ran, in bytes.
    pub(crate) resident: u64,
    /// Requests that failed.
    pub(crate) failed: u64,
}

impl Row {
    fn megabytes(&self) -> f64 {
        if matches!(self.op, "PUT" | "GET") { self.rate * self.size as f64 / 1e6 } else { 0.0 }
    }

    /// One line while the benchmark runs.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} {} at {} connections: {}/s, {:.0} MB/s, p50 {:.2} ms, p99 {:.2} ms, CPU {:.0} us, {} MiB{}",
            self.op,
            size(self.size),
            self.connections,
            rate(self.rate),
            self.megabytes(),
            millis(self.p50),
            millis(self.p99),
            self.cpu.as_secs_f64() * 1e6,
            self.resident >> 20,
            if self.failed > 0 { format!(", {} FAILED", self.failed) } else { String::new() }
        )
    }

    fn same_load(&self, other: &Self) -> bool {
        (self.op, self.size, self.connections) == (other.op, other.size, other.connections)
    }
}

fn rate(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

/// The whole result in Markdown.
pub(crate) fn text(rows: &[Row], floors: &[Floor], memories: &[Memory], disk: &str) -> String {
    let mut out = format!(
        "Objects on {disk}, wrk (from 16 MiB on: a streaming client) and the servers on the same machine.\n\n"
    );
    for floor in floors {
        let _ = writeln!(out, "{floor}");
    }
    let _ = write!(out, "\n{}", figures(rows));
    let ratios = ratios(rows);
    if !ratios.is_empty() {
        let _ = write!(
            out,
            "\nRatios: how much less CPU a request takes with us; in brackets how many times the rate.\n\n{ratios}"
        );
    }
    let _ = write!(
        out,
        "\nMemory resident at its most (pages that processes share count in each), and the first HEAD of a sparse 100 GiB file that was made on the file side.\n\n{}",
        memory(memories)
    );
    out
}

fn figures(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "op", "size", "conns", "server", "durable", "req/s", "MB/s", "p50 ms", "p99 ms", "CPU us", "RSS MiB",
        "failed",
    ]);
    let mut done: Vec<&Row> = Vec::new();
    for row in rows {
        if done.iter().any(|d| d.same_load(row)) {
            continue;
        }
        done.push(row);
        for row in rows.iter().filter(|r| r.same_load(row)) {
            table.row(vec![
                row.op.to_owned(),
                size(row.size),
                row.connections.to_string(),
                row.server.text().to_owned(),
                row.server.durability().to_owned(),
                rate(row.rate),
                format!("{:.0}", row.megabytes()),
                format!("{:.2}", millis(row.p50)),
                format!("{:.2}", millis(row.p99)),
                format!("{:.0}", row.cpu.as_secs_f64() * 1e6),
                (row.resident >> 20).to_string(),
                row.failed.to_string(),
            ]);
        }
    }
    table.text()
}

/// Ours in both modes against each peer; the table of figures says which peers are durable.
fn ratios(rows: &[Row]) -> String {
    let mut table = Table::new(&["op", "size", "conns", "ours", "swift", "versitygw", "nginx"]);
    let mut any = false;
    for ours in rows.iter().filter(|r| r.server.is_ours()) {
        let against = |peer: Name| {
            rows.iter().find(|r| r.server == peer && r.same_load(ours)).map_or_else(String::new, |r| {
                let cpu = r.cpu.as_secs_f64() / ours.cpu.as_secs_f64().max(1e-9);
                format!("{cpu:.2} ({:.2})", ours.rate / r.rate)
            })
        };
        any = true;
        table.row(vec![
            ours.op.to_owned(),
            size(ours.size),
            ours.connections.to_string(),
            ours.server.durability().to_owned(),
            against(Name::Swift),
            against(Name::Versitygw),
            against(Name::Nginx),
        ]);
    }
    if any { table.text() } else { String::new() }
}

fn memory(memories: &[Memory]) -> String {
    let mut table =
        Table::new(&["server", "conns", "size", "idle MiB", "PUT MiB", "GET MiB", "first HEAD ms"]);
    for memory in memories {
        table.row(vec![
            memory.server.text().to_owned(),
            memory.connections.to_string(),
            size(memory.size),
            (memory.idle >> 20).to_string(),
            (memory.put >> 20).to_string(),
            (memory.get >> 20).to_string(),
            memory.first_head.map_or_else(String::new, |t| format!("{:.2}", millis(t))),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: Name, rate: f64, cpu: u64) -> Row {
        Row {
            server,
            op: "GET",
            size: 4096,
            connections: 16,
            requests: 1,
            rate,
            p50: Duration::ZERO,
            p99: Duration::ZERO,
            cpu: Duration::from_micros(cpu),
            resident: 0,
            failed: 0,
        }
    }

    #[test]
    fn ratios_say_how_much_less_cpu_and_how_much_more_rate() {
        let text = ratios(&[row(Name::Swift, 500.0, 3000), row(Name::Ours, 50_000.0, 30)]);
        assert!(text.contains("100.00 (100.00)"), "{text}");
    }
}
