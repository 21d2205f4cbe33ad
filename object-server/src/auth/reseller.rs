//! Which account names are this server's, and what owning one takes.

use crate::config::Reseller;

/// The configured account prefixes.
#[derive(Clone, Debug)]
pub struct Resellers(Vec<Reseller>);

impl Resellers {
    /// The first prefix is that of the users' own accounts. A prefix that comes twice counts once.
    pub fn new(configured: &[Reseller]) -> Self {
        let mut resellers: Vec<Reseller> = Vec::new();
        for reseller in configured {
            if resellers.iter().all(|known| known.prefix != reseller.prefix) {
                resellers.push(reseller.clone());
            }
        }
        Self(resellers)
    }

    /// The prefix of the users' own accounts.
    pub fn first(&self) -> &str {
        self.0.first().map_or("", |reseller| &reseller.prefix)
    }

    /// All prefixes but the empty one.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|reseller| reseller.prefix.as_str()).filter(|prefix| !prefix.is_empty())
    }

    /// The prefix that this account begins with; the empty one only if no other fits.
    pub fn of(&self, account: &str) -> Option<&Reseller> {
        let fits =
            |reseller: &&Reseller| !reseller.prefix.is_empty() && account.starts_with(&reseller.prefix);
        self.0.iter().find(fits).or_else(|| self.0.iter().find(|reseller| reseller.prefix.is_empty()))
    }

    /// Whether a reseller's admin may touch this account: not one that is a bare prefix, nor a hidden one, whose name
    /// goes on with a dot.
    pub fn open_to_resellers(&self, account: &str) -> bool {
        let bare = self.0.iter().any(|reseller| reseller.prefix == account);
        let hidden =
            self.of(account).is_some_and(|reseller| account[reseller.prefix.len()..].starts_with('.'));
        !bare && !hidden
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn resellers(prefixes: &[&str]) -> Resellers {
        let reseller = |prefix: &&str| Reseller { prefix: (*prefix).to_owned(), require_group: None };
        Resellers::new(&prefixes.iter().map(reseller).collect::<Vec<_>>())
    }

    /// Swift's `PrefixAccount`.
    #[test]
    fn accounts_have_prefixes() {
        let of = |prefixes: &[&str], account: &str| resellers(prefixes).of(account).map(|r| r.prefix.clone());
        assert_eq!(of(&["AUTH_"], "AUTH_1234").as_deref(), Some("AUTH_"));
        assert_eq!(of(&["AUTH_"], "JUNK_1234"), None);
        assert_eq!(of(&["AUTH_"], "AUTH1234"), None);
        assert_eq!(of(&[""], "1234").as_deref(), Some(""));
        assert_eq!(of(&["", "PRE2_"], "PRE2_1234").as_deref(), Some("PRE2_"));
        assert_eq!(of(&["", "PRE2_"], "JUNK_1234").as_deref(), Some(""));
    }

    #[test]
    fn the_first_prefix_is_the_users() {
        let both = resellers(&["", "TEST_", "TEST_"]);
        assert_eq!(both.first(), "");
        assert_eq!(both.named().collect::<Vec<_>>(), ["TEST_"]);
        assert_eq!(resellers(&[]).first(), "");
    }

    #[test]
    fn hidden_accounts_and_bare_prefixes_are_closed() {
        let auth = resellers(&["AUTH_"]);
        assert!(auth.open_to_resellers("AUTH_a"));
        assert!(!auth.open_to_resellers("AUTH_"));
        assert!(!auth.open_to_resellers("AUTH_.hidden"));
        let every = resellers(&[""]);
        assert!(every.open_to_resellers("a"));
        assert!(!every.open_to_resellers(".a") && !every.open_to_resellers(""));
    }
}
