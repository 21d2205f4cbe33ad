//! What is wrong with an entry of `access`, and why a bridge may not be.

use thiserror::Error;

use crate::ids::WrongRange;

/// An entry of `access` that cannot be used. The API server refuses such an entry; this is for one that is older than
/// the rules.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WrongAccess {
    /// Neither or both ways to say whom.
    #[error("access[{0}] needs exactly one of namespace and namespaceSelector")]
    Whom(usize),
    /// The selector is wrong.
    #[error("access[{0}].namespaceSelector: {1}")]
    Selector(usize, String),
    /// The path is wrong.
    #[error(
        "access[{0}].subPath {1:?} must be a relative path without empty, '.', '..' or '.lb~' components"
    )]
    SubPath(usize, String),
    /// An entry before it has the same namespace and claim.
    #[error(
        "access[{0}] never holds: an entry before it has the same namespace and claim; give it another claimName"
    )]
    Twice(usize),
    /// An identity is wrong.
    #[error("access[{0}].identities: {1}")]
    Identities(usize, WrongRange),
}

/// Why a bridge may not be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// There is no such share.
    #[error("there is no LustreShare {0:?}")]
    ShareNotFound(String),
    /// The share does not name the namespace.
    #[error("LustreShare {share:?} grants nothing to namespace {namespace:?}; its spec.access must name it")]
    NamespaceNotGranted {
        /// The share.
        share: String,
        /// The namespace.
        namespace: String,
    },
    /// The share lets the namespace only read.
    #[error(
        "LustreShare {share:?} grants namespace {namespace:?} only reading; a bridge needs mode ReadWriteMany"
    )]
    ReadOnlyGrant {
        /// The share.
        share: String,
        /// The namespace.
        namespace: String,
    },
    /// A path of the bridge is wrong.
    #[error("{0} {1:?} must be a relative path without empty, '.', '..' or '.lb~' components")]
    WrongPath(String, String),
    /// An identity that the grant does not allow.
    #[error("{what} acts as {uid}:{gid}, which the grant does not allow: it allows {allowed}")]
    IdentityNotGranted {
        /// The account, or whatever wants it.
        what: String,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// What is allowed, for people.
        allowed: String,
    },
    /// The directory belongs to user or group 0.
    #[error(
        "the directory granted belongs to {uid}:{gid}, and nothing is served as uid 0 or gid 0: set the uid and gid of \
         the directory (spec.ownership of the share, before it is made), or of the accounts, or identity.mode Fixed"
    )]
    Root {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// Several identities where one is allowed.
    #[error(
        "the bridge serves several identities, and its grant allows one: the share's administrator can set \
         bridges: Many in the entry of spec.access, or use one uid and gid for all accounts"
    )]
    Several,
    /// A setting is missing that the API server asks for.
    #[error("{0}")]
    Incomplete(&'static str),
}

impl Refusal {
    /// The reason in the condition ShareAccepted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ShareNotFound(_) => "ShareNotFound",
            Self::NamespaceNotGranted { .. } => "NamespaceNotGranted",
            Self::ReadOnlyGrant { .. } => "ReadOnlyGrant",
            Self::WrongPath(..) | Self::Incomplete(_) => "InvalidSpec",
            Self::IdentityNotGranted { .. } | Self::Root { .. } | Self::Several => "IdentityNotGranted",
        }
    }
}
