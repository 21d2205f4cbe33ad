//! What `/info` tells: the limits, and only what works.

use crate::config::Limits;
use serde_json::{Value, json};

/// The release of OpenStack Swift whose behaviour this API follows.
pub const FOLLOWS: &str = "2.38.0";

/// What of `/info` depends on the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Names of the storage policies; the first one is the default.
    pub policies: Vec<String>,
    /// Whether reseller admins may create and delete accounts.
    pub account_management: bool,
    /// Whether accounts appear with their first container.
    pub account_autocreate: bool,
}

/// The document, as JSON text.
pub fn document(features: &Features, limits: &Limits) -> String {
    let policies: Vec<Value> = features
        .policies
        .iter()
        .enumerate()
        .map(|(at, name)| {
            if at == 0 {
                json!({"name": name, "aliases": name, "default": true})
            } else {
                json!({"name": name, "aliases": name})
            }
        })
        .collect();
    json!({
        "swift": {
            "version": FOLLOWS,
            "strict_cors_mode": true,
            "policies": policies,
            "allow_account_management": features.account_management,
            "account_autocreate": features.account_autocreate,
            "allow_open_expired": false,
            "max_file_size": limits.max_file_size,
            "max_meta_name_length": limits.max_meta_name_length,
            "max_meta_value_length": limits.max_meta_value_length,
            "max_meta_count": limits.max_meta_count,
            "max_meta_overall_size": limits.max_meta_overall_size,
            "max_header_size": limits.max_header_size,
            "max_request_line": 8192,
            "max_object_name_length": limits.max_object_name_length,
            "container_listing_limit": limits.container_listing_limit,
            "account_listing_limit": limits.account_listing_limit,
            "max_account_name_length": limits.max_account_name_length,
            "max_container_name_length": limits.max_container_name_length,
            "extra_header_count": limits.extra_header_count,
        },
        "tempauth": {"account_acls": true},
        "bulk_delete": {
            "max_deletes_per_request": super::bulk_delete::MAX_DELETES,
            "max_failed_deletes": super::bulk_delete::MAX_FAILED,
        },
        "slo": {
            "max_manifest_segments": limits.max_manifest_segments,
            "max_manifest_size": limits.max_manifest_size,
            "yield_frequency": super::object::slo_put::HEARTBEAT.as_secs(),
            "min_segment_size": limits.min_segment_size,
            "allow_async_delete": false,
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_works_is_told() {
        let features = Features {
            policies: vec!["gold".into(), "tin".into()],
            account_management: true,
            account_autocreate: false,
        };
        let info: Value = serde_json::from_str(&document(&features, &Limits::default())).unwrap();
        assert_eq!(info["swift"]["max_object_name_length"], 1024);
        assert_eq!(info["swift"]["policies"][0]["default"], true);
        assert_eq!(info["swift"]["policies"][1].get("default"), None);
        assert_eq!(info["slo"]["max_manifest_segments"], 1000);
        assert_eq!(info["tempauth"]["account_acls"], true);
        assert_eq!(
            info["bulk_delete"],
            json!({"max_deletes_per_request": 10_000, "max_failed_deletes": 1000})
        );
        let sections: Vec<_> = info.as_object().unwrap().keys().collect();
        assert_eq!(sections, ["bulk_delete", "slo", "swift", "tempauth"]);
    }
}
