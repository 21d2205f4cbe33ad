//! Shares and bridges that the documentation shows, as an API server sees them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::{CHART, Rendered, ask, programs};
use crate::paths;

const FIRST: &str = "apiVersion: lustre-bridge.io/v1alpha1";

/// Every one must be taken as it stands.
pub(super) fn judge(rendered: &Rendered) -> Result<()> {
    let mut all = Vec::new();
    for page in pages()? {
        all.extend(objects(&fs::read_to_string(page)?));
    }
    if all.len() < 5 {
        bail!("the documentation shows only {} objects: they are not found any more", all.len());
    }
    let file = rendered.dir.path().join("documentation.yaml");
    fs::write(&file, all.join("---\n"))?;
    ask(Command::new(programs::crd_check()?).args(["judge", "crds/yaml"]).arg(file))
}

fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = vec![paths::repo().join(CHART).join("templates/NOTES.txt")];
    for entry in fs::read_dir(paths::repo().join("docs"))? {
        pages.push(entry?.path());
    }
    Ok(pages)
}

/// The objects in a page: from their first line to an empty one, or the end of what the shell is given.
fn objects(page: &str) -> Vec<String> {
    let lines: Vec<&str> = page.lines().collect();
    let begins = lines.iter().enumerate().filter(|(_, line)| line.trim() == FIRST);
    begins
        .map(|(at, line)| {
            let indent = line.len() - line.trim_start().len();
            let ends = |line: &&&str| line.trim().is_empty() || ["EOF", "---"].contains(&line.trim());
            let object = lines[at..].iter().take_while(|line| !ends(line));
            object.flat_map(|line| [line.get(indent..).unwrap_or_default(), "\n"]).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_cut_out_of_pages() {
        let page = format!(
            "text\n\n    {FIRST}\n    kind: A\n    spec:\n      b: 1\n\n    kubectl\n  {FIRST}\n  kind: B\n  EOF\n"
        );
        assert_eq!(
            objects(&page),
            [format!("{FIRST}\nkind: A\nspec:\n  b: 1\n"), format!("{FIRST}\nkind: B\n")]
        );
    }
}
