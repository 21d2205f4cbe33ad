use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::sys::{self, OFlags, Symlinks};

/// Only root with `CAP_SETUID` and `CAP_SETGID` can be somebody else.
fn privileged(test: &str) -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::DAC_OVERRIDE;
    let sets = rustix::thread::capabilities(None).unwrap();
    if rustix::process::geteuid().is_root() && sets.effective.contains(needed) {
        return true;
    }
    eprintln!("NOT RUN: identity::{test} needs root");
    false
}

fn identity(uid: u32, gid: u32, groups: &[u32]) -> Identity {
    Identity { uid, gid, groups: groups.to_vec() }
}

/// A line of the calling thread's status, as the kernel tells it.
fn status(key: &str) -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

/// The file-system uid and gid and the groups.
fn acting_as() -> (String, String, Vec<String>) {
    (status("Uid")[3].clone(), status("Gid")[3].clone(), status("Groups"))
}

/// A directory that everybody may write to.
fn shared() -> TempDir {
    let base = TempDir::new().unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();
    base
}

fn file(path: &Path, uid: u32, gid: u32, mode: u32) {
    fs::write(path, "content").unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
}

fn reason(error: &io::Error) -> &IdentityError {
    error.get_ref().unwrap().downcast_ref().unwrap()
}

/// The calling thread loses `lost` for good; other threads keep it.
fn lose(lost: CapabilitySet) {
    let mut sets = rustix::thread::capabilities(None).unwrap();
    sets.effective.remove(lost);
    sets.permitted.remove(lost);
    rustix::thread::set_capabilities(None, sets).unwrap();
}

#[test]
fn groups_have_one_form() {
    assert_eq!(*canonical(&[3, 1, 2, 1], 9), [1, 2, 3]);
    assert_eq!(*canonical(&[9, 1], 9), [1]);
    assert_eq!(*canonical(&[], 9), [0_u32; 0]);
    assert!(matches!(canonical(&[1, 2], 9), Cow::Borrowed(_)));
}

#[test]
fn the_process_own_identity_is_always_assumed() {
    let own = Identity::of_process().unwrap();
    assert_eq!(own.uid, rustix::process::geteuid().as_raw());
    assert_eq!(own.gid, rustix::process::getegid().as_raw());
    let before = acting_as();
    // However its groups are written.
    let mut repeated = own.clone();
    repeated.groups.extend(own.groups.clone());
    repeated.groups.push(own.gid);
    for same in [own, repeated] {
        let guard = same.assume().unwrap();
        assert!(!(guard.groups || guard.gid || guard.uid));
        assert_eq!(acting_as(), before);
    }
}

#[test]
fn without_privileges_only_the_own_identity_is_assumed() {
    let own = Identity::of_process().unwrap();
    // The capabilities of this thread only.
    thread::spawn(move || {
        lose(CapabilitySet::SETUID | CapabilitySet::SETGID);
        let before = acting_as();
        drop(own.assume().unwrap());
        let others = [
            Identity { uid: own.uid + 4711, ..own.clone() },
            Identity { gid: own.gid + 4711, ..own.clone() },
            Identity { groups: vec![4711], ..own.clone() },
            identity(4711, 4711, &[4711]),
        ];
        for other in others {
            // A uid without CAP_SETUID is the kernel's silence, groups without CAP_SETGID its EPERM.
            let error = other.assume().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{other:?}: {error}");
            assert_eq!(acting_as(), before);
        }
        drop(own.assume().unwrap());
    })
    .join()
    .unwrap();
}

