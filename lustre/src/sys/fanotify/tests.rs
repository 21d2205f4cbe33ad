use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};

use super::*;
use crate::fs::{Fid, FileSystem as _, Generic};
use crate::sys::open_by_handle;

fn record(kind: u8, handle_kind: i32, handle: &[u8], name: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![7; FSID];
    body.extend((handle.len() as u32).to_ne_bytes());
    body.extend(handle_kind.to_ne_bytes());
    body.extend(handle);
    if let Some(name) = name {
        body.extend(name);
        body.push(0);
    }
    while !body.len().is_multiple_of(4) {
        body.push(0);
    }
    let mut record = vec![kind, 0];
    record.extend(((body.len() + RECORD) as u16).to_ne_bytes());
    record.extend(body);
    record
}

fn event(mask: u64, records: &[Vec<u8>]) -> Vec<u8> {
    let records = records.concat();
    let mut event = ((HEAD + records.len()) as u32).to_ne_bytes().to_vec();
    event.extend([VERSION, 0]);
    event.extend((HEAD as u16).to_ne_bytes());
    event.extend(mask.to_ne_bytes());
    event.extend((-1_i32).to_ne_bytes());
    event.extend(1_i32.to_ne_bytes());
    event.extend(records);
    event
}

#[test]
fn a_rename_has_both_names() {
    let bytes = event(
        0x1000_0000,
        &[
            record(TYPE_OLD, 1, b"old-----", Some(b"a")),
            record(TYPE_NEW, 1, b"new-----", Some(b"bcd")),
            record(TYPE_FID, 1, b"file----", None),
        ],
    );
    let events: Vec<_> = Events::parse(&bytes).map(Result::unwrap).collect();
    let dir = |bytes| FileHandle { kind: 1, bytes };
    assert_eq!(
        events,
        [Event {
            changes: Changes::RENAMED,
            place: None,
            from: Some(Place { dir: dir(b"old-----"), name: b"a" }),
            to: Some(Place { dir: dir(b"new-----"), name: b"bcd" }),
            object: Some(dir(b"file----")),
        }]
    );
}

#[test]
fn what_a_newer_kernel_adds_is_passed_over() {
    let bytes = event(
        0x100,
        &[record(99, 1, b"?", None), record(TYPE_DFID_NAME, 1, b"dir-----", Some(b"n")), vec![98, 0, 4, 0]],
    );
    let found = Events::parse(&bytes).next().unwrap().unwrap();
    assert_eq!(found.place.unwrap().name, b"n");
}

#[test]
fn a_handle_that_the_kernel_could_not_make_is_none() {
    let bytes = event(0x2, &[record(TYPE_DFID_NAME, INVALID, b"", Some(b"n"))]);
    assert_eq!(Events::parse(&bytes).next().unwrap().unwrap().place, None);
}

#[test]
fn an_overflow_is_told() {
    let found = [event(0x4000, &[]), event(0x8, &[])].concat();
    let changes: Vec<_> = Events::parse(&found).map(|event| event.unwrap().changes).collect();
    assert_eq!(changes, [Changes::LOST, Changes::CLOSED]);
}

#[test]
fn what_is_cut_off_is_malformed_once() {
    let whole = event(0x100, &[record(TYPE_DFID_NAME, 1, b"dir-----", Some(b"name"))]);
    for length in 1..whole.len() {
        let mut events = Events::parse(&whole[..length]);
        assert_eq!(events.next(), Some(Err(Malformed)), "{length}");
        assert_eq!(events.next(), None);
    }
    let mut long = whole.clone();
    // A handle that claims more than the record holds.
    long[HEAD + RECORD + FSID] = 200;
    assert_eq!(Events::parse(&long).next(), Some(Err(Malformed)));
    let mut other = whole;
    other[4] = VERSION + 1;
    assert_eq!(Events::parse(&other).next(), Some(Err(Malformed)));
}

