//! Hot and cold workers of a real server: the pool grows and shrinks with the work, the queue is bounded, and
//! the hot model can be freed.

use std::io::{Read, Write};
use std::net::TcpStream;

use reqwest::Response;
use serde_json::Value;
use test_support::{
    Server, is_stopped, lives, model, patiently, sample, sample_text, signal, words,
};
use tokio::task::JoinHandle;

/// At most one cold worker, with a short idle limit.
const ONE_COLD: &[(&str, &str)] = &[
    ("COLD_POOL_SIZE", "1"),
    ("COLD_WORKER_IDLE_TIMEOUT", "1"),
    ("COLD_WORKER_IDLE_STAGGER", "1"),
    ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
];

/// Sends this number of requests at once.
fn burst(server: &Server, count: usize, name: &str) -> Vec<JoinHandle<Response>> {
    let requests = (0..count).map(|_| {
        let url = format!("{}/v1/audio/transcriptions", server.url);
        let request = server.client.post(url);
        let request = request.multipart(test_support::form(&sample(name), &[]));
        tokio::spawn(async move { request.send().await.expect("an answer") })
    });
    requests.collect()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers()[name].to_str().expect("ASCII")
}

/// A reply's queue position, and its estimated wait in milliseconds.
fn queue(response: &Response) -> (u64, u64) {
    let number = |name| header(response, name).parse().expect("a number");
    (number("x-queue-position"), number("x-queue-eta-ms"))
}

#[tokio::test]
async fn the_queue_headers_tell_the_requests_ahead_and_the_wait_that_they_mean() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let worker = server.workers()[0];
    // The worker is stopped: each request finds all earlier ones in the queue.
    signal(worker, "STOP");
    let mut requests = Vec::new();
    let mut drain_estimates = Vec::new();
    for admitted in 1..=5 {
        let health = server.health().await;
        let estimate = &health["smart_routing"]["queue_drain_estimate_seconds"];
        drain_estimates.push(1000.0 * estimate.as_f64().expect("a number"));
        requests.extend(burst(&server, 1, "en-command.wav"));
        // Wait until the audio is decoded: before that, the estimate assumes a longer file.
        let waiting = || async { decoded(&server).await == admitted };
        server.until("its audio is in the queue", waiting).await;
    }
    signal(worker, "CONT");
    let mut positions = Vec::new();
    let mut waits = Vec::new();
    for request in requests {
        let (position, wait) = queue(&request.await.expect("no panic"));
        positions.push(position);
        waits.push(wait);
    }
    // The lane is free for the first request; the second waits for it, with none ahead in the queue.
    assert_eq!(positions, [0, 0, 1, 2, 3]);
    assert_eq!(waits[0], 0);
    for (wait, estimate) in waits.iter().zip(&drain_estimates) {
        let wait = *wait as f64;
        assert!(
            (wait - estimate).abs() <= 1.0 + estimate * 0.01,
            "{waits:?} ms are not the work ahead, {drain_estimates:?} ms"
        );
    }
    assert!(waits.is_sorted_by(|one, next| one < next), "{waits:?}");
}

/// Number of chunks that are decoded and not transcribed yet.
async fn decoded(server: &Server) -> usize {
    let health = server.health().await;
    let seconds = health["smart_routing"]["queue_audio_seconds"].as_f64();
    // The command is 1.8 s long.
    (seconds.expect("a number") / 1.784).round() as usize
}

#[tokio::test]
async fn a_burst_brings_a_cold_worker_that_shares_the_work_and_leaves_when_it_is_over() {
    let server = Server::ready(&model("tiny.en").await, ONE_COLD).await;
    assert_eq!(server.workers().len(), 1);
    let expected = words(&sample_text("en-command.wav"));
    let mut routes = Vec::new();
    let mut positions = Vec::new();
    // The hot worker stands still until the cold one is there: on a fast machine it would be done before.
    let hot = server.workers()[0];
    signal(hot, "STOP");
    let requests = burst(&server, 16, "en-command.wav");
    server.until_a_cold_worker_is_ready().await;
    signal(hot, "CONT");
    for response in requests {
        let response = response.await.expect("no panic");
        assert_eq!(response.status(), 200);
        routes.push(header(&response, "x-route").to_owned());
        let (position, wait) = queue(&response);
        assert!(
            position == 0 || wait > 0,
            "a request behind {position} others has to wait"
        );
        positions.push(position);
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(words(body["text"].as_str().expect("text")), expected);
    }
    assert!(routes.iter().any(|route| route == "HOT"), "{routes:?}");
    assert!(
        routes.iter().any(|route| route == "COLD-POOL"),
        "{routes:?}"
    );
    assert!(
        positions.iter().any(|position| *position >= 10),
        "{positions:?}"
    );
    server.log_line("worker=cold-1").await;
    let gone = || async { server.workers().len() == 1 };
    server.until("the cold worker leaves", gone).await;
    server.log_line("a cold worker left").await;
    let cold = "uttera_stt_requests_by_route_total{route=\"COLD-POOL\"}";
    assert!(server.metric(cold).await >= 1.0);
    assert!(server.metric("uttera_stt_cold_workers_spawned_total").await >= 1.0);
    assert!(server.metric("uttera_stt_cold_workers_active").await < 1.0);
    let health = server.health().await;
    assert_eq!(health["smart_routing"]["pool_workers_active"], 0);
    assert_eq!(health["smart_routing"]["pool_size_cap"], 1);
    assert_eq!(health["smart_routing"]["queue_audio_seconds"], 0.0);
}

