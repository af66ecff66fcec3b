//! Jobs of a real server: results, owners, limits, crashes and a full disk.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use reqwest::multipart::{Form, Part};
use reqwest::{Method, Response};
use serde_json::Value;
use test_support::{Server, form, model, refused, sample, signal};

pub const JOBS: &str = "/v1/audio/jobs";

/// Submits a sample as a job, and returns its id.
pub async fn submit(server: &Server, file: &Path, fields: &[(&str, &str)]) -> String {
    let response = server.post(JOBS, form(file, fields)).await;
    assert_eq!(
        response.status(),
        202,
        "{}",
        response.text().await.expect("a body")
    );
    let location = response.headers()["location"]
        .to_str()
        .expect("text")
        .to_owned();
    let job: Value = response.json().await.expect("JSON");
    let id = job["id"].as_str().expect("an id").to_owned();
    assert_eq!(location, format!("{JOBS}/{id}"));
    id
}

pub async fn job(server: &Server, id: &str) -> Value {
    let response = server.get(&format!("{JOBS}/{id}")).await;
    assert_eq!(response.status(), 200);
    response.json().await.expect("JSON")
}

/// Waits until a job has this status.
async fn until(server: &Server, id: &str, status: &str) -> Value {
    let is = || async { job(server, id).await["status"] == status };
    server.until(&format!("the job is {status}"), is).await;
    job(server, id).await
}

/// Waits until chunks of a running job are done.
async fn until_chunks_are_done(server: &Server, id: &str) {
    let has = || async { job(server, id).await["seconds_done"].as_f64() > Some(5.0) };
    server.until("a chunk is done", has).await;
}

async fn result(server: &Server, id: &str, format: &str) -> Response {
    let path = format!("{JOBS}/{id}/result?response_format={format}");
    server.get(&path).await
}

async fn text(server: &Server, id: &str) -> String {
    let response = result(server, id, "text").await;
    assert_eq!(response.status(), 200);
    response.text().await.expect("a body")
}

/// A number in the last line of the log with this text.
fn logged(server: &Server, line: &str, field: &str) -> usize {
    let line = server.log_lines(line).pop().expect("a line");
    let value = line.split(&format!("{field}=")).nth(1).expect("a field");
    let value = value.split_whitespace().next().expect("a value");
    value.parse().expect("a number")
}

#[tokio::test]
async fn a_job_has_a_result_in_every_format_until_it_is_deleted() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let id = submit(
        &server,
        &sample("en-command.wav"),
        &[("response_format", "srt")],
    )
    .await;
    let events = server.get(&format!("{JOBS}/{id}/events")).await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let events = events.text().await.expect("it ends with the job");
    let last = events.trim().rsplit("data: ").next().expect("an event");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&last["status"], &last["error"]),
        (&"done".into(), &Value::Null)
    );
    assert_eq!(last["file_name"], "en-command.wav");
    assert!(last["seconds_done"].as_f64() > Some(1.0), "{last}");
    assert!(last["expires_at"].as_f64() > last["finished_at"].as_f64());
    assert!(text(&server, &id).await.contains("kitchen"));
    let default = server.get(&format!("{JOBS}/{id}/result")).await;
    assert_eq!(
        default.headers()["content-type"],
        "application/x-subrip; charset=utf-8"
    );
    assert!(default.text().await.expect("a body").contains("-->"));
    let verbose: Value = result(&server, &id, "verbose_json")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        verbose["segments"].as_array().map(Vec::len),
        Some(1),
        "{verbose}"
    );
    refused(
        result(&server, &id, "pdf").await,
        422,
        "invalid_value",
        Some("response_format"),
    )
    .await;
    let all: Value = server.get(JOBS).await.json().await.expect("JSON");
    assert_eq!(all["data"][0], last);
    for series in [
        "uttera_stt_jobs{state=\"done\"}",
        "uttera_stt_jobs_total{outcome=\"done\"}",
    ] {
        let is_counted = async || {
            let page = server.metrics().await;
            page.lines()
                .any(|line| line.starts_with(series) && !line.ends_with(" 0"))
        };
        server.until(series, is_counted).await;
    }
    let folder = server.folder().join("jobs/audio");
    let is_removed = async || std::fs::read_dir(&folder).expect("is there").count() == 0;
    server.until("the audio is removed", is_removed).await;
    let url = format!("{}{JOBS}/{id}", server.url);
    let deleted = server.client.delete(&url).send().await.expect("an answer");
    assert_eq!(deleted.status(), 200);
    for path in ["", "/result", "/events"] {
        let gone = server.get(&format!("{JOBS}/{id}{path}")).await;
        refused(gone, 404, "job_not_found", None).await;
    }
}

