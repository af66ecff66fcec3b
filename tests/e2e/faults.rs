//! Faults of a real server with a real model.

use serde_json::Value;
use test_support::wer::assert_alike;
use test_support::{Server, children, lives, model, sample, signal};

async fn text(response: reqwest::Response) -> String {
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("JSON");
    body["text"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_a_request_costs_nothing_but_time() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-long.ogg");
    let undisturbed = text(server.transcribe(&file, &[]).await).await;
    let request = server.transcribe(&file, &[]);
    let killing = async {
        server.until_a_lane_has_work().await;
        let worker = server.workers()[0];
        signal(worker, "KILL");
        worker
    };
    let (response, killed) = tokio::join!(request, killing);
    assert_alike(&text(response).await, &undisturbed);
    assert!(!lives(killed));
    server.log_line("killed by SIGKILL").await;
    server.until_ready().await;
    assert_ne!(server.workers(), [killed]);
    assert_alike(
        &text(server.transcribe(&file, &[]).await).await,
        &undisturbed,
    );
}

#[tokio::test]
async fn audio_on_which_two_workers_crash_is_refused_and_the_next_request_works() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-long.ogg");
    let request = server.transcribe(&file, &[]);
    let crashing = async {
        for _ in 0..2 {
            server.until_a_lane_has_work().await;
            let last = server.workers()[0];
            // Rust's own handler would handle the first SEGV from outside.
            signal(last, "ABRT");
        }
    };
    let (response, ()) = tokio::join!(request, crashing);
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "poison_audio");
    let next = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(next.status(), 200);
}

#[tokio::test]
async fn a_stopped_worker_is_killed_after_the_limit_and_the_chunk_is_tried_again() {
    let limit = [("COLD_LANE_TIMEOUT_SECONDS", "15")];
    let server = Server::ready(&model("tiny.en").await, &limit).await;
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
    assert!(!lives(worker));
}

#[tokio::test]
async fn sigterm_finishes_running_requests_and_leaves_no_processes_or_files() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let request = server.start_long_request().await;
    let workers = server.workers();
    assert_eq!(server.terminate().await, Some(0));
    let response = request.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(!response.text().await.expect("a body").is_empty());
    assert!(workers.iter().all(|&worker| !lives(worker)));
    let uploads = walk(server.folder())
        .into_iter()
        .filter(|path| path.contains("run-"));
    assert_eq!(uploads.collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test]
async fn while_draining_the_node_says_so_and_refuses_new_work() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-long.ogg");
    let running = server.transcribe(&file, &[]);
    let asking = async {
        server.until_a_lane_has_work().await;
        // The request runs until everything is asked.
        let worker = server.workers()[0];
        signal(worker, "STOP");
        signal(server.pid(), "TERM");
        let draining = || async { server.health().await["status"] == "draining" };
        server.until("it drains", draining).await;
        let refused = server.transcribe(&file, &[]).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        // Routers send such a request to another node.
        assert_eq!(refused.headers()["x-not-processed"], "1");
        let is_rejection = |line: &String| line.contains("status=503") && line.contains("draining");
        let logged = async || server.log().iter().any(is_rejection);
        server.until("the log has the rejection", logged).await;
        let body: Value = refused.json().await.expect("JSON");
        assert_eq!(body["error"]["code"], "draining");
        assert_eq!(server.get("/readyz").await.status(), 503);
        signal(worker, "CONT");
    };
    let (response, ()) = tokio::join!(running, asking);
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn no_worker_outlives_a_server_that_was_killed() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let worker = server.workers()[0];
    signal(server.pid(), "KILL");
    server.exit_code().await;
    server
        .until("the worker is gone", || async { !lives(worker) })
        .await;
}

