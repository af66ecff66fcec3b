//! `uttera-stt smoke` from outside: against this server, with a wrong key, against servers with malformed or no
//! replies, and against none.

use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::escalation_pair::{COMMANDS, fallback, primary};
use test_support::{Server, model, program, sample};
use tokio::process::Command;
use wiremock::matchers::{any, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// Runs the command without a key, or with a key in the environment.
async fn smoke(arguments: &[&str], key: Option<&str>) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program());
    command
        .arg("smoke")
        .args(arguments)
        .env_remove("UTTERA_API_KEY")
        .envs(key.map(|key| ("UTTERA_API_KEY", key)))
        .current_dir(folder.path())
        .stdin(Stdio::null());
    command.output().await.expect("runs")
}

/// The results file of a run, the exit status, and the output.
async fn results(arguments: &[&str], key: Option<&str>) -> (Value, Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("results.json");
    let kept = ["--json", file.to_str().expect("UTF-8")];
    let output = smoke(&[&kept, arguments].concat(), key).await;
    let json = std::fs::read(&file).unwrap_or_else(|_| panic!("{output:?}"));
    let json = serde_json::from_slice(&json).expect("JSON");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (json, output.status.code(), printed)
}

/// The check of this name, for OpenAI's endpoint or for the server.
fn check<'a>(results: &'a Value, name: &str) -> &'a Value {
    let mut checks = results["checks"].as_array().expect("checks").iter();
    let found = checks.find(|check| check["check"] == name && check["endpoint"] != "transcribe");
    found.unwrap_or_else(|| panic!("no {name} in {results:#}"))
}

fn why<'a>(results: &'a Value, name: &str) -> &'a str {
    let found = check(results, name);
    assert_eq!(found["outcome"], "fail", "{found}");
    found["why"].as_str().expect("a reason")
}

#[tokio::test]
async fn this_server_passes_and_its_transcripts_are_shown() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    let (results, status, printed) = results(&[&server.url], Some("secret")).await;
    assert_eq!(
        (status, &results["failed"]),
        (Some(0), &json!(0)),
        "{printed}"
    );
    assert_eq!(results["model"], "tiny.en");
    let checks = [
        ("health", "status ok"),
        ("metrics", " series"),
        ("language forced", "train to the city"),
        ("language detected", "train to the city"),
        ("short", "kitchen light"),
        ("long", "kitchen light"),
    ];
    for (name, heard) in checks {
        let found = check(&results, name);
        assert_eq!(found["outcome"], "pass", "{found}");
        let told = found["heard"].as_str().expect("a text");
        assert!(told.contains(heard), "{name}: {told}");
        let line = |line: &&str| line.starts_with("pass") && line.contains(name);
        assert!(printed.lines().find(line).is_some(), "{name} in {printed}");
        if found["endpoint"].is_null() {
            continue;
        }
        // The same at the endpoint of escalation.
        let begin = format!("pass  /v1/transcribe {name}  ");
        let line = printed.lines().find(|line| line.starts_with(&begin));
        let line = line.unwrap_or_else(|| panic!("{begin} in {printed}"));
        assert!(line.contains(" s  \""), "{line}");
        let mut checks = results["checks"].as_array().expect("checks").iter();
        let found =
            checks.find(|found| found["endpoint"] == "transcribe" && found["check"] == name);
        let told = found.and_then(|found| found["heard"].as_str());
        assert!(told.is_some_and(|told| told.contains(heard)), "{found:?}");
    }
    let line = "fallback: asked for 0 of 8 transcripts (0 %), 0 failed";
    assert!(printed.contains(line), "{printed}");
    assert!(!printed.contains("secret"), "{printed}");
}

#[tokio::test]
async fn the_share_of_escalated_requests_is_shown() {
    let fallback_node = fallback(&[]).await;
    let primary_node = primary(&fallback_node, &COMMANDS).await;
    let files = ["en-command.wav", "en-sentence.wav"].map(sample);
    let [command, sentence] = [&files[0], &files[1]].map(|file| file.to_str().expect("UTF-8"));
    let arguments = [&primary_node.url, "--file", command, "--file", sentence];
    let (told, status, printed) = results(&arguments, None).await;
    assert_eq!(status, Some(0), "{printed}");
    // One of two requests, on both endpoints.
    let expected = json!({"told": 4, "used": 2, "failed": 0});
    assert_eq!(told["fallback"], expected, "{printed}");
    let line = "fallback: asked for 2 of 4 transcripts (50 %), 0 failed";
    assert!(printed.contains(line), "{printed}");
    // Where it is away, one endpoint has the primary's text and the other an error.
    drop(fallback_node);
    let arguments = [&primary_node.url, "--file", command];
    let (told, status, printed) = results(&arguments, None).await;
    assert_eq!(status, Some(1), "{printed}");
    let expected = json!({"told": 1, "used": 0, "failed": 1});
    assert_eq!(told["fallback"], expected, "{printed}");
    let line = |line: &str| line.starts_with("fail  /v1/transcribe ") && line.contains("502");
    assert!(printed.lines().any(line), "{printed}");
}

