//! The rooms of the code and the arrows between them: this test reads the paths in the sources, prints which
//! room uses which, and fails when an arrow points the wrong way.
//!
//! `cargo test -p stt-actors --test rooms -- --nocapture` prints the list. A room is a folder or a file
//! directly under `src`. Tests are exempt: they may use every room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that every other room may use, and what they use themselves.
const FOUNDATION: [(&str, &[&str]); 4] = [
    ("domain", &[]),
    ("ports", &["domain"]),
    ("task", &[]),
    ("metrics", &["domain"]),
];

/// The rooms of this crate above the foundation, and the rooms that each may use besides it.
const ARROWS: [(&str, &[&str]); 13] = [
    ("status", &[]),
    ("text", &[]),
    ("translation", &[]),
    ("queue", &["status"]),
    ("registrar", &["status"]),
    ("lane", &["queue", "status"]),
    ("pool", &["lane", "queue", "status"]),
    ("fallback", &["lane", "pool", "queue", "status", "text"]),
    ("request", &["fallback", "queue", "status", "text"]),
    ("live", &["request", "status"]),
    ("config", &["fallback", "lane", "live", "pool"]),
    (
        "supervisor",
        &[
            "config",
            "fallback",
            "lane",
            "live",
            "pool",
            "queue",
            "registrar",
            "request",
            "status",
            "text",
            "translation",
        ],
    ),
    (
        "handle",
        &["config", "live", "request", "status", "supervisor"],
    ),
];

/// The only rooms of the server that may use its HTTP side: they put it together.
const USERS_OF_HTTP: [&str; 2] = ["cli", "serve"];

/// Rooms of the server that stand on their own: what each of them may use of the others.
const SERVER_ARROWS: [(&str, &[&str]); 3] = [
    ("audio", &["priority"]),
    ("engine", &["host_memory", "priority"]),
    ("models", &["engine", "settings", "tls"]),
];

type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_arrow_between_the_rooms_of_this_crate_points_the_wrong_way() {
    let arrows = arrows(&source("src"));
    print_rooms("stt-actors", &arrows);
    let allowed = allowed();
    for (room, used) in &arrows {
        let may = allowed.get(room.as_str());
        let may = may.unwrap_or_else(|| panic!("the room {room} is not in the list of this test"));
        for other in used {
            assert!(
                may.contains(other.as_str()),
                "{room} must not use {other}; it may use {may:?}"
            );
        }
    }
    let unknown: Vec<_> = (allowed.keys())
        .filter(|room| !arrows.contains_key(**room))
        .collect();
    assert!(unknown.is_empty(), "rooms without sources: {unknown:?}");
    assert_eq!(circle(&arrows), None);
}

#[test]
fn the_list_of_arrows_itself_has_no_circle() {
    let owned = |rooms: &BTreeSet<&str>| rooms.iter().map(|room| (*room).to_owned()).collect();
    let listed = allowed();
    let listed: Arrows = (listed.iter())
        .map(|(room, used)| ((*room).to_owned(), owned(used)))
        .collect();
    assert_eq!(circle(&listed), None);
}

#[test]
fn only_what_puts_the_server_together_uses_its_http_side() {
    let arrows = arrows(&source("../src"));
    print_rooms("uttera-stt", &arrows);
    for (room, used) in &arrows {
        let is_http = used.contains("http");
        assert!(
            !is_http || USERS_OF_HTTP.contains(&room.as_str()),
            "{room} must not use http"
        );
    }
    for (room, may) in SERVER_ARROWS {
        let used = &arrows[room];
        let wrong: Vec<_> = used.iter().filter(|o| !may.contains(&o.as_str())).collect();
        assert!(wrong.is_empty(), "{room} must not use {wrong:?}");
    }
}

