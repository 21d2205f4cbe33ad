//! The mounts that this thread sees.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// What of its file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
}

/// All mounts, in the order in which they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    // Of the thread, because threads may be in different mount namespaces.
    Ok(parse(&fs::read("/proc/thread-self/mountinfo")?))
}

fn parse(table: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ').skip(3);
        Some(Mount { root: unescape(fields.next()?), point: unescape(fields.next()?) })
    };
    table.split(|&byte| byte == b'\n').filter_map(mount).collect()
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(octal);
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read() {
        let table = b"36 35 0:6 /loop5 /var/lib/my\\040pods\\134/x rw shared:7 - devtmpfs devtmpfs rw\n\
            37 35 98:0 / / rw - ext4 /dev/root rw\nshort\n";
        let mount = |root: &str, point: &str| Mount { root: root.into(), point: point.into() };
        assert_eq!(parse(table), [mount("/loop5", "/var/lib/my pods\\/x"), mount("/", "/")]);
        assert_eq!(unescape(b"\\04"), PathBuf::from("\\04"));
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(read().unwrap().iter().any(|mount| mount.point.as_os_str() == "/"));
    }
}
