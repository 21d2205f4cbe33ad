//! The program as it is started and stopped.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use changelog_syncer::client::{self, Following};
use changelog_syncer::proto::relay::follow_response::What;
use namespace::Mark;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_changelog-syncer"));
    command.args(arguments).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// Starts it and waits until it follows.
fn follow(root: &Path, socket: &Path, more: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let (root, listen) = (root.to_str().unwrap(), format!("unix:{}", socket.display()));
    let mut child = command(&[&["follow", "--json", "--root", root, "--listen", &listen], more].concat())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"following\"") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
    }
    (child, log)
}

/// As soon as somebody listens; what is there before may be what another one left.
async fn connect(socket: &Path) -> tonic::transport::Channel {
    loop {
        match client::unix(socket).await {
            Ok(channel) => return channel,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn it_follows_until_it_is_told_to_stop() {
    let base = tempfile::tempdir().unwrap();
    let (root, socket) = (base.path().join("root"), base.path().join("socket"));
    fs::create_dir(&root).unwrap();
    let (mut child, mut log) = follow(&root, &socket, &[]);
    let channel = connect(&socket).await;
    let mut following = Following::open(channel, "bridge", b"", None).await.unwrap();
    fs::write(root.join("file"), "").unwrap();
    loop {
        if let Some(What::Marks(marks)) = following.next().await.unwrap() {
            let first = Mark::from(marks.marks[0].clone());
            assert!(matches!(first, Mark::Entry(spot) if spot.name == b"file"));
            break;
        }
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("stopping") && rest.contains("the relay stops"), "{rest}");
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_relay_that_was_killed_is_followed_by_another() {
    let base = tempfile::tempdir().unwrap();
    let socket = base.path().join("socket");
    let (mut child, _log) = follow(base.path(), &socket, &["--source", "inotify"]);
    drop(connect(&socket).await);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(socket.exists());
    let (mut child, mut log) = follow(base.path(), &socket, &["--source", "scan", "--interval", "1"]);
    let channel = connect(&socket).await;
    let mut following = Following::open(channel, "bridge", b"", None).await.unwrap();
    assert_eq!(following.start.source, "scan");
    loop {
        if let Some(What::Marks(marks)) = following.next().await.unwrap() {
            assert_eq!(Mark::from(marks.marks[0].clone()), Mark::Everything);
            break;
        }
    }
    // Its root is gone: it ends, and says so.
    fs::rename(base.path(), base.path().with_extension("was")).unwrap();
    assert!(!child.wait().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("unmounted, or the directory was replaced"), "{rest}");
    fs::rename(base.path().with_extension("was"), base.path()).unwrap();
}

#[test]
fn what_is_wrong_is_said_at_once() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().to_str().unwrap();
    for (arguments, wanted) in [
        (
            &["follow", "--root", "/nonexistent", "--listen", "unix:/tmp/x"][..],
            "cannot open the root /nonexistent",
        ),
        (&["follow", "--root", root, "--listen", "nowhere"], "give unix:PATH or tcp:ADDRESS:PORT"),
        (&["follow", "--root", root, "--listen", "tcp:127.0.0.1:0"], "with certificates only"),
        (&["follow", "--root", root, "--listen", "unix:/x", "--source", "magic"], "replay:FILE"),
        (
            &["follow", "--root", root, "--listen", "unix:/x", "--source", "replay:/nonexistent"],
            "/nonexistent",
        ),
        (&["follow", "--root", root, "--listen", "unix:/x", "--socket-mode", "9"], "three octal digits"),
        (&["follow", "--root", root, "--listen", "unix:/x", "--tls-ca", "/x"], "--tls-certificate"),
    ] {
        let output = command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    }
}
