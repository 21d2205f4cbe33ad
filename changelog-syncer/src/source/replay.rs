//! Marks from a file, for tests: as they were recorded, or more than once and out of order.
//!
//! The first line is [`HEADER`]. Each other line is a mark, fields separated by single spaces: `E SPOT` an entry,
//! `M SPOT SPOT` a rename, where `-` stands for a side that is outside, `B FID PATH` all beneath a directory, `A` everything. A
//! spot is `FID PATH NAME`. A FID is hexadecimal; PATH begins with `/`, the root; both it and NAME are percent-encoded.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lustre::fs::Fid;
use namespace::{Mark, Spot};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

use super::batch::Gathering;
use super::{Batch, Kind, Source, SourceError, State, nothing};

/// What a recording begins with.
pub const HEADER: &str = "lustre-bridge marks 1";

const NAMELESS: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'-');
/// Marks in a batch.
const BATCH: usize = 1000;

/// What is done to the order of a recording. Marks of losses stay where they are between the others, and all is the same with
/// the same seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Disorder {
    /// Of a hundred marks, so many come twice.
    pub duplicated: u8,
    /// How far a mark may come too late, in marks.
    pub window: usize,
    /// Of the chances.
    pub seed: u64,
}

/// See the module.
pub struct Replay {
    path: PathBuf,
    marks: std::vec::IntoIter<Mark>,
}

impl Replay {
    /// Of a file.
    pub fn open(path: &Path, disorder: Disorder) -> Result<Replay, SourceError> {
        let wrong = |line, what: String| SourceError::Recording { path: path.to_owned(), line, what };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(0, error.to_string()))?;
        let marks = parse(&text).map_err(|(line, what)| wrong(line, what.to_owned()))?;
        Ok(Replay { path: path.to_owned(), marks: disorder.apply(marks).into_iter() })
    }
}

impl Source for Replay {
    fn kind(&self) -> Kind {
        Kind::Replay
    }

    fn next(&mut self, timeout: Duration) -> Result<Batch, SourceError> {
        let marks: Vec<Mark> = self.marks.by_ref().take(BATCH).collect();
        if marks.is_empty() {
            std::thread::sleep(timeout);
            return Ok(nothing(true));
        }
        Ok(Batch { marks, ..Gathering::default().finish(self.marks.len() == 0) })
    }

    fn state(&self) -> State {
        let text = format!("a recording, {}: {} marks are left", self.path.display(), self.marks.len());
        State { text, immediate: true, overflows: 0, directories: 0 }
    }

    fn waits(&self) -> bool {
        true
    }
}

/// A recording of these marks.
pub fn record<'m>(marks: impl IntoIterator<Item = &'m Mark>) -> String {
    let mut text = format!("{HEADER}\n");
    for mark in marks {
        line(&mut text, mark);
        text.push('\n');
    }
    text
}

fn line(text: &mut String, mark: &Mark) {
    // Writing to a string does not fail.
    let _ = match mark {
        Mark::Entry(at) => write!(text, "E {}", spot(at)),
        Mark::Moved { from, to } => write!(text, "M {} {}", side(from.as_ref()), side(to.as_ref())),
        Mark::Below { dir, path } => write!(text, "B {dir} /{}", percent_encode(path, NAMELESS)),
        Mark::Everything => write!(text, "A"),
    };
}

fn side(at: Option<&Spot>) -> String {
    at.map_or_else(|| "-".into(), spot)
}

fn spot(at: &Spot) -> String {
    format!("{} /{} {}", at.dir, percent_encode(&at.path, NAMELESS), percent_encode(&at.name, NAMELESS))
}

fn parse(text: &str) -> Result<Vec<Mark>, (usize, &'static str)> {
    let mut lines = text.lines().enumerate();
    match lines.next().map(|(_, line)| line) {
        Some(HEADER) => {}
        Some(other) if other.starts_with("lustre-bridge marks ") => {
            return Err((1, "a version of recordings that this release does not know; it knows 1"));
        }
        _ => return Err((1, "no recording: it has to begin with `lustre-bridge marks 1`")),
    }
    lines.map(|(index, line)| parse_line(line).ok_or((index + 1, "this is no mark"))).collect()
}

fn parse_line(line: &str) -> Option<Mark> {
    let mut fields = line.split(' ');
    let mark = match fields.next()? {
        "E" => Mark::Entry(parse_side(&mut fields)??),
        "M" => Mark::Moved { from: parse_side(&mut fields)?, to: parse_side(&mut fields)? },
        "B" => Mark::Below { dir: parse_fid(fields.next()?)?, path: parse_path(fields.next()?)? },
        "A" => Mark::Everything,
        _ => return None,
    };
    fields.next().is_none().then_some(mark)
}

