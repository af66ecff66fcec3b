//! The page and the board in a real browser, driven by playwright-core.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::browser::Browser;
use crate::{PATIENCE, node, repository};

/// The versions of the browser's driver, and of the check for accessibility.
const PACKAGES: &str = "playwright-core@1.65.1 axe-core@4.14.1";

/// A running scenario.
pub struct Scenario {
    child: Child,
    questions: Lines<BufReader<ChildStdout>>,
    answers: ChildStdin,
}

impl Scenario {
    /// Starts a scenario of a file in `tests/support/page/` with these settings. `None`, with a message, if Node or
    /// Chromium is not installed.
    pub fn begin(file: &str, name: &str, settings: &Value) -> Option<Self> {
        let browser = Browser::find()?;
        let packages = node::package("page-node", PACKAGES)?;
        let mut settings = settings.clone();
        settings["chromium"] = json!(browser.program());
        // A developer sees the page in all its states with a folder here.
        settings["shots"] = json!(std::env::var("UTTERA_SCREENSHOTS").ok());
        let mut child = Command::new("node")
            .arg(repository().join("tests/support/page").join(file))
            .arg(name)
            .arg(settings.to_string())
            .current_dir(packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node starts");
        let questions = BufReader::new(child.stdout.take().expect("piped")).lines();
        let answers = child.stdin.take().expect("piped");
        Some(Self {
            child,
            questions,
            answers,
        })
    }

    /// What the scenario asks of the test next; `None` when it has ended.
    ///
    /// # Panics
    /// The scenario failed.
    pub async fn next(&mut self) -> Option<String> {
        let question = tokio::time::timeout(2 * PATIENCE, self.next_question()).await;
        question.expect("the scenario goes on")
    }

    async fn next_question(&mut self) -> Option<String> {
        while let Some(line) = self.questions.next_line().await.expect("a line") {
            match line.strip_prefix("ask ") {
                Some(question) => return Some(question.to_owned()),
                None => println!("{line}"),
            }
        }
        let mut errors = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut errors).await.expect("UTF-8");
        }
        let status = self.child.wait().await.expect("it ends");
        assert!(status.success(), "{errors}");
        None
    }

    /// Says that it is done.
    pub async fn answer(&mut self) {
        self.answers.write_all(b"done\n").await.expect("writes");
    }
}