#[tokio::test]
async fn the_users_files_replace_the_samples() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let (command, note) = (sample("en-command.wav"), sample("en-sentence.wav"));
    let files = [
        command.to_str().expect("UTF-8"),
        note.to_str().expect("UTF-8"),
    ];
    let arguments = [
        &server.url,
        "--file",
        files[0],
        "--file",
        files[1],
        "--language",
        "en",
    ];
    let (results, status, printed) = results(&arguments, None).await;
    assert_eq!(status, Some(0), "{printed}");
    for name in [
        "en-command.wav, language forced",
        "en-command.wav, language detected",
        "en-sentence.wav, language forced",
        "en-sentence.wav, language detected",
    ] {
        assert_eq!(check(&results, name)["outcome"], "pass", "{printed}");
    }
    let output = smoke(&[&server.url, "--file", "/nowhere/a.wav"], None).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/a.wav"));
}

#[tokio::test]
async fn a_wrong_key_is_reported_as_such() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    let (results, status, printed) = results(&[&server.url], Some("not-it")).await;
    assert_eq!(status, Some(1));
    assert_eq!(check(&results, "health")["outcome"], "pass");
    for name in ["language forced", "language detected", "short", "long"] {
        let why = why(&results, name);
        assert!(
            why.starts_with("401") && why.ends_with("is the key right (UTTERA_API_KEY)?"),
            "{why}"
        );
    }
    assert!(!printed.contains("not-it"), "{printed}");
}

#[tokio::test]
async fn each_malformed_reply_is_reported_on_one_line() {
    let server = MockServer::start().await;
    let page = "<html>\n\x1b[2J<h1>It works!</h1></html>";
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200).set_body_raw(page, "text/html"))
        .mount(&server)
        .await;
    let (results, status, printed) = results(&[&server.uri()], None).await;
    assert_eq!(
        (status, &results["passed"]),
        (Some(1), &json!(0)),
        "{printed}"
    );
    assert!(why(&results, "health").contains("content type \"text/html\""));
    assert!(why(&results, "metrics").contains("a line without a value"));
    assert!(why(&results, "short").contains("the body is not JSON: <html>"));
    assert!(!printed.contains('\x1b'), "{printed}");
    let lines = printed.lines().filter(|line| line.starts_with("fail  "));
    assert_eq!(json!(lines.count()), results["failed"]);
}

#[tokio::test]
async fn another_text_and_another_language_fail() {
    let server = MockServer::start().await;
    let answer = json!({"text": "Thanks for watching!", "language": "welsh"});
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(200).set_body_json(answer))
        .mount(&server)
        .await;
    let (of_samples, status, _) = results(&[&server.uri()], None).await;
    assert_eq!(status, Some(1));
    assert!(why(&of_samples, "short").contains("\"Thanks for watching!\" is not what is said"));
    let file = sample("en-command.wav");
    let file = file.to_str().expect("UTF-8");
    let (of_files, _, _) =
        results(&[&server.uri(), "--file", file, "--language", "en"], None).await;
    let why = why(&of_files, "en-command.wav, language forced");
    assert_eq!(why, "the reported language is \"welsh\" instead of \"en\"");
}

#[tokio::test]
async fn a_primary_is_asked_at_both_endpoints_and_its_fallback_counted() {
    let server = MockServer::start().await;
    let answer = |used: &str| {
        let answer = json!({"text": "words", "language": "en"});
        let answer = ResponseTemplate::new(200).set_body_json(answer);
        answer.insert_header("X-Fallback-Used", used)
    };
    for (asked, used) in [
        ("/v1/audio/transcriptions", "false"),
        ("/v1/transcribe", "true"),
    ] {
        for (method_is, response) in [("POST", answer(used)), ("GET", ResponseTemplate::new(405))] {
            Mock::given(method(method_is))
                .and(path(asked))
                .respond_with(response)
                .mount(&server)
                .await;
        }
    }
    Mock::given(path("/v1/health"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"ok": true})))
        .mount(&server)
        .await;
    let file = sample("en-command.wav");
    let arguments = [&server.uri(), "--file", file.to_str().expect("UTF-8")];
    let (results, status, printed) = results(&arguments, None).await;
    assert_eq!(status, Some(0), "{printed}");
    assert_eq!(check(&results, "health")["heard"], "ok true");
    assert_eq!(check(&results, "metrics")["outcome"], "skip");
    assert_eq!(
        results["fallback"],
        json!({"told": 2, "used": 1, "failed": 0})
    );
    assert!(
        printed.contains("fallback: asked for 1 of 2 transcripts (50 %)"),
        "{printed}"
    );
    let requests = server.received_requests().await.expect("recorded");
    let bodies = requests
        .iter()
        .filter(|request| request.url.path() == "/v1/transcribe");
    let bodies = bodies.map(|request| String::from_utf8_lossy(&request.body).into_owned());
    assert!(
        bodies
            .into_iter()
            .any(|body| body.contains("name=\"audio\"; filename=\"en-command.wav\""))
    );
}

#[tokio::test]
async fn a_server_that_never_answers_ends_no_run() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(200).set_delay(Duration::from_secs(3600)))
        .mount(&server)
        .await;
    let (results, status, printed) = results(&[&server.uri(), "--limit-seconds", "1"], None).await;
    assert_eq!(status, Some(1), "{printed}");
    assert_eq!(why(&results, "language forced"), "no answer within 1 s");
    assert!(why(&results, "long").starts_with("not tried: 3 checks"));
}

#[tokio::test]
async fn an_unreachable_server_is_exit_status_2() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    for url in [format!("http://{address}"), "nonsense".to_owned()] {
        let output = smoke(&[&url], None).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}