/// The outer `None` is for what is no spot.
#[allow(clippy::option_option)]
fn parse_side<'t>(fields: &mut impl Iterator<Item = &'t str>) -> Option<Option<Spot>> {
    match fields.next()? {
        "-" => Some(None),
        fid => {
            let (dir, path) = (parse_fid(fid)?, parse_path(fields.next()?)?);
            let name = percent_decode_str(fields.next()?).collect();
            Some(Some(Spot { dir, path, name }))
        }
    }
}

fn parse_path(field: &str) -> Option<Vec<u8>> {
    field.strip_prefix('/').map(|path| percent_decode_str(path).collect())
}

fn parse_fid(field: &str) -> Option<Fid> {
    let digits = field.as_bytes();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    Fid::from_bytes(&bytes.filter(|_| digits.len().is_multiple_of(2))?)
}

impl Disorder {
    fn apply(self, marks: Vec<Mark>) -> Vec<Mark> {
        let mut chance = Chance(self.seed);
        let mut out: Vec<Mark> = Vec::with_capacity(marks.len());
        let mut held: Vec<(usize, Mark)> = Vec::new();
        for mark in marks {
            let barrier = matches!(mark, Mark::Everything | Mark::Below { .. });
            if barrier {
                out.extend(held.drain(..).map(|(_, mark)| mark));
                out.push(mark);
                continue;
            }
            let copies = 1 + usize::from(chance.below(100) < usize::from(self.duplicated));
            for _ in 0..copies {
                held.push((chance.below(self.window + 1), mark.clone()));
            }
            for (left, _) in &mut held {
                *left = left.saturating_sub(1);
            }
            out.extend(held.extract_if(.., |(left, _)| *left == 0).map(|(_, mark)| mark));
        }
        out.extend(held.into_iter().map(|(_, mark)| mark));
        out
    }
}

/// The same for the same seed (`SplitMix64`).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spots() -> impl Strategy<Value = Spot> {
        let bytes = |least| proptest::collection::vec(any::<u8>(), least..12);
        (bytes(1), bytes(0), bytes(1)).prop_map(|(fid, path, name)| Spot {
            dir: Fid::from_bytes(&fid).unwrap(),
            path,
            name,
        })
    }

    fn marks() -> impl Strategy<Value = Mark> {
        prop_oneof![
            spots().prop_map(Mark::Entry),
            (proptest::option::of(spots()), proptest::option::of(spots()))
                .prop_map(|(from, to)| Mark::Moved { from, to }),
            spots().prop_map(|spot| Mark::Below { dir: spot.dir, path: spot.path }),
            Just(Mark::Everything),
        ]
    }

    proptest! {
        #[test]
        fn a_recording_reads_as_it_was(marks in proptest::collection::vec(marks(), 0..20)) {
            prop_assert_eq!(parse(&record(&marks)).unwrap(), marks);
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,60}") {
            _ = parse(&format!("{HEADER}\n{text}"));
        }

        #[test]
        fn disorder_loses_nothing(
            marks in proptest::collection::vec(marks(), 0..60), duplicated in 0_u8..=100, window in 0_usize..9, seed: u64,
        ) {
            let mixed = Disorder { duplicated, window, seed }.apply(marks.clone());
            prop_assert!(mixed.len() >= marks.len());
            // Between losses there is the same, as a set.
            let loss = |mark: &Mark| matches!(mark, Mark::Everything | Mark::Below { .. });
            let parts = |marks: &[Mark]| -> Vec<std::collections::HashSet<Mark>> {
                marks.split(loss).map(|part| part.iter().cloned().collect()).collect()
            };
            prop_assert_eq!(parts(&mixed), parts(&marks));
            if window == 0 && duplicated == 0 {
                prop_assert_eq!(mixed, marks);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("marks");
        for (text, wanted) in [
            ("lustre-bridge marks 2\n", "line 1: a version"),
            ("", "line 1: no recording"),
            ("lustre-bridge marks 1\nA\nE 00 x y\n", "line 3: this is no mark"),
            ("lustre-bridge marks 1\nA A\n", "line 2"),
            ("lustre-bridge marks 1\nB 0 /\n", "line 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Replay::open(&path, Disorder::default()).err().unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_recording_ends_drained() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("marks");
        std::fs::write(&path, record(&vec![Mark::Everything; BATCH + 1])).unwrap();
        let mut replay = Replay::open(&path, Disorder::default()).unwrap();
        let mut next = || replay.next(Duration::ZERO).unwrap();
        let (first, second, third) = (next(), next(), next());
        assert_eq!((first.marks.len(), first.drained), (BATCH, false));
        assert_eq!((second.marks.len(), second.drained), (1, true));
        assert!(third.marks.is_empty() && third.drained);
        assert!(replay.waits() && replay.state().text.contains("0 marks are left"));
    }
}
