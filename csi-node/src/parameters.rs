//! The parameters of a storage class.

use std::collections::HashMap;

use crate::capability::{self, Capacity};
use crate::convert::Format;
use crate::disk;
use crate::error::Error;
use crate::image;
use crate::path::SubPath;
use crate::proto::csi::VolumeCapability;
use crate::record::{OnDelete, Size, Type};
use crate::template;
use crate::tree::Owner;

/// What a class may say; all else is refused, so that a misspelt limit is not silently none.
const KNOWN: [&str; 11] = [
    "share",
    "directoryTemplate",
    "type",
    "allocation",
    "source",
    "sourceFormat",
    "quota",
    "uid",
    "gid",
    "mode",
    "onDelete",
];
/// What the provisioner adds.
const PROVISIONERS: &str = "csi.storage.k8s.io/";

/// What a class asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The share's name.
    pub share: String,
    /// The new volume's directory.
    pub path: SubPath,
    /// What the volume is.
    pub kind: Kind,
    /// What holds its users to its size.
    pub size: Size,
    /// What becomes of its directory.
    pub on_delete: OnDelete,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

/// What a volume is, and what it begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An empty directory.
    Directory,
    /// A virtual machine's disk.
    Disk(Disk),
}

/// How a disk is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// All of it takes space at once.
    pub thick: bool,
    /// What is on it: nothing, or what this file of the share holds.
    pub source: Option<(SubPath, Format)>,
}

impl Kind {
    /// As the record has it.
    pub fn in_record(&self) -> Type {
        match self {
            Kind::Directory => Type::Directory,
            Kind::Disk(_) => Type::Disk,
        }
    }
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
            kind: kind(parameters)?,
            size: choice(parameters, "quota", &QUOTAS)?,
            on_delete: choice(parameters, "onDelete", &ENDS)?,
            uid: get("uid").map(|text| number("uid", text)).transpose()?,
            gid: get("gid").map(|text| number("gid", text)).transpose()?,
            mode: get("mode").map(mode).transpose()?,
        })
    }

    /// Whose the directory becomes, where the class says nothing as the share has it; a disk becomes QEMU's.
    pub fn owner(&self, share: Owner) -> Owner {
        let default = if self.kind == Kind::Directory { share } else { Owner::QEMU };
        Owner {
            uid: self.uid.unwrap_or(default.uid),
            gid: self.gid.unwrap_or(default.gid),
            mode: self.mode.unwrap_or(default.mode),
        }
    }

    /// That a volume of this class can be used as is asked, and have this size.
    pub fn check(&self, capabilities: &[VolumeCapability], capacity: Capacity) -> Result<(), Error> {
        let block = capability::check_all(capabilities)?;
        let disk = self.kind != Kind::Directory;
        let image = self.size == Size::Image;
        let wrong = if block && !disk {
            "block volumes are disks: the class needs type: disk"
        } else if image && disk {
            "quota: image is for directories: a disk has its size by itself"
        } else if (disk || image) && capacity.bytes() == 0 {
            "a disk, and a volume of quota: image, needs a size: required_bytes is 0"
        } else {
            return self.check_nodes(capabilities);
        };
        Err(Error::Invalid(wrong.into()))
    }

    fn check_nodes(&self, capabilities: &[VolumeCapability]) -> Result<(), Error> {
        if self.size != Size::Image {
            return Ok(());
        }
        capabilities.iter().try_for_each(|how| capability::check_one_node(capability::check(how)?))
    }

    /// The pieces that the size of a volume of this class is made of.
    pub fn unit(&self) -> u64 {
        unit(self.kind.in_record(), self.size)
    }
}

/// Bytes of which a volume has a whole number.
pub fn unit(type_: Type, size: Size) -> u64 {
    match (type_, size) {
        (Type::Disk, _) => disk::BLOCK,
        (Type::Directory, Size::Image) => image::BLOCK,
        (Type::Directory, Size::Enforced | Size::Advisory) => 1,
    }
}

const QUOTAS: [(&str, Size); 3] =
    [("enforced", Size::Enforced), ("image", Size::Image), ("advisory", Size::Advisory)];
const ENDS: [(&str, OnDelete); 2] = [("remove", OnDelete::Remove), ("archive", OnDelete::Archive)];

