//! Draining: over HTTP and by a signal, with and without time for routers.

use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Response};
use serde_json::Value;
use test_support::http::{client_builder, form};
use test_support::processes::signal;
use test_support::tls::other_address;
use test_support::{Server, model, sample};
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::task::JoinHandle;

const PATH: &str = "/admin/drain";

/// Asks the server to drain, with these headers.
async fn drain(server: &Server, headers: &[(&str, &str)]) -> Response {
    let mut request = server.client.post(format!("{}{PATH}", server.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

async fn body(response: Response) -> Value {
    response.json().await.expect("JSON")
}

#[tokio::test]
async fn a_client_drains_the_server_and_neither_a_second_one_nor_one_signal_cuts_it_short() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let request = server.start_long_request().await;
    let response = drain(&server, &[]).await;
    assert_eq!(response.status(), 202);
    let told = body(response).await;
    assert_eq!(told["status"], "draining");
    assert_eq!(
        (&told["requests"], &told["live_sessions"]),
        (&1.into(), &0.into())
    );
    let within_grace = |told: &Value| {
        let left = told["cancels_in_seconds"].as_f64().expect("a number");
        (0.1..=3600.0).contains(&left)
    };
    assert!(within_grace(&told), "{told}");
    assert_eq!(drain(&server, &[]).await.status(), 202);
    // As a service manager does that has sent the request before.
    signal(server.pid(), "TERM");
    server.log_line("signal again to stop immediately").await;
    let told = body(drain(&server, &[]).await).await;
    assert_eq!(told["requests"], 1);
    assert!(within_grace(&told), "{told}");
    assert_eq!(server.get("/readyz").await.status(), 503);
    signal(worker, "CONT");
    let response = request.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(server.exit_code().await, Some(0));
}

/// A request whose client sends the first half of a file, and the second half when the test says so.
struct SlowUpload {
    goes_on: oneshot::Sender<()>,
    request: JoinHandle<reqwest::Result<Response>>,
}

impl SlowUpload {
    fn begin(server: &Server, path: &str) -> Self {
        let file = Bytes::from(std::fs::read(sample("en-command.wav")).expect("reads"));
        let (first, second) = (file.slice(..file.len() / 2), file.slice(file.len() / 2..));
        let (goes_on, waits) = oneshot::channel();
        let halves = stream::once(async { Ok::<_, RecvError>(first) })
            .chain(stream::once(async { waits.await.map(|()| second) }));
        let part = Part::stream(Body::wrap_stream(halves)).file_name("en-command.wav");
        let request = server.client.post(format!("{}{path}", server.url));
        let request = request.multipart(Form::new().part("file", part)).send();
        let request = tokio::spawn(request);
        Self { goes_on, request }
    }

    async fn finish(self) -> Response {
        self.goes_on.send(()).expect("it is sent");
        self.request.await.expect("no panic").expect("an answer")
    }
}

/// Whether a folder has a file, at any depth, that is not empty.
fn has_content(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            has_content(&path)
        } else {
            path.metadata().is_ok_and(|file| file.len() > 0)
        }
    })
}

#[tokio::test]
async fn uploads_that_began_before_a_drain_are_finished() {
    let jobs = tempfile::tempdir().expect("a folder");
    let settings = [("JOBS_DIR", jobs.path().to_str().expect("UTF-8"))];
    let model = model("tiny.en").await;
    let mut server = Server::ready(&model, &settings).await;
    let paths = ["/v1/audio/transcriptions", "/inference"];
    let uploads = paths.map(|path| SlowUpload::begin(&server, path));
    let of_a_job = SlowUpload::begin(&server, "/v1/audio/jobs");
    let began = async || {
        let inside = server.metric("uttera_stt_inflight_requests").await;
        inside >= paths.len() as f64 && has_content(&jobs.path().join("uploads"))
    };
    server.until("all uploads began", began).await;
    signal(server.pid(), "TERM");
    let line = server.log_line("waiting for uploads").await;
    assert!(line.contains(" uploads=3"), "{line}");
    for path in ["/v1/audio/transcriptions", "/v1/audio/jobs"] {
        let file = form(&sample("en-command.wav"), &[]);
        let refused = server.post(path, file).await;
        assert_eq!(refused.status(), 503);
        assert_eq!(body(refused).await["error"]["code"], "draining");
    }
    for upload in uploads {
        let response = upload.finish().await;
        assert_eq!(response.status(), 200);
        let text = body(response).await["text"].to_string();
        assert!(text.contains("light"), "{text}");
    }
    // The upload of the job alone keeps the server.
    assert_eq!(server.health().await["status"], "draining");
    let accepted = of_a_job.finish().await;
    assert_eq!(accepted.status(), 202);
    let path = accepted.headers()["location"].to_str().expect("ASCII");
    assert_eq!(server.exit_code().await, Some(0));
    let server = Server::ready(&model, &settings).await;
    let is_done = async || body(server.get(path).await).await["status"] == "done";
    server.until("the job is done", is_done).await;
}

