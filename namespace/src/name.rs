//! Object names as paths beneath a container, and back. Pure: no call touches a file.
//!
//! An object's name is components joined by slashes; a path is file names (bytes) joined by slashes.
//! P is `.lb~` ([`PREFIX`]).
//!
//! # From name to path
//! Left to right, the first row that fits:
//!
//! | of the name | on disk |
//! |---|---|
//! | a maximal run of k empty components | P`n`k, k in decimal |
//! | `.` or `..` and the maximal run of k empty ones after it | P`n.`k or P`n..`k; no digits if k is 0 |
//! | a component P`b`hex(f), where the file name f is *foreign* here | f |
//! | a component of at most 255 bytes that does not begin with P | itself |
//! | a component of at most 250 bytes (it begins with P) | P`n` and the component |
//! | any other component | its parts: directories P`n+`part, then P`n-`part |
//!
//! A part before the last is the shortest beginning of what remains that has at least 246 bytes and ends
//! with a character (so at most 249): where it ends depends on nothing after it. The last part is what
//! remains when that is at most 249 bytes. If what remains after a part reads P`bytes-`hex(f) and f is
//! foreign there, f takes the place of the last part.
//!
//! # From path to name
//! A file name is read where it stands: at the start or after a component; after a run (where no other run
//! can begin); or after a part (where only parts continue). It is *canonical* there if it is what the table
//! writes for what it says, *ours* if it is P`self`, P`t`… or P`d`…, and *foreign* otherwise: it is not
//! UTF-8, or begins with P, or stands beside the parts of a component. A foreign file's name is P`b`hex(f),
//! or P`bytes-`hex(f) after a part. Ours have no name.
//!
//! So every file of at most [`MAX_OBJECT`] bytes of name that is not ours has exactly one name, and
//! every name has exactly one path. Two things stand for no complete name and are never objects: a part with
//! more to come (a directory, and by mistake a file), and P`n1` at the top of a container, whose own name
//! would be empty.
//!
//! In a container's name no run can stand, so `.lb~n2` in an account's directory is foreign.
//!
//! The text that a directory and those above it add up to is the beginning of every name below it: a listing
//! in order takes the least text of a heap, and replaces a directory by its entries. (Siblings' names may
//! interleave: those below `.lb~n1` and `.lb~n2`, say.)
mod grammar;

use grammar::{
    FILE_NAME, FOREIGN, FOREIGN_PART, Form, NAMED, Place, Rest, TRANSIT, Written, hex_after, is_file_name,
    is_run, own, read, read_after_part, split, write,
};
use std::borrow::Cow;

/// What every file name of ours begins with.
pub const PREFIX: &[u8] = b".lb~";
/// The content of an object whose name is also a directory.
pub const SELF: &[u8] = b".lb~self";
/// The directory of our own in an account's directory.
pub const SERVICE: &[u8] = b".lb~d";
/// Holds the transit links whose names are too long to stand beside their files.
pub const TRANSIT_DIRECTORY: &[u8] = b".lb~tl";
/// Bytes of an object's name, at most.
pub const MAX_OBJECT: usize = 1024;
/// Bytes of a container's or account's name, at most.
pub const MAX_CONTAINER: usize = 256;

/// Why a text is not a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// No bytes.
    #[error("empty name")]
    Empty,
    /// Over [`MAX_OBJECT`] or [`MAX_CONTAINER`] bytes.
    #[error("name too long")]
    TooLong,
    /// A NUL.
    #[error("NUL in a name")]
    Nul,
    /// A slash in the name of a container or account.
    #[error("slash in a container's name")]
    Slash,
}

/// Why a file has no object name. [`Unnameable::label`] is its metric label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Unnameable {
    /// The name would exceed [`MAX_OBJECT`] bytes.
    #[error("the name would be too long")]
    TooLong,
    /// The name would be empty.
    #[error("the name would be empty")]
    Empty,
    /// A part of a long component with no part after it.
    #[error("a part of a name without the rest")]
    Unfinished,
    /// An unfinished upload, or a name in transit.
    #[error("temporary")]
    Temporary,
    /// Another file of ours.
    #[error("a file of the service")]
    Own,
    /// No file system's name: empty, `.`, `..`, a slash, a NUL, over 255 bytes.
    #[error("not a file name")]
    NotAFileName,
}

