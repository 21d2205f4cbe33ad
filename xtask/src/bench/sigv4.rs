//! Presigned URLs of S3 (AWS Signature Version 4, query form), so that the load generator need not sign.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Who signs, for which server, when.
pub(crate) struct Signer {
    pub(crate) access: String,
    pub(crate) secret: String,
    pub(crate) host: String,
    /// `20260101T000000Z`
    pub(crate) time: String,
}

const REGION: &str = "us-east-1";

impl Signer {
    /// The path and query of a request that stays valid for a day. `path` must need no escapes.
    pub(crate) fn presign(&self, method: &str, path: &str) -> String {
        let day = self.time.get(..8).unwrap_or_default();
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{}&X-Amz-Date={}&X-Amz-Expires=86400\
             &X-Amz-SignedHeaders=host",
            self.access,
            scope.replace('/', "%2F"),
            self.time
        );
        let request = format!("{method}\n{path}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD", self.host);
        let digest = hex(&Sha256::digest(request.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{digest}", self.time);
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for part in [day, REGION, "s3", "aws4_request", &text] {
            key = mac(&key, part.as_bytes());
        }
        format!("{path}?{query}&X-Amz-Signature={}", hex(&key))
    }
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    // A key of any length is fine for HMAC, so there is nothing to fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the S3 documentation on authenticating by query parameters.
    #[test]
    fn signs_as_the_documentation_does() {
        let signer = Signer {
            access: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            host: "examplebucket.s3.amazonaws.com".into(),
            time: "20130524T000000Z".into(),
        };
        let url = signer.presign("GET", "/test.txt");
        assert!(url.ends_with("aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"), "{url}");
    }
}
