//! Tokens that carry their own proof, so that every replica with the same secret and the same users checks them alone.
//!
//! A token is `AUTH_tk` and, in base64url, a payload followed by its HMAC-SHA256: version (1 byte), a random number (5
//! bytes, so that the part that logs show tells tokens apart), expiry and issue (seconds since 1970, 8 bytes each), the
//! fingerprint of the user's key (8 bytes), and `account:user`.

use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

/// What every token begins with.
pub const PREFIX: &str = "AUTH_tk";

const VERSION: u8 = 1;
const NONCE: usize = 5;
const HEAD: usize = 1 + NONCE + 8 + 8 + 8;
const MAC: usize = 32;
/// Longest payload and proof that are looked at: those of a user of 256 bytes.
const LONGEST: usize = HEAD + 256 + MAC;
/// Shortest secret, in bytes.
const SHORTEST_SECRET: usize = 32;
/// Keeps a secret that also serves elsewhere from signing tokens there.
const PURPOSE: &[u8] = b"lustre-bridge token\0";

/// Why the file of secrets cannot be used.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// No line holds a secret.
    #[error("holds no secret: one a line, newest first, each at least 32 bytes long")]
    Empty,
    /// A line is too short.
    #[error("line {0}: a secret must be at least 32 bytes long, as `openssl rand -hex 32` makes it")]
    Short(usize),
}

/// The secrets that sign tokens. Prints nothing of itself.
pub struct Secrets(Vec<Hmac<Sha256>>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// What a token says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claims<'a> {
    /// `account:user`.
    pub user: &'a str,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// [`super::users::User::fingerprint`] of then.
    pub fingerprint: [u8; 8],
}

impl Secrets {
    /// Reads the text of the file: one secret a line; the first signs, all are accepted. Empty lines and lines that
    /// begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self, SecretsError> {
        let mut secrets = Vec::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.len() < SHORTEST_SECRET {
                return Err(SecretsError::Short(number + 1));
            }
            let mac = Hmac::<Sha256>::new_from_slice(line.as_bytes());
            secrets.extend(mac.map(|mac| mac.chain_update(PURPOSE)));
        }
        if secrets.is_empty() { Err(SecretsError::Empty) } else { Ok(Self(secrets)) }
    }

    /// Makes a token. None where the system has no random numbers to give.
    pub fn issue(&self, claims: &Claims<'_>) -> Option<String> {
        let mut token = Vec::with_capacity(HEAD + claims.user.len() + MAC);
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).ok()?;
        token.push(VERSION);
        token.extend_from_slice(&nonce);
        token.extend_from_slice(&claims.expires.to_be_bytes());
        token.extend_from_slice(&claims.issued.to_be_bytes());
        token.extend_from_slice(&claims.fingerprint);
        token.extend_from_slice(claims.user.as_bytes());
        let proof = self.0.first()?.clone().chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&proof);
        Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token)))
    }

    /// What a token says, if one of the secrets made it. Does not look at the time. `buffer` holds the text.
    pub fn open<'a>(&self, token: &str, buffer: &'a mut Buffer) -> Option<Claims<'a>> {
        let encoded = token.strip_prefix(PREFIX)?;
        let len = URL_SAFE_NO_PAD.decode_slice(encoded, &mut buffer.0).ok()?;
        let (payload, proof) = buffer.0[..len].split_at_checked(len.checked_sub(MAC)?)?;
        self.0.iter().find(|secret| {
            // Compared in constant time by `verify_slice`.
            (*secret).clone().chain_update(payload).verify_slice(proof).is_ok()
        })?;
        let (head, user) = payload.split_first_chunk::<HEAD>()?;
        let (version, rest) = head.split_first()?;
        let (_, rest) = rest.split_at_checked(NONCE)?;
        let (expires, rest) = rest.split_first_chunk()?;
        let (issued, rest) = rest.split_first_chunk()?;
        let fingerprint = *rest.first_chunk()?;
        (*version == VERSION).then_some(Claims {
            user: std::str::from_utf8(user).ok()?,
            expires: u64::from_be_bytes(*expires),
            issued: u64::from_be_bytes(*issued),
            fingerprint,
        })
    }
}

/// Room for a token that is taken apart.
pub struct Buffer([u8; LONGEST]);