impl Unnameable {
    /// A word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Unnameable::TooLong => "too_long",
            Unnameable::Empty => "empty",
            Unnameable::Unfinished => "unfinished",
            Unnameable::Temporary => "temporary",
            Unnameable::Own => "own",
            Unnameable::NotAFileName => "not_a_file_name",
        }
    }
}

/// A kind of file of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own<'a> {
    /// [`SELF`].
    SelfFile,
    /// An unfinished upload or directory.
    Temporary,
    /// The second link of the file of this name, while a directory takes its place.
    Transit(&'a [u8]),
    /// The directory of the transit links whose names are too long.
    TransitDirectory,
    /// The service's directory.
    Service,
}

/// Where in a name a directory's entries stand. Start with [`Context::OBJECT`] in a container's
/// directory and [`Context::CONTAINER`] in an account's; below an entry, [`Entry::Part`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context(At);

impl Context {
    /// In a container's directory.
    pub const OBJECT: Context = Context(At::Component(Place::Free));
    /// In an account's directory.
    pub const CONTAINER: Context = Context(At::Component(Place::Container));

    /// Whether it is that of the entries below a run of empty components.
    pub(crate) fn after_run(&self) -> bool {
        self.0 == At::Component(Place::AfterRun)
    }

    /// To be stored.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let tag = |place| match place {
            Place::Free => 0,
            Place::AfterRun => 1,
            Place::Container => 2,
        };
        match &self.0 {
            At::Component(place) => vec![tag(*place)],
            At::Part(parts) => [&[tag(parts.place) | 4], parts.text.as_bytes()].concat(),
        }
    }

    /// From stored bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Context> {
        let (tag, text) = bytes.split_first()?;
        let place = match tag & 3 {
            0 => Place::Free,
            1 => Place::AfterRun,
            2 => Place::Container,
            _ => return None,
        };
        if *tag < 4 {
            return text.is_empty().then_some(Context(At::Component(place)));
        }
        let text = std::str::from_utf8(text).ok()?.to_owned();
        (tag >> 2 == 1).then(|| Context(At::Part(Box::new(Parts { text, place }))))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum At {
    /// At the beginning of a component.
    Component(Place),
    /// After parts of a component.
    Part(Box<Parts>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Parts {
    /// All of them together.
    text: String,
    /// Where the component began.
    place: Place,
}

/// What a file name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry<'a> {
    /// It adds `text` to the name.
    Part {
        /// To be appended to what the directories above gave. (If all of it is still empty, or over
        /// [`MAX_OBJECT`] bytes, the entry itself is no object.)
        text: Cow<'a, str>,
        /// Whether a slash follows in the names of what lies below; otherwise the same component
        /// goes on there, and the entry, always a directory, is itself no object.
        ends: bool,
        /// For the entries below.
        below: Context,
    },
    /// Ours: part of no name.
    Own(Own<'a>),
    /// It, and all below it, has no name.
    Unnameable(Unnameable),
}

/// The path of a name beneath its container's directory, or of a container beneath its account's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathBytes {
    bytes: Vec<u8>,
    file_name_at: usize,
}

impl PathBytes {
    /// The whole, separated by slashes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The directories; empty if there are none.
    pub fn parent(&self) -> &[u8] {
        &self.bytes[..self.file_name_at.saturating_sub(1)]
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        &self.bytes[self.file_name_at..]
    }

    /// The components, first to last.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.bytes.split(|b| *b == b'/')
    }
}

/// Whether this can be an object's name.
pub fn validate_object(name: &str) -> Result<(), NameError> {
    validate(name, MAX_OBJECT)
}

/// Whether this can be a container's name.
pub fn validate_container(name: &str) -> Result<(), NameError> {
    if name.contains('/') {
        return Err(NameError::Slash);
    }
    validate(name, MAX_CONTAINER)
}

