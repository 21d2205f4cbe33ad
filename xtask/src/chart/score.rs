//! kube-score's words, beside those that are meant to be so (e2e/chart/kube-score.txt).

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Rendered, programs};
use crate::paths;

/// What it says of an object or container.
#[derive(Debug, PartialEq, Eq)]
struct Remark {
    said: String,
    /// `object` or `object/container`.
    of: String,
}

/// What is meant to be so.
#[derive(Debug)]
struct Exception<'a> {
    said: &'a str,
    of: Vec<&'a str>,
}

impl Exception<'_> {
    fn covers(&self, remark: &Remark) -> bool {
        self.said == remark.said && (self.of == ["*"] || self.of.contains(&remark.of.as_str()))
    }
}

/// Fails if it says something else than is known, or no longer something that is.
pub(super) fn judge(rendered: &Rendered) -> Result<()> {
    let mut cmd = Command::new(programs::kube_score()?);
    // It also ends with 1 where it has something to say.
    let out = cmd.args(["score", "--output-format=json"]).arg(&rendered.everything).output()?;
    let json = serde_json::from_slice(&out.stdout)
        .with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())?;
    let known = fs::read_to_string(paths::repo().join("e2e/chart/kube-score.txt"))?;
    let wrong = differences(&remarks(&json), &exceptions(&known)?);
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("\n")) }
}

fn differences(remarks: &[Remark], exceptions: &[Exception<'_>]) -> Vec<String> {
    let new = remarks.iter().filter(|remark| !exceptions.iter().any(|e| e.covers(remark)));
    let new = new.map(|remark| format!("{}: {}", remark.of, remark.said));
    let idle = exceptions.iter().filter(|e| !remarks.iter().any(|remark| e.covers(remark)));
    let idle = idle.map(|e| format!("no longer said, take it out: {} | {}", e.said, e.of.join(", ")));
    new.chain(idle).collect()
}

/// `SAID | WHERE, WHERE | WHY`
fn exceptions(text: &str) -> Result<Vec<Exception<'_>>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let parts: Vec<&str> = line.split('|').map(str::trim).collect();
            let [said, of, why] = parts[..] else { bail!("not `SAID | WHERE | WHY`: {line}") };
            if why.is_empty() {
                bail!("no reason: {line}");
            }
            Ok(Exception { said, of: of.split(',').map(str::trim).collect() })
        })
        .collect()
}

fn remarks(json: &Value) -> Vec<Remark> {
    let mut all = Vec::new();
    for object in json.as_array().into_iter().flatten() {
        let name = object["object_meta"]["name"].as_str().unwrap_or_default();
        for check in object["checks"].as_array().into_iter().flatten() {
            // 10 is all well, 7 nearly so.
            let well = check["skipped"] == true || check["grade"].as_u64().is_some_and(|grade| grade > 7);
            let comments = check["comments"].as_array().into_iter().flatten().filter(|_| !well);
            all.extend(comments.map(|comment| remark(name, comment)));
        }
    }
    all
}

fn remark(object: &str, comment: &Value) -> Remark {
    let container = comment["path"].as_str().filter(|path| !path.is_empty());
    let of = container.map_or_else(|| object.to_owned(), |container| format!("{object}/{container}"));
    Remark { said: comment["summary"].as_str().unwrap_or_default().to_owned(), of }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_and_what_is_no_longer_said_fails() {
        let check = |grade, comments| json!({"grade": grade, "skipped": false, "comments": comments});
        let said = json!([{"path": "c", "summary": "root"}, {"path": "", "summary": "new"}]);
        let json =
            json!([{"object_meta": {"name": "a"}, "checks": [check(1, said.clone()), check(10, said)]}]);
        let remarks = remarks(&json);
        assert_eq!(remarks.len(), 2);
        let known = exceptions("# why\nroot | a/c, b | it mounts\nold | * | was so\n").unwrap();
        assert_eq!(differences(&remarks, &known), ["a: new", "no longer said, take it out: old | *"]);
        assert!(exceptions("root | a").is_err() && exceptions("root | a |").is_err());
    }
}