/// The value that a parameter names; without it the first.
fn choice<T: Copy>(
    parameters: &HashMap<String, String>,
    key: &str,
    choices: &[(&str, T)],
) -> Result<T, Error> {
    let text = parameters.get(key).map_or(choices[0].0, String::as_str);
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        Error::Invalid(format!("the parameter {key} is {text:?}; there are {}", names.join(", ")))
    })
}

fn kind(parameters: &HashMap<String, String>) -> Result<Kind, Error> {
    if !choice(parameters, "type", &[("directory", false), ("disk", true)])? {
        let of_disks = ["allocation", "source", "sourceFormat"];
        return match of_disks.iter().find(|key| parameters.contains_key(**key)) {
            Some(key) => Err(Error::Invalid(format!("the parameter {key} is for type: disk"))),
            None => Ok(Kind::Directory),
        };
    }
    let thick = choice(parameters, "allocation", &[("thin", false), ("thick", true)])?;
    let format = choice(parameters, "sourceFormat", &[("raw", Format::Raw), ("qcow2", Format::Qcow2)])?;
    let source = match parameters.get("source") {
        Some(path) => Some((SubPath::parse(path)?, format)),
        None if parameters.contains_key("sourceFormat") => {
            return Err(Error::Invalid("the parameter sourceFormat needs a source".into()));
        }
        None => None,
    };
    Ok(Kind::Disk(Disk { thick, source }))
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
    use crate::proto::csi::volume_capability::access_mode::Mode;
    use crate::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

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
            "unknown parameters: stripes; there are share, directoryTemplate, type, allocation, source, sourceFormat, \
             quota, uid, gid, mode, onDelete"
        );
    }

    #[test]
    fn a_disk_is_qemus() {
        let class =
            [("share", "s"), ("type", "disk"), ("allocation", "thick"), ("source", "golden/debian.raw")];
        let parsed = parse(&class).unwrap();
        let source = Some((SubPath::parse("golden/debian.raw").unwrap(), Format::Raw));
        assert_eq!(parsed.kind, Kind::Disk(Disk { thick: true, source }));
        assert_eq!(parsed.owner(Owner::DEFAULT), Owner::QEMU);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for bad in [
            vec![("type", "file")],
            vec![("allocation", "thick")],
            vec![("source", "a.raw")],
            vec![("type", "disk"), ("sourceFormat", "qcow2")],
            vec![("type", "disk"), ("source", "../a.raw")],
            vec![("type", "disk"), ("source", "/etc/passwd")],
            vec![("quota", "Enforced")],
            vec![("onDelete", "keep")],
        ] {
            let class = [vec![("share", "s")], bad].concat();
            assert_eq!(parse(&class).unwrap_err().code(), tonic::Code::InvalidArgument, "{class:?}");
        }
    }

    #[test]
    fn a_class_has_what_it_can_have() {
        let check = |pairs: &[(&str, &str)], how: AccessType, mode: Mode, bytes| {
            let access_mode = Some(AccessMode { mode: mode.into() });
            let how = VolumeCapability { access_type: Some(how), access_mode };
            let parsed = parse(&[&[("share", "s")], pairs].concat()).unwrap();
            parsed.check(&[how], Capacity::exactly(bytes)).is_ok()
        };
        let block = || AccessType::Block(BlockVolume {});
        let mount = || AccessType::Mount(MountVolume::default());
        let (disk, image) = ([("type", "disk")], [("quota", "image")]);
        let (one, many) = (Mode::SingleNodeWriter, Mode::MultiNodeMultiWriter);
        assert!(check(&disk, block(), one, 1) && !check(&disk, block(), one, 0));
        assert!(!check(&[], block(), one, 1) && check(&[], mount(), many, 0));
        assert!(check(&image, mount(), one, 1) && check(&image, mount(), Mode::SingleNodeReaderOnly, 1));
        assert!(!check(&image, mount(), one, 0) && !check(&image, block(), one, 1));
        assert!(!check(&[disk, image].concat(), mount(), one, 1));
        for mode in [many, Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter] {
            assert!(!check(&image, mount(), mode, 1), "{mode:?}");
        }
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
