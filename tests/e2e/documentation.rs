//! The commands and programs of the documentation, run as a reader would run them.
//!
//! A block of code is run if the line before it is a comment `<!-- test: run -->`, which readers do not see. With
//! `<!-- test: run; prints WORDS -->`, its output must contain these words. Blocks in `sh`, `python` and `js` are run, in
//! the folder of the repository; the addresses of the documentation stand for servers of this test. The blocks of a page
//! share a home folder, which has what the pages assume. `systemctl` is replaced: it succeeds and does nothing.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use test_support::libretranslate::StandIn;
use test_support::{PATIENCE, Server, model, program, repository};
use tokio::process::Command;
use uttera_stt::settings::variables::VARIABLES;

/// This server's address in the documentation.
const SERVER: &str = "http://127.0.0.1:9005";
/// LibreTranslate's address in the documentation.
const LIBRETRANSLATE: &str = "http://127.0.0.1:5000";
const MARK: &str = "<!-- test: run";

/// Settings of the Python original.
const HOTCOLD: &str = "WHISPER_MODEL=medium  # tiny, base, small, medium, large
WHISPER_FP16=1
COLD_POOL_SIZE=10
MIN_COLD_VRAM_GB=4.0  # 0: no check
XDG_CACHE_HOME=assets/models
LIBRETRANSLATE_URL=
DEBUG=false
VENV_PYTHON=venv/bin/python
";
const UNIT: &str = ".config/systemd/user/uttera-stt.service";
const OLD_UNIT: &str = "[Service]\nExecStart=%h/uttera-stt-hotcold/venv/bin/uvicorn main_stt:app\n";

/// A block of code to run.
struct Block {
    page: PathBuf,
    /// The line of the mark, from 1.
    line: usize,
    language: String,
    code: String,
    /// Words that the output must contain.
    prints: Option<String>,
}

/// The marked blocks of a page. Blocks inside lists are indented.
fn blocks(page: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(page).expect("a page in UTF-8");
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    while let Some((index, line)) = lines.next() {
        let Some(mark) = line.trim_start().strip_prefix(MARK) else {
            continue;
        };
        let place = format!("{}:{}", page.display(), index + 1);
        let mark = mark.strip_suffix("-->").expect(&place).trim();
        let prints = mark.strip_prefix("; prints ").map(str::to_owned);
        assert!(prints.is_some() || mark.is_empty(), "{place}: {mark:?}");
        let indent = line.len() - line.trim_start().len();
        let (_, fence) = lines.next().expect(&place);
        let language = fence.trim_start().strip_prefix("```").expect(&place);
        let code = lines
            .by_ref()
            .map(|(_, line)| line.get(indent..).unwrap_or_default())
            .take_while(|line| !line.starts_with("```"))
            .fold(String::new(), |code, line| code + line + "\n");
        found.push(Block {
            page: page.to_owned(),
            line: index + 1,
            language: language.to_owned(),
            code,
            prints,
        });
    }
    found
}

/// The pages in `docs/` and in its folders.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The interpreters, with OpenAI's packages.
struct Interpreters {
    python: PathBuf,
    /// A folder in which Node finds the package; `None` without Node.
    node: Option<PathBuf>,
}

impl Interpreters {
    async fn get() -> Self {
        let get = || Self {
            python: test_support::python::openai(),
            node: test_support::node::openai(),
        };
        let got = tokio::task::spawn_blocking(get).await;
        got.expect("the packages can be had")
    }

    /// The command that runs a block. `None` if the interpreter is not installed.
    fn command(&self, block: &Block, code: &str, home: &Path) -> Option<Command> {
        let mut command;
        match block.language.as_str() {
            "sh" => {
                command = Command::new("bash");
                command.args(["-euo", "pipefail", "-c", code]);
            }
            "python" => {
                command = Command::new(&self.python);
                command.args(["-c", code]);
            }
            "js" => {
                // Node looks for packages beside the program.
                let packages = self.node.as_ref()?.join("node_modules");
                let folder = home.join(format!("line-{}", block.line));
                std::fs::create_dir(&folder).expect("makes");
                symlink(packages, folder.join("node_modules")).expect("links");
                let file = folder.join("block.mjs");
                std::fs::write(&file, code).expect("writes");
                command = Command::new("node");
                command.arg(file);
            }
            other => panic!("{}:{}: {other:?}", block.page.display(), block.line),
        }
        Some(command)
    }
}