#[tokio::test]
async fn the_hot_worker_takes_over_the_chunk_of_a_killed_cold_worker_and_the_header_says_so() {
    let server = Server::ready(&model("tiny.en").await, ONE_COLD).await;
    let hot = server.workers()[0];
    signal(hot, "STOP");
    let requests = burst(&server, 16, "en-sentence.wav");
    server.until_a_cold_worker_is_ready().await;
    // The hot worker has the first chunk.
    let has_work = || async { server.chunks_handed_out() >= 2 };
    server.until("the cold worker has a chunk", has_work).await;
    let cold = server.workers().into_iter().find(|pid| *pid != hot);
    signal(cold.expect("a cold worker"), "KILL");
    signal(hot, "CONT");
    let mut routes = Vec::new();
    let expected = words(&sample_text("en-sentence.wav"));
    for response in requests {
        let response = response.await.expect("no panic");
        assert_eq!(response.status(), 200);
        routes.push(header(&response, "x-route").to_owned());
        let body: Value = response.json().await.expect("JSON");
        let heard = words(body["text"].as_str().expect("text"));
        assert!(heard.len() + 3 > expected.len(), "{heard:?}");
    }
    assert!(
        routes.iter().any(|route| route == "COLD-POOL>HOT"),
        "{routes:?}"
    );
}

#[tokio::test]
async fn no_loading_busy_or_stopped_worker_outlives_a_killed_server() {
    let settings = [
        ("COLD_POOL_SIZE", "3"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
    ];
    let mut server = Server::ready(&model("base").await, &settings).await;
    let requests = burst(&server, 12, "en-sentence.wav");
    let two_cold = || async { server.workers().len() >= 3 };
    server.until("the pool grows", two_cold).await;
    let workers = server.workers();
    signal(workers[0], "STOP");
    // The kernel wakes a stopped process whose parent ends, but not one that stops just after that.
    let stopped = || async { is_stopped(workers[0]) };
    server.until("it has stopped", stopped).await;
    signal(server.pid(), "KILL");
    server.exit_code().await;
    let gone = || async { !workers.iter().any(|pid| lives(*pid)) };
    server.until("no worker is left", gone).await;
    for request in requests {
        request.abort();
    }
}

#[tokio::test]
async fn sigterm_with_a_full_queue_finishes_it_and_leaves_no_worker() {
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
    ];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    server.start_cold_worker().await;
    // Until all requests are in, so that none finds a server that drains.
    let workers = server.workers();
    for worker in &workers {
        signal(*worker, "STOP");
    }
    let requests = burst(&server, 12, "en-command.wav");
    // Each worker has one.
    let are_in = || async { server.metric("uttera_stt_work_queue_depth").await >= 10.0 };
    server.until("all are in", are_in).await;
    signal(server.pid(), "TERM");
    for worker in &workers {
        signal(*worker, "CONT");
    }
    assert_eq!(server.exit_code().await, Some(0));
    for request in requests {
        assert_eq!(request.await.expect("no panic").status(), 200);
    }
    assert!(!workers.iter().any(|pid| lives(*pid)));
}

#[tokio::test]
async fn a_full_queue_rejects_requests_before_the_body_is_read_with_retry_after() {
    let settings = [("MAX_QUEUE_SECONDS", "1.5"), ("COLD_POOL_SIZE", "0")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let worker = server.workers()[0];
    // The worker is stopped: admitted requests stay in the queue.
    signal(worker, "STOP");
    let mut kept = Vec::new();
    let full = loop {
        let mut more = burst(&server, 1, "en-command.wav");
        let admitted = kept.len() as f64 + 1.0;
        let request = more.remove(0);
        let inside = || async {
            request.is_finished() || server.metric("uttera_stt_inflight_requests").await >= admitted
        };
        server.until("it is in or refused", inside).await;
        if request.is_finished() {
            break request.await.expect("no panic");
        }
        kept.push(request);
        assert!(kept.len() < 100, "never refused");
        // Until its length is known, a request counts with an assumed one.
        let cut = || async {
            let health = server.health().await;
            health["smart_routing"]["queue_depth"].as_u64() == Some(kept.len() as u64 - 1)
        };
        server.until("its only chunk waits or runs", cut).await;
    };
    assert!(!kept.is_empty());
    assert_eq!(full.status(), 503);
    let retry_after: u64 = header(&full, "retry-after").parse().expect("a number");
    assert!((1..=120).contains(&retry_after));
    let body: Value = full.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "overloaded");
    assert_eq!(body["error"]["type"], "server_error");
    // The client sends only the head and gets an answer.
    let address = server.url.trim_start_matches("http://").to_owned();
    let head_alone = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("connects");
        let head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n\
            Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sends");
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer).expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    });
    assert_eq!(head_alone.await.expect("no panic"), "HTTP/1.1 503");
    let refused = "uttera_stt_errors_total{type=\"overloaded\"}";
    assert!(server.metric(refused).await >= 2.0);
    signal(worker, "CONT");
    for request in kept {
        assert_eq!(request.await.expect("no panic").status(), 200);
    }
    // Its slot was returned, and the next request is admitted.
    let again = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(again.status(), 200);
    assert_eq!(header(&again, "x-queue-position"), "0");
    let nothing = || async { server.metric("uttera_stt_work_queue_audio_seconds").await <= 0.0 };
    server.until("the accounts are empty", nothing).await;
}

