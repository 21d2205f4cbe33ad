//! Sockets in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The longest path of a socket.
const LONGEST: usize = 107;

/// Why an endpoint is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no endpoint; one is unix:///absolute/path of at most 107 bytes")]
pub struct EndpointError(String);

/// `unix:///path` or `unix:/path`, as the specification writes it.
pub fn parse_endpoint(text: &str) -> Result<PathBuf, EndpointError> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
    let path = path.filter(|path| path.starts_with('/') && path.len() <= LONGEST);
    path.map(PathBuf::from).ok_or_else(|| EndpointError(text.into()))
}

/// Listens at `path`, for the driver's own user alone. What an earlier process left there is replaced.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sockets() {
        assert_eq!(parse_endpoint("unix:///tmp/x/csi.sock"), Ok("/tmp/x/csi.sock".into()));
        assert_eq!(parse_endpoint("unix:/tmp/csi.sock"), Ok("/tmp/csi.sock".into()));
        for bad in ["tcp://1.2.3.4:1", "unix://csi.sock", "/tmp/csi.sock", "unix:"] {
            assert!(parse_endpoint(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("new/csi.sock");
        drop(listen(&path).unwrap());
        listen(&path).unwrap();
        let file = base.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(listen(&file).is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
