//! What rules, dashboard and runbooks speak of is there.

use std::collections::BTreeSet;
use std::fs;

use super::CHART;
use crate::paths;

/// Where the programs say what they count.
const SOURCES: [&str; 3] =
    ["operator/src/metrics.rs", "csi-node/src/metrics.rs", "object-server/src/metrics.rs"];

fn read(path: &str) -> String {
    fs::read_to_string(paths::repo().join(path)).unwrap()
}

/// A call's arguments, from behind its opening bracket.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut all) = (0, false, vec![String::new()]);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        all.last_mut().unwrap().push(c);
    }
    all.iter().map(|a| a.trim().to_owned()).collect()
}

/// The arguments of each call of `name`.
fn calls(source: &str, name: &str) -> Vec<Vec<String>> {
    source.split(&format!("{name}(")).skip(1).map(arguments).collect()
}

/// A string literal's text.
fn literal(argument: &str) -> Option<&str> {
    argument.strip_prefix('"')?.strip_suffix('"')
}

/// What Prometheus makes of a metric: by what it is registered with, or the field of that name is declared as.
fn suffixes(source: &str, registered: &str) -> &'static [&'static str] {
    let name: String = registered.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let field = |line: &str| line.trim().trim_start_matches("pub ").starts_with(&format!("{name}: "));
    let declared = source.lines().find(|line| field(line)).unwrap_or(registered);
    let kinds: [(&str, &[&str]); 5] = [
        ("Counter", &["_total"]),
        ("Gauge", &[""]),
        ("Histogram", &["_bucket", "_count", "_sum"]),
        ("Durations", &["_bucket", "_count", "_sum"]),
        ("Info", &["_info"]),
    ];
    kinds
        .iter()
        .find(|(kind, _)| declared.contains(kind))
        .unwrap_or_else(|| panic!("what is {registered}?"))
        .1
}

/// The names that a program exports, by the source that registers them.
fn exported(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let prefix = calls(source, "with_prefix")[0][0].trim_matches('"').to_owned();
    let mut names = BTreeSet::new();
    let mut add =
        |name: &str, suffixes: &[&str]| names.extend(suffixes.iter().map(|s| format!("{prefix}_{name}{s}")));
    for call in calls(source, "register") {
        if let Some(name) = literal(&call[0]) {
            add(name, suffixes(source, &call[2]));
        }
    }
    for call in calls(source, "register_with_unit") {
        assert_eq!(call[2], "Unit::Seconds");
        add(&format!("{}_seconds", literal(&call[0]).unwrap()), suffixes(source, &call[3]));
    }
    let counters = calls(source, "counter");
    for name in counters.iter().filter(|call| call[0] == "&mut registry").filter_map(|call| literal(&call[1]))
    {
        add(name, &["_total"]);
    }
    let parts: Vec<&str> = counters.iter().filter_map(|call| literal(&call[0])).collect();
    for call in calls(source, "Worker::new") {
        let worker = literal(&call[1]).unwrap();
        for part in &parts {
            add(&format!("{worker}_{part}"), &["_total"]);
        }
    }
    names
}

fn all_exported() -> BTreeSet<String> {
    SOURCES.iter().flat_map(|source| exported(&read(source))).collect()
}

/// The names of our metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|w| w.starts_with("lustre_bridge_")).map(str::to_owned).collect()
}

fn alerts() -> Vec<String> {
    let rules = read(&format!("{CHART}/files/rules.yaml"));
    rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

#[test]
fn every_metric_of_rules_and_dashboard_is_exported() {
    let exported = all_exported();
    for file in ["rules.yaml", "dashboard.json"] {
        let named = named(&read(&format!("{CHART}/files/{file}")));
        assert!(named.len() > 9, "{file}");
        let unknown: Vec<_> = named.difference(&exported).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}; exported are {exported:?}");
    }
    let tests = named(&read("e2e/chart/rules-test.yaml"));
    assert_eq!(tests.difference(&exported).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn every_metric_is_explained() {
    let page = named(&read("docs/operations.md"));
    // Of a histogram, its buckets stand for all.
    let parts = |name: &String| !name.ends_with("_seconds_sum") && !name.ends_with("_seconds_count");
    let exported: BTreeSet<_> = all_exported().into_iter().filter(parts).collect();
    let unexplained: Vec<_> = exported.difference(&page).collect();
    assert!(unexplained.is_empty(), "docs/operations.md says nothing of {unexplained:?}");
    let unknown: Vec<_> = page.difference(&exported).collect();
    assert!(unknown.is_empty(), "docs/operations.md names {unknown:?}");
}

#[test]
fn every_alert_has_its_runbook_and_its_test() {
    let (page, tests) = (read("docs/operations.md"), read("e2e/chart/rules-test.yaml"));
    let rules = read(&format!("{CHART}/files/rules.yaml"));
    let links = rules.matches("runbook_url: RUNBOOKS#").count();
    assert_eq!(links, alerts().len());
    for alert in alerts() {
        assert!(page.lines().any(|line| line == format!("### {alert}")), "{alert} has no runbook");
        assert!(
            rules.contains(&format!("runbook_url: RUNBOOKS#{}\n", alert.to_lowercase())),
            "{alert} has no link"
        );
        assert!(tests.contains(&format!("\"{alert}\"")), "{alert} has no test");
    }
    let runbooks = page.lines().filter(|line| line.starts_with("### LustreBridge")).count();
    assert_eq!(runbooks, alerts().len(), "a runbook without an alert");
}

#[test]
fn the_dashboard_is_one_that_grafana_reads() {
    let text = read(&format!("{CHART}/files/dashboard.json"));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut ids = BTreeSet::new();
    for panel in json["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(panel["type"] == "row" || !panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
    assert!(ids.len() > 20);
}

#[test]
fn names_are_read_from_the_source() {
    let source = "
        calls: Family<Call, Counter>,
        pub depth: Gauge,
        Registry::with_prefix(\"p\");
        registry.register(
            \"calls\",
            \"Calls, by method (and code)\",
            calls.clone(),
        );
        registry.register(\"depth\", \"How deep\", depth.clone());
        registry.register(\"build\", \"Version\", Info::new([(\"version\", \"1\")]));
        let sent = counter(&mut registry, \"sent_bytes\", \"Sent\");
        #[cfg(test)]
        registry.register(\"no\", \"No\", calls.clone());
    ";
    let names: Vec<_> = exported(source).into_iter().collect();
    assert_eq!(names, ["p_build_info", "p_calls_total", "p_depth", "p_sent_bytes_total"]);
}
