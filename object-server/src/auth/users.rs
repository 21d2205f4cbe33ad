//! The file of users.
//!
//! ```toml
//! [[user]]
//! account = "test"
//! name = "tester"
//! key_hash = "$argon2id$v=19$m=19456,t=2,p=1$…"    # made by `hash-key`
//! groups = [".admin"]
//! storage_url = "$HOST/v1/AUTH_test"               # if it is another
//! ```
//!
//! Groups with a meaning: `.admin` owns the user's account, `.reseller_admin` may do everything everywhere,
//! `.reseller_reader` may read everything everywhere; a group that is named as an account owns that account. Every other
//! group is a name for lists. A user without groups may do what lists say.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::caller::Principal;
use super::reseller::Resellers;
use crate::python::quote;

/// Longest `account:name`, in bytes: with it a token stays below 500.
const LONGEST_USER: usize = 256;

/// Why the file of users cannot be used. Names the user, never its hash.
#[derive(Debug, Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// Not TOML, or a field is unknown, missing or of the wrong type.
    #[error("line {line}: {message}")]
    Syntax {
        /// Where, counted from 1; 0 if that is not known.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A user that cannot be.
    #[error("user \"{user}\": {field}: {message}")]
    User {
        /// `account:name`.
        user: String,
        /// The field.
        field: &'static str,
        /// What would be right.
        message: &'static str,
    },
}

/// The hash of a user's key as a PHC string. Prints nothing of itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct KeyHash(String);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// One user.
#[derive(Debug)]
pub struct User {
    /// What decisions need.
    pub principal: Arc<Principal>,
    /// The key's hash.
    pub key_hash: KeyHash,
    /// Changes with the key, so that tokens end with it.
    pub fingerprint: [u8; 8],
    /// The storage URL; `$HOST` stands for scheme, host and port.
    pub storage_url: String,
}

/// All users, by `account:name`.
#[derive(Debug, Default)]
pub struct Users(HashMap<String, Arc<User>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    user: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    account: String,
    name: String,
    key_hash: KeyHash,
    #[serde(default)]
    groups: Vec<String>,
    storage_url: Option<String>,
}

impl Users {
    /// Reads the text of the file.
    pub fn parse(text: &str, resellers: &Resellers) -> Result<Self, UsersError> {
        // The error's own text would quote the line, and with it a hash.
        let file: File = toml::from_str(text).map_err(|error| UsersError::Syntax {
            line: error.span().map_or(0, |span| {
                text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count() + 1
            }),
            message: error.message().to_owned(),
        })?;
        let mut users = HashMap::with_capacity(file.user.len());
        for entry in file.user {
            let name = format!("{}:{}", entry.account, entry.name);
            let user = User::new(&name, entry, resellers).map_err(|(field, message)| UsersError::User {
                user: name.clone(),
                field,
                message,
            })?;
            if users.insert(name.clone(), Arc::new(user)).is_some() {
                return Err(UsersError::User { user: name, field: "name", message: "must come only once" });
            }
        }
        Ok(Self(users))
    }

    /// The user `account:name`.
    pub fn get(&self, user: &str) -> Option<&Arc<User>> {
        self.0.get(user)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl User {
    fn new(name: &str, entry: Entry, resellers: &Resellers) -> Result<Self, (&'static str, &'static str)> {
        let plain = |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ',');
        if !plain(&entry.account) || entry.account.contains([':', '/']) {
            return Err(("account", "must not be empty nor hold `:`, `/`, `,` or control characters"));
        }
        if !plain(&entry.name) {
            return Err(("name", "must not be empty nor hold `,` or control characters"));
        }
        if name.len() > LONGEST_USER {
            return Err(("name", "account and name must not be longer than 255 bytes together"));
        }
        if !entry.groups.iter().all(|group| plain(group)) {
            return Err(("groups", "must not be empty nor hold `,` or control characters"));
        }
        entry.key_hash.check().map_err(|message| ("key_hash", message))?;
        let own = format!("{}{}", resellers.first(), entry.account);
        let storage_url = entry.storage_url.unwrap_or_else(|| format!("$HOST/v1/{}", quote(own.as_bytes())));
        let absolute = ["http://", "https://", "$HOST/"].iter().any(|start| storage_url.starts_with(start));
        if !absolute || !storage_url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err((
                "storage_url",
                "must begin with http://, https:// or $HOST/ and be percent-encoded",
            ));
        }
        let fingerprint = fingerprint(name, &entry.key_hash);
        let served = storage_url.rsplit('/').next().unwrap_or_default();
        let served = percent_decode_str(served).decode_utf8_lossy().into_owned();
        let principal = Principal::new(name, &entry.account, entry.groups, served, resellers);
        Ok(Self { principal: Arc::new(principal), key_hash: entry.key_hash, fingerprint, storage_url })
    }
}