#[tokio::test]
async fn the_hot_model_is_freed_when_idle_and_the_next_request_brings_it_back() {
    let settings = [("HOT_IDLE_TIMEOUT", "1")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for _ in 0..2 {
        let asleep = || async { server.health().await["hot_worker_loaded"] == false };
        server.until("the model is freed", asleep).await;
        assert_eq!(server.workers(), Vec::<u32>::new());
        let health = server.health().await;
        assert_eq!(health["status"], "ok");
        assert_eq!(health["hot_worker_error"], Value::Null);
        assert_eq!(health["routing"]["accepts_requests"], true);
        assert_eq!(server.get("/readyz").await.status(), 200);
        assert!(server.metric("uttera_stt_engine_ready").await > 0.0);
        let response = server.transcribe(&sample("en-command.wav"), &[]).await;
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn a_worker_is_replaced_after_its_number_of_chunks_without_an_interruption() {
    let settings = [("WORKER_MAX_CHUNKS", "2")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.extend(server.workers());
        let response = server.transcribe(&sample("en-command.wav"), &[]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(server.health().await["hot_worker_error"], Value::Null);
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() >= 2, "{seen:?}");
    server.log_line("the worker is to be replaced").await;
}

#[tokio::test]
async fn a_model_file_that_vanishes_is_reported_and_the_node_recovers_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ggml-tiny.en.bin");
    std::fs::copy(model("tiny.en").await, &file).expect("copies");
    let server = Server::ready(&file, &[]).await;
    let away = folder.path().join("elsewhere");
    std::fs::rename(&file, &away).expect("moves");
    // The loaded model continues.
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
    let request = server.start_long_request().await;
    signal(server.workers()[0], "KILL");
    let response = request.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "loading");
    let health = server.health().await;
    assert_eq!(health["status"], "degraded");
    let reason = health["hot_worker_error"].as_str().expect("a reason");
    assert!(reason.contains("ggml-tiny.en.bin"), "{reason}");
    server
        .log_line("cannot transcribe; retrying periodically")
        .await;
    std::fs::rename(&away, &file).expect("moves back");
    server.until_ready().await;
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_slow_upload_holds_an_admission_slot_and_releases_it_when_the_client_leaves() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let slow = tokio::net::TcpStream::connect(&address)
        .await
        .expect("connects");
    let head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\n\
        Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x\r\n";
    slow.writable().await.expect("writable");
    slow.try_write(head.as_bytes()).expect("sends");
    let holds = || async { server.metric("uttera_stt_inflight_requests").await > 0.0 };
    server.until("it holds a place", holds).await;
    drop(slow);
    let free = || async { server.metric("uttera_stt_inflight_requests").await <= 0.0 };
    server.until("the place is free", free).await;
    assert_eq!(server.health().await["routing"]["load_score"], 0.0);
}

#[tokio::test]
async fn uploads_that_find_no_room_on_the_disk_are_refused_until_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        // Without permission to mount, the tests of `UploadStore` cover the limit on all uploads instead.
        eprintln!("not checked: this user may not mount a small disk");
        return;
    };
    let place = disk.path().to_str().expect("UTF-8").to_owned();
    let model = model("tiny.en").await;
    let server = Server::ready(&model, &[("TMPDIR", &place)]).await;
    let filler = disk.path().join("filler");
    // The whole disk.
    let mut file = std::fs::File::create(&filler).expect("creates");
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let refused = server.transcribe(&sample("en-sentence.wav"), &[]).await;
    assert_eq!(refused.status(), 507);
    assert!(refused.headers().contains_key("retry-after"));
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "insufficient_storage");
    server.log_line("storing an upload failed").await;
    std::fs::remove_file(&filler).expect("removes");
    let response = server.transcribe(&sample("en-sentence.wav"), &[]).await;
    assert_eq!(response.status(), 200);
}

/// A disk of 2 MB, removed when this value is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(folder))
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A lazy unmount, because the server may still have a file open.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .status();
    }
}

#[tokio::test]
async fn the_metrics_page_answers_at_once_whatever_the_worker_does() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let request = server.start_long_request().await;
    for _ in 0..20 {
        // The worker stands still until the test ends: a page that waited for it would never come.
        let page = patiently(server.metrics()).await;
        assert!(page.contains("uttera_stt_load_score"));
    }
    assert!(!request.is_finished());
    signal(worker, "CONT");
    let response = request.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
}
