//! Who may do what: Swift's rules.

use super::caller::{Caller, Principal};
use super::reseller::Resellers;
use crate::acl::{AccountAcl, ContainerAcl};

/// What a request is about.
#[derive(Clone, Copy, Default, Debug)]
pub struct Subject<'a> {
    /// The method; a copy is asked as GET of its source and PUT of its target.
    pub method: &'a str,
    /// The account as the path names it, decoded, with its prefix.
    pub account: &'a str,
    /// The container, decoded.
    pub container: Option<&'a str>,
    /// Whether the path names an object.
    pub object: bool,
    /// The `Referer` header.
    pub referer: Option<&'a str>,
    /// The `X-Account-Access-Control` header of the request, on any method.
    pub account_access_control: Option<&'a str>,
    /// The `X-Container-Sync-Key` header, if the request has an `X-Timestamp` too.
    pub sync_key: Option<&'a str>,
    /// What is stored; none until [`Decision::NeedsGrants`] asks for it.
    pub grants: Option<Grants<'a>>,
}

/// What is stored of who may do what. Where a container or an account does not exist, nothing.
#[derive(Clone, Copy, Default, Debug)]
pub struct Grants<'a> {
    /// `X-Container-Read`.
    pub container_read: Option<&'a str>,
    /// `X-Container-Write`.
    pub container_write: Option<&'a str>,
    /// `X-Account-Access-Control` of the account.
    pub account: Option<&'a str>,
    /// `X-Container-Sync-Key` of the container.
    pub sync_key: Option<&'a str>,
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Go on. An owner also sees and sets what is privileged: lists, keys of temporary URLs, sync keys.
    Allow {
        /// Whether the caller counts as an owner of the account.
        owner: bool,
    },
    /// Not decided without [`Subject::grants`]: load them and ask again. An owner is never asked.
    NeedsGrants,
    /// 403: a known user, but not this.
    Forbidden,
    /// 401: nobody known. `Www-Authenticate` is [`super::challenge`].
    Unauthorized,
    /// 400: the request's `X-Account-Access-Control` is wrong; the text is the body, `text/plain; charset=UTF-8`.
    BadAccountAcl(String),
}

const OWNER: Decision = Decision::Allow { owner: true };
const GUEST: Decision = Decision::Allow { owner: false };

/// Decides. The order of the rules is Swift's, so that the same request gets the same answer.
pub fn authorize(resellers: &Resellers, caller: &Caller, subject: &Subject<'_>) -> Decision {
    let denied = match caller {
        Caller::User(_) => Decision::Forbidden,
        Caller::Anonymous | Caller::Rejected => Decision::Unauthorized,
    };
    let Some(reseller) = resellers.of(subject.account) else { return denied };
    if *caller == Caller::Rejected || subject.account.is_empty() {
        return denied;
    }
    if let Some(header) = subject.account_access_control
        && let Err(error) = AccountAcl::parse(header)
    {
        return Decision::BadAccountAcl(error.body(header));
    }
    if let Some(principal) = caller.principal() {
        if principal.reseller_admin && resellers.open_to_resellers(subject.account) {
            return OWNER;
        }
        if principal.reseller_reader && subject.reads() && resellers.open_to_resellers(subject.account) {
            return GUEST;
        }
        if owns(principal, reseller.require_group.as_deref(), subject) {
            return OWNER;
        }
    }
    if subject.method == "OPTIONS" {
        return GUEST;
    }
    match &subject.grants {
        None => Decision::NeedsGrants,
        Some(grants) => granted(caller, subject, grants).unwrap_or(denied),
    }
}

/// Whether the user is an admin of the account and does not make or remove the account itself.
fn owns(principal: &Principal, require_group: Option<&str>, subject: &Subject<'_>) -> bool {
    let makes_or_removes = subject.container.is_none() && ["PUT", "DELETE"].contains(&subject.method);
    !makes_or_removes
        && principal.owned.iter().any(|owned| owned == subject.account)
        && require_group.is_none_or(|group| principal.groups.iter().any(|of_caller| of_caller == group))
}

