//! `/openapi.json` against the running server: schemathesis makes requests from the document and checks that it
//! allows each reply.

use std::path::PathBuf;
use std::process::Command;

use reqwest::Method;
use serde_json::Value;
use test_support::{Server, model, repository, sample};

const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// The checks for every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Runs a command, and panics with its messages when it fails.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}{complaints}");
    told
}

/// Schemathesis, in its own environment, which is kept between runs.
fn schemathesis() -> PathBuf {
    let venv = repository().join("target/schemathesis-venv");
    let ready = venv.join(".ready");
    if std::fs::read_to_string(&ready).ok().as_deref() != Some(SCHEMATHESIS) {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv));
        run(Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--only-binary=:all:"])
            .arg(SCHEMATHESIS));
        std::fs::write(ready, SCHEMATHESIS).expect("writes");
    }
    venv.join("bin/schemathesis")
}

#[tokio::test]
async fn no_answer_is_one_that_the_document_does_not_know() {
    // Most uploads are the same recording: it is transcribed once for each set of fields.
    let settings = [("RESULT_CACHE_SECONDS", "600")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let url = format!("{}/openapi.json", server.url);
    let speech = sample("en-command.wav");
    let folder = server.folder().to_owned();
    let hooks = repository().join("tests/support");
    let told = tokio::task::spawn_blocking(move || {
        run(Command::new(schemathesis())
            .args(["run", &url, "--checks", CHECKS, "--seed", "6"])
            .args(["--max-examples", "10", "--request-timeout", "60"])
            .args(["--phases", "coverage,fuzzing", "--no-color"])
            // It has no end.
            .args(["--exclude-path", "/v1/status/events"])
            // It ends the server.
            .args(["--exclude-path", "/admin/drain"])
            .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
            .env("PYTHONPATH", hooks)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SPEECH", speech)
            .current_dir(folder))
    });
    let told = told.await.expect("ends");
    assert!(!told.contains("nresolvable"), "{told}");
    // Some requests were valid, so their answers were checked as well.
    let done = "uttera_stt_requests_total{endpoint=\"/v1/audio/transcriptions\",method=\"POST\",status=\"200\"}";
    assert!(server.metric(done).await > 0.0, "{told}");
}

#[tokio::test]
async fn a_path_takes_the_methods_of_the_document_and_no_other() {
    let server = Server::start(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    let document: Value = (server.get("/openapi.json").await.json().await).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    for (path, item) in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let documented = item.get(method.to_lowercase()).is_some();
            if path == "/admin/drain" && documented {
                // It ends the server.
                continue;
            }
            let url = format!("{}{}", server.url, path.replace(['{', '}'], ""));
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let request = server.client.request(method.clone(), url);
            let response = request.bearer_auth("secret").send().await.expect("answers");
            let taken = response.status() != 405;
            assert_eq!(taken, documented, "{method} {path}: {}", response.status());
        }
    }
    let bearer = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!(bearer["scheme"], "bearer");
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_there_without_a_key() {
    let server = Server::start(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    let response = server.get("/docs").await;
    assert_eq!(response.status(), 200);
    let page = response.text().await.expect("a body");
    assert!(!page.contains("://"), "{page}");
    let attributes = page
        .split(['"'])
        .filter(|text| text.starts_with("docs/") || *text == "openapi.json");
    let assets: Vec<&str> = attributes.collect();
    assert_eq!(assets.len(), 3, "{assets:?}");
    for asset in assets {
        let response = server.get(&format!("/{asset}")).await;
        assert_eq!(response.status(), 200, "{asset}");
        assert!(
            response.bytes().await.expect("a body").len() > 1000,
            "{asset}"
        );
    }
    assert_eq!(server.get("/docs/index.html").await.status(), 404);
}