impl Principal {
    /// `.admin` stands for the user's account under every prefix and for the account of its storage URL.
    fn new(name: &str, account: &str, mut owned: Vec<String>, served: String, resellers: &Resellers) -> Self {
        if owned.iter().any(|group| group == ".admin") {
            owned.retain(|group| group != ".admin");
            owned.extend(resellers.named().map(|prefix| format!("{prefix}{account}")));
            if !owned.contains(&served) {
                owned.push(served);
            }
        }
        let mut groups = vec![account.to_owned(), name.to_owned()];
        groups.extend_from_slice(&owned);
        Self {
            user: name.to_owned(),
            reseller_admin: owned.iter().any(|group| group == ".reseller_admin"),
            reseller_reader: owned.iter().any(|group| group == ".reseller_reader"),
            groups,
            owned,
        }
    }
}

fn fingerprint(name: &str, hash: &KeyHash) -> [u8; 8] {
    let digest = Sha256::new().chain_update(name).chain_update([0]).chain_update(&hash.0).finalize();
    let mut fingerprint = [0; 8];
    fingerprint.copy_from_slice(&digest[..8]);
    fingerprint
}

impl KeyHash {
    /// What stands in for the hash of a user that does not exist, so that the answer takes as long.
    pub fn of_nobody() -> Self {
        Self(
            "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                .into(),
        )
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a hash that can be checked at a bearable price.
    fn check(&self) -> Result<(), &'static str> {
        let hash = PasswordHash::new(&self.0)
            .map_err(|_| "must be an argon2id PHC string as `hash-key` prints it, never the key itself")?;
        if hash.algorithm.as_str() != "argon2id" || hash.hash.is_none() || hash.salt.is_none() {
            return Err("must be an argon2id PHC string with salt and hash");
        }
        let params = Params::try_from(&hash).map_err(|_| "has parameters that argon2id does not have")?;
        if params.m_cost() > 256 << 10 || params.t_cost() > 16 || params.p_cost() > 16 {
            return Err("must not take more than 256 MiB, 16 rounds and 16 lanes");
        }
        Ok(())
    }

    /// Whether this is the hash of `key`. Takes tens of milliseconds and some 20 MiB.
    pub fn verify(&self, key: &[u8]) -> bool {
        PasswordHash::new(&self.0).is_ok_and(|hash| Argon2::default().verify_password(key, &hash).is_ok())
    }
}

