//! TLS with certificates on both sides, which are read again when their files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use tokio_rustls::TlsAcceptor;

use crate::files::Reloading;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// A file is not PEM of the kind that is wanted.
    #[error("no valid PEM of the kind wanted in {0}")]
    Pem(PathBuf, #[source] pem::Error),
    /// A file holds no certificate.
    #[error("no certificate in {0}")]
    Empty(PathBuf),
    /// The certificate or key is not acceptable, or they do not belong together.
    #[error("certificate and key cannot be used")]
    Pair(#[source] rustls::Error),
    /// The authority cannot judge the certificates of bridges.
    #[error("the certificates in {0} are no authority")]
    Authority(PathBuf, #[source] VerifierBuilderError),
}

/// The files, PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// Of the authority that signs the other side's certificates.
    pub authority: PathBuf,
    /// This side's certificate, and what leads from there to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// See the module.
pub struct Tls {
    files: Files,
    config: Reloading<Arc<ServerConfig>>,
}

impl Tls {
    /// From these files.
    pub fn load(files: Files) -> Result<Tls, TlsError> {
        let all = vec![files.authority.clone(), files.certificate.clone(), files.key.clone()];
        let config = Reloading::load(all, || read(&files))?;
        Ok(Tls { files, config })
    }

    /// With the certificates in use.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&*self.config.get()))
    }

    /// Reads the files again if they changed. Blocks.
    pub fn look(&self) {
        match self.config.look(|| read(&self.files)) {
            Ok(false) => {}
            Ok(true) => tracing::info!("new TLS certificates are in use"),
            Err(error) => {
                let cause = crate::source::chain(&error);
                tracing::error!(cause, "the changed TLS certificates are not used, the old ones stay");
            }
        }
    }
}

/// The DNS and URI names of the certificate at the other end, which was found valid.
pub fn names(connection: &ServerConnection) -> Vec<String> {
    let Some(certificate) = connection.peer_certificates().and_then(<[_]>::first) else { return Vec::new() };
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    names.map(ToOwned::to_owned).collect()
}

fn read(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(authority(&files.authority)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::Authority(files.authority.clone(), error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection shows its certificate: one that was withdrawn does not come back by a ticket.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Of a bridge, which shows the certificate in `files` and believes relays whose certificate the authority signed.
pub fn bridge(files: &Files) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Pair)?
        .with_root_certificates(authority(&files.authority)?)
        .with_client_auth_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(TlsError::Pair)?;
    }
    Ok(roots)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&bytes(path)?).map_err(|error| TlsError::Pem(path.to_owned(), error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem(path.to_owned(), error))?;
    if found.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(found) }
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read(path.to_owned(), error))
}