#[tokio::test]
async fn jobs_belong_to_their_key_and_are_limited_and_a_repeated_request_is_recognised() {
    let settings = [
        ("API_KEYS", "key-one,key-two"),
        ("MAX_JOBS_PER_CLIENT", "3"),
        ("JOB_STORAGE_PER_CLIENT_MB", "1"),
    ];
    let server = Server::start(&model("tiny.en").await, &settings).await;
    let send = |key: &'static str, idempotency: &'static str, form: Form| {
        let request = server
            .client
            .post(format!("{}{JOBS}", server.url))
            .bearer_auth(key);
        request
            .header("idempotency-key", idempotency)
            .multipart(form)
            .send()
    };
    let clip =
        || Part::bytes(std::fs::read(sample("en-command.wav")).expect("reads")).file_name("a.wav");
    let two = || Form::new().part("file", clip()).part("file", clip());
    let first = send("key-one", "once", two()).await.expect("an answer");
    let location = first.headers()["location"]
        .to_str()
        .expect("text")
        .to_owned();
    let first: Value = first.json().await.expect("JSON");
    assert_eq!(first["data"].as_array().map(Vec::len), Some(2));
    let again: Value = send("key-one", "once", two())
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(again["data"][1]["id"], first["data"][1]["id"]);
    let get = |key: &'static str, path: String| {
        let request = server
            .client
            .get(format!("{}{path}", server.url))
            .bearer_auth(key);
        async move { request.send().await.expect("an answer") }
    };
    let batch: Value = get("key-one", location).await.json().await.expect("JSON");
    assert_eq!(batch["data"][0]["id"], first["data"][0]["id"]);
    let id = first["data"][0]["id"].as_str().expect("an id");
    refused(
        get("key-two", format!("{JOBS}/{id}")).await,
        404,
        "job_not_found",
        None,
    )
    .await;
    let none: Value = get("key-two", JOBS.to_owned())
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(none["data"].as_array().map(Vec::len), Some(0));
    let too_many = send("key-one", "twice", two()).await.expect("an answer");
    assert_eq!(too_many.status(), 429);
    assert!(too_many.headers().contains_key("retry-after"));
    // Of the other key, the same idempotency key is another one.
    let other: Value = send("key-two", "once", form(&sample("en-command.wav"), &[]))
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(other["number"], 0);
    assert_ne!(other["id"], first["data"][0]["id"]);
    // No space would ever suffice: by the length of the body, or of the audio.
    for bytes in [1_100_000, 3_000_000] {
        let large = Form::new().part("file", Part::bytes(vec![0; bytes]).file_name("a.wav"));
        let too_large = send("key-two", "large", large).await.expect("an answer");
        refused(too_large, 413, "upload_too_large", None).await;
    }
    // Neither the second request's audio nor that of the rejected one is kept.
    server.until_ready().await;
    let audio = || {
        std::fs::read_dir(server.folder().join("jobs/audio"))
            .expect("is there")
            .count()
    };
    server
        .until("all jobs are done", async || audio() == 0)
        .await;
}

#[tokio::test]
async fn a_job_goes_on_after_its_server_was_killed_and_done_chunks_are_not_done_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = [("JOBS_DIR", folder.path().to_str().expect("UTF-8"))];
    let model = model("tiny.en").await;
    let mut first = Server::ready(&model, &settings).await;
    let file = first.long_file(4);
    let id = submit(&first, &file, &[("language", "en")]).await;
    refused(result(&first, &id, "text").await, 409, "job_running", None).await;
    until_chunks_are_done(&first, &id).await;
    assert_eq!(job(&first, &id).await["status"], "running");
    first.child.kill().expect("it runs");
    first.child.wait().expect("it ends");
    let second = Server::ready(&model, &settings).await;
    until(&second, &id, "done").await;
    let before = logged(&second, "a job starts", "chunks_done");
    let chunks = logged(&second, "all chunks of a job are done", "chunks");
    assert!(before > 0, "nothing was kept");
    let again = second.inferences().await;
    assert!(
        again < chunks as f64,
        "{again} of {chunks} chunks were done again"
    );
    let whole = second
        .transcribe(&file, &[("language", "en"), ("response_format", "text")])
        .await;
    let words = |text: &str| text.split_whitespace().count();
    let (resumed, whole) = (
        text(&second, &id).await,
        whole.text().await.expect("a body"),
    );
    // Chunks of other lengths may differ in a few words.
    let difference = words(&resumed).abs_diff(words(&whole));
    assert!(difference * 10 < words(&whole), "{resumed}\n{whole}");
}

