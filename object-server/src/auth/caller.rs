//! Who makes a request.

use std::sync::Arc;

/// A known user with everything that decisions need, made once when the users' file is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Principal {
    /// `account:user`.
    pub user: String,
    /// What lists can name the user by: the user's account, the user, its groups, and the accounts it is an admin of.
    pub groups: Vec<String>,
    /// Accounts that the user owns, if the account's prefix requires no further group; and its own groups, which own
    /// the account that is named as they are.
    pub owned: Vec<String>,
    /// May do everything in every account.
    pub reseller_admin: bool,
    /// May read everything in every account.
    pub reseller_reader: bool,
}

/// Who makes a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Nobody in particular: no token, or one that is not this server's kind.
    Anonymous,
    /// A token of this server's kind that is not valid (or no longer): 401, even where everybody may read.
    Rejected,
    /// A user.
    User(Arc<Principal>),
}

impl Caller {
    /// `account:user`, or empty.
    pub fn user(&self) -> &str {
        self.principal().map_or("", |principal| &principal.user)
    }

    /// What lists can name the caller by; nothing for a caller that is no user.
    pub fn groups(&self) -> &[String] {
        self.principal().map_or(&[], |principal| &principal.groups)
    }

    /// Whether the caller may do everything in every account, and set what only the operator sets (account quotas).
    pub fn reseller_admin(&self) -> bool {
        self.principal().is_some_and(|principal| principal.reseller_admin)
    }

    /// The user, if the caller is one.
    pub fn principal(&self) -> Option<&Principal> {
        match self {
            Self::User(principal) => Some(principal),
            Self::Anonymous | Self::Rejected => None,
        }
    }

    /// The user together with the service that acts for it: what either may, both may.
    pub(super) fn with_service(user: Arc<Principal>, service: &Principal) -> Self {
        let mut both = Arc::unwrap_or_clone(user);
        both.groups.extend_from_slice(&service.groups);
        both.owned.extend_from_slice(&service.owned);
        both.reseller_admin |= service.reseller_admin;
        both.reseller_reader |= service.reseller_reader;
        Self::User(Arc::new(both))
    }
}
