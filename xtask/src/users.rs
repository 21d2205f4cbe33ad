//! The users of the tests, as OpenStack Swift's functional tests want them.

/// A user, whose key is in clear.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    pub(crate) fn new(account: &str, name: &str, key: &str, groups: &[&str]) -> Self {
        Self {
            account: account.to_owned(),
            name: name.to_owned(),
            key: key.to_owned(),
            groups: groups.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The groups as tempauth writes them.
pub(crate) fn groups_of(user: &User) -> String {
    user.groups.join(" ")
}

/// The accounts of one shard of the functional tests: `test`, `test2` and `test5`, with the shard's name in them.
pub(crate) fn shard(tag: &str) -> Vec<User> {
    let (one, two, five) = (format!("test{tag}"), format!("test{tag}2"), format!("test{tag}5"));
    vec![
        User::new(&one, "tester", "testing", &[".admin"]),
        User::new(&one, "tester2", "testing2", &[".admin"]),
        User::new(&one, "tester3", "testing3", &[]),
        User::new(&one, "tester6", "testing6", &[".reseller_admin"]),
        User::new(&two, "tester2", "testing2", &[".admin"]),
        User::new(&five, "tester5", "testing5", &["service"]),
    ]
}

/// One more, who administers every account.
pub(crate) fn admin() -> User {
    User::new("admin", "admin", "admin", &[".admin", ".reseller_admin"])
}
