//! Labels of what the operator makes.

use std::collections::BTreeMap;

/// The key by which the operator watches what it made.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub const PRODUCT: &str = "lustre-bridge";

/// The labels of what is made for a share.
pub fn of_share(share: &str) -> BTreeMap<String, String> {
    labels(&[(MANAGED_BY, PRODUCT), (crds::SHARE_LABEL, share)])
}

/// The labels of what is made for a bridge.
pub fn of_bridge(bridge: &str) -> BTreeMap<String, String> {
    let mut all = labels(&[(MANAGED_BY, PRODUCT), ("app.kubernetes.io/instance", bridge)]);
    all.extend(selector(bridge));
    all
}

/// The labels by which a bridge's pods are found.
pub fn selector(bridge: &str) -> BTreeMap<String, String> {
    labels(&[("app.kubernetes.io/name", "object-server"), (crds::BRIDGE_LABEL, bridge)])
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
