//! Access lists of containers and accounts: cleaning and showing them changes nothing the second time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use object_server::acl::{AccountAcl, AclKind, ContainerAcl, clean};

// The list; then lines that are referrers and groups at once.
fuzz_target!(|data: &str| {
    let mut lines = data.lines();
    let list = lines.next().unwrap_or_default();
    let acl = ContainerAcl::parse(list);
    assert!(!acl.names(""), "nobody has an empty name");
    for line in lines {
        let allowed = acl.allows_referrer(Some(line)) || acl.allows_referrer(None);
        assert!(!allowed || list.contains(".r:"), "only a referrer lets referrers in");
        assert!(!acl.names(line) || list.split(',').any(|item| !item.starts_with(".r:")));
    }
    for kind in [AclKind::Read, AclKind::Write] {
        if let Ok(cleaned) = clean(kind, list) {
            assert_eq!(clean(kind, &cleaned).as_ref(), Ok(&cleaned));
            let referrers = cleaned.split(',').any(|item| item.starts_with(".r:"));
            assert!(kind == AclKind::Read || !referrers, "in a write list: {cleaned:?}");
        }
    }
    account(list);
});

fn account(text: &str) {
    let parsed = AccountAcl::parse(text);
    if let Err(error) = &parsed {
        assert!(error.body(text).starts_with("X-Account-Access-Control invalid: "));
    }
    if let Some(shown) = AccountAcl::format(text) {
        assert!(shown.bytes().all(|b| (b' '..=b'~').contains(&b)), "fit for a header: {shown:?}");
        assert_eq!(AccountAcl::parse(&shown), parsed);
        // Only what can be parsed is stored. (Numbers elsewhere may be rounded.)
        if parsed.is_ok() {
            assert_eq!(AccountAcl::format(&shown).as_ref(), Some(&shown));
        }
    }
}