/// A home folder with what the pages assume: the Python servers that their readers come from.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a folder");
    let file = |path: &str, text: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        std::fs::write(&path, text).expect("writes");
        path
    };
    file("uttera-stt-hotcold/.env", HOTCOLD);
    file(UNIT, OLD_UNIT);
    file(
        "workspace/skills/openai-whisper-api/scripts/transcribe.sh",
        "",
    );
    let systemctl = file("bin/systemctl", "#!/bin/sh\n");
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(systemctl, permissions).expect("sets");
    home
}

/// The search path with the home folder's programs and the program under test.
fn search_path(home: &Path) -> std::ffi::OsString {
    let built = program().parent().expect("a folder").to_owned();
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let folders = [home.join("bin"), built];
    let folders = folders.into_iter().chain(std::env::split_paths(&usual));
    std::env::join_paths(folders).expect("no colons")
}

/// Runs a block, and returns the reason if it does not do what the page says.
async fn failure(
    block: &Block,
    interpreters: &Interpreters,
    home: &Path,
    server: &str,
    libretranslate: &str,
) -> Option<String> {
    let code = block
        .code
        .replace(SERVER, server)
        .replace(LIBRETRANSLATE, libretranslate);
    let Some(mut command) = interpreters.command(block, &code, home) else {
        println!("skipped: a block in {}", block.language);
        return None;
    };
    for variable in VARIABLES {
        command.env_remove(variable.name);
    }
    for variable in ["WHISPER_API_URL", "WHISPER_API_KEY", "XDG_CONFIG_HOME"] {
        command.env_remove(variable);
    }
    let run = command
        .current_dir(repository())
        .env("HOME", home)
        .env("PATH", search_path(home))
        .env("TMPDIR", home)
        .env("OPENAI_BASE_URL", format!("{server}/v1"))
        .env("OPENAI_API_KEY", "unused")
        .kill_on_drop(true)
        .output();
    let Ok(output) = tokio::time::timeout(PATIENCE, run).await else {
        return Some("does not end".to_owned());
    };
    let output = output.expect("the interpreter starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let wanted = block.prints.as_deref().unwrap_or_default();
    let fine = output.status.success() && printed.contains(wanted);
    (!fine).then(|| {
        format!(
            "{}, expected {wanted:?}\n{printed}{complaints}",
            output.status
        )
    })
}

#[tokio::test]
async fn the_marked_blocks_of_the_documentation_do_what_it_says() {
    let base = model("base").await;
    let server = Server::ready(&base, &[]).await;
    // The page about LibreTranslate describes a server that uses it.
    let stand_in = StandIn::start().await;
    let libretranslate = stand_in.url();
    let settings = [("LIBRETRANSLATE_URL", libretranslate.as_str())];
    let translating = Server::ready(&base, &settings).await;
    let interpreters = Interpreters::get().await;
    let docs = repository().join("docs").canonicalize().expect("exists");
    let mut failures = Vec::new();
    let mut count = 0;
    for page in pages(&docs) {
        let home = home();
        let server = if page.ends_with("libretranslate.md") {
            &translating.url
        } else {
            &server.url
        };
        for block in blocks(&page) {
            count += 1;
            let run = failure(&block, &interpreters, home.path(), server, &libretranslate);
            if let Some(reason) = run.await {
                let page = block.page.display();
                failures.push(format!("{page}:{}: {reason}", block.line));
            }
        }
        // The page about the Python server ends with the way back.
        let unit = std::fs::read_to_string(home.path().join(UNIT)).unwrap_or_default();
        if page.ends_with("from-uttera-stt-hotcold.md") && unit != OLD_UNIT {
            failures.push(format!("{}: the old unit is not back", page.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > 0, "no page has a block to run");
}
