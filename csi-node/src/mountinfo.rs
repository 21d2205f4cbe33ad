//! What is mounted where, as `/proc/self/mountinfo` has it: the only memory of what was published.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, StatxFlags};

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    id: u64,
    /// The file system's device, `major:minor`.
    device: String,
    /// What of its file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
}

/// All mounts that this thread sees, in the order in which they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    // Of the thread, because threads may be in different mount namespaces.
    let text = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8_lossy(fields.nth(1)?).into_owned();
    Some(Mount { id, device, root: path(fields.next()?), point: path(fields.next()?) })
}

/// Spaces and the like are `\040`.
fn path(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = if *first == b'\\' { after.get(..3).and_then(octal) } else { None };
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

/// Where the same is mounted as an open directory or file is, but for the mount by which it was opened.
pub fn points(fd: BorrowedFd<'_>) -> io::Result<Vec<PathBuf>> {
    let table = read()?;
    let id = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
    let Some(by) = table.iter().find(|mount| mount.id == id) else { return Ok(Vec::new()) };
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    let below = path.strip_prefix(&by.point).map_err(io::Error::other)?;
    let root = if below.as_os_str().is_empty() { by.root.clone() } else { by.root.join(below) };
    let same = |mount: &&Mount| mount.id != id && mount.device == by.device && mount.root == root;
    Ok(table.iter().filter(same).map(|mount| mount.point.clone()).collect())
}

/// Where the file system on the block device `number` is mounted.
pub fn of_device(number: u64) -> io::Result<Vec<PathBuf>> {
    let device = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let mounts = read()?.into_iter().filter(|mount| mount.device == device);
    Ok(mounts.map(|mount| mount.point).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_line_is_a_mount() {
        let line =
            br"36 35 98:0 /mnt\0401/a /mnt\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert_eq!((mount.root, mount.point), ("/mnt 1/a".into(), r"/mnt\x".into()));
        assert!(parse(b"").is_none() && parse(b"36 35").is_none());
        assert_eq!(path(br"a\9b\04"), PathBuf::from(r"a\9b\04"));
    }

    #[test]
    fn the_mount_itself_is_not_another() {
        assert!(read().unwrap().iter().any(|mount| mount.point.as_os_str() == "/proc"));
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(!points(proc.as_fd()).unwrap().contains(&"/proc".into()));
    }
}
