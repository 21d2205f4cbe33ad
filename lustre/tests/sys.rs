//! What the wrappers of the system calls do, seen from outside.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lustre::sys::{self, Kind, Lock, OFlags, Symlinks};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

/// A directory `root` with a file in it, and beside it a directory `outside` with a secret.
struct Tree {
    base: TempDir,
    root: File,
}

impl Tree {
    fn new() -> Tree {
        let base = TempDir::new().unwrap();
        fs::create_dir_all(base.path().join("root/sub/deep")).unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        fs::write(base.path().join("root/file"), "inside").unwrap();
        fs::write(base.path().join("root/sub/file"), "inside sub").unwrap();
        fs::write(base.path().join("outside/file"), "secret").unwrap();
        let root = File::open(base.path().join("root")).unwrap();
        Tree { base, root }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.base.path().join("root").join(name)
    }

    fn open(&self, path: &[u8], symlinks: Symlinks) -> io::Result<OwnedFd> {
        sys::open_beneath(self.root.as_fd(), path, OFlags::RDONLY, symlinks)
    }

    fn read(&self, path: &[u8], symlinks: Symlinks) -> io::Result<String> {
        Ok(io::read_to_string(File::from(self.open(path, symlinks)?)).unwrap())
    }
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn open_path(path: &Path) -> File {
    // Not by std's custom_flags, which drop O_PATH on musl.
    File::from(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap())
}

#[test]
fn opens_what_is_beneath() {
    let tree = Tree::new();
    for symlinks in [Symlinks::Never, Symlinks::Beneath] {
        assert_eq!(tree.read(b"file", symlinks).unwrap(), "inside");
        assert_eq!(tree.read(b"sub//deep/../file", symlinks).unwrap(), "inside sub");
        assert_eq!(errno(tree.open(b"missing", symlinks)), Some(libc::ENOENT));
        assert_eq!(errno(tree.open(b"file/x", symlinks)), Some(libc::ENOTDIR));
    }
}

#[test]
fn descriptors_are_close_on_exec() {
    let tree = Tree::new();
    let fd = tree.open(b"file", Symlinks::Never).unwrap();
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let file = sys::reopen_read(fd.as_fd()).unwrap();
    assert!(rustix::io::fcntl_getfd(&file).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let flags = rustix::fs::fcntl_getfl(&file).unwrap();
    assert!(flags.contains(OFlags::NONBLOCK));
}

#[test]
fn dots_and_absolute_paths_do_not_escape() {
    let tree = Tree::new();
    let absolute = tree.base.path().join("outside/file");
    let absolute = absolute.as_os_str().as_encoded_bytes();
    for symlinks in [Symlinks::Never, Symlinks::Beneath] {
        for path in [&b".."[..], b"../outside/file", b"sub/../../outside/file", b"/etc/passwd", absolute] {
            assert_eq!(errno(tree.open(path, symlinks)), Some(libc::EXDEV), "{path:?}");
        }
    }
}

#[test]
fn symbolic_links_do_not_escape() {
    let tree = Tree::new();
    symlink(tree.base.path().join("outside/file"), tree.path("absolute")).unwrap();
    // Even back to where it is: an absolute link leaves the directory first.
    symlink(tree.path("file"), tree.path("home")).unwrap();
    symlink("../outside/file", tree.path("relative")).unwrap();
    symlink("../outside", tree.path("dir")).unwrap();
    symlink("relative", tree.path("chain")).unwrap();
    for path in [&b"absolute"[..], b"home", b"relative", b"dir/file", b"chain"] {
        assert_eq!(errno(tree.open(path, Symlinks::Beneath)), Some(libc::EXDEV), "{path:?}");
        assert_eq!(errno(tree.open(path, Symlinks::Never)), Some(libc::ELOOP), "{path:?}");
    }
}

#[test]
fn symbolic_links_beneath_are_followed_only_if_asked() {
    let tree = Tree::new();
    symlink("sub", tree.path("dir")).unwrap();
    symlink("../file", tree.path("sub/up")).unwrap();
    symlink("loop", tree.path("loop")).unwrap();
    assert_eq!(tree.read(b"dir/file", Symlinks::Beneath).unwrap(), "inside sub");
    assert_eq!(tree.read(b"dir/up", Symlinks::Beneath).unwrap(), "inside");
    assert_eq!(errno(tree.open(b"dir/file", Symlinks::Never)), Some(libc::ELOOP));
    assert_eq!(errno(tree.open(b"loop", Symlinks::Beneath)), Some(libc::ELOOP));
}

#[test]
fn a_link_itself_can_be_looked_at() {
    let tree = Tree::new();
    symlink("../outside", tree.path("dir")).unwrap();
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let link = sys::open_beneath(tree.root.as_fd(), b"dir", flags, Symlinks::Never).unwrap();
    assert_eq!(sys::stat(link.as_fd()).unwrap().kind, Kind::Symlink);
    assert_eq!(sys::read_link_at(link.as_fd(), b"").unwrap(), b"../outside");
}

#[test]
fn magic_links_are_never_followed() {
    let proc = File::open("/proc").unwrap();
    let result = sys::open_beneath(proc.as_fd(), b"self/root/etc/passwd", OFlags::RDONLY, Symlinks::Beneath);
    assert!(matches!(errno(result), Some(libc::ELOOP | libc::EXDEV)));
}

#[test]
fn a_link_that_is_swapped_in_never_leads_out() {
    let tree = Tree::new();
    symlink("../outside", tree.path("link")).unwrap();
    let done = AtomicBool::new(false);
    let mut read = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // `sub` is the directory, then the link, then the directory again.
                fs::rename(tree.path("sub"), tree.path("kept")).unwrap();
                fs::rename(tree.path("link"), tree.path("sub")).unwrap();
                fs::rename(tree.path("sub"), tree.path("link")).unwrap();
                fs::rename(tree.path("kept"), tree.path("sub")).unwrap();
            }
        });
        for round in 0..20_000 {
            let symlinks = if round % 2 == 0 { Symlinks::Never } else { Symlinks::Beneath };
            if let Ok(content) = tree.read(b"sub/deep/../file", symlinks) {
                assert_eq!(content, "inside sub");
                read += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(read > 0, "the directory was never seen");
}

#[test]
fn creating_by_open_is_refused() {
    let tree = Tree::new();
    for flags in [OFlags::CREATE | OFlags::RDWR, OFlags::TMPFILE | OFlags::RDWR] {
        let result = sys::open_beneath(tree.root.as_fd(), b"new", flags, Symlinks::Never);
        assert_eq!(errno(result), Some(libc::EINVAL));
    }
    // O_TMPFILE has O_DIRECTORY's bit in it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    assert!(sys::open_beneath(tree.root.as_fd(), b"sub", flags, Symlinks::Never).is_ok());
    assert!(!tree.path("new").exists());
}

#[test]
fn a_nul_is_einval_everywhere() {
    let tree = Tree::new();
    let (dir, bad) = (tree.root.as_fd(), &b"fi\0le"[..]);
    let long = [b"x".repeat(300), b"\0".to_vec()].concat();
    let everywhere = [
        errno(tree.open(bad, Symlinks::Never)),
        errno(tree.open(&long, Symlinks::Never)),
        errno(sys::stat_at(dir, bad, true)),
        errno(sys::link_at(dir, bad, dir, b"new")),
        errno(sys::link_at(dir, b"file", dir, bad)),
        errno(sys::rename_at(dir, bad, dir, b"new")),
        errno(sys::rename_at(dir, b"file", dir, bad)),
        errno(sys::unlink_at(dir, bad)),
        errno(sys::remove_dir_at(dir, bad)),
        errno(sys::make_dir_at(dir, bad, 0o755)),
        errno(sys::read_link_at(dir, bad)),
        errno(sys::get_xattr(dir, "user.\0", &mut Vec::new())),
        errno(sys::set_xattr(dir, "user.\0", b"")),
        errno(sys::remove_xattr(dir, "user.\0")),
    ];
    assert_eq!(everywhere, [Some(libc::EINVAL); 14]);
}

/// Builds `depth` directories of 250 bytes each with a file at the end, and returns the directories' path.
fn deep(tree: &Tree, depth: usize) -> Vec<u8> {
    let name = b"d".repeat(250);
    let mut at: OwnedFd = tree.root.try_clone().unwrap().into();
    for _ in 0..depth {
        sys::make_dir_at(at.as_fd(), &name, 0o755).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        at = sys::open_beneath(at.as_fd(), &name, flags, Symlinks::Never).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::RDWR;
    let file = rustix::fs::openat(&at, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(file).write_all(b"at the end").unwrap();
    rustix::fs::symlinkat("file", &at, "near").unwrap();
    rustix::fs::symlinkat("/etc/passwd", &at, "far").unwrap();
    vec![name; depth].join(&b'/')
}

#[test]
fn paths_longer_than_path_max_are_walked() {
    let tree = Tree::new();
    let dirs = deep(&tree, 40);
    assert!(dirs.len() > 2 * 4096);
    let to = |name: &[u8]| [&dirs, &b"/"[..], name].concat();
    for symlinks in [Symlinks::Never, Symlinks::Beneath] {
        assert_eq!(tree.read(&to(b"file"), symlinks).unwrap(), "at the end");
        assert_eq!(tree.read(&to(b"///file"), symlinks).unwrap(), "at the end");
        assert_eq!(errno(tree.open(&to(b"missing"), symlinks)), Some(libc::ENOENT));
        assert_eq!(errno(tree.open(&to(b"file/x"), symlinks)), Some(libc::ENOTDIR));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        assert!(sys::open_beneath(tree.root.as_fd(), &to(b""), flags, symlinks).is_ok());
    }
    assert_eq!(tree.read(&to(b"near"), Symlinks::Beneath).unwrap(), "at the end");
    assert_eq!(errno(tree.open(&to(b"near"), Symlinks::Never)), Some(libc::ELOOP));
    assert_eq!(errno(tree.open(&to(b"far"), Symlinks::Beneath)), Some(libc::EXDEV));
}

#[test]
fn long_paths_are_the_same_at_every_length_around_the_limits() {
    let tree = Tree::new();
    let dirs = deep(&tree, 16);
    for extra in 0..300 {
        let path = [&dirs[..], &b"/".repeat(extra + 1), b"file"].concat();
        assert_eq!(tree.read(&path, Symlinks::Never).unwrap(), "at the end", "{}", path.len());
        let path = [&dirs[..251 * 14 + 250], &b"/".repeat(extra + 1), &dirs[251 * 15..], b"/file"].concat();
        assert_eq!(tree.read(&path, Symlinks::Never).unwrap(), "at the end", "{}", path.len());
    }
    // Slashes alone, far beyond a step.
    let slashes = [&b"sub"[..], &b"/".repeat(10_000)].concat();
    assert!(tree.open(&slashes, Symlinks::Never).is_ok());
    let slashes = [&b"sub"[..], &b"/".repeat(10_000), b"file"].concat();
    assert_eq!(tree.read(&slashes, Symlinks::Never).unwrap(), "inside sub");
}

#[test]
fn long_paths_do_not_escape() {
    let tree = Tree::new();
    let up = [b"../".repeat(2000), b"etc/passwd".to_vec()].concat();
    let down_and_up = [b"sub/../".repeat(900), b"../outside/file".to_vec()].concat();
    let absolute = [b"/".repeat(5000), b"etc/passwd".to_vec()].concat();
    symlink("../outside", tree.path("dir")).unwrap();
    let link = [&b"dir/"[..], &b"./".repeat(3000), b"file"].concat();
    for path in [&up, &down_and_up, &absolute, &link] {
        assert_eq!(errno(tree.open(path, Symlinks::Beneath)), Some(libc::EXDEV));
    }
    let component = b"x".repeat(6000);
    assert_eq!(errno(tree.open(&component, Symlinks::Never)), Some(libc::ENAMETOOLONG));
}

#[test]
fn a_fifo_is_recognised_and_never_opened() {
    let tree = Tree::new();
    rustix::fs::mknodat(CWD, tree.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let fifo = sys::open_beneath(tree.root.as_fd(), b"fifo", OFlags::PATH, Symlinks::Never).unwrap();
    assert_eq!(sys::stat(fifo.as_fd()).unwrap().kind, Kind::Other);
    // A writer that finds no reader proves that nobody has it open.
    let writer = fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(tree.path("fifo"));
    assert_eq!(errno(writer), Some(libc::ENXIO));
    // And a caller that did not look would at least not hang.
    let mut read = sys::reopen_read(fifo.as_fd()).unwrap();
    assert_eq!(read.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn reopening_reads_the_file_whatever_became_of_its_name() {
    let tree = Tree::new();
    let found = sys::open_beneath(tree.root.as_fd(), b"file", OFlags::PATH, Symlinks::Never).unwrap();
    sys::rename_at(tree.root.as_fd(), b"file", tree.root.as_fd(), b"moved").unwrap();
    fs::write(tree.path("file"), "another").unwrap();
    assert_eq!(io::read_to_string(sys::reopen_read(found.as_fd()).unwrap()).unwrap(), "inside");
    sys::unlink_at(tree.root.as_fd(), b"moved").unwrap();
    assert_eq!(io::read_to_string(sys::reopen_read(found.as_fd()).unwrap()).unwrap(), "inside");
}

#[test]
fn without_proc_the_error_says_so() {
    const NAME: &str = "without_proc_the_error_says_so";
    if !rustix::process::geteuid().is_root() {
        return eprintln!("NOT RUN: {NAME} needs root");
    }
    let Some(empty) = std::env::var_os("LUSTRE_TEST_INSIDE") else {
        // In a process of its own, which goes where there is no /proc.
        let tree = Tree::new();
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", NAME]).env("LUSTRE_TEST_INSIDE", tree.base.path());
        let output = again.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    };
    let file = open_path(&Path::new(&empty).join("root/file"));
    rustix::process::chroot(Path::new(&empty)).unwrap();
    let error = sys::reopen_read(file.as_fd()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("/proc is not mounted"), "{error}");
    let result = sys::get_xattr(file.as_fd(), "user.lb", &mut Vec::new());
    assert_eq!(errno(result), Some(libc::EOPNOTSUPP));
}

#[test]
fn stat_tells_all() {
    let tree = Tree::new();
    let path = tree.path("file");
    fs::hard_link(&path, tree.path("second")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).unwrap();
    let file = open_path(&path);
    sys::set_mtime(file.as_fd(), 1_234_567_890_123_456_789).unwrap();
    let (ours, theirs) = (sys::stat(file.as_fd()).unwrap(), fs::metadata(&path).unwrap());
    assert_eq!(ours.kind, Kind::File);
    assert_eq!((ours.size, ours.nlink, ours.mode), (6, 2, 0o4640));
    assert_eq!(ours.mtime_ns, 1_234_567_890_123_456_789);
    assert_eq!(ours.ctime_ns, theirs.ctime() * 1_000_000_000 + theirs.ctime_nsec());
    assert_eq!((ours.ino, ours.dev), (theirs.ino(), theirs.dev()));
    assert_eq!((ours.uid, ours.gid, ours.blocks), (theirs.uid(), theirs.gid(), theirs.blocks()));
    assert_eq!(sys::stat(tree.root.as_fd()).unwrap().kind, Kind::Directory);
    symlink("file", tree.path("link")).unwrap();
    assert_eq!(sys::stat_at(tree.root.as_fd(), b"link", false).unwrap().kind, Kind::Symlink);
    assert_eq!(sys::stat_at(tree.root.as_fd(), b"link", true).unwrap(), ours);
    let name = b"n".repeat(256);
    assert_eq!(errno(sys::stat_at(tree.root.as_fd(), &name, false)), Some(libc::ENAMETOOLONG));
}

#[test]
fn setting_the_mtime_leaves_the_atime() {
    let tree = Tree::new();
    let file = File::open(tree.path("file")).unwrap();
    let before = file.metadata().unwrap();
    for ns in [0, -1, -1_500_000_000, 4_102_444_800_000_000_001] {
        sys::set_mtime(file.as_fd(), ns).unwrap();
        assert_eq!(sys::stat(file.as_fd()).unwrap().mtime_ns, ns);
    }
    let after = file.metadata().unwrap();
    assert_eq!((before.atime(), before.atime_nsec()), (after.atime(), after.atime_nsec()));
}

#[test]
fn the_clock_is_the_file_systems() {
    let now = sys::now_ns();
    let file = tempfile::tempfile().unwrap();
    let written = sys::stat(file.as_fd()).unwrap().mtime_ns;
    assert!((now - written).abs() < 5_000_000_000, "{now} {written}");
}

fn names(dir: BorrowedFd<'_>) -> Vec<(Vec<u8>, Option<Kind>, u64)> {
    let mut all = Vec::new();
    sys::read_dir(dir, &mut |name, kind, ino| {
        all.push((name.to_vec(), kind, ino));
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

#[test]
fn a_directory_of_ten_thousand_is_read_whole() {
    let base = TempDir::new().unwrap();
    let mut expected = HashSet::new();
    for number in 0..10_000 {
        let name = format!("{number:05}-{}", "n".repeat(number % 240));
        File::create(base.path().join(&name)).unwrap();
        expected.insert(name.into_bytes());
    }
    let dir = File::open(base.path()).unwrap();
    // Twice from one descriptor, and from one that cannot be read itself.
    for dir in [dir.as_fd(), dir.as_fd(), open_path(base.path()).as_fd()] {
        let found = names(dir);
        assert_eq!(found.len(), 10_000);
        assert_eq!(found.into_iter().map(|(name, ..)| name).collect::<HashSet<_>>(), expected);
    }
}

#[test]
fn entries_have_kinds_and_inodes() {
    let tree = Tree::new();
    symlink("nowhere", tree.path("link")).unwrap();
    rustix::fs::mknodat(CWD, tree.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let mut found = names(tree.root.as_fd());
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        (&b"fifo"[..], Kind::Other),
        (b"file", Kind::File),
        (b"link", Kind::Symlink),
        (b"sub", Kind::Directory),
    ];
    assert_eq!(found.len(), expected.len());
    for ((name, kind, ino), (expected_name, expected_kind)) in found.into_iter().zip(expected) {
        assert_eq!(name, expected_name);
        assert!(kind.is_none_or(|kind| kind == expected_kind), "{kind:?}");
        assert_eq!(ino, sys::stat_at(tree.root.as_fd(), &name, false).unwrap().ino);
    }
}

#[test]
fn reading_a_directory_stops_when_told_and_nests() {
    let tree = Tree::new();
    let mut seen = 0;
    sys::read_dir(tree.root.as_fd(), &mut |_, _, _| {
        seen += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(seen, 1);
    let mut inner = Vec::new();
    let mut outer = 0;
    sys::read_dir(tree.root.as_fd(), &mut |name, _, _| {
        outer += 1;
        if name == b"sub" {
            inner = names(File::open(tree.path("sub")).unwrap().as_fd());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((outer, inner.len()), (2, 2));
    let file = File::open(tree.path("file")).unwrap();
    let result = sys::read_dir(file.as_fd(), &mut |_, _, _| ControlFlow::Continue(()));
    assert_eq!(errno(result), Some(libc::ENOTDIR));
}

#[test]
fn attributes_come_and_go() {
    let tree = Tree::new();
    let readable = File::open(tree.path("file")).unwrap();
    let by_path = open_path(&tree.path("file"));
    let dir = tree.root.as_fd();
    let mut value = b"old".to_vec();
    for fd in [readable.as_fd(), by_path.as_fd(), dir] {
        assert!(!sys::get_xattr(fd, "user.lb", &mut value).unwrap());
        assert!(value.is_empty());
        assert!(!sys::remove_xattr(fd, "user.lb").unwrap());
        sys::set_xattr(fd, "user.lb", b"first").unwrap();
        sys::set_xattr(fd, "user.lb", b"second\0one").unwrap();
        assert!(sys::get_xattr(fd, "user.lb", &mut value).unwrap());
        assert_eq!(value, b"second\0one");
        sys::set_xattr(fd, "user.lb", b"").unwrap();
        assert!(sys::get_xattr(fd, "user.lb", &mut value).unwrap());
        assert!(value.is_empty());
        assert!(sys::remove_xattr(fd, "user.lb").unwrap());
    }
}

#[test]
fn a_long_attribute_makes_the_buffer_grow() {
    // ext4 keeps attributes within a block; tmpfs takes the longest that Linux has.
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else {
        return eprintln!("NOT RUN: there is no /dev/shm");
    };
    if sys::set_xattr(file.as_fd(), "user.lb", b"probe").is_err() {
        return eprintln!("NOT RUN: tmpfs has no user attributes here");
    }
    let mut value = Vec::new();
    for len in [4095, 4096, 4097, 20_000, 65_536, 10] {
        let long = (0..len).map(|n: usize| n as u8).collect::<Vec<_>>();
        sys::set_xattr(file.as_fd(), "user.lb", &long).unwrap();
        assert!(sys::get_xattr(file.as_fd(), "user.lb", &mut value).unwrap());
        assert!(value == long, "{len}");
    }
}

#[test]
fn a_file_system_without_attributes_is_an_error() {
    let file = File::open("/proc/self/status").unwrap();
    let result = sys::get_xattr(file.as_fd(), "user.lb", &mut Vec::new());
    assert_eq!(errno(result), Some(libc::EOPNOTSUPP));
    assert!(sys::set_xattr(file.as_fd(), "user.lb", b"").is_err());
}

#[test]
fn names_are_linked_renamed_and_removed() {
    let tree = Tree::new();
    let dir = tree.root.as_fd();
    sys::link_at(dir, b"file", dir, b"second").unwrap();
    assert_eq!(errno(sys::link_at(dir, b"sub/file", dir, b"second")), Some(libc::EEXIST));
    sys::rename_at(dir, b"sub/file", dir, b"second").unwrap();
    assert_eq!(fs::read_to_string(tree.path("second")).unwrap(), "inside sub");
    sys::unlink_at(dir, b"second").unwrap();
    assert_eq!(errno(sys::unlink_at(dir, b"second")), Some(libc::ENOENT));
    assert_eq!(errno(sys::unlink_at(dir, b"sub")), Some(libc::EISDIR));
    assert_eq!(errno(sys::remove_dir_at(dir, b"sub")), Some(libc::ENOTEMPTY));
    sys::remove_dir_at(dir, b"sub/deep").unwrap();
    sys::make_dir_at(dir, b"made", 0o700).unwrap();
    assert_eq!(sys::stat_at(dir, b"made", false).unwrap().mode, 0o700);
    assert_eq!(errno(sys::make_dir_at(dir, b"made", 0o700)), Some(libc::EEXIST));
}

#[test]
fn linking_a_symbolic_link_links_itself() {
    let tree = Tree::new();
    symlink("file", tree.path("link")).unwrap();
    sys::link_at(tree.root.as_fd(), b"link", tree.root.as_fd(), b"same").unwrap();
    assert_eq!(sys::read_link_at(tree.root.as_fd(), b"same").unwrap(), b"file");
}

#[test]
fn a_long_symbolic_link_is_read_whole() {
    let tree = Tree::new();
    let target = "x/".repeat(2000);
    symlink(&target, tree.path("link")).unwrap();
    assert_eq!(sys::read_link_at(tree.root.as_fd(), b"link").unwrap(), target.as_bytes());
    assert_eq!(errno(sys::read_link_at(tree.root.as_fd(), b"file")), Some(libc::EINVAL));
}

#[test]
fn files_are_sent_until_the_socket_is_full() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let content = (0..4_000_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>();
    file.write_all(&content).unwrap();
    let mut received = Vec::new();
    let mut sent = 1000;
    let mut full = 0;
    while sent < content.len() as u64 {
        match sys::send_file(ours.as_fd(), file.as_fd(), sent, 1 << 20) {
            Ok(count) => sent += count as u64,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                full += 1;
                let mut chunk = vec![0; 1 << 16];
                let count = theirs.read(&mut chunk).unwrap();
                received.extend_from_slice(&chunk[..count]);
            }
        }
    }
    assert_eq!(sys::send_file(ours.as_fd(), file.as_fd(), sent, 1000).unwrap(), 0);
    drop(ours);
    theirs.read_to_end(&mut received).unwrap();
    assert!(full > 0);
    assert!(received == content[1000..]);
}

#[test]
fn a_lock_is_exclusive_or_shared() {
    let tree = Tree::new();
    let (one, two) = (File::open(tree.path("file")).unwrap(), File::open(tree.path("file")).unwrap());
    assert!(sys::lock(one.as_fd(), Lock::Exclusive).unwrap());
    assert!(!sys::lock(two.as_fd(), Lock::Shared).unwrap());
    sys::unlock(one.as_fd()).unwrap();
    assert!(sys::lock(two.as_fd(), Lock::Shared).unwrap());
    assert!(sys::lock(one.as_fd(), Lock::Shared).unwrap());
    assert!(!sys::lock(one.as_fd(), Lock::Exclusive).unwrap());
    drop(two);
    assert!(sys::lock(one.as_fd(), Lock::Exclusive).unwrap());
}

#[test]
fn space_and_durability() {
    let tree = Tree::new();
    let space = sys::statfs(tree.root.as_fd()).unwrap();
    assert!(space.magic != 0 && space.total > 0);
    assert!(space.available <= space.free && space.free <= space.total);
    assert!(space.name_max >= 255);
    let file = File::open(tree.path("file")).unwrap();
    sys::fsync(file.as_fd()).unwrap();
    sys::fdatasync(file.as_fd()).unwrap();
    sys::fsync(tree.root.as_fd()).unwrap();
}