fn granted(caller: &Caller, subject: &Subject<'_>, grants: &Grants<'_>) -> Option<Decision> {
    if let (Some(given), Some(stored)) = (subject.sync_key, grants.sync_key)
        && !stored.is_empty()
        && same(given.as_bytes(), stored.as_bytes())
    {
        return Some(GUEST);
    }
    let acl = ContainerAcl::parse(subject.container_acl(grants).unwrap_or_default());
    if acl.allows_referrer(subject.referer) && (subject.object || acl.referrers_may_list()) {
        return Some(GUEST);
    }
    let groups = caller.groups();
    if groups.iter().any(|group| acl.names(group)) {
        return Some(GUEST);
    }
    let account = grants.account.filter(|text| !text.is_empty() && !groups.is_empty())?;
    // What is stored was checked when it was set; what is wrong nonetheless lets nobody in.
    let account = AccountAcl::parse(account).ok()?;
    let named = |list: &[String]| groups.iter().any(|group| list.contains(group));
    if named(&account.admin) {
        return Some(OWNER);
    }
    let writes_below = subject.container.is_some() && named(&account.read_write);
    let reads = subject.reads() && (named(&account.read_write) || named(&account.read_only));
    (writes_below || reads).then_some(GUEST)
}

impl<'a> Subject<'a> {
    fn reads(&self) -> bool {
        ["GET", "HEAD"].contains(&self.method)
    }

    /// The list that a request of this kind is judged by: reading by the one, writing objects by the other. A
    /// container itself, like an account, has none for writing.
    fn container_acl(&self, grants: &Grants<'a>) -> Option<&'a str> {
        match self.container {
            Some(_) if self.reads() => grants.container_read,
            Some(_) if self.object => grants.container_write,
            _ => None,
        }
    }
}

/// Compares without telling by its time where the first difference is.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::super::reseller::tests::resellers;
    use super::*;
    use crate::config::Reseller;
    use std::sync::Arc;

    /// A user as Swift's tests write it: `account:user,account,groups...`, where every group but the first two owns the
    /// account of its name.
    fn user(groups: &str) -> Caller {
        let groups: Vec<String> = groups.split(',').map(str::to_owned).collect();
        let has = |name: &str| groups.iter().any(|group| group == name);
        Caller::User(Arc::new(Principal {
            user: groups[0].clone(),
            owned: groups.iter().skip(2).cloned().collect(),
            reseller_admin: has(".reseller_admin"),
            reseller_reader: has(".reseller_reader"),
            groups,
        }))
    }

    /// The subject of a path below `/v1/`.
    fn subject<'a>(method: &'a str, path: &'a str) -> Subject<'a> {
        let mut parts = path.splitn(3, '/');
        Subject {
            method,
            account: parts.next().unwrap(),
            container: parts.next(),
            object: parts.next().is_some(),
            grants: Some(Grants::default()),
            ..Subject::default()
        }
    }

    fn judge(prefixes: &[&str], caller: &Caller, subject: &Subject<'_>) -> Decision {
        authorize(&resellers(prefixes), caller, subject)
    }

    fn with_acl<'a>(subject: Subject<'a>, acl: &'a str) -> Subject<'a> {
        let grants = Grants { container_read: Some(acl), container_write: Some(acl), ..Grants::default() };
        Subject { grants: Some(grants), ..subject }
    }

    /// Swift's `test_authorize_account_access`, `test_account_put_permissions`, `test_account_delete_permissions`,
    /// `test_anon`, `test_authorize_bad_path`, `test_auth_deny_non_reseller_prefix`, `test_reseller_admin_is_owner`,
    /// `test_admin_is_owner`, `test_regular_is_not_owner` and the single-prefix cases of `ServiceTokenFunctionality`.
    #[test]
    fn owners_and_resellers() {
        use Decision::{Forbidden, Unauthorized};
        for (caller, method, path, decision) in [
            ("act:usr,act,AUTH_cfa", "GET", "AUTH_cfa", OWNER),
            ("act:usr,act,AUTH_cfa", "POST", "AUTH_cfa", OWNER),
            ("act:usr,act,AUTH_cfa", "PUT", "AUTH_cfa/c", OWNER),
            ("act:usr,act,AUTH_cfa", "DELETE", "AUTH_cfa/c/o", OWNER),
            ("act:usr,act", "GET", "AUTH_cfa", Forbidden),
            ("act:usr,act", "PUT", "AUTH_new", Forbidden),
            ("act:usr,act,AUTH_other", "PUT", "AUTH_new", Forbidden),
            ("act:usr,act,AUTH_old", "PUT", "AUTH_old", Forbidden),
            ("act:usr,act,AUTH_old", "DELETE", "AUTH_old", Forbidden),
            ("act:usr,act,.reseller_admin", "PUT", "AUTH_new", OWNER),
            ("act:usr,act,.reseller_admin", "DELETE", "AUTH_new", OWNER),
            ("act:usr,act,.reseller_admin", "GET", "AUTH_", Forbidden),
            ("act:usr,act,.reseller_admin", "GET", "AUTH_.hidden/c", Forbidden),
            ("act:usr,act,.reseller_reader", "PUT", "AUTH_new", Forbidden),
            ("act:usr,act,.reseller_reader", "DELETE", "AUTH_new/c/o", Forbidden),
            ("act:usr,act,.reseller_reader", "GET", "AUTH_new", GUEST),
            ("act:usr,act,.reseller_reader", "HEAD", "AUTH_new/c/o", GUEST),
            ("act:usr,act,.super_admin", "DELETE", "AUTH_new", Forbidden),
            ("act:usr,act,AUTH_cfa", "GET", "", Forbidden),
            ("act:usr,act,.reseller_admin", "GET", "BLAH_cfa", Forbidden),
            ("", "GET", "AUTH_cfa", Unauthorized),
            ("", "GET", "BLAH_cfa", Unauthorized),
            ("", "GET", "", Unauthorized),
        ] {
            let who = if caller.is_empty() { Caller::Anonymous } else { user(caller) };
            assert_eq!(judge(&["AUTH_"], &who, &subject(method, path)), decision, "{caller} {method} {path}");
            assert_eq!(
                judge(&["AUTH_", "SOMEOTHER_", "YETANOTHER_"], &who, &subject(method, path)),
                decision,
                "several prefixes: {caller} {method} {path}"
            );
        }
    }

