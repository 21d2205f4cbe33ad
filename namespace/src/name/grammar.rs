//! The grammar of file names that begin with the prefix: what the encoder writes, and what counts as written
//! by it.
use super::{MAX_OBJECT, Own, PREFIX, SELF, TRANSIT_DIRECTORY};
use crate::hex;
use std::ops::RangeInclusive;

/// Bytes of a file name, at most.
pub(super) const FILE_NAME: usize = 255;
/// Before what a canonical file name of ours says.
pub(super) const NAMED: &[u8] = b".lb~n";
/// Before the hex digits of a foreign file's name.
pub(super) const FOREIGN: &str = ".lb~b";
/// The same after a part. Long enough that part and foreign name together never fit a file name.
pub(super) const FOREIGN_PART: &str = ".lb~bytes-";
pub(super) const TRANSIT: &[u8] = b".lb~t~";
/// Bytes of a part with more to come.
pub(super) const PART: RangeInclusive<usize> = 246..=249;
/// A valid name holds no more empty components.
pub(super) const MAX_RUN: usize = MAX_OBJECT + 1;

/// What can stand at the beginning of a component.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Free,
    /// No empty component: a run before it would have held it.
    AfterRun,
    /// No empty component, neither here nor after it.
    Container,
}

/// Whether a component is empty or one that runs of empty ones join.
pub(super) fn is_run(component: &str) -> bool {
    matches!(component, "" | "." | "..")
}

/// How a component that is not a run is written.
pub(super) enum Written {
    Plain,
    Foreign(Vec<u8>),
    Verbatim,
    Parts,
}

pub(super) fn write(component: &str, place: Place) -> Written {
    if !component.as_bytes().starts_with(PREFIX) {
        return if component.len() <= FILE_NAME { Written::Plain } else { Written::Parts };
    }
    match foreign_named(component, place) {
        Some(file_name) => Written::Foreign(file_name),
        None if NAMED.len() + component.len() <= FILE_NAME => Written::Verbatim,
        None => Written::Parts,
    }
}

/// Where the parts before the last end, and the foreign file that takes the last one's place.
pub(super) fn split(component: &str, place: Place) -> (Vec<usize>, Option<Vec<u8>>) {
    let mut ends = Vec::new();
    let mut at = 0;
    loop {
        let rest = &component[at..];
        if at > 0
            && let Some(foreign) = foreign_named_after_part(rest, &component[..at], place)
        {
            return (ends, Some(foreign));
        }
        if rest.len() <= *PART.end() {
            return (ends, None);
        }
        at += part_len(rest);
        ends.push(at);
    }
}

/// Bytes of the first part of a text that is longer than a part.
pub(super) fn part_len(text: &str) -> usize {
    PART.into_iter().find(|len| text.is_char_boundary(*len)).unwrap_or(text.len())
}

/// What a canonical file name of ours says.
pub(super) enum Form<'a> {
    Verbatim(&'a str),
    /// `dots` is empty, `.` or `..`.
    Run {
        dots: &'a str,
        empty: usize,
    },
    Part(&'a str),
}

/// Reads a file name at the beginning of a component, if it is canonical there.
pub(super) fn read(file_name: &[u8], place: Place) -> Option<Form<'_>> {
    let said = std::str::from_utf8(file_name.strip_prefix(NAMED)?).ok()?;
    if let Some(part) = said.strip_prefix('+') {
        return is_part(part).then_some(Form::Part(part));
    }
    if said.as_bytes().starts_with(PREFIX) {
        return matches!(write(said, place), Written::Verbatim).then_some(Form::Verbatim(said));
    }
    let digits = said.trim_start_matches('.');
    let dots = &said[..said.len() - digits.len()];
    let empty = if digits.is_empty() { 0 } else { count(digits)? };
    let holds = match (dots, place) {
        ("", Place::Free) => empty > 0,
        ("." | "..", Place::Free | Place::AfterRun) => true,
        ("." | "..", Place::Container) => empty == 0,
        _ => false,
    };
    holds.then_some(Form::Run { dots, empty })
}

/// What continues a component after a part.
pub(super) enum Rest<'a> {
    Part(&'a str),
    Last(&'a str),
}

/// Reads a file name after the parts `before` of a component that began at `place`, if it is canonical there.
pub(super) fn read_after_part<'a>(file_name: &'a [u8], before: &str, place: Place) -> Option<Rest<'a>> {
    let said = std::str::from_utf8(file_name.strip_prefix(NAMED)?).ok()?;
    if let Some(part) = said.strip_prefix('+') {
        return is_part(part).then_some(Rest::Part(part));
    }
    let last = said.strip_prefix('-').filter(|last| !last.is_empty())?;
    let component = before.to_owned() + last;
    if !matches!(write(&component, place), Written::Parts) {
        return None;
    }
    let (ends, foreign) = split(&component, place);
    (foreign.is_none() && ends.last() == Some(&before.len())).then_some(Rest::Last(last))
}

pub(super) fn is_part(text: &str) -> bool {
    PART.contains(&text.len()) && part_len(text) == text.len()
}

/// Decimal, without a leading zero.
pub(super) fn count(digits: &str) -> Option<usize> {
    if digits.starts_with('0') || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|count| *count <= MAX_RUN)
}

pub(super) fn own(file_name: &[u8]) -> Option<Own<'_>> {
    let kind = file_name.strip_prefix(PREFIX)?;
    match kind.first()? {
        b's' if file_name == SELF => Some(Own::SelfFile),
        b'd' => Some(Own::Service),
        b't' if file_name == TRANSIT_DIRECTORY => Some(Own::TransitDirectory),
        b't' => Some(match file_name.strip_prefix(TRANSIT) {
            Some(target) if !target.is_empty() => Own::Transit(target),
            _ => Own::Temporary,
        }),
        _ => None,
    }
}

/// The foreign file that a component names, if it is foreign where the component stands.
pub(super) fn foreign_named(component: &str, place: Place) -> Option<Vec<u8>> {
    let file_name = unhex(component.strip_prefix(FOREIGN)?)?;
    if own(&file_name).is_some() {
        return None;
    }
    let canonical = if file_name.starts_with(PREFIX) {
        read(&file_name, place).is_some()
    } else {
        std::str::from_utf8(&file_name).is_ok()
    };
    (!canonical).then_some(file_name)
}

/// The foreign file that the rest of a component names after the parts `before`.
pub(super) fn foreign_named_after_part(rest: &str, before: &str, place: Place) -> Option<Vec<u8>> {
    let file_name = unhex(rest.strip_prefix(FOREIGN_PART)?)?;
    let foreign = own(&file_name).is_none() && read_after_part(&file_name, before, place).is_none();
    foreign.then_some(file_name)
}

pub(super) fn is_file_name(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"." | b"..")
        && bytes.len() <= FILE_NAME
        && !bytes.iter().any(|b| matches!(b, b'/' | 0))
}

pub(super) fn hex_after(prefix: &str, bytes: &[u8]) -> String {
    prefix.to_owned() + &hex(bytes)
}

/// A file name from its lower-case hex digits.
pub(super) fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || digits.len() > 2 * FILE_NAME {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Some(value(high)? << 4 | value(low)?),
        _ => None,
    };
    let bytes = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
    is_file_name(&bytes).then_some(bytes)
}
