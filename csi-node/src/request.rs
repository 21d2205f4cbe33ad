//! What every request is held against before anything is done.

use std::collections::HashMap;

use crate::error::Error;
use crate::proto::csi::CreateVolumeRequest;

/// The specification's limit of a string.
const LONGEST_NAME: usize = 128;

/// A name is there and no longer than the specification lets it be; whether it can be a directory's is seen later.
pub fn check_name(name: &str) -> Result<(), Error> {
    require("name", name)?;
    if name.len() > LONGEST_NAME {
        return Err(Error::Invalid(format!(
            "name has {} bytes, and has to have at most {LONGEST_NAME}",
            name.len()
        )));
    }
    Ok(())
}

/// A field that may not be empty.
pub fn require(field: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() { Err(Error::Invalid(format!("{field} is missing"))) } else { Ok(()) }
}

/// What this driver does not offer is not silently left out.
pub fn check_extras(request: &CreateVolumeRequest) -> Result<(), Error> {
    if request.volume_content_source.is_some() {
        return Err(Error::Invalid(
            "volumes are not made from snapshots or other volumes by this driver".into(),
        ));
    }
    if !request.mutable_parameters.is_empty() {
        return Err(Error::Invalid("this driver has no mutable parameters".into()));
    }
    Ok(())
}

/// The driver gives its volumes no context: what is there was put there by somebody else. The orchestrator's
/// own keys say nothing to us, but an inline volume would have no record.
pub(crate) fn check_context(context: &HashMap<String, String>) -> Result<(), Error> {
    if context.get("csi.storage.k8s.io/ephemeral").is_some_and(|value| value == "true") {
        return Err(Error::Invalid("inline volumes are not offered: use a claim".into()));
    }
    let orchestrators = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];
    let ours = |key: &&String| !orchestrators.iter().any(|prefix| key.starts_with(prefix));
    let mut unknown: Vec<_> = context.keys().filter(ours).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    Err(Error::Invalid(format!(
        "volume_context has {}, and this driver gives none: what a volume is stands in its record",
        unknown.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_name_has_a_length() {
        assert!(check_name(&"n".repeat(128)).is_ok());
        for bad in [String::new(), "n".repeat(129)] {
            assert_eq!(check_name(&bad).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn a_context_is_the_orchestrators_only() {
        let check =
            |key: &str, value: &str| check_context(&HashMap::from([(key.to_owned(), value.to_owned())]));
        assert!(check("storage.kubernetes.io/csiProvisionerIdentity", "1-csi").is_ok());
        assert!(check("csi.storage.k8s.io/ephemeral", "false").is_ok());
        for (key, value) in [("csi.storage.k8s.io/ephemeral", "true"), ("path", "../x"), ("", "")] {
            assert_eq!(check(key, value).unwrap_err().code(), Code::InvalidArgument, "{key}");
        }
    }
}