    /// Swift's `test_authorize_acl_group_access`, `test_authorize_acl_referer_after_user_groups`,
    /// `test_authorize_acl_referrer_access` and `test_deny_cross_reseller`.
    #[test]
    fn container_lists() {
        let example = Some("http://www.example.com/index.html");
        for (caller, method, path, acl, referer, allowed) in [
            ("act:usr,act", "GET", "AUTH_cfa/c", "act", None, true),
            ("act:usr,act", "GET", "AUTH_cfa/c", "act:usr", None, true),
            ("act:usr,act", "GET", "AUTH_cfa/c", "act2", None, false),
            ("act:usr,act", "GET", "AUTH_cfa/c", "act:usr2", None, false),
            ("act:usr,act", "PUT", "AUTH_cfa/c/o", "act:usr", None, true),
            ("act:usr,act", "COPY", "AUTH_cfa/c/o", "act:usr", None, true),
            // A container itself has no list for writing.
            ("act:usr,act", "PUT", "AUTH_cfa/c", "act:usr", None, false),
            ("act:usr,act", "GET", "AUTH_cfa", "act:usr", None, false),
            ("act:usr,act", "GET", "OTHER_cfa/c", "act", None, false),
            ("act:usr", "GET", "AUTH_cfa/c", ".r:*,act:usr", None, true),
            ("act:usr,act", "GET", "AUTH_cfa/c", ".r:*,.rlistings", None, true),
            ("act:usr,act", "GET", "AUTH_cfa/c", ".r:*", None, false),
            ("act:usr,act", "GET", "AUTH_cfa/c", ".r:.example.com,.rlistings", None, false),
            ("act:usr,act", "GET", "AUTH_cfa/c", ".r:.example.com,.rlistings", example, true),
            ("", "GET", "AUTH_cfa/c", "", None, false),
            ("", "GET", "AUTH_cfa/c", ".r:*,.rlistings", None, true),
            ("", "GET", "AUTH_cfa/c", ".r:*", None, false),
            ("", "GET", "AUTH_cfa/c/o", ".r:*", None, true),
            ("", "GET", "AUTH_cfa/c/o", ".rlistings", None, false),
            ("", "GET", "AUTH_cfa/c", ".r:.example.com,.rlistings", example, true),
            ("", "HEAD", "AUTH_cfa/c", ".r:.example.com,.rlistings", example, true),
        ] {
            let who = if caller.is_empty() { Caller::Anonymous } else { user(caller) };
            let denied = if caller.is_empty() { Decision::Unauthorized } else { Decision::Forbidden };
            let asked = Subject { referer, ..with_acl(subject(method, path), acl) };
            let expected = if allowed { GUEST } else { denied };
            assert_eq!(judge(&["AUTH_"], &who, &asked), expected, "{caller} {method} {path} {acl}");
        }
    }