#[test]
fn nobody_is_refused() {
    let own = Identity::of_process().unwrap();
    let max = u32::MAX;
    for nobody in [identity(max, 1, &[]), identity(1, max, &[]), identity(1, 1, &[2, max])] {
        let error = nobody.assume().unwrap_err();
        assert!(matches!(reason(&error), IdentityError::NoId));
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    drop(own.assume().unwrap());
}

#[test]
fn a_guard_is_seen_by_the_kernel_and_undone() {
    if !privileged("a_guard_is_seen_by_the_kernel_and_undone") {
        return;
    }
    let before = acting_as();
    let guard = identity(2001, 2002, &[2004, 2003, 2003, 2002]).assume().unwrap();
    assert_eq!(acting_as(), ("2001".into(), "2002".into(), vec!["2003".into(), "2004".into()]));
    // Not a single id of the process but those for files.
    assert_eq!(&status("Uid")[..3], ["0", "0", "0"]);
    thread::spawn(|| drop(Identity::of_process().unwrap().assume().unwrap())).join().unwrap();
    drop(guard);
    assert_eq!(acting_as(), before);
    // Parts that do not differ are left alone.
    let own = Identity::of_process().unwrap();
    let guard = Identity { uid: 2001, ..own.clone() }.assume().unwrap();
    assert_eq!((guard.groups, guard.gid, guard.uid), (false, false, true));
    drop(guard);
    assert_eq!(acting_as(), before);
}

#[test]
fn many_groups_are_applied() {
    if !privileged("many_groups_are_applied") {
        return;
    }
    let before = acting_as();
    let many = (10_000..10_300).collect::<Vec<_>>();
    let guard = identity(2001, 2001, &many).assume().unwrap();
    assert_eq!(acting_as().2.len(), 300);
    drop(guard);
    assert_eq!(acting_as(), before);
}

#[test]
fn guards_do_not_nest() {
    if !privileged("guards_do_not_nest") {
        return;
    }
    let guard = identity(2001, 2001, &[]).assume().unwrap();
    for inner in [identity(2002, 2002, &[]), Identity::of_process().unwrap()] {
        let error = inner.assume().unwrap_err();
        assert!(matches!(reason(&error), IdentityError::Nested));
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    }
    assert_eq!(acting_as().0, "2001");
    drop(guard);
    drop(identity(2002, 2002, &[]).assume().unwrap());
}

#[test]
fn a_panic_restores_the_identity() {
    if !privileged("a_panic_restores_the_identity") {
        return;
    }
    let before = acting_as();
    let result = std::panic::catch_unwind(|| {
        let _guard = identity(2001, 2001, &[2002]).assume().unwrap();
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(result.is_err());
    assert_eq!(acting_as(), before);
}

#[test]
fn capabilities_over_files_are_out_of_force() {
    if !privileged("capabilities_over_files_are_out_of_force") {
        return;
    }
    let base = shared();
    let path = |name: &str| base.path().join(name);
    file(&path("others"), 1001, 1001, 0o600);
    file(&path("roots"), 0, 0, 0o600);
    file(&path("groups"), 1001, 3003, 0o640);
    file(&path("mine"), 1002, 1002, 0o400);
    let guard = identity(1002, 1002, &[3003]).assume().unwrap();
    assert!(denied(File::open(path("others"))));
    assert!(denied(File::open(path("roots"))));
    assert_eq!(fs::read_to_string(path("groups")).unwrap(), "content");
    assert!(denied(File::options().write(true).open(path("groups"))));
    assert_eq!(fs::read_to_string(path("mine")).unwrap(), "content");
    assert!(denied(File::options().write(true).open(path("mine"))));
    let chown = chown(path("mine"), Some(1003), None).unwrap_err();
    assert_eq!(chown.raw_os_error(), Some(libc::EPERM));
    fs::write(path("new"), "").unwrap();
    fs::create_dir(path("dir")).unwrap();
    drop(guard);
    for created in ["new", "dir"] {
        let found = fs::metadata(path(created)).unwrap();
        assert_eq!((found.uid(), found.gid()), (1002, 1002));
    }
    // And in force again.
    assert_eq!(fs::read_to_string(path("others")).unwrap(), "content");
    // Without the group, or with the group only, or as the owner.
    let guard = identity(1002, 1002, &[3004]).assume().unwrap();
    assert!(denied(File::open(path("groups"))));
    drop(guard);
    let guard = identity(1002, 3003, &[]).assume().unwrap();
    assert!(File::open(path("groups")).is_ok());
    drop(guard);
    let guard = identity(1001, 1002, &[]).assume().unwrap();
    assert!(File::options().write(true).open(path("groups")).is_ok());
    drop(guard);
}

#[test]
fn files_are_reopened_with_the_identitys_rights() {
    if !privileged("files_are_reopened_with_the_identitys_rights") {
        return;
    }
    let base = shared();
    file(&base.path().join("mine"), 1002, 1002, 0o600);
    file(&base.path().join("others"), 1001, 1001, 0o600);
    let dir = File::open(base.path()).unwrap();
    let open = |name: &[u8]| {
        sys::open_beneath(dir.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW, Symlinks::Never).unwrap()
    };
    let guard = identity(1002, 1002, &[]).assume().unwrap();
    let content = io::read_to_string(sys::reopen_read(open(b"mine").as_fd()).unwrap());
    assert_eq!(content.unwrap(), "content");
    // An O_PATH descriptor gives no right to read.
    assert!(denied(sys::reopen_read(open(b"others").as_fd())));
    let mut value = Vec::new();
    assert!(denied(sys::get_xattr(open(b"others").as_fd(), "user.lb", &mut value)));
    sys::set_xattr(open(b"mine").as_fd(), "user.lb", b"x").unwrap();
    drop(guard);
}

#[test]
fn sixty_four_identities_on_sixteen_threads() {
    if !privileged("sixty_four_identities_on_sixteen_threads") {
        return;
    }
    let base = shared();
    let before = acting_as();
    thread::scope(|scope| {
        for worker in 0..16_u32 {
            let dir = base.path();
            scope.spawn(move || {
                for round in 0..128_u32 {
                    // Each worker in another order.
                    let number = (round * 5 + worker * 7) % 64;
                    as_one_of_many(dir, worker, round, number);
                    assert_eq!(acting_as().0, "0");
                }
            });
        }
    });
    assert_eq!(acting_as(), before);
}

fn as_one_of_many(dir: &Path, worker: u32, round: u32, number: u32) {
    let (uid, gid, group) = (20_000 + number, 30_000 + number, 40_000 + number);
    let path = dir.join(format!("{worker}-{round}"));
    let guard = identity(uid, gid, &[group, 50_000]).assume().unwrap();
    fs::write(&path, number.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let expected = (uid.to_string(), gid.to_string(), vec![group.to_string(), "50000".to_owned()]);
    assert_eq!(acting_as(), expected);
    assert_eq!(fs::read_to_string(&path).unwrap(), number.to_string());
    drop(guard);
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid()), (uid, gid));
    let other = identity(uid + 1, gid + 1, &[50_000]).assume().unwrap();
    assert!(denied(File::open(&path)));
    drop(other);
}

#[test]
fn a_thread_started_under_a_guard_is_settled() {
    if !privileged("a_thread_started_under_a_guard_is_settled") {
        return;
    }
    let before = acting_as();
    let guard = identity(2001, 2002, &[2003]).assume().unwrap();
    let inside = thread::spawn(|| {
        let inherited = acting_as();
        drop(Identity::of_process().unwrap().assume().unwrap());
        (inherited, acting_as())
    });
    let (inherited, settled) = inside.join().unwrap();
    assert_eq!(inherited.0, "2001", "the kernel lets a new thread inherit");
    assert_eq!(settled, before);
    drop(guard);
}

#[test]
fn capabilities_that_would_stay_are_recognised() {
    if !privileged("capabilities_that_would_stay_are_recognised") {
        return;
    }
    assert!(!keeps_capabilities(0).unwrap());
    assert!(keeps_capabilities(1000).unwrap());
    thread::spawn(|| {
        rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).unwrap();
        assert!(keeps_capabilities(0).unwrap());
        let sets = rustix::thread::CapabilitySets {
            effective: CapabilitySet::SETUID | CapabilitySet::SETGID,
            permitted: CapabilitySet::SETUID | CapabilitySet::SETGID,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        assert!(!keeps_capabilities(0).unwrap());
        // What a bridge of several identities runs with.
        let guard = identity(1002, 1002, &[3003]).assume().unwrap();
        assert_eq!(acting_as(), ("1002".into(), "1002".into(), vec!["3003".into()]));
        drop(guard);
    })
    .join()
    .unwrap();
}

/// Runs one test of this binary again, in a process of its own.
fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("LUSTRE_TEST_INSIDE", test);
    command
}

fn inside(test: &str) -> bool {
    std::env::var("LUSTRE_TEST_INSIDE").is_ok_and(|name| name == test)
}

/// Container runtimes often put the primary group among the supplementary ones.
#[test]
fn the_process_own_group_does_not_stay_behind() {
    const NAME: &str = "identity::tests::the_process_own_group_does_not_stay_behind";
    if !privileged("the_process_own_group_does_not_stay_behind") {
        return;
    }
    if !inside(NAME) {
        let output = again(NAME).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    raw::set_thread_groups(&[7, 0]).unwrap();
    assert_eq!(Identity::of_process().unwrap(), identity(0, 0, &[7]));
    let base = shared();
    file(&base.path().join("roots"), 0, 0, 0o640);
    let before = acting_as();
    assert_eq!(before.2, ["0", "7"]);
    let cases: [(Identity, &[&str]); 4] = [
        (identity(1002, 1002, &[]), &[]),
        (identity(1002, 1002, &[7]), &["7"]),
        (identity(1002, 7, &[]), &[]),
        (identity(1002, 1002, &[8, 9]), &["8", "9"]),
    ];
    for (who, groups) in cases {
        let guard = who.assume().unwrap();
        assert_eq!(acting_as().2, groups, "{who:?}");
        assert!(denied(File::open(base.path().join("roots"))), "{who:?}");
        drop(guard);
        assert_eq!(acting_as(), before);
    }
    for own in [identity(0, 0, &[7]), identity(0, 0, &[0, 7]), identity(0, 0, &[7, 0, 7])] {
        let guard = own.assume().unwrap();
        assert!(!(guard.groups || guard.gid || guard.uid));
    }
}

#[test]
fn an_identity_that_cannot_be_given_back_aborts() {
    const NAME: &str = "identity::tests::an_identity_that_cannot_be_given_back_aborts";
    if !privileged("an_identity_that_cannot_be_given_back_aborts") {
        return;
    }
    if inside(NAME) {
        let guard = identity(2001, 2001, &[2002]).assume().unwrap();
        lose(CapabilitySet::SETUID | CapabilitySet::SETGID);
        drop(guard);
        return;
    }
    let output = again(NAME).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
}

#[test]
fn sys_resource_is_given_up() {
    const NAME: &str = "identity::tests::sys_resource_is_given_up";
    const BIT: u64 = 1 << 24;
    if !inside(NAME) {
        let output = again(NAME).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    drop_sys_resource().unwrap();
    let mut sets = vec!["CapInh", "CapPrm", "CapEff"];
    if rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::SETPCAP) {
        sets.push("CapBnd");
    }
    let held = |set: &str| u64::from_str_radix(&status(set)[0], 16).unwrap() & BIT != 0;
    for set in &sets {
        assert!(!held(set), "{set}");
    }
    // So have the threads that are started later; and it may be called again.
    thread::spawn(move || {
        drop_sys_resource().unwrap();
        assert!(sets.iter().all(|set| !held(set)));
    })
    .join()
    .unwrap();
}
