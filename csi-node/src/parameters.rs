//! The parameters of a storage class.

use std::collections::HashMap;

use crate::error::Error;
use crate::path::SubPath;
use crate::template;
use crate::tree::Owner;

/// What a class may say; all else is refused, so that a misspelt limit is not silently none.
const KNOWN: [&str; 5] = ["share", "directoryTemplate", "uid", "gid", "mode"];
/// What the provisioner adds.
const PROVISIONERS: &str = "csi.storage.k8s.io/";

/// What a class asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The share's name.
    pub share: String,
    /// The new volume's directory.
    pub path: SubPath,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

impl Parameters {
    /// Of the volume `name`.
    pub fn parse(name: &str, parameters: &HashMap<String, String>) -> Result<Parameters, Error> {
        check_known(parameters)?;
        let get = |key: &str| parameters.get(key).map(String::as_str);
        let share = get("share").ok_or_else(|| Error::Invalid("the parameter share is missing".into()))?;
        Ok(Parameters {
            share: share.into(),
            path: template::directory(name, parameters)?,
            uid: get("uid").map(|text| number("uid", text)).transpose()?,
            gid: get("gid").map(|text| number("gid", text)).transpose()?,
            mode: get("mode").map(mode).transpose()?,
        })
    }

    /// Whose the directory becomes, where the class says nothing as the share has it.
    pub fn owner(&self, share: Owner) -> Owner {
        Owner {
            uid: self.uid.unwrap_or(share.uid),
            gid: self.gid.unwrap_or(share.gid),
            mode: self.mode.unwrap_or(share.mode),
        }
    }
}

/// Refuses what no class may say.
pub(crate) fn check_known(parameters: &HashMap<String, String>) -> Result<(), Error> {
    let known = |key: &&String| !KNOWN.contains(&key.as_str()) && !key.starts_with(PROVISIONERS);
    let mut unknown: Vec<_> = parameters.keys().filter(known).map(String::as_str).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    unknown.sort_unstable();
    Err(Error::Invalid(format!("unknown parameters: {}; there are {}", unknown.join(", "), KNOWN.join(", "))))
}

fn number(name: &str, text: &str) -> Result<u32, Error> {
    // The largest stands for "no change" in the kernel.
    let parsed = text.parse().ok().filter(|&id| id < u32::MAX);
    parsed.ok_or_else(|| {
        Error::Invalid(format!("the parameter {name} is {text:?}, and has to be 0..=4294967294"))
    })
}

/// Permission bits as chmod takes them.
pub fn mode(text: &str) -> Result<u32, Error> {
    let parsed = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o7777 && !text.starts_with('+'));
    parsed
        .ok_or_else(|| Error::Invalid(format!("the mode is {text:?}, and has to be octal, such as \"2770\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Parameters, Error> {
        let parameters = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Parameters::parse("v1", &parameters)
    }

    #[test]
    fn a_class_says_whose_a_directory_is() {
        let parsed = parse(&[("share", "s"), ("uid", "1000"), ("mode", "0750")]).unwrap();
        assert_eq!((parsed.share.as_str(), parsed.path.as_str()), ("s", "v1"));
        let share = Owner { uid: 1, gid: 2, mode: 0o2770 };
        assert_eq!(parsed.owner(share), Owner { uid: 1000, gid: 2, mode: 0o750 });
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_list() {
        let error =
            parse(&[("share", "s"), ("stripes", "4"), ("csi.storage.k8s.io/pv/name", "v1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown parameters: stripes; there are share, directoryTemplate, uid, gid, mode"
        );
    }

    #[test]
    fn numbers_are_numbers() {
        for bad in [("uid", "-1"), ("uid", "4294967295"), ("gid", "root"), ("mode", "rwx"), ("mode", "17777")]
        {
            assert!(parse(&[("share", "s"), bad]).is_err(), "{bad:?}");
        }
        assert!(parse(&[]).is_err());
    }
}