/// Whether this can be an account's name.
pub fn validate_account(name: &str) -> Result<(), NameError> {
    validate_container(name)
}

fn validate(name: &str, longest: usize) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty),
        len if len > longest => Err(NameError::TooLong),
        _ if name.contains('\0') => Err(NameError::Nul),
        _ => Ok(()),
    }
}

/// The path of an object beneath its container's directory.
pub fn path_of(object: &str) -> Result<PathBytes, NameError> {
    validate_object(object)?;
    let mut path = PathBytes { bytes: Vec::with_capacity(object.len() + 16), file_name_at: 0 };
    let mut place = Place::Free;
    let mut components = object.split('/').peekable();
    while let Some(component) = components.next() {
        if !is_run(component) {
            path.push_component(component, place);
            place = Place::Free;
            continue;
        }
        let mut empty = usize::from(component.is_empty());
        while components.next_if(|next| next.is_empty()).is_some() {
            empty += 1;
        }
        let count = if empty == 0 { String::new() } else { empty.to_string() };
        path.push(&[NAMED, component.as_bytes(), count.as_bytes()]);
        place = Place::AfterRun;
    }
    Ok(path)
}

/// The path of a container beneath its account's directory: one component, or two if the name is too long for
/// one.
pub fn container_path(container: &str) -> Result<PathBytes, NameError> {
    validate_container(container)?;
    let mut path = PathBytes { bytes: Vec::with_capacity(container.len() + 16), file_name_at: 0 };
    if is_run(container) {
        path.push(&[NAMED, container.as_bytes()]);
    } else {
        path.push_component(container, Place::Container);
    }
    Ok(path)
}

/// The path of an account that no configuration maps elsewhere, as [`container_path`].
pub fn account_path(account: &str) -> Result<PathBytes, NameError> {
    container_path(account)
}

/// What a directory's entry stands for, `context` being what its directory said of those below it.
/// `file_name` is as a directory lists it: not empty, no slash, no NUL.
pub fn entry<'a>(file_name: &'a [u8], is_dir: bool, context: &Context) -> Entry<'a> {
    let place = match &context.0 {
        At::Component(place) => *place,
        At::Part(parts) => return entry_after_part(file_name, is_dir, parts),
    };
    if !file_name.starts_with(PREFIX) {
        return match std::str::from_utf8(file_name) {
            Ok(_) if file_name.len() > FILE_NAME => Entry::Unnameable(Unnameable::NotAFileName),
            Ok(text) => Entry::part(Cow::Borrowed(text), Place::Free),
            Err(_) => Entry::part(Cow::Owned(hex_after(FOREIGN, file_name)), Place::Free),
        };
    }
    if let Some(own) = own(file_name) {
        return Entry::Own(own);
    }
    match read(file_name, place) {
        None => Entry::part(Cow::Owned(hex_after(FOREIGN, file_name)), Place::Free),
        Some(Form::Verbatim(text)) => Entry::part(Cow::Borrowed(text), Place::Free),
        Some(Form::Run { dots, empty }) => {
            let slashes = if dots.is_empty() { empty - 1 } else { empty };
            let text = if slashes == 0 {
                Cow::Borrowed(dots)
            } else {
                Cow::Owned(dots.to_owned() + &"/".repeat(slashes))
            };
            // In a container's name nothing can follow that would ask.
            Entry::part(text, Place::AfterRun)
        }
        Some(Form::Part(text)) => Entry::unfinished(text, is_dir, Parts { text: text.to_owned(), place }),
    }
}

fn entry_after_part<'a>(file_name: &'a [u8], is_dir: bool, parts: &Parts) -> Entry<'a> {
    if let Some(own) = own(file_name) {
        return Entry::Own(own);
    }
    match read_after_part(file_name, &parts.text, parts.place) {
        None => Entry::part(Cow::Owned(hex_after(FOREIGN_PART, file_name)), Place::Free),
        Some(Rest::Last(text)) => Entry::part(Cow::Borrowed(text), Place::Free),
        // Bounds what a hostile tree makes us remember.
        Some(Rest::Part(text)) if parts.text.len() + text.len() > MAX_OBJECT => {
            Entry::Unnameable(Unnameable::TooLong)
        }
        Some(Rest::Part(text)) => {
            Entry::unfinished(text, is_dir, Parts { text: parts.text.clone() + text, place: parts.place })
        }
    }
}

