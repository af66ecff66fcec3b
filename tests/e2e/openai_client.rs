//! The server as OpenAI's own clients for Python and Node see it: types, errors, retries.

use std::path::{Path, PathBuf};

use serde_json::Value;
use test_support::libretranslate::{Behaviour, StandIn};
use test_support::tls::Authority;
use test_support::wer::assert_alike;
use test_support::{PATIENCE, Server, model, repository, sample, sample_text, words};
use tokio::process::Command;

const KEY: &str = "sesame";

/// The client, ready for checks.
struct Client {
    python: PathBuf,
    url: String,
    file: PathBuf,
}

impl Client {
    async fn of(server: &Server, file: &str) -> Self {
        let python = tokio::task::spawn_blocking(test_support::python::openai).await;
        Self {
            python: python.expect("the client can be had"),
            url: format!("{}/v1", server.url),
            file: sample(file),
        }
    }

    /// Runs one check of the script and returns its output.
    async fn check(&self, name: &str) -> Value {
        let script = repository().join("tests/support/openai_client.py");
        let run = Command::new(&self.python)
            .arg(script)
            .arg(name)
            .env("BASE_URL", &self.url)
            .env("API_KEY", KEY)
            .env("FILE", &self.file)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, run).await;
        let output = output.unwrap_or_else(|_| panic!("{name} does not end"));
        let output = output.expect("Python starts");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {complaints}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }
}

#[tokio::test]
async fn the_official_client_gets_its_own_types_and_errors() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", KEY)]).await;
    let client = Client::of(&server, "en-command.wav").await;
    for check in ["formats", "streaming", "words", "realtime"] {
        let text = client.check(check).await;
        let text = text.as_str().expect("a text");
        assert_eq!(
            words(text),
            words(&sample_text("en-command.wav")),
            "{check}"
        );
    }
    for check in ["ways_of_sending", "models", "errors", "request_ids"] {
        client.check(check).await;
    }
}

/// Runs one check of the Node client's script and returns its output; `None` without Node.
async fn node_check(
    url: &str,
    file: &str,
    name: &str,
    more: Option<(&str, &Path)>,
) -> Option<Value> {
    let folder = tokio::task::spawn_blocking(test_support::node::openai).await;
    let folder = folder.expect("the client can be had")?;
    let run = Command::new("node")
        .arg(repository().join("tests/support/openai_client.mjs"))
        .arg(name)
        .current_dir(folder)
        .env("BASE_URL", format!("{url}/v1"))
        .env("API_KEY", KEY)
        .env("FILE", sample(file))
        .envs(more)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("ends");
    let output = output.expect("Node starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {complaints}");
    Some(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

#[tokio::test]
async fn the_official_client_for_node_gets_formats_streams_and_errors() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", KEY)]).await;
    for check in ["formats", "streaming", "errors"] {
        let Some(told) = node_check(&server.url, "en-command.wav", check, None).await else {
            return;
        };
        if let Some(text) = told.as_str() {
            let said = words(&sample_text("en-command.wav"));
            assert_eq!(words(text), said, "{check}");
        }
    }
}

#[tokio::test]
async fn the_official_client_for_node_gets_realtime_events_over_tls() {
    let authority = Authority::new();
    let issued = authority.issue("server");
    let settings = [&issued.settings()[..], &[("API_KEYS", KEY)]].concat();
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let certificate = authority.certificate();
    let trusted = Some(("NODE_EXTRA_CA_CERTS", certificate.as_path()));
    let told = node_check(&server.url, "en-command.wav", "realtime", trusted).await;
    if let Some(text) = told {
        let text = text.as_str().expect("a text");
        assert_eq!(words(text), words(&sample_text("en-command.wav")));
    }
}

#[tokio::test]
async fn the_example_of_the_documentation_runs() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", KEY)]).await;
    let client = Client::of(&server, "en-sentence.wav").await;
    let repository = repository();
    let page = repository.join("docs/clients/openai-sdk.md");
    let page = std::fs::read_to_string(page).expect("is there");
    let example = page.split("```python\n").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    let run = Command::new(&client.python)
        .args(["-c", example])
        .current_dir(repository)
        .env("OPENAI_BASE_URL", &client.url)
        .env("OPENAI_API_KEY", KEY)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("ends");
    let output = output.expect("Python starts");
    let told = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let lines: Vec<&str> = told.lines().collect();
    let (first, rest) = lines.split_first().expect("a text");
    let (refused, rest) = rest.split_last().expect("an error");
    let (streamed, listed) = rest.split_last().expect("a stream");
    let said = sample_text("en-sentence.wav");
    assert_alike(first, &said);
    assert_alike(streamed, &said);
    let listed: Vec<&str> = listed
        .iter()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_alike(&listed.join(" "), &said);
    assert!(refused.starts_with("400 audio_decode_error "), "{refused}");
}

#[tokio::test]
async fn the_official_client_gets_translations() {
    let server = Server::ready(&model("base").await, &[("API_KEYS", KEY)]).await;
    let client = Client::of(&server, "es-sentence.wav").await;
    let text = client.check("translations").await;
    let english = words(text.as_str().expect("a text"));
    assert!(english.contains(&"music".to_owned()), "{english:?}");
}

#[tokio::test]
async fn the_official_client_retries_when_the_server_says() {
    // The model is added after the client was rejected once.
    let folder = tempfile::tempdir().expect("a folder");
    let late = folder.path().join("ggml-tiny.en.bin");
    let settings = [("API_KEYS", KEY), ("COLD_START_TIME_SECONDS", "1")];
    let server = Server::start(&late, &settings).await;
    let client = Client::of(&server, "en-command.wav").await;
    let check = tokio::spawn(async move { client.check("patience").await });
    server.log_line("status=503").await;
    std::os::unix::fs::symlink(model("tiny.en").await, &late).expect("links");
    let seen = check.await.expect("no panic");
    let text = seen["text"].as_str().expect("a text");
    assert_eq!(words(text), words(&sample_text("en-command.wav")));
    // It slept each time exactly as long as the server said.
    assert_eq!(seen["slept"], seen["told"], "{seen}");
    assert_ne!(seen["told"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn the_official_client_retries_temporary_errors_only() {
    let stand_in = StandIn::start().await;
    let url = stand_in.url();
    let settings = [("API_KEYS", KEY), ("LIBRETRANSLATE_URL", url.as_str())];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let client = Client::of(&server, "en-command.wav").await;
    stand_in.behave(Behaviour::SaysNo(400));
    client.check("retries").await;
    assert_eq!(stand_in.calls().await.len(), 1);
    stand_in.behave(Behaviour::BreaksDown);
    client.check("retries").await;
    assert_eq!(stand_in.calls().await.len(), 1 + 3);
}