#[test]
fn http_and_the_tools_do_not_know_each_other() {
    let tools = source("../tools/src");
    let http = source("../src/http");
    for (root, foreign) in [
        (&http, &["uttera_stt_tools"][..]),
        (&tools, &["uttera_stt", "stt_actors"][..]),
    ] {
        for file in rust_files(root) {
            let code = without_tests(&without_comments(&read(&file)));
            for name in foreign {
                let used = words(&code).any(|word| word == *name);
                assert!(!used, "{} uses {name}", file.display());
            }
        }
    }
    let manifest = read(&source("../tools/Cargo.toml"));
    for line in manifest.lines().map(str::trim_start) {
        for name in ["uttera-stt", "stt-actors"] {
            let rest = line.strip_prefix(name).unwrap_or("-");
            assert!(
                rest.starts_with('-') || rest.starts_with(|c: char| c.is_alphanumeric()),
                "tools depends on {name}: {line}"
            );
        }
    }
}

#[test]
fn the_parser_finds_paths_and_skips_comments_strings_and_tests() {
    let code = r##"
        //! See [`crate::comment`].
        use crate::alpha::One;
        pub use crate::{beta::{self, Two}, gamma::Three as Four};
        use super::super::delta::Five;
        /* crate::block /* crate::nested */ */
        fn f() -> char {
            let text = "crate::text \" // crate::escaped";
            let raw = r#"crate::raw "quoted" "#;
            crate::epsilon::g(text, raw);
            '"'
        }
        fn g<'a>(x: &'a str) -> &'a str { super::same::h(x) }
        #[cfg(test)]
        mod tests {
            use crate::omitted::Six;
            fn brace() -> char { '}' }
        }
        #[cfg(test)]
        use crate::omitted_too::Seven;
        fn h() { crate::zeta::i(); }
    "##;
    let code = without_tests(&without_comments(code));
    let found = used_rooms(&code, &["room", "file"]);
    let expected = ["alpha", "beta", "delta", "epsilon", "gamma", "zeta"];
    assert_eq!(found, expected.map(str::to_owned).into());
    // In a room's own `mod.rs`, one `super` is enough to leave the room.
    let found = used_rooms("use super::eta::Eight;", &["room"]);
    assert_eq!(found, ["eta".to_owned()].into());
}

#[test]
fn a_circle_is_found() {
    let arrow = |from: &str, to: &[&str]| {
        let to = to.iter().map(|room| (*room).to_owned()).collect();
        (from.to_owned(), to)
    };
    let straight: Arrows = [arrow("a", &["b", "c"]), arrow("b", &["c"])].into();
    assert_eq!(circle(&straight), None);
    let round: Arrows = [arrow("a", &["b"]), arrow("b", &["c"]), arrow("c", &["b"])].into();
    assert!(circle(&round).is_some());
}

fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let foundation = FOUNDATION.map(|(room, _)| room);
    let low = FOUNDATION.map(|(room, used)| (room, used.iter().copied().collect()));
    let high = ARROWS.map(|(room, used)| {
        let used = used.iter().copied().chain(foundation);
        (room, used.collect())
    });
    low.into_iter().chain(high).collect()
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn print_rooms(name: &str, arrows: &Arrows) {
    println!("{name}");
    for (room, used) in arrows {
        let used: Vec<_> = used.iter().map(String::as_str).collect();
        println!("  {room:<12} → {}", used.join(" "));
    }
}

/// The rooms under `root`, each with the other rooms that its code uses.
fn arrows(root: &Path) -> Arrows {
    let mut arrows = Arrows::new();
    for file in rust_files(root) {
        let module = module_path(root, &file);
        let Some(own) = module.first().cloned() else {
            continue;
        };
        let code = without_tests(&without_comments(&read(&file)));
        let module: Vec<&str> = module.iter().map(String::as_str).collect();
        let mut used = used_rooms(&code, &module);
        used.remove(&own);
        arrows.entry(own).or_default().extend(used);
    }
    assert!(!arrows.is_empty(), "no sources under {}", root.display());
    arrows
}

