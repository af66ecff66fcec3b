//! The documentation names only files and headings that exist, and its index leads to every page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the repository. A path in backticks that begins with one of them must exist.
const FOLDERS: [&str; 14] = [
    ".cargo", ".config", "actors", "client", "config", "deploy", "docs", "examples", "samples",
    "scripts", "src", "systemd", "tests", "tools",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// The pages in a folder and in its folders, without build outputs, installed packages and hidden folders.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("a name in UTF-8");
        if name.starts_with('.') || matches!(name, "target" | "node_modules") {
            continue;
        }
        if path.is_dir() {
            found.extend(pages(&path));
        } else if is_page(&path) {
            found.push(path);
        }
    }
    found
}

fn all_pages() -> Vec<PathBuf> {
    pages(repository())
}

/// The page without its blocks of code.
fn prose(text: &str) -> String {
    let outside = text
        .split("```")
        .enumerate()
        .filter(|(part, _)| part % 2 == 0);
    outside.map(|(_, prose)| prose).collect()
}

/// The targets of `[text](target)` that are within the repository.
fn links(prose: &str) -> Vec<&str> {
    let targets = prose.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.starts_with("http"))
        .collect()
}

/// The paths in backticks; of a command such as `scripts/build --cpu any`, its first word.
fn paths(prose: &str) -> Vec<&str> {
    let code = prose.split('`').skip(1).step_by(2);
    let words = code.filter_map(|code| code.split_whitespace().next());
    words
        .map(|word| word.trim_start_matches("./"))
        .filter(|word| {
            word.split_once('/')
                .is_some_and(|(folder, _)| FOLDERS.contains(&folder))
        })
        .filter(|word| !word.contains(['*', '{', '…']))
        .collect()
}

/// The anchor of a heading, as GitHub derives it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.trim().replace(' ', "-")
}

fn has_heading(page: &str, wanted: &str) -> bool {
    prose(page)
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .any(|heading| anchor(heading.trim_start_matches('#')) == wanted)
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let mut broken = Vec::new();
    for page in all_pages() {
        let text = read(&page);
        for link in links(&prose(&text)) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            let found =
                target.exists() && (heading.is_empty() || has_heading(&read(&target), heading));
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_path_in_the_documentation_exists() {
    let mut missing = Vec::new();
    for page in all_pages() {
        let text = prose(&read(&page));
        for path in paths(&text) {
            if !repository().join(path).exists() {
                missing.push(format!("{}: {path}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
}

#[test]
fn the_index_leads_to_every_page() {
    let docs = repository().join("docs").canonicalize().expect("exists");
    let mut reached = BTreeSet::new();
    let mut next = vec![docs.join("README.md")];
    while let Some(page) = next.pop() {
        let page = page.canonicalize().expect("a page that exists");
        let folder = page.parent().expect("a folder");
        // From other pages than those in docs/, links lead everywhere.
        if folder.starts_with(&docs) && reached.insert(page.clone()) {
            let text = prose(&read(&page));
            let files = links(&text).into_iter().filter_map(|link| {
                let file = link.split('#').next().expect("a first part");
                is_page(Path::new(file)).then(|| folder.join(file))
            });
            next.extend(files.filter(|file| file.exists()));
        }
    }
    for page in pages(&docs) {
        let page = page.canonicalize().expect("a page that exists");
        assert!(
            reached.contains(&page),
            "no links lead from docs/README.md to {}",
            page.display()
        );
    }
}
