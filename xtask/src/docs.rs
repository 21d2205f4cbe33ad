//! The documentation leads somewhere, and quotes what is really said.

use std::fs;
use std::path::{Path, PathBuf};

use crate::paths;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// The files beneath `dir` whose names end so.
fn files(dir: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![paths::repo().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", &[".md"]);
    pages.extend(
        ["README.md", "ARCHITECTURE.md", "charts/lustre-bridge/README.md"].map(|p| paths::repo().join(p)),
    );
    pages
}

/// A heading's name in links, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

fn leads_somewhere(page: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
    let has =
        |text: &str| text.lines().any(|l| l.starts_with('#') && anchor(l.trim_start_matches('#')) == heading);
    target.exists() && (heading.is_empty() || has(&read(&target)))
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        for part in text.split("](").skip(1) {
            let link = part.split(')').next().unwrap();
            assert!(link.starts_with("http") || leads_somewhere(&page, link), "{}: {link}", page.display());
        }
    }
}

/// What is Kubernetes', helm's or the file system's to say.
const OF_OTHERS: [&str; 5] = [
    "driver name csi.lustre-bridge.io",
    "violates PodSecurity",
    "nil pointer",
    "insufficient quota",
    "Permission denied",
];

/// The parts of a message between what stands for names and numbers, but for those that could stand anywhere.
fn fragments(message: &str) -> Vec<String> {
    let stands_for = |word: &&str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '…');
        let of_names =
            !bare.is_empty() && bare.chars().all(|c| c.is_ascii_uppercase() || c == '/' || c == ':');
        of_names || word.contains('…') || word.starts_with('"') || bare.contains(":0")
    };
    let words: Vec<&str> = message.split(' ').collect();
    let runs = words.split(stands_for);
    runs.map(|run| run.join(" ")).filter(|run| run.split(' ').count() > 2).collect()
}

#[test]
fn what_is_quoted_is_said() {
    let mut said = String::new();
    for dir in ["operator/src", "csi-node/src", "crds/src", "charts/lustre-bridge/templates"] {
        for file in files(dir, &[".rs", ".tpl"]) {
            // A string goes on in the next line.
            let parts: Vec<_> = read(&file).split("\\\n").map(|p| p.trim_start().to_owned()).collect();
            said += &parts.concat();
        }
    }
    let (mut checked, mut unsaid) = (0, Vec::new());
    for row in
        read(&paths::repo().join("docs/troubleshooting.md")).lines().filter(|line| line.starts_with("| "))
    {
        let says = row.split(" | ").next().unwrap();
        let quoted =
            says.split('`').skip(1).step_by(2).filter(|text| !OF_OTHERS.iter().any(|o| text.contains(o)));
        let parts: Vec<String> = quoted.flat_map(fragments).collect();
        checked += parts.len();
        unsaid.extend(parts.into_iter().filter(|part| !said.contains(part)));
    }
    assert!(unsaid.is_empty(), "docs/troubleshooting.md quotes what nobody says: {unsaid:#?}");
    assert!(checked > 40, "{checked}");
}

#[test]
fn names_and_numbers_are_left_out_of_messages() {
    let parts = fragments("share \"S\": cannot open PATH: …; it has to be a mounted directory of N");
    assert_eq!(parts, ["it has to be a mounted directory of"]);
}
