//! TLS with certificates that are reloaded when their files change.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::TlsAcceptor;

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or holds nothing of the kind that is wanted.
    #[error("no valid PEM of the kind wanted in {path}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The chain is empty.
    #[error("no certificate in {0}")]
    Empty(PathBuf),
    /// The certificate or key is not acceptable, or they do not belong together.
    #[error("certificate and key cannot be used")]
    Pair(#[source] rustls::Error),
}

/// What tells that a file is another, or was changed, also behind a symbolic link that was swapped.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// A certificate chain and key from PEM files, read again when they change. Clones share it.
#[derive(Clone, Debug)]
pub struct Reloading {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    chain: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
    looked: Mutex<Looked>,
}

/// What the last look saw.
#[derive(Debug)]
struct Looked {
    stamps: [Stamp; 2],
    failed: bool,
}

impl Reloading {
    /// Loads the PEM files of the certificate chain (the server's own first) and of its private key.
    pub fn load(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (chain, key) = (chain.into(), key.into());
        // Before the files: a change in between is then seen by the next look.
        let stamps = [stamp(&chain), stamp(&key)];
        let config = ArcSwap::from(read_config(&chain, &key)?);
        let looked = Mutex::new(Looked { stamps, failed: false });
        Ok(Self { inner: Arc::new(Inner { chain, key, config, looked }) })
    }

    /// An acceptor with the present certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.inner.config.load_full())
    }

    /// Looks at the files and reloads them if they changed; `true` if a new pair is in use. A pair that cannot be
    /// used changes nothing, is returned as an error once, and is tried again at every look (the two files may be
    /// written one after the other). Blocks on the file system.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let inner = &*self.inner;
        let stamps = [stamp(&inner.chain), stamp(&inner.key)];
        let mut looked = inner.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = looked.stamps != stamps;
        if !changed && !looked.failed {
            return Ok(false);
        }
        looked.stamps = stamps;
        let config = read_config(&inner.chain, &inner.key);
        looked.failed = config.is_err();
        match config {
            Ok(config) => {
                inner.config.store(config);
                Ok(true)
            }
            Err(_) if !changed => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// [`Self::reload`] off the reactor; logs what comes of it.
    pub async fn look(&self) {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || this.reload()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!(chain = %self.inner.chain.display(), "new TLS certificate in use"),
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "the changed TLS certificate is not used, the old one stays");
            }
            Err(error) => tracing::error!(%error, "the TLS certificate could not be looked at"),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}

fn read_config(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &Path, source| TlsError::Pem { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_slice_iter(&read(chain)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| pem(chain, source))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty(chain.to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| pem(key, source))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(certificates, private)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Pair)?;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