#[tokio::test]
async fn uploads_that_a_crash_left_are_removed_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().to_str().expect("UTF-8");
    let settings = [("TMPDIR", place)];
    let model = model("tiny.en").await;
    let mut server = Server::ready(&model, &settings).await;
    let request = server.start_long_request().await;
    signal(server.pid(), "KILL");
    server.exit_code().await;
    request.await.expect("no panic").expect_err("cut off");
    let left = || {
        walk(folder.path())
            .iter()
            .filter(|path| path.contains("upload-"))
            .count()
    };
    assert_eq!(left(), 1);
    let _next = Server::start(&model, &settings).await;
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn a_model_that_is_missing_leaves_the_server_up_with_the_reason_until_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ggml-tiny.en.bin");
    let server = Server::start(&file, &[]).await;
    let failed = || async { server.health().await["hot_worker_error"].is_string() };
    server.until("the health page has the reason", failed).await;
    let health = server.health().await;
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["hot_worker_loaded"], false);
    let reason = health["hot_worker_error"].as_str().expect("text");
    assert!(reason.contains("ggml-tiny.en.bin"), "{reason}");
    assert_eq!(server.get("/readyz").await.status(), 503);
    assert_eq!(server.get("/livez").await.status(), 200);
    let refused = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "loading");
    std::fs::copy(model("tiny.en").await, &file).expect("copies");
    server.until_ready().await;
    assert_eq!(
        server
            .transcribe(&sample("en-command.wav"), &[])
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_broken_model_file_is_refused_with_the_reason_and_no_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = std::fs::read(model("tiny.en").await).expect("reads");
    let file = folder.path().join("ggml-cut.bin");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("writes");
    let server = Server::start(&file, &[]).await;
    let failed = || async { server.health().await["hot_worker_error"].is_string() };
    server.until("the health page has the reason", failed).await;
    assert_eq!(server.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_work_and_its_file_is_removed() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    {
        let file = sample("en-long.ogg");
        let request = server.transcribe(&file, &[]);
        tokio::select! {
            _ = request => panic!("it should still run"),
            () = server.until_a_lane_has_work() => {}
        }
    }
    let idle = || async {
        let files = walk(server.folder());
        !server.is_busy().await && !files.iter().any(|path| path.contains("upload-"))
    };
    server.until("nothing of it is left", idle).await;
    server
        .log_line("the client disconnected before the response was complete")
        .await;
    let ended = || async { children(server.pid(), "-i").is_empty() };
    server.until("ffmpeg has ended", ended).await;
}

#[tokio::test]
async fn while_the_model_loads_requests_get_503_with_retry_after() {
    let server = Server::start(&model("tiny.en").await, &[]).await;
    let started = || async { !server.workers().is_empty() };
    server.until("the worker is there", started).await;
    let worker = server.workers()[0];
    // Stopped while it loads the model.
    signal(worker, "STOP");
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "loading");
    assert_eq!(server.health().await["status"], "loading");
    assert_eq!(server.get("/readyz").await.status(), 503);
    signal(worker, "CONT");
    server.until_ready().await;
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn sigterm_while_the_model_loads_ends_everything_at_once() {
    let mut server = Server::start(&model("base").await, &[]).await;
    server
        .until("the worker is there", || async {
            !server.workers().is_empty()
        })
        .await;
    let workers = server.workers();
    assert_eq!(server.terminate().await, Some(0));
    server
        .until("the worker is gone", || async {
            !workers.iter().any(|&pid| lives(pid))
        })
        .await;
}

#[tokio::test]
async fn a_second_sigterm_ends_running_requests() {
    let mut server = Server::ready(&model("base").await, &[]).await;
    let request = server.start_long_request().await;
    signal(server.pid(), "TERM");
    let draining = || async { server.health().await["status"] == "draining" };
    server.until("it drains", draining).await;
    assert_eq!(server.terminate().await, Some(0));
    // The answer is an error, or the finished text; the connection is not cut off.
    let response = request.await.expect("no panic").expect("an answer");
    assert!(
        [503, 200].contains(&response.status().as_u16()),
        "{}",
        response.status()
    );
    // Work had begun.
    assert!(!response.headers().contains_key("x-not-processed"));
}

#[tokio::test]
async fn a_prompt_of_any_length_is_harmless() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let worker = server.workers();
    for prompt in [
        "a".repeat(60_000),
        " ".repeat(60_000),
        "!1\0ñ".repeat(10_000),
    ] {
        let fields = [("prompt", prompt.as_str())];
        let response = server.transcribe(&sample("en-command.wav"), &fields).await;
        assert_eq!(response.status(), 200);
    }
    assert_eq!(server.workers(), worker);
}

#[tokio::test]
async fn a_server_that_is_open_to_the_network_without_keys_says_so() {
    let model = model("tiny.en").await;
    let server = Server::start(&model, &[("HOST", "0.0.0.0")]).await;
    server.log_line("anyone who reaches this address").await;
    let keyed = Server::start(&model, &[("HOST", "0.0.0.0"), ("API_KEYS", "sesame")]).await;
    keyed.log_line("the model is loading").await;
    assert!(!keyed.log().join("\n").contains("anyone who"));
}

/// All files and folders below a folder, as text.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.filter_map(Result::ok) {
        found.push(entry.path().display().to_string());
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found
}