impl<'a> Entry<'a> {
    fn part(text: Cow<'a, str>, below: Place) -> Entry<'a> {
        Entry::Part { text, ends: true, below: Context(At::Component(below)) }
    }

    fn unfinished(text: &'a str, is_dir: bool, parts: Parts) -> Entry<'a> {
        if !is_dir {
            return Entry::Unnameable(Unnameable::Unfinished);
        }
        Entry::Part { text: Cow::Borrowed(text), ends: false, below: Context(At::Part(Box::new(parts))) }
    }
}

/// The name of the object whose path beneath its container these file names are, each with whether it is a
/// directory. [`SELF`] has none of its own: it holds the content of its directory's name.
pub fn decode_path(components: &[(&[u8], bool)]) -> Result<String, Unnameable> {
    decode(components, Context::OBJECT, MAX_OBJECT)
}

/// As [`decode_path`], of a container beneath its account's directory.
pub fn decode_container(components: &[(&[u8], bool)]) -> Result<String, Unnameable> {
    decode(components, Context::CONTAINER, MAX_CONTAINER)
}

fn decode(components: &[(&[u8], bool)], mut context: Context, longest: usize) -> Result<String, Unnameable> {
    let mut name = String::new();
    let mut complete = false;
    for (at, (file_name, is_dir)) in components.iter().enumerate() {
        if !is_file_name(file_name) {
            return Err(Unnameable::NotAFileName);
        }
        if complete {
            name.push('/');
        }
        let inner = at + 1 < components.len();
        match entry(file_name, *is_dir || inner, &context) {
            Entry::Part { text, ends, below } => {
                name.push_str(&text);
                complete = ends;
                context = below;
            }
            Entry::Own(Own::Temporary | Own::Transit(_) | Own::TransitDirectory) => {
                return Err(Unnameable::Temporary);
            }
            Entry::Own(Own::SelfFile | Own::Service) => return Err(Unnameable::Own),
            Entry::Unnameable(reason) => return Err(reason),
        }
        if name.len() > longest {
            return Err(Unnameable::TooLong);
        }
    }
    match complete {
        false if components.is_empty() => Err(Unnameable::Empty),
        false => Err(Unnameable::Unfinished),
        true if name.is_empty() => Err(Unnameable::Empty),
        true => Ok(name),
    }
}

/// The name, in the same directory, of the second link of `file_name` while a directory takes its place; a
/// link whose name would be too long lies in the directory [`TRANSIT_DIRECTORY`].
pub fn transit_of(file_name: &[u8]) -> Vec<u8> {
    if TRANSIT.len() + file_name.len() <= FILE_NAME {
        [TRANSIT, file_name].concat()
    } else {
        [TRANSIT_DIRECTORY, b"/", file_name].concat()
    }
}

impl PathBytes {
    fn push(&mut self, file_name: &[&[u8]]) {
        if !self.bytes.is_empty() {
            self.bytes.push(b'/');
        }
        self.file_name_at = self.bytes.len();
        for piece in file_name {
            self.bytes.extend_from_slice(piece);
        }
    }

    /// A component that is not a run.
    fn push_component(&mut self, component: &str, place: Place) {
        match write(component, place) {
            Written::Plain => self.push(&[component.as_bytes()]),
            Written::Foreign(file_name) => self.push(&[&file_name]),
            Written::Verbatim => self.push(&[NAMED, component.as_bytes()]),
            Written::Parts => {
                let (parts, last) = split(component, place);
                let mut at = 0;
                for end in parts {
                    self.push(&[NAMED, b"+", &component.as_bytes()[at..end]]);
                    at = end;
                }
                match last {
                    Some(foreign) => self.push(&[&foreign]),
                    None => self.push(&[NAMED, b"-", &component.as_bytes()[at..]]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