impl Default for Buffer {
    fn default() -> Self {
        Self([0; LONGEST])
    }
}

/// A line for the file of secrets: 32 random bytes in hexadecimal.
pub fn generate_secret() -> io::Result<String> {
    let mut halves = [[0; 16]; 2];
    getrandom::fill(halves.as_flattened_mut()).map_err(io::Error::other)?;
    Ok(format!("{:032x}{:032x}", u128::from_be_bytes(halves[0]), u128::from_be_bytes(halves[1])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn secrets(text: &str) -> Secrets {
        Secrets::parse(text).unwrap()
    }

    fn claims(user: &str) -> Claims<'_> {
        Claims { user, expires: 200, issued: 100, fingerprint: *b"12345678" }
    }

    #[test]
    fn a_token_says_what_was_put_in() {
        let secrets = secrets(SECRET);
        let longest = "ü".repeat(128);
        for user in ["a:b", longest.as_str()] {
            let token = secrets.issue(&claims(user)).unwrap();
            assert!(token.len() < 500 && token.starts_with("AUTH_tk"), "{}", token.len());
            assert_eq!(secrets.open(&token, &mut Buffer::default()), Some(claims(user)));
            assert_ne!(secrets.issue(&claims(user)).unwrap()[..16], token[..16]);
        }
    }

    #[test]
    fn secrets_rotate() {
        let old = secrets(SECRET);
        let token = old.issue(&claims("a:b")).unwrap();
        let both = secrets(&format!("# the new one\n{OTHER}\n\n{SECRET}\n"));
        assert!(both.open(&token, &mut Buffer::default()).is_some());
        let newer = both.issue(&claims("a:b")).unwrap();
        assert!(old.open(&newer, &mut Buffer::default()).is_none());
        assert!(secrets(OTHER).open(&newer, &mut Buffer::default()).is_some());
        assert!(secrets(OTHER).open(&token, &mut Buffer::default()).is_none());
    }

    #[test]
    fn secrets_are_checked_and_never_printed() {
        assert!(matches!(Secrets::parse("\n# x\n"), Err(SecretsError::Empty)));
        assert!(matches!(Secrets::parse(&format!("{SECRET}\n short ")), Err(SecretsError::Short(2))));
        assert_eq!(format!("{:?}", secrets(SECRET)), "Secrets");
        assert!(SecretsError::from(io::Error::other("x")).to_string().contains("cannot be read"));
        let made = generate_secret().unwrap();
        assert_eq!(made.len(), 64);
        secrets(&made);
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let secrets = secrets(SECRET);
        let token = secrets.issue(&claims("a:b")).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&token[PREFIX.len()..]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(changed));
            assert_eq!(secrets.open(&changed, &mut Buffer::default()), None);
        }
        for cut in 0..token.len() {
            assert_eq!(secrets.open(&token[..cut], &mut Buffer::default()), None);
        }
        assert_eq!(secrets.open(&format!("{token}="), &mut Buffer::default()), None);
        assert_eq!(secrets.open(&token.replace("AUTH_tk", "AUTH_"), &mut Buffer::default()), None);
    }

    /// What is signed but not of this version's form.
    #[test]
    fn signed_nonsense_is_no_token() {
        let secrets = secrets(SECRET);
        let sign = |payload: &[u8]| {
            let mut token = payload.to_vec();
            token.extend_from_slice(&secrets.0[0].clone().chain_update(payload).finalize().into_bytes());
            format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(token))
        };
        let mut payload = vec![1; HEAD];
        assert!(secrets.open(&sign(&payload), &mut Buffer::default()).is_some());
        assert_eq!(secrets.open(&sign(&payload[1..]), &mut Buffer::default()), None);
        payload.push(0xff);
        assert_eq!(secrets.open(&sign(&payload), &mut Buffer::default()), None);
        payload[HEAD] = b'a';
        payload[0] = 2;
        assert_eq!(secrets.open(&sign(&payload), &mut Buffer::default()), None);
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_by_chance(text in "(AUTH_tk)?[A-Za-z0-9_=-]{0,600}|\\PC{0,40}") {
            prop_assert!(secrets(SECRET).open(&text, &mut Buffer::default()).is_none());
        }
    }
}