#[tokio::test]
async fn a_draining_server_stops_its_job_at_a_chunk_and_the_next_one_finishes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = [("JOBS_DIR", folder.path().to_str().expect("UTF-8"))];
    let model = model("tiny.en").await;
    let mut first = Server::ready(&model, &settings).await;
    let id = submit(&first, &first.long_file(8), &[("language", "en")]).await;
    until_chunks_are_done(&first, &id).await;
    signal(first.pid(), "TERM");
    first
        .log_line("a job is interrupted by the end of the server")
        .await;
    assert!(first.child.wait().expect("it ends").success());
    assert!(first.log_lines("cancelling requests").is_empty());
    let second = Server::start(&model, &settings).await;
    second.log_line("a job starts").await;
    assert!(logged(&second, "a job starts", "chunks_done") > 0);
    // A job that runs can be deleted.
    let url = format!("{}{JOBS}/{id}", second.url);
    let deleted = second.client.delete(&url).send().await.expect("an answer");
    assert_eq!(deleted.status(), 200);
    second.log_line("a job was deleted while it ran").await;
    assert!(
        second
            .metric("uttera_stt_jobs_total{outcome=\"cancelled\"}")
            .await
            > 0.0
    );
}

#[tokio::test]
async fn a_full_disk_refuses_jobs_and_loses_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not checked: this user may not mount a small disk");
        return;
    }
    let _disk = Unmount(folder.path());
    let settings = [("JOBS_DIR", folder.path().to_str().expect("UTF-8"))];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let done = submit(&server, &sample("en-command.wav"), &[]).await;
    until(&server, &done, "done").await;
    let running = submit(&server, &sample("en-long.ogg"), &[("language", "en")]).await;
    until(&server, &running, "running").await;
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let filler = folder.path().join("filler");
    let mut file = std::fs::File::create(&filler).expect("creates");
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let full = server
        .post(JOBS, form(&sample("en-sentence.wav"), &[]))
        .await;
    assert_eq!(full.status(), 507);
    assert!(
        text(&server, &done).await.contains("kitchen"),
        "it is still there"
    );
    signal(worker, "CONT");
    // The database may have some space left in its file.
    let no_space = "there is no space on disk to store the job";
    let goes_on = || async {
        let is_done = job(&server, &running).await["status"] == "done";
        is_done || !server.log_lines(no_space).is_empty()
    };
    server.until("the job meets the full disk", goes_on).await;
    assert!(text(&server, &done).await.contains("kitchen"));
    std::fs::remove_file(&filler).expect("removes");
    until(&server, &running, "done").await;
    assert!(!text(&server, &running).await.is_empty());
    submit(&server, &sample("en-command.wav"), &[]).await;
}

/// Removes a disk at the end of a test.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        // A lazy unmount, because the server may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn audio_that_cannot_be_decoded_fails_its_job() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let noise = server.folder().join("noise.wav");
    std::fs::write(&noise, b"no audio at all").expect("writes");
    let id = submit(&server, &noise, &[]).await;
    let failed = until(&server, &id, "failed").await;
    assert_eq!(failed["error"]["code"], "audio_decode_error");
    let message = refused(result(&server, &id, "text").await, 422, "job_failed", None).await;
    assert!(message.contains("audio_decode_error"), "{message}");
    for (header, code) in [
        ("", "invalid_idempotency_key"),
        ("two words", "invalid_idempotency_key"),
    ] {
        let request = server
            .client
            .request(Method::POST, format!("{}{JOBS}", server.url));
        let request = request
            .header("idempotency-key", header)
            .multipart(form(&noise, &[]));
        refused(request.send().await.expect("an answer"), 400, code, None).await;
    }
    let without_secret = server
        .post(
            JOBS,
            form(&noise, &[("callback_url", "https://example.com")]),
        )
        .await;
    refused(
        without_secret,
        400,
        "callback_refused",
        Some("callback_url"),
    )
    .await;
}
