use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Not by std's custom flags, which drop `O_PATH` on musl.
fn open_path(path: &Path) -> File {
    File::from(rustix::fs::openat(rustix::fs::CWD, path, OFlags::PATH, Mode::empty()).unwrap())
}

fn fid(path: &Path) -> Fid {
    Generic.fid(open_path(path).as_fd()).unwrap()
}

#[test]
fn a_fid_is_stored_and_read_back() {
    let long = Fid::from_bytes(&[0xab; 40]).unwrap();
    assert_eq!(Fid::from_bytes(long.as_bytes()), Some(long));
    assert_eq!(long.to_string(), "ab".repeat(40));
    assert_eq!(Fid::from_bytes(&[]), None);
    assert_eq!(Fid::from_bytes(&[0; 41]), None);
    // Trailing zeros count.
    assert_ne!(Fid::from_bytes(&[1]), Fid::from_bytes(&[1, 0]));
    assert_eq!(format!("{:?}", Fid::from_bytes(&[1, 0]).unwrap()), "Fid(0100)");
}

#[test]
fn long_handles_are_hashed() {
    let fits = Fid::from_handle(1, &[7; 36]);
    assert_eq!(fits.as_bytes(), [&[1, 0, 0, 0][..], &[7; 36]].concat());
    let one = Fid::from_handle(0x97, &[7; 37]);
    let other = Fid::from_handle(0x97, &[7; 38]);
    assert_eq!(one.as_bytes().len(), 36);
    assert_ne!(one, other);
    assert_eq!(one, Fid::from_handle(0x97, &[7; 37]));
    assert_ne!(one, Fid::from_handle(0x98, &[7; 37]));
}

#[test]
fn a_fid_belongs_to_the_file_not_its_name() {
    let base = TempDir::new().unwrap();
    let (one, two) = (base.path().join("one"), base.path().join("two"));
    fs::write(&one, "1").unwrap();
    let before = fid(&one);
    fs::hard_link(&one, base.path().join("link")).unwrap();
    fs::rename(&one, &two).unwrap();
    fs::write(&two, "changed").unwrap();
    fs::write(&one, "1").unwrap();
    assert_eq!(fid(&two), before);
    assert_eq!(fid(&base.path().join("link")), before);
    assert_ne!(fid(&one), before);
    assert_ne!(fid(base.path()), before);
}

#[test]
fn a_reused_inode_number_is_another_fid() {
    let base = TempDir::new().unwrap();
    let path = base.path().join("file");
    let mut fids = HashSet::new();
    let mut by_inode = HashSet::new();
    let mut inodes = HashSet::new();
    for _ in 0..50 {
        let file = File::create(&path).unwrap();
        inodes.insert(file.metadata().unwrap().ino());
        fids.insert(Generic.fid(file.as_fd()).unwrap());
        by_inode.insert(Generic::fid_by_inode(file.as_fd()).unwrap());
        drop(file);
        fs::remove_file(&path).unwrap();
        // The birth time has the resolution of the kernel's tick.
        std::thread::sleep(std::time::Duration::from_millis(11));
    }
    assert_eq!(fids.len(), 50);
    assert_eq!(by_inode.len(), 50);
    if inodes.len() == 50 {
        eprintln!("NOT RUN: this file system reused no inode number");
    }
}

#[test]
fn without_handles_it_is_inode_and_birth_time() {
    let file = File::open("/proc/self/status").unwrap();
    let fid = Generic.fid(file.as_fd()).unwrap();
    assert_eq!(fid, Generic::fid_by_inode(file.as_fd()).unwrap());
    let expected = [&[0xff; 4][..], &file.metadata().unwrap().ino().to_le_bytes(), &[0; 12]].concat();
    assert_eq!(fid.as_bytes(), expected);
}

