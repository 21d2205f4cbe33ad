//! TLS: requests, certificates that change.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lustre::pool::Pool;
use object_server::http::Limits;
use object_server::tls::{Reloading, TlsError};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{Client, Server, pattern, sum, took};

/// Writes a new self-signed pair and returns the certificate.
fn pair(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

fn load(directory: &Path) -> Result<Reloading, TlsError> {
    Reloading::load(directory.join("tls.crt"), directory.join("tls.key"))
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

fn connect(server: &Server, trusted: &CertificateDer<'static>) -> std::io::Result<Client<Secure>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut session = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut socket = TcpStream::connect(server.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    Ok(Client::over(StreamOwned::new(session, socket)))
}

#[test]
fn gets_and_puts() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = pair(directory.path());
    let content = pattern(3_000_000);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    let tls = load(directory.path()).unwrap();
    let mut server =
        Server::with(Limits::default(), Some(tls), Some(file.try_clone().unwrap()), Pool::new("tls", 2, 8));
    let mut client = connect(&server, &certificate).unwrap();
    assert_eq!(client.get("/hello").text(), "hello");
    for size in [5, 100_000, 3_000_000] {
        client.send(format!("PUT /sum HTTP/1.1\r\nContent-Length: {size}\r\n\r\n")).send(&content[..size]);
        assert_eq!(client.answer().text(), sum(&content[..size]));
    }
    client.send("PUT /sum HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n");
    assert_eq!(client.head().status, 100);
    assert_eq!(client.send(&content[..100_000]).answer().text(), sum(&content[..100_000]));
    assert!(client.get("/file?0,3000000").body == content);
    assert!(client.get("/pieces?-,abc,@1:999999").body[3..] == content[1..1_000_000]);
    assert!(client.get("/large?5000000").body.len() == 5_000_000);
    let mut short = connect(&server, &certificate).unwrap();
    file.set_len(2_000_000).unwrap();
    short.send("GET /file?0,3000000 HTTP/1.1\r\n\r\n").head();
    assert!(short.rest().len() < 3_000_000);
    let mut idle = connect(&server, &certificate).unwrap();
    server.stop();
    idle.assert_closed();
    server.ended();
}

#[test]
fn slow_or_missing_handshakes_end() {
    let directory = tempfile::tempdir().unwrap();
    pair(directory.path());
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let tls = load(directory.path()).unwrap();
    let server = Server::with(limits, Some(tls), None, Pool::new("tls", 1, 8));
    let start = Instant::now();
    server.connect().assert_closed();
    took(start, 300, 2000);
    let mut plain = server.connect();
    plain.send("GET /hello HTTP/1.1\r\n\r\n");
    assert!(!plain.rest().starts_with(b"HTTP"));
}

#[test]
fn changed_certificates_are_used_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let first = pair(directory.path());
    let tls = load(directory.path()).unwrap();
    let server = Server::with(Limits::default(), Some(tls.clone()), None, Pool::new("tls", 1, 8));
    assert!(!tls.reload().unwrap());
    let mut old = connect(&server, &first).unwrap();
    let second = pair(directory.path());
    assert!(tls.reload().unwrap());
    assert_eq!(connect(&server, &second).unwrap().get("/hello").text(), "hello");
    assert!(connect(&server, &first).is_err());
    assert_eq!(old.get("/hello").text(), "hello");
    // A key that does not belong to the certificate, then nonsense: told once, the old pair stays.
    let other = tempfile::tempdir().unwrap();
    pair(other.path());
    std::fs::copy(other.path().join("tls.key"), directory.path().join("tls.key")).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Pair(_))));
    assert!(!tls.reload().unwrap());
    std::fs::write(directory.path().join("tls.crt"), "nonsense").unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Empty(_))));
    std::fs::remove_file(directory.path().join("tls.crt")).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Read { .. })));
    assert_eq!(connect(&server, &second).unwrap().get("/hello").text(), "hello");
    let third = pair(directory.path());
    assert!(tls.reload().unwrap());
    assert_eq!(connect(&server, &third).unwrap().get("/hello").text(), "hello");
}

/// Kubernetes swaps a link to a directory; the files' own paths never change. The server looks by itself.
#[test]
fn swapped_links_are_followed() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (root.path().join("..1"), root.path().join("..2"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    let first = pair(&one);
    let second = pair(&two);
    std::os::unix::fs::symlink("..1", root.path().join("..data")).unwrap();
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), root.path().join(name)).unwrap();
    }
    let tls = load(root.path()).unwrap();
    let server = Server::with(Limits::default(), Some(tls), None, Pool::new("tls", 1, 8));
    connect(&server, &first).unwrap();
    std::os::unix::fs::symlink("..2", root.path().join("..new")).unwrap();
    std::fs::rename(root.path().join("..new"), root.path().join("..data")).unwrap();
    let start = Instant::now();
    while connect(&server, &second).is_err() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(200));
    }
}