/// All source files but those of tests and the crate's roots.
fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let is_test = name == "tests" || name.ends_with("_tests");
            if is_test {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// `lane/idle.rs` is `[lane, idle]`, `lane/mod.rs` is `[lane]`; the crate's roots are empty.
fn module_path(root: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(root).expect("a file under the root");
    let path = relative.with_extension("");
    let mut parts: Vec<String> = (path.iter())
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

/// First names of all paths that leave the room: after `crate::`, and after enough `super::`.
fn used_rooms(code: &str, module: &[&str]) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let tight: String = code
        .split_whitespace()
        .fold(String::new(), |mut all, part| {
            // Words stay apart, and paths that are wrapped over lines grow together.
            if all.ends_with(is_word) && part.starts_with(is_word) {
                all.push(' ');
            }
            all.push_str(part);
            all
        });
    for (at, _) in tight.match_indices("crate::") {
        if !tight[..at].ends_with(is_word) {
            first_names(&tight[at + "crate::".len()..], &mut rooms);
        }
    }
    let leave = "super::".repeat(module.len());
    for (at, _) in tight.match_indices(&leave) {
        let before = &tight[..at];
        if !before.ends_with("super::") && !before.ends_with(is_word) {
            first_names(&tight[at + leave.len()..], &mut rooms);
        }
    }
    // Types and constants of the crate's root are no rooms.
    rooms.retain(|name| name.starts_with(char::is_lowercase) && name != "super");
    rooms
}

/// The first name of a path, or those of all paths of a group in braces.
fn first_names(path: &str, names: &mut BTreeSet<String>) {
    let Some(group) = path.strip_prefix('{') else {
        names.extend(words(path).next().map(str::to_owned));
        return;
    };
    let mut depth = 0;
    let mut expects_name = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => expects_name = true,
            _ if depth == 0 && expects_name => {
                names.extend(words(&group[at..]).next().map(str::to_owned));
                expects_name = false;
            }
            _ => {}
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// Code with comments, strings and character literals taken out.
fn without_comments(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let skipped = skip_comment(rest)
            .or_else(|| skip_raw_string(rest))
            .or_else(|| skip_string(rest))
            .or_else(|| skip_character(rest));
        if let Some(length) = skipped {
            out.push(' ');
            rest = &rest[length..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn skip_comment(code: &str) -> Option<usize> {
    if code.starts_with("//") {
        return Some(code.find('\n').unwrap_or(code.len()));
    }
    if !code.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < code.len() {
        let rest = &code[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(code.len())
}

fn skip_raw_string(code: &str) -> Option<usize> {
    let hashes = code.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    let text = hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let length = text.find(&end)?;
    Some(code.len() - text.len() + length + end.len())
}

fn skip_string(code: &str) -> Option<usize> {
    let text = code.strip_prefix('"')?;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !is_escaped => return Some(at + 2),
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    None
}

/// A character literal, not a lifetime.
fn skip_character(code: &str) -> Option<usize> {
    let text = code.strip_prefix('\'')?;
    let first = text.chars().next()?;
    let inner = if first == '\\' {
        1 + text[1..].chars().next()?.len_utf8() + text[2..].find('\'')?
    } else {
        first.len_utf8()
    };
    text[inner..].starts_with('\'').then_some(inner + 2)
}

/// Code without the items under `#[cfg(test)]`. Comments and strings are out already.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        rest = &rest[item_length(rest)..];
    }
    out + rest
}

/// Up to the semicolon that ends an item, or the brace that closes it.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    // `use a::{b};` ends with its semicolon.
                    let after = &code[at + 1..];
                    return at + 1 + usize::from(after.starts_with(';'));
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Rooms that cannot be put in an order because they use each other; `None` where there are none.
fn circle(arrows: &Arrows) -> Option<Vec<&str>> {
    let mut left: BTreeMap<&str, &BTreeSet<String>> = (arrows.iter())
        .map(|(room, used)| (room.as_str(), used))
        .collect();
    loop {
        let rooms: BTreeSet<&str> = left.keys().copied().collect();
        let before = left.len();
        left.retain(|_, used| used.iter().any(|other| rooms.contains(other.as_str())));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            return Some(left.into_keys().collect());
        }
    }
}