    #[test]
    fn reading_and_writing_have_lists_of_their_own() {
        let grants =
            Grants { container_read: Some("reader"), container_write: Some("writer"), ..Grants::default() };
        for (caller, method, allowed) in [
            ("a:reader,reader", "GET", true),
            ("a:reader,reader", "PUT", false),
            ("a:w,writer", "GET", false),
        ] {
            let asked = Subject { grants: Some(grants), ..subject(method, "AUTH_x/c/o") };
            assert_eq!(judge(&["AUTH_"], &user(caller), &asked) == GUEST, allowed, "{caller} {method}");
        }
    }

    /// Swift's `test_account_acl_success`, `test_account_acl_failures`, `test_admin_privileges`,
    /// `test_readwrite_privileges`, `test_readonly_privileges` and `test_user_gets_best_acl`.
    #[test]
    fn account_lists() {
        let acl = r#"{"admin":["AUTH_admin"],"read-write":["AUTH_rw"],"read-only":["AUTH_ro",""]}"#;
        let places = ["AUTH_x", "AUTH_x/c", "AUTH_x/c/o"];
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"] {
            for (depth, path) in places.into_iter().enumerate() {
                let reads = ["GET", "HEAD"].contains(&method);
                let options = method == "OPTIONS";
                for (caller, expected) in [
                    ("a:b,a,AUTH_admin", if options { GUEST } else { OWNER }),
                    ("a:b,AUTH_ro,AUTH_something,AUTH_admin", if options { GUEST } else { OWNER }),
                    (
                        "a:b,a,AUTH_rw",
                        if depth > 0 || reads || options { GUEST } else { Decision::Forbidden },
                    ),
                    ("a:b,a,AUTH_ro", if reads || options { GUEST } else { Decision::Forbidden }),
                    ("a:b,a,AUTH_bob", if options { GUEST } else { Decision::Forbidden }),
                    ("", if options { GUEST } else { Decision::Unauthorized }),
                ] {
                    let who = if caller.is_empty() { Caller::Anonymous } else { user(caller) };
                    let grants = Grants { account: Some(acl), ..Grants::default() };
                    let asked = Subject { grants: Some(grants), ..subject(method, path) };
                    assert_eq!(judge(&["AUTH_"], &who, &asked), expected, "{caller} {method} {path}");
                }
            }
        }
        for broken in ["", "no json", r#"{"admin":"AUTH_admin"}"#] {
            let grants = Grants { account: Some(broken), ..Grants::default() };
            let asked = Subject { grants: Some(grants), ..subject("GET", "AUTH_x") };
            assert_eq!(judge(&["AUTH_"], &user("a:b,a,AUTH_admin"), &asked), Decision::Forbidden);
        }
    }

    /// Swift's `ServiceTokenFunctionality`: both tokens' groups stand in one list.
    #[test]
    fn service_accounts_need_their_group() {
        let service = Reseller { prefix: "PRE2_".into(), require_group: Some(".service".into()) };
        let auth = Reseller { prefix: "AUTH_".into(), require_group: None };
        let resellers = Resellers::new(&[auth, service]);
        for (caller, method, path, decision) in [
            ("acct:joe,acct,AUTH_acct,PRE2_acct", "GET", "PRE2_acct", Decision::Forbidden),
            (
                "acct:joe,acct,AUTH_acct,PRE2_acct,admin:mary,admin,AUTH_admin,PRE2_admin,.service",
                "GET",
                "PRE2_acct",
                OWNER,
            ),
            ("admin:mary,admin,AUTH_admin,PRE2_admin,.service", "GET", "PRE2_acct", Decision::Forbidden),
            (
                "acct:joe,acct,AUTH_acct,PRE2_acct,admin:mary,admin,AUTH_admin,PRE2_admin,.service",
                "DELETE",
                "PRE2_acct",
                Decision::Forbidden,
            ),
            ("acct:joe,acct,AUTH_acct,PRE2_acct,.reseller_admin", "DELETE", "PRE2_acct", OWNER),
            ("acct:joe,acct,AUTH_acct,PRE2_acct", "PUT", "AUTH_acct/c", OWNER),
        ] {
            assert_eq!(
                authorize(&resellers, &user(caller), &subject(method, path)),
                decision,
                "{caller} {path}"
            );
        }
    }

    #[test]
    fn a_service_lends_its_rights() {
        let Caller::User(joe) = user("acct:joe,acct,AUTH_acct") else { unreachable!() };
        let Caller::User(service) = user("admin:mary,admin,.service,.reseller_reader") else {
            unreachable!()
        };
        let both = Caller::with_service(joe, &service);
        assert_eq!(both.user(), "acct:joe");
        assert_eq!(both.groups().len(), 7);
        assert!(!both.reseller_admin());
        assert_eq!(judge(&["AUTH_"], &both, &subject("GET", "AUTH_other")), GUEST);
    }

    /// Swift's `test_sync_request_success`, `…_fail_key` and `…_fail_no_timestamp`.
    #[test]
    fn sync_keys() {
        for (given, stored, allowed) in [
            (Some("secret"), Some("secret"), true),
            (Some("wrong"), Some("secret"), false),
            (Some("secret"), Some("secret2"), false),
            (Some(""), Some(""), false),
            (Some("secret"), None, false),
            (None, Some("secret"), false),
        ] {
            let grants = Grants { sync_key: stored, ..Grants::default() };
            let asked = Subject { sync_key: given, grants: Some(grants), ..subject("DELETE", "AUTH_x/c/o") };
            let expected = if allowed { GUEST } else { Decision::Unauthorized };
            assert_eq!(judge(&["AUTH_"], &Caller::Anonymous, &asked), expected, "{given:?} {stored:?}");
        }
    }

    #[test]
    fn grants_are_asked_for_only_when_they_count() {
        let without = |method, path| Subject { grants: None, ..subject(method, path) };
        let judge = |caller: &Caller, asked| judge(&["AUTH_"], caller, &asked);
        assert_eq!(judge(&user("a:b,a,AUTH_x"), without("GET", "AUTH_x/c/o")), OWNER);
        assert_eq!(judge(&user("a:b,a"), without("GET", "AUTH_x/c/o")), Decision::NeedsGrants);
        assert_eq!(judge(&Caller::Anonymous, without("GET", "AUTH_x/c/o")), Decision::NeedsGrants);
        assert_eq!(judge(&Caller::Anonymous, without("OPTIONS", "AUTH_x/c/o")), GUEST);
        assert_eq!(judge(&Caller::Anonymous, without("GET", "BLAH_x/c/o")), Decision::Unauthorized);
        assert_eq!(judge(&Caller::Rejected, without("GET", "AUTH_x/c/o")), Decision::Unauthorized);
    }

    /// Swift's `test_auth_fail`: a bad token is refused even where everybody may read.
    #[test]
    fn a_rejected_token_opens_nothing() {
        let asked = with_acl(subject("GET", "AUTH_x/c/o"), ".r:*,.rlistings");
        assert_eq!(judge(&["AUTH_"], &Caller::Rejected, &asked), Decision::Unauthorized);
        assert_eq!(judge(&["AUTH_"], &Caller::Anonymous, &asked), GUEST);
        assert!(Caller::Rejected.groups().is_empty());
    }

    /// Swift's `test_bad_acls_get_denied`: before anything else but the account's name.
    #[test]
    fn a_wrong_account_list_is_a_bad_request() {
        let asked = |path, header| Subject { account_access_control: Some(header), ..subject("GET", path) };
        for wrong in ["syntax error", r#"{"bad_key":"x"}"#, r#"{"admin":["a"],"read-write":"x"}"#] {
            for caller in [Caller::Anonymous, user("a:b,a,AUTH_x")] {
                let Decision::BadAccountAcl(body) = judge(&["AUTH_"], &caller, &asked("AUTH_x/c", wrong))
                else {
                    panic!("{wrong}")
                };
                assert!(body.starts_with("X-Account-Access-Control invalid: "), "{body}");
                assert!(body.ends_with(&format!("\n\nInput: {wrong}\n")), "{body}");
            }
        }
        assert_eq!(judge(&["AUTH_"], &Caller::Anonymous, &asked("B_x", "wrong")), Decision::Unauthorized);
        assert_eq!(judge(&["AUTH_"], &user("a:b,a,AUTH_x"), &asked("AUTH_x", "{}")), OWNER);
    }

    /// In Swift an empty prefix makes every user of an account its owner, by the group that is named as the account.
    #[test]
    fn the_account_group_owns_nothing() {
        let Caller::User(member) = user("test:reader,test") else { unreachable!() };
        assert_eq!(judge(&[""], &Caller::User(member), &subject("GET", "test/c")), Decision::Forbidden);
        assert_eq!(judge(&[""], &user("test:admin,test,test"), &subject("GET", "test/c")), OWNER);
    }

    #[test]
    fn same_is_equality() {
        assert!(same(b"", b"") && same(b"ab", b"ab"));
        assert!(!same(b"ab", b"ac") && !same(b"ab", b"abc") && !same(b"", b"a"));
    }
}