proptest! {
    #[test]
    fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Events::parse(&bytes).count() <= 1 + bytes.len() / HEAD);
    }

    #[test]
    fn no_change_of_real_bytes_is_too_much(at in 0_usize..200, value in any::<u8>()) {
        let mut bytes = [
            event(0x100, &[record(TYPE_DFID_NAME, 1, b"dir-----", Some(b"name"))]),
            event(0x1000_0000, &[record(TYPE_OLD, 1, b"old-----", Some(b"a")), record(TYPE_NEW, 1, b"n", Some(b"b"))]),
        ].concat();
        let at = at % bytes.len();
        bytes[at] = value;
        prop_assert!(Events::parse(&bytes).count() <= 3);
    }
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn fid(path: &Path) -> Fid {
    Generic.fid(open(path).as_fd()).unwrap()
}

/// `None`, loudly, where the test may not watch a file system.
fn watch(root: &Path) -> Option<Fanotify> {
    match Fanotify::watch(open(root).as_fd()) {
        Ok(watched) => Some(watched),
        Err(error) => {
            println!("NOT TESTED: fanotify on the file system of {}: {error}", root.display());
            None
        }
    }
}

/// What was seen in `dir` and of it: names and changes.
fn seen(group: &Fanotify, dir: Fid) -> Vec<(Changes, Vec<u8>, Option<Vec<u8>>)> {
    let mut buffer = vec![0; 64 * 1024];
    let mut all = Vec::new();
    loop {
        let events = group.read(&mut buffer).unwrap();
        if events.is_empty() {
            return all;
        }
        for event in events.map(Result::unwrap) {
            let here = |place: Option<Place<'_>>| {
                place.filter(|place| place.dir.fid() == dir).map(|place| place.name.to_vec())
            };
            if let Some(name) = here(event.place.or(event.from)) {
                all.push((event.changes, name, here(event.to)));
            }
        }
    }
}

#[test]
fn the_kernel_says_what_happens_where() {
    // On a disk and in memory, whose handles differ in length.
    for base in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(base) = tempfile::tempdir_in(base) else { continue };
        let Some(group) = watch(base.path()) else { continue };
        let dir = fid(base.path());
        fs::write(base.path().join("a"), "x").unwrap();
        fs::rename(base.path().join("a"), base.path().join("b")).unwrap();
        fs::create_dir(base.path().join("d")).unwrap();
        let found = seen(&group, dir);
        let has = |change: Changes, name: &[u8], to: Option<&[u8]>| {
            found
                .iter()
                .any(|(changes, at, other)| changes.any(change) && at == name && other.as_deref() == to)
        };
        assert!(has(Changes::CREATED, b"a", None), "{found:?}");
        assert!(has(Changes::CLOSED, b"a", None), "{found:?}");
        assert!(has(Changes::RENAMED, b"a", Some(b"b")), "{found:?}");
        assert!(has(Changes::DIRECTORY, b"d", None), "{found:?}");
        fs::set_permissions(base.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let found = seen(&group, dir);
        assert!(found.iter().any(|(changes, name, _)| changes.any(Changes::ATTRIBUTES) && name == b"."));
    }
}

#[test]
fn a_handle_of_an_event_opens_the_directory() {
    let base = tempfile::tempdir().unwrap();
    let Some(group) = watch(base.path()) else { return };
    let sub = base.path().join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("x"), "").unwrap();
    let wanted = fid(&sub);
    let mut buffer = vec![0; 64 * 1024];
    let (kind, bytes) = loop {
        let mut events = group.read(&mut buffer).unwrap();
        assert!(!events.is_empty(), "no event of the directory");
        let mut dirs = events.by_ref().filter_map(|event| event.unwrap().place).map(|place| place.dir);
        if let Some(dir) = dirs.find(|dir| dir.fid() == wanted) {
            break (dir.kind, dir.bytes.to_vec());
        }
    };
    let handle = FileHandle { kind, bytes: &bytes };
    let mount = fs::File::open(base.path()).unwrap();
    let opened = open_by_handle(mount.as_fd(), handle, OFlags::PATH).unwrap();
    assert_eq!(Generic.fid(opened.as_fd()).unwrap(), wanted);
    drop(opened);
    fs::remove_dir_all(&sub).unwrap();
    let gone = open_by_handle(mount.as_fd(), handle, OFlags::PATH).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ESTALE));
    let long = FileHandle { kind: 1, bytes: &[0; 129] };
    let refused = open_by_handle(mount.as_fd(), long, OFlags::PATH).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
}
