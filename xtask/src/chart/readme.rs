//! The chart's README, from values.yaml (names, defaults, comments) and values.schema.json (what may be there).

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::CHART;
use crate::paths;

const HEAD: &str = "# lustre-bridge

One file system for pods, virtual machines and objects: the operator, the CSI driver, and the definitions of `LustreShare` and `SwiftBridge`.
This page is generated from `values.yaml` and `values.schema.json` by `cargo xtask crds`.

    helm install lustre-bridge charts/lustre-bridge --namespace lustre-bridge-system --create-namespace
    helm test lustre-bridge --namespace lustre-bridge-system

Kubernetes 1.31 or newer. [Installing](../../docs/installation.md) says what else a cluster needs, [operations](../../docs/operations.md) what comes after.

## Values

| value | default | may be | what |
|---|---|---|---|
";

fn file(name: &str) -> PathBuf {
    paths::repo().join(CHART).join(name)
}

/// Writes the chart's README.
pub(crate) fn write() -> Result<()> {
    Ok(fs::write(file("README.md"), page()?)?)
}

fn page() -> Result<String> {
    let values = fs::read_to_string(file("values.yaml"))?;
    let schema: Value = serde_json::from_str(&fs::read_to_string(file("values.schema.json"))?)?;
    let mut page = HEAD.to_owned();
    for row in rows(&values, &schema)? {
        writeln!(page, "| `{}` | `{}` | {} | {} |", row.path, row.default, row.may_be, row.what)?;
    }
    Ok(page)
}

/// One value.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    path: String,
    default: String,
    may_be: String,
    what: String,
}

/// The values in their order. The file is ours: two spaces a level, and a comment above each value.
fn rows(values: &str, schema: &Value) -> Result<Vec<Row>> {
    let mut reader = Reader::default();
    for line in values.lines() {
        reader.line(line, schema).with_context(|| format!("values.yaml: {line}"))?;
    }
    for row in &mut reader.rows {
        row.default = inline(&row.default);
    }
    Ok(reader.rows)
}

#[derive(Default)]
struct Reader<'a> {
    rows: Vec<Row>,
    /// The keys that the line is beneath.
    above: Vec<&'a str>,
    comment: String,
    /// How deep the value stands whose default goes on in the lines beneath it.
    inside: Option<usize>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str, schema: &Value) -> Result<()> {
        let text = line.trim();
        let depth = (line.len() - line.trim_start().len()) / 2;
        if self.inside.is_some_and(|value| !text.is_empty() && depth > value) {
            let row = self.rows.last_mut().context("a default of nothing")?;
            row.default = joined(&row.default, "\n", text);
            return Ok(());
        }
        self.inside = None;
        if let Some(more) = text.strip_prefix("# ") {
            self.comment = joined(&self.comment, " ", more);
            return Ok(());
        }
        let comment = std::mem::take(&mut self.comment);
        if text.is_empty() { Ok(()) } else { self.value(text, depth, comment, schema) }
    }

    fn value(&mut self, text: &'a str, depth: usize, what: String, schema: &Value) -> Result<()> {
        let (key, rest) = text.split_once(':').context("not a value")?;
        self.above.truncate(depth);
        self.above.push(key);
        let path = self.above.join(".");
        let of = find(schema, &self.above).with_context(|| format!("{path} is not in the schema"))?;
        if of["properties"].is_null() {
            if what.is_empty() {
                bail!("{path} has no comment");
            }
            self.inside = Some(depth);
            self.rows.push(Row { path, default: rest.trim().to_owned(), may_be: may_be(of), what });
        }
        Ok(())
    }
}

fn joined(before: &str, between: &str, more: &str) -> String {
    if before.is_empty() { more.to_owned() } else { [before, more].join(between) }
}

/// A default in one line.
fn inline(default: &str) -> String {
    let lines: Vec<&str> = default.lines().collect();
    match lines[..] {
        [] => String::new(),
        [one] if !one.starts_with("- ") => one.to_owned(),
        [first, ..] if first.starts_with("- ") => {
            let items: Vec<String> =
                lines.iter().map(|l| format!("{{{}}}", l.trim_start_matches("- "))).collect();
            format!("[{}]", items.join(", "))
        }
        _ => format!("{{{}}}", lines.join(", ")),
    }
}

/// The schema of a value.
fn find<'a>(root: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut at = root;
    for key in path {
        at = resolved(root, at.get("properties")?.get(key)?)?;
    }
    Some(at)
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    match schema["$ref"].as_str() {
        Some(name) => root.get("$defs")?.get(name.strip_prefix("#/$defs/")?),
        None => Some(schema),
    }
}

fn may_be(schema: &Value) -> String {
    match schema["enum"].as_array() {
        Some(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        None => schema["type"].as_str().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_is_generated() {
        let committed = fs::read_to_string(file("README.md")).unwrap_or_default();
        assert!(page().unwrap() == committed, "run `cargo xtask crds`");
    }

    #[test]
    fn every_value_of_the_schema_is_in_the_readme() {
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(file("values.schema.json")).unwrap()).unwrap();
        let page = page().unwrap();
        let mut open = vec![(String::new(), &schema)];
        while let Some((path, at)) = open.pop() {
            let at = resolved(&schema, at).unwrap();
            let named = at["properties"].as_object().into_iter().flatten();
            // Helm's own, for every chart.
            let inner: Vec<_> = named.filter(|(name, _)| *name != "global").collect();
            assert!(
                !inner.is_empty() || page.contains(&format!("| `{}` |", path.trim_start_matches('.'))),
                "{path}"
            );
            open.extend(inner.into_iter().map(|(name, schema)| (format!("{path}.{name}"), schema)));
        }
    }

    #[test]
    fn comments_and_defaults_become_rows() {
        let schema = serde_json::json!({"properties": {
            "a": {"properties": {"b": {"$ref": "#/$defs/list"}, "c": {"enum": ["X", "Y"]}}}}, "$defs": {"list": {"type": "array"}}});
        let values = "# The file.\n\na:\n  # Two\n  # lines.\n  b:\n    - k: v\n  # One.\n  c: X\n";
        let row = |path: &str, default: &str, may_be: &str, what: &str| Row {
            path: path.into(),
            default: default.into(),
            may_be: may_be.into(),
            what: what.into(),
        };
        let expected = [row("a.b", "[{k: v}]", "array", "Two lines."), row("a.c", "X", "X, Y", "One.")];
        assert_eq!(rows(values, &schema).unwrap(), expected);
        assert!(rows("a:\n  c: X\n", &schema).is_err() && rows("# No.\nz: 1\n", &schema).is_err());
    }
}