#[tokio::test]
async fn uploads_that_are_not_complete_when_the_grace_ends_get_an_answer() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let uploads = ["/v1/audio/transcriptions", "/v1/audio/jobs"];
    let uploads = uploads.map(|path| SlowUpload::begin(&server, path));
    let of_jobs = server.folder().join("jobs/uploads");
    let began = async || {
        server.metric("uttera_stt_inflight_requests").await >= 1.0 && has_content(&of_jobs)
    };
    server.until("all uploads began", began).await;
    signal(server.pid(), "TERM");
    server.log_line("waiting for uploads").await;
    // The second signal ends the grace.
    signal(server.pid(), "TERM");
    for upload in uploads {
        let response = upload.request.await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(body(response).await["error"]["code"], "draining");
    }
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn until_routers_have_seen_it_requests_are_served_on_connections_that_end() {
    let settings = [
        ("DRAIN_DELAY_SECONDS", "3600"),
        ("DRAIN_GRACE_SECONDS", "7200"),
    ];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    assert!(
        server
            .get("/health")
            .await
            .headers()
            .get("connection")
            .is_none()
    );
    signal(server.pid(), "TERM");
    let draining = async || server.health().await["status"] == "draining";
    server.until("it drains", draining).await;
    let health = server.health().await;
    assert_eq!(health["routing"]["accepts_requests"], false);
    assert_eq!(server.get("/readyz").await.status(), 503);
    let status = body(server.get("/v1/status").await).await;
    let times = &status["node"]["drain"];
    assert!(
        times["rejects_in_seconds"].as_f64() > Some(3000.0),
        "{status}"
    );
    assert!(
        times["cancels_in_seconds"].as_f64() > Some(10_000.0),
        "{status}"
    );
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["connection"], "close");
    // The second signal ends all of it.
    assert_eq!(server.terminate().await, Some(0));
}

#[tokio::test]
async fn without_keys_only_a_program_on_this_machine_may_drain() {
    let open = [("HOST", "0.0.0.0")];
    let mut server = Server::ready(&model("tiny.en").await, &open).await;
    if let Some(other) = other_address() {
        let client = client_builder().local_address(other).build();
        let request = client.expect("a client").post(server.url.clone() + PATH);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 403);
        assert_eq!(body(response).await["error"]["code"], "drain_not_allowed");
    }
    for header in ["x-forwarded-for", "x-real-ip", "forwarded", "origin"] {
        let response = drain(&server, &[(header, "http://127.0.0.1")]).await;
        assert_eq!(response.status(), 403, "{header}");
        assert_eq!(body(response).await["error"]["code"], "drain_not_allowed");
    }
    assert_eq!(server.health().await["status"], "ok");
    assert_eq!(drain(&server, &[]).await.status(), 202);
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn with_keys_a_key_drains_from_anywhere() {
    let mut server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "sesame")]).await;
    assert_eq!(drain(&server, &[]).await.status(), 401);
    assert_eq!(server.health().await["status"], "ok");
    let headers = [
        ("authorization", "Bearer sesame"),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    assert_eq!(drain(&server, &headers).await.status(), 202);
    assert_eq!(server.exit_code().await, Some(0));
}