#[test]
fn temporary_names_are_ours_and_all_different() {
    let names = (0..2000).map(|_| Generic.temporary_name(b"target").unwrap()).collect::<HashSet<_>>();
    assert_eq!(names.len(), 2000);
    for name in names {
        let random = name.strip_prefix(b".lb~t").unwrap();
        assert_eq!(random.len(), 20);
        assert!(random.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
    assert!(!Generic.temporaries_look_foreign());
}

#[test]
fn creating_is_exclusive() {
    let base = TempDir::new().unwrap();
    let dir = File::open(base.path()).unwrap();
    let file = detect(dir.as_fd()).create(dir.as_fd(), b"new", 0o600, Some(1 << 30)).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    file.read_exact_at(&mut [0; 7], 0).unwrap();
    let found = sys::stat_at(dir.as_fd(), b"new", false).unwrap();
    assert_eq!((found.mode, found.size), (0o600, 7));
    symlink("elsewhere", base.path().join("link")).unwrap();
    for taken in [&b"new"[..], b"link"] {
        let error = Generic.create(dir.as_fd(), taken, 0o600, None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    }
    assert!(!base.path().join("elsewhere").exists());
}

#[test]
fn directories_are_made_durable_through_any_descriptor() {
    let base = TempDir::new().unwrap();
    let dir = File::open(base.path()).unwrap();
    let path = open_path(base.path());
    let file = Generic.create(dir.as_fd(), b"new", 0o600, None).unwrap();
    Generic.persist(dir.as_fd(), Some(file.as_fd())).unwrap();
    Generic.persist(path.as_fd(), None).unwrap();
    assert_eq!(Generic.data_version(file.as_fd()).unwrap(), None);
    assert_eq!(Generic.racy_window_ns(), 0);
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

fn file_with(content: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn copies_whole_files() {
    for len in [0, 1, 4096, 4097, 3 << 20] {
        let (src, dst) = (file_with(&pattern(len)), file_with(b""));
        let copied = Generic.copy(src.as_fd(), 0, dst.as_fd(), 0, len as u64).unwrap();
        assert_eq!(copied, len as u64);
        assert!(content(&dst) == pattern(len));
    }
}

#[test]
fn copies_stop_at_the_end_of_the_source() {
    let (src, dst) = (file_with(&pattern(10_000)), file_with(b""));
    assert_eq!(Generic.copy(src.as_fd(), 9_000, dst.as_fd(), 5, u64::MAX).unwrap(), 1_000);
    assert!(content(&dst)[5..] == pattern(10_000)[9_000..]);
    assert_eq!(Generic.copy(src.as_fd(), 10_000, dst.as_fd(), 0, 1).unwrap(), 0);
    assert_eq!(Generic.copy(src.as_fd(), u64::MAX, dst.as_fd(), 0, 1).unwrap(), 0);
}

#[test]
fn copies_between_file_systems_and_holes() {
    let src = tempfile::tempfile().unwrap();
    src.write_all_at(b"end", 5_000_000).unwrap();
    let Ok(dst) = tempfile::tempfile_in("/dev/shm") else {
        return eprintln!("NOT RUN: there is no /dev/shm");
    };
    dst.write_all_at(&pattern(6_000_000), 0).unwrap();
    assert_eq!(Generic.copy(src.as_fd(), 1, dst.as_fd(), 2, 5_000_002).unwrap(), 5_000_002);
    let mut expected = pattern(6_000_000);
    expected[2..5_000_001].fill(0);
    expected[5_000_001..5_000_004].copy_from_slice(b"end");
    assert!(content(&dst) == expected);
}

#[test]
fn a_copy_that_cannot_be_written_says_why() {
    let base = TempDir::new().unwrap();
    fs::write(base.path().join("file"), "x").unwrap();
    let read_only = File::open(base.path().join("file")).unwrap();
    let src = file_with(b"content");
    let error = Generic.copy(src.as_fd(), 0, read_only.as_fd(), 0, 7).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let error = Generic.copy(src.as_fd(), 0, full.as_fd(), 0, 7).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// By every way of copying, beside what a slice would do.
    #[test]
    fn copies_are_those_of_slices(
        src_len in 0_usize..20_000,
        dst_len in 0_usize..20_000,
        src_offset in 0_usize..25_000,
        dst_offset in 0_usize..25_000,
        len in 0_usize..25_000,
        aligned: bool,
    ) {
        let align = |n: usize| if aligned { n / 4096 * 4096 } else { n };
        let (src_offset, dst_offset, len) = (align(src_offset), align(dst_offset), align(len));
        let source = pattern(src_len);
        let before = vec![0xee; dst_len];
        let count = len.min(src_len.saturating_sub(src_offset));
        let mut expected = before.clone();
        if count > 0 {
            expected.resize(dst_len.max(dst_offset + count), 0);
            expected[dst_offset..dst_offset + count].copy_from_slice(&source[src_offset..src_offset + count]);
        }
        let src = file_with(&source);
        for by in [copy::copy, copy::in_kernel_only, copy::by_buffer_only] {
            let dst = file_with(&before);
            let copied =
                by(src.as_fd(), src_offset as u64, dst.as_fd(), dst_offset as u64, len as u64).unwrap();
            prop_assert_eq!(copied, count as u64);
            prop_assert!(content(&dst) == expected);
        }
    }
}
