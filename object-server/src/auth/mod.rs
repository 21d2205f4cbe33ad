//! Who makes a request, and whether it may: users with hashed keys, signed tokens, Swift's rules.
//!
//! The order of a request: [`Authenticator::log_in`] answers log-ins; else [`Authenticator::authenticate`] tells the
//! caller from the tokens and [`Authenticator::authorize`] decides, first from the caller alone and only if that is not
//! enough from what is stored. Nothing here knows HTTP types; all that goes in and comes out are plain values.
//!
//! A user that is removed, or whose key changes, loses its tokens as soon as the file is read again
//! ([`Authenticator::watch`]); a server restart takes none away.

pub mod address;
pub mod authorize;
pub mod backoff;
pub mod caller;
pub mod clock;
pub mod generations;
mod keys;
pub mod log_in;
pub mod reload;
pub mod reseller;
pub mod token;
pub mod users;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use address::client_address;
pub use authorize::{Decision, Grants, Subject};
pub use caller::{Caller, Principal};
pub use log_in::{LogIn, LogInAnswer, LogInOutcome};
pub use users::hash_key;

use authorize::same;
use clock::Clock;
use keys::Keys;
use reload::{Reload, Reloading};
use reseller::Resellers;
use token::{Buffer, Secrets, SecretsError};
use users::{Users, UsersError};

use crate::config::Auth;
use crate::python::quote;

/// Why users cannot be served.
#[derive(Debug, Error)]
pub enum AuthError {
    /// The file of users.
    #[error("{}", path.display())]
    Users {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: UsersError,
    },
    /// The file of secrets.
    #[error("{}", path.display())]
    Secrets {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SecretsError,
    },
    /// The system has no random numbers to give.
    #[error("no random numbers")]
    Random(#[source] io::Error),
}

/// Knows users and tokens, and decides.
#[derive(Debug)]
pub struct Authenticator {
    resellers: Resellers,
    users: Reloading<Users>,
    secrets: Reloading<Secrets>,
    keys: Keys,
    clock: Arc<dyn Clock>,
    token_life_seconds: u64,
    reload: Duration,
    public_url: Option<String>,
    storage_url_scheme: Option<String>,
}

impl Authenticator {
    /// Reads the files that the configuration names.
    pub fn new(config: &Auth, clock: Arc<dyn Clock>) -> Result<Self, AuthError> {
        let resellers = Resellers::new(&config.reseller_prefixes);
        let users = Reloading::new(&config.users, |text| Users::parse(text, &resellers))
            .map_err(|source| AuthError::Users { path: config.users.clone(), source })?;
        let secrets = Reloading::new(&config.token_secret, Secrets::parse)
            .map_err(|source| AuthError::Secrets { path: config.token_secret.clone(), source })?;
        Ok(Self {
            resellers,
            users,
            secrets,
            keys: Keys::new(&clock, config.concurrent_checks).map_err(AuthError::Random)?,
            clock,
            token_life_seconds: config.token_life_seconds,
            reload: Duration::from_secs(config.reload_seconds),
            public_url: config.public_url.clone(),
            storage_url_scheme: config.storage_url_scheme.clone(),
        })
    }

    /// Who makes a request with these `X-Auth-Token` (else `X-Storage-Token`) and `X-Service-Token` headers. A token
    /// that is not of this server's kind is no token; a service's counts only beside a user's.
    pub fn authenticate(&self, token: Option<&str>, service_token: Option<&str>) -> Caller {
        let Some(token) = token.filter(|token| !token.is_empty()) else { return Caller::Anonymous };
        let Some(principal) = self.open(token) else {
            let ours = token.starts_with(token::PREFIX) || token.starts_with(self.resellers.first());
            return if ours { Caller::Rejected } else { Caller::Anonymous };
        };
        match service_token.and_then(|token| self.open(token)) {
            Some(service) => Caller::with_service(principal, &service),
            None => Caller::User(principal),
        }
    }

    /// Whose token it is. Costs about a microsecond, so that nothing need be remembered.
    fn open(&self, token: &str) -> Option<Arc<Principal>> {
        let mut buffer = Buffer::default();
        let claims = self.secrets.get().open(token, &mut buffer)?;
        let ends = claims.expires.min(claims.issued.saturating_add(self.token_life_seconds));
        if self.clock.unix_seconds() >= ends {
            return None;
        }
        let users = self.users.get();
        let user = users.get(claims.user)?;
        same(&user.fingerprint, &claims.fingerprint).then(|| user.principal.clone())
    }

    /// Decides about a request. Ask first without [`Subject::grants`]; only [`Decision::NeedsGrants`] needs them.
    pub fn authorize(&self, caller: &Caller, subject: &Subject<'_>) -> Decision {
        authorize::authorize(&self.resellers, caller, subject)
    }

    /// Looks whether the files have changed and reads those that have. Makes file-system calls.
    pub fn refresh(&self) {
        report("users", &self.users, &self.users.refresh(|text| Users::parse(text, &self.resellers)));
        report("token secrets", &self.secrets, &self.secrets.refresh(Secrets::parse));
    }

    /// Calls [`Self::refresh`] for ever, every `reload_seconds`. To be spawned beside the server.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.reload);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let this = self.clone();
            // A join error is a panic, and that is reported where it happens.
            let _ = tokio::task::spawn_blocking(move || this.refresh()).await;
        }
    }
}

fn report<T, E: std::error::Error>(what: &str, file: &Reloading<T>, reload: &Reload<E>) {
    let path = file.path().display();
    match reload {
        Reload::Unchanged => {}
        Reload::Loaded => tracing::info!(%path, "{what} read"),
        Reload::Failed(error) => {
            tracing::error!(%path, error = %chain(error), "{what} cannot be read; the last remain in force");
        }
    }
}

/// An error with what lies behind it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The `Www-Authenticate` header of a 401: `account` is the second part of the path, if it has one.
pub fn challenge(account: Option<&str>) -> String {
    let realm = account.filter(|account| !["", "v1.0", "auth"].contains(account)).unwrap_or("unknown");
    format!("Swift realm=\"{}\"", quote(realm.as_bytes()))
}

#[cfg(test)]
mod tests;