/// The PHC string of a key for the file of users: argon2id, 19 MiB, two rounds, one lane.
pub fn hash_key(key: &[u8]) -> io::Result<String> {
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password(key);
    hash.map(|hash| hash.to_string()).map_err(|error| io::Error::other(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::reseller::tests::resellers;
    use super::*;

    /// A hash that costs next to nothing.
    pub(crate) fn cheap_hash(key: &str) -> String {
        let params = Params::new(8, 1, 1, None).unwrap();
        let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let hash: PasswordHash = argon.hash_password(key.as_bytes()).unwrap();
        hash.to_string()
    }

    /// An entry of the file.
    pub(crate) fn entry(account: &str, name: &str, key: &str, groups: &str) -> String {
        format!(
            "[[user]]\naccount = '{account}'\nname = '{name}'\nkey_hash = '{}'\ngroups = [{groups}]\n",
            cheap_hash(key)
        )
    }

    fn parse(text: &str, prefixes: &[&str]) -> Result<Users, UsersError> {
        Users::parse(text, &resellers(prefixes))
    }

    /// Swift's `TestGetUserGroups`.
    #[test]
    fn admins_own_their_account_under_every_prefix() {
        let text = entry("test", "tester", "k", "'.admin'") + &entry("test", "reader", "k", "");
        for (prefixes, owned, storage_url) in [
            (&["AUTH_"][..], &["AUTH_test"][..], "$HOST/v1/AUTH_test"),
            (&[""], &["test"], "$HOST/v1/test"),
            (&["AUTH_", "SOMEOTHER_"], &["AUTH_test", "SOMEOTHER_test"], "$HOST/v1/AUTH_test"),
            (&["", "SOMEOTHER_"], &["SOMEOTHER_test", "test"], "$HOST/v1/test"),
        ] {
            let users = parse(&text, prefixes).unwrap();
            let tester = users.get("test:tester").unwrap();
            assert_eq!(tester.principal.owned, owned);
            assert_eq!(tester.principal.groups[..2], ["test", "test:tester"]);
            assert_eq!(tester.storage_url, storage_url);
            let reader = users.get("test:reader").unwrap();
            assert!(reader.principal.owned.is_empty());
            assert_eq!(reader.principal.groups, ["test", "test:reader"]);
            assert_eq!((users.len(), users.is_empty()), (2, false));
        }
    }

    /// Swift's `test_custom_url_config` and `test_parse_user_creation`.
    #[test]
    fn a_storage_url_names_another_account() {
        let text = entry("test", "tester", "k", "'.admin', '.reseller_admin'")
            + "storage_url = 'http://saio:8080/v1/AUTH_t%C3%A9'\n";
        let users = parse(&text, &["AUTH_"]).unwrap();
        let principal = &users.get("test:tester").unwrap().principal;
        assert_eq!(principal.owned, [".reseller_admin", "AUTH_test", "AUTH_té"]);
        assert!(principal.reseller_admin && !principal.reseller_reader);
        let users = parse(&entry("tést", "a", "k", "'.reseller_reader'"), &["AUTH_"]).unwrap();
        let user = users.get("tést:a").unwrap();
        assert_eq!(user.storage_url, "$HOST/v1/AUTH_t%C3%A9st");
        assert!(user.principal.reseller_reader);
    }

    #[test]
    fn users_that_cannot_be_are_named() {
        let good = entry("a", "b", "k", "'g'");
        let long = "x".repeat(255);
        for (from, to, said) in [
            ("account = 'a'", "account = ''", "user \":b\": account: must not be empty"),
            ("account = 'a'", "account = 'a:b'", "account: must not be empty nor hold `:`"),
            ("account = 'a'", "account = 'a/b'", "account: must not"),
            ("name = 'b'", "name = ''", "name: must not be empty"),
            ("name = 'b'", "name = 'x,y'", "name: must not be empty nor hold `,`"),
            ("name = 'b'", &format!("name = '{long}'"), "not be longer than 255 bytes"),
            ("'g'", "''", "groups: must not be empty"),
            ("$argon2id$", "sha512:", "user \"a:b\": key_hash: must be an argon2id PHC string as"),
            ("$argon2id$", "$argon2i$", "key_hash: must be an argon2id PHC string with salt and hash"),
            ("m=8,", "m=1,", "key_hash: has parameters"),
            ("m=8,", "m=300000,", "key_hash: must not take more than 256 MiB"),
            ("groups", "storage_url = 'ftp://x'\ngroups", "storage_url: must begin with"),
            ("groups", "storage_url = 'http://x/ä'\ngroups", "storage_url: must begin with"),
            ("groups", "gruops", "line 5: unknown field `gruops`"),
            ("name = 'b'", "", "line 1: missing field `name`"),
            ("[[user]]", "[[user]]\n=", "line 2: "),
        ] {
            assert!(good.contains(from), "{from}");
            let error = parse(&good.replacen(from, to, 1), &["AUTH_"]).unwrap_err().to_string();
            assert!(error.contains(said), "{said}\n{error}");
            assert!(!error.contains("argon2id$"), "{error}");
        }
        let twice = parse(&(good.clone() + &good), &["AUTH_"]).unwrap_err().to_string();
        assert!(twice.contains("must come only once"), "{twice}");
        assert!(parse("", &["AUTH_"]).unwrap().is_empty());
        assert!(UsersError::from(io::Error::other("x")).to_string().contains("cannot be read"));
    }

    #[test]
    fn hashes_are_verified_and_never_printed() {
        let users = parse(&entry("a", "b", "key", ""), &["AUTH_"]).unwrap();
        let user = users.get("a:b").unwrap();
        assert!(user.key_hash.verify(b"key") && !user.key_hash.verify(b"kez"));
        assert!(user.key_hash.as_str().starts_with("$argon2id$"));
        assert!(!format!("{users:?}").contains("argon2id"));
        let other = parse(&entry("a", "b", "key", ""), &["AUTH_"]).unwrap();
        assert_ne!(user.fingerprint, other.get("a:b").unwrap().fingerprint);
    }

    #[test]
    fn a_key_is_hashed_with_moderate_parameters() {
        let hash = KeyHash(hash_key(b"testing").unwrap());
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.as_str());
        assert!(hash.check().is_ok() && hash.verify(b"testing") && !hash.verify(b""));
        let nobody = KeyHash::of_nobody();
        assert!(nobody.check().is_ok() && !nobody.verify(b"testing"));
    }
}
