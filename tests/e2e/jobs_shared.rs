//! Jobs that several real nodes share, over a real Redis.

use serde_json::Value;
use tempfile::TempDir;
use test_support::redis_server::RedisServer;
use test_support::s3_server::{BUCKET, KEY, KEY_ID, S3Server};
use test_support::{Server, form, model, refused, sample};

const JOBS: &str = "/v1/audio/jobs";
const COUNT: usize = 10;

async fn list(server: &Server) -> Vec<Value> {
    let list: Value = (server.get(JOBS).await.json().await).expect("JSON");
    list["data"].as_array().expect("a list").clone()
}

/// The settings of a node that shares its jobs.
fn shared<'a>(folder: &'a TempDir, url: &'a str) -> [(&'a str, &'a str); 3] {
    let folder = folder.path().to_str().expect("UTF-8");
    [
        ("JOBS_DIR", folder),
        ("JOBS_SHARED", "1"),
        ("REDIS_URL", url),
    ]
}

/// The settings of a node that keeps the audio of its jobs in an S3 store.
fn in_bucket(url: &str, key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("JOB_AUDIO_URL", format!("s3://{BUCKET}/of/jobs")),
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", key.to_owned()),
    ]
}

/// What `uttera-stt doctor` says about the store of audio.
fn doctor(settings: &[(&str, String)]) -> String {
    let said = std::process::Command::new(test_support::program())
        .arg("doctor")
        .envs(settings.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("runs");
    String::from_utf8_lossy(&said.stdout).into_owned()
}

async fn node(model: &std::path::Path, settings: &[(&'static str, String)]) -> Server {
    let settings: Vec<_> = (settings.iter())
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Server::ready(model, &settings).await
}

/// The jobs that a node's log names in lines with this text.
fn ids(server: &Server, text: &str) -> Vec<String> {
    let id = |line: &String| {
        let id = line.split("job=\"").nth(1).expect("an id");
        id.split('"').next().expect("an id").to_owned()
    };
    server.log_lines(text).iter().map(id).collect()
}

fn with_status(jobs: &[Value], status: &str) -> usize {
    jobs.iter().filter(|job| job["status"] == status).count()
}

#[tokio::test]
async fn ten_jobs_are_done_although_two_of_three_nodes_die() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (model, url) = (model("tiny.en").await, redis.url());
    let settings = shared(&folder, &url);
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Server::ready(&model, &settings).await);
    }
    let file = nodes[0].long_file(3);
    for number in 0..COUNT {
        let name = if number < 3 {
            file.clone()
        } else {
            sample("en-sentence.wav")
        };
        let submitted = nodes[number % 3]
            .post(JOBS, form(&name, &[("language", "en")]))
            .await;
        assert_eq!(submitted.status(), 202);
    }
    // Every node sees and works on jobs of all.
    let is_shared = async || {
        let starts = nodes
            .iter()
            .filter(|node| !node.log_lines("a job starts").is_empty());
        starts.count() == 3
    };
    nodes[0].until("all nodes work", is_shared).await;
    let mut started = Vec::new();
    for mut dead in nodes.drain(1..) {
        dead.child.kill().expect("it runs");
        dead.child.wait().expect("it ends");
        started.extend(ids(&dead, "a job starts"));
    }
    let survivor = &nodes[0];
    // A dead node may have stored a result that it did not log.
    let unfinished = list(survivor).await.into_iter();
    let unfinished = unfinished.filter(|job| job["status"] != "done");
    let unfinished: Vec<_> = unfinished.map(|job| job["id"].clone()).collect();
    let is_unfinished = |id: &String| unfinished.contains(&id.as_str().into());
    let interrupted: Vec<_> = started.into_iter().filter(is_unfinished).collect();
    let all_done = async || with_status(&list(survivor).await, "done") == COUNT;
    survivor.until("all jobs are done", all_done).await;
    let restarted = ids(survivor, "a job starts");
    for id in interrupted {
        assert!(restarted.contains(&id), "{id} of a dead node was taken");
    }
    assert_eq!(ids(survivor, "a job is done").len(), {
        let mut once = ids(survivor, "a job is done");
        once.sort_unstable();
        once.dedup();
        once.len()
    });
    let jobs = list(survivor).await;
    for job in &jobs {
        let id = job["id"].as_str().expect("an id");
        let result = survivor
            .get(&format!("{JOBS}/{id}/result?response_format=text"))
            .await;
        assert_eq!(result.status(), 200);
        assert!(
            !result.text().await.expect("a body").trim().is_empty(),
            "{job}"
        );
        let url = format!("{}{JOBS}/{id}", survivor.url);
        let deleted = survivor
            .client
            .delete(&url)
            .send()
            .await
            .expect("an answer");
        assert_eq!(deleted.status(), 200);
    }
    assert!(list(survivor).await.is_empty());
    let audio = std::fs::read_dir(folder.path().join("audio")).expect("is there");
    assert_eq!(audio.count(), 0);
}

#[tokio::test]
async fn a_node_that_drains_hands_its_job_over_and_redis_may_be_away_meanwhile() {
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (model, url) = (model("tiny.en").await, redis.url());
    let settings = shared(&folder, &url);
    let mut first = Server::ready(&model, &settings).await;
    let file = first.long_file(8);
    let submitted = first.post(JOBS, form(&file, &[("language", "en")])).await;
    let id: Value = submitted.json().await.expect("JSON");
    let id = id["id"].as_str().expect("an id").to_owned();
    let has_progress = async || list(&first).await[0]["seconds_done"].as_f64() > Some(5.0);
    first.until("a chunk is done", has_progress).await;
    let second = Server::ready(&model, &settings).await;
    assert!(second.log_lines("a job starts").is_empty());
    test_support::signal(first.pid(), "TERM");
    assert!(first.child.wait().expect("it ends").success());
    let start = second.log_line("a job starts").await;
    assert!(!start.contains("chunks_done=0"), "{start}");
    redis.pause().await;
    let away = second.get(&format!("{JOBS}/{id}")).await;
    assert_eq!(away.status(), 503);
    second.log_line("could not be stored").await;
    redis.resume().await;
    let is_done = async || {
        let job = second.get(&format!("{JOBS}/{id}")).await;
        let job: Value = job.json().await.expect("JSON");
        job["status"] == "done"
    };
    second.until("the job is done", is_done).await;
}

#[tokio::test]
async fn nodes_share_their_audio_in_an_s3_store() {
    let Some(store) = S3Server::start().await else {
        return;
    };
    let (model, redis) = (model("tiny.en").await, RedisServer::start().await);
    std::fs::write(store.bucket().join("of-another-program"), "x").expect("writes");
    let mut settings = in_bucket(&store.url(), KEY);
    settings.push(("JOBS_SHARED", "1".to_owned()));
    settings.push(("REDIS_URL", redis.url()));
    let mut accepting = settings.clone();
    accepting.push(("JOB_CONCURRENCY", "0".to_owned()));
    let first = node(&model, &accepting).await;
    // Longer than one part of an upload.
    let file = first.long_file(80);
    let length = std::fs::metadata(&file).expect("is there").len();
    assert!(length > 17 << 20, "{length}");
    let submitted = first.post(JOBS, form(&file, &[("language", "en")])).await;
    assert_eq!(submitted.status(), 202);
    let id: Value = submitted.json().await.expect("JSON");
    let path = format!("{JOBS}/{}", id["id"].as_str().expect("an id"));
    let stored = store.objects();
    assert_eq!(stored.len(), 2, "{stored:?}");
    let object = stored.iter().find(|name| name.starts_with("of/jobs/"));
    let object = store.bucket().join(object.expect("the audio"));
    assert_eq!(
        std::fs::read(&object).expect("reads"),
        std::fs::read(&file).expect("reads")
    );
    // Another node downloads and decodes it.
    let second = node(&model, &settings).await;
    let has_progress = async || list(&second).await[0]["seconds_done"].as_f64() > Some(5.0);
    second.until("a chunk is done", has_progress).await;
    let url = format!("{}{path}", first.url);
    let deleted = first.client.delete(&url).send().await.expect("an answer");
    assert_eq!(deleted.status(), 200);
    let is_removed = async || store.objects() == ["of-another-program"];
    first.until("the audio is removed", is_removed).await;
}

#[tokio::test]
async fn an_s3_store_may_be_away_and_rejects_a_wrong_key() {
    let Some(mut store) = S3Server::start().await else {
        return;
    };
    let model = model("tiny.en").await;
    let wrong = node(&model, &in_bucket(&store.url(), "not-the-secret")).await;
    let command = || form(&sample("en-command.wav"), &[]);
    refused(
        wrong.post(JOBS, command()).await,
        503,
        "jobs_unavailable",
        None,
    )
    .await;
    wrong.log_line("the store of jobs cannot be used").await;
    assert!(wrong.log_lines("not-the-secret").is_empty());
    let settings = in_bucket(&store.url(), "not-the-secret");
    assert!(doctor(&settings).contains("job-audio: the S3 store (JOB_AUDIO_URL)"));
    assert!(doctor(&in_bucket(&store.url(), KEY)).contains("job-audio: the S3 store answers"));
    drop(wrong);

    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = in_bucket(&store.url(), KEY);
    settings.push(("JOBS_DIR", folder.path().display().to_string()));
    let mut accepting = settings.clone();
    accepting.push(("JOB_CONCURRENCY", "0".to_owned()));
    let first = node(&model, &accepting).await;
    assert_eq!(first.post(JOBS, command()).await.status(), 202);
    store.stop();
    refused(
        first.post(JOBS, command()).await,
        503,
        "jobs_unavailable",
        None,
    )
    .await;
    assert_eq!(list(&first).await.len(), 1);
    drop(first);
    let second = node(&model, &settings).await;
    second.log_line("a job is queued again").await;
    store.restart().await;
    let is_done = async || with_status(&list(&second).await, "done") == 1;
    second.until("the job is done", is_done).await;
    // Right after the job is done.
    let is_removed = async || store.objects().is_empty();
    second.until("its audio is removed", is_removed).await;
}

#[tokio::test]
async fn jobs_whose_audio_cannot_be_read_fail_after_five_attempts_and_later_ones_are_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let model = model("tiny.en").await;
    let accepting = [("JOBS_DIR", path), ("JOB_CONCURRENCY", "0")];
    let first = Server::ready(&model, &accepting).await;
    let submit = async |file| {
        let submitted = first.post(JOBS, form(&sample(file), &[])).await;
        assert_eq!(submitted.status(), 202);
    };
    submit("en-command.wav").await;
    submit("en-command.wav").await;
    let audio = std::fs::read_dir(folder.path().join("audio")).expect("is there");
    let audio: Vec<_> = audio.map(|entry| entry.expect("is there").path()).collect();
    submit("en-sentence.wav").await;
    drop(first);
    // One is not there; of the other one, the system cannot say what it is.
    for file in &audio {
        std::fs::remove_file(file).expect("removes");
    }
    std::os::unix::fs::symlink(&audio[1], &audio[1]).expect("links");
    // A restart ends the rest of a job, so that each has an attempt in each run.
    let mut attempts = 0;
    for _ in 0..5 {
        let server = Server::ready(&model, &[("JOBS_DIR", path)]).await;
        let tried = || ids(&server, "the audio of a job cannot be read");
        let are_tried = async || {
            // Before the list, which may be older than a line of the log otherwise.
            let tried = tried();
            let jobs = list(&server).await;
            let has_ended = |job: &Value| {
                let id = job["id"].as_str().expect("an id");
                job["status"] != "queued" || tried.iter().any(|tried| tried == id)
            };
            with_status(&jobs, "running") == 0
                && with_status(&jobs, "done") == 1
                && jobs.iter().all(has_ended)
        };
        server.until("both were tried", are_tried).await;
        attempts += tried().len();
        if with_status(&list(&server).await, "failed") == 2 {
            break;
        }
    }
    let server = Server::start(&model, &[("JOBS_DIR", path)]).await;
    assert_eq!(with_status(&list(&server).await, "failed"), 2);
    assert_eq!(with_status(&list(&server).await, "done"), 1);
    assert!(attempts <= 10, "{attempts}");
}

#[tokio::test]
async fn one_of_two_nodes_sends_a_callback_once_and_jobs_expire() {
    let receiver = wiremock::MockServer::start().await;
    wiremock::Mock::given(wiremock::matchers::method("POST"))
        .respond_with(wiremock::ResponseTemplate::new(204))
        .mount(&receiver)
        .await;
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (model, url) = (model("tiny.en").await, redis.url());
    let mut settings = shared(&folder, &url).to_vec();
    settings.extend([
        ("JOB_CALLBACK_SECRET", "a secret for signatures"),
        ("JOB_CALLBACK_HOSTS", "127.0.0.1"),
        ("JOB_TTL_SECONDS", "15"),
    ]);
    let first = Server::ready(&model, &settings).await;
    let second = Server::ready(&model, &settings).await;
    let hook = format!("{}/hook", receiver.uri());
    let fields = [("callback_url", hook.as_str())];
    let submitted = first
        .post(JOBS, form(&sample("en-command.wav"), &fields))
        .await;
    assert_eq!(submitted.status(), 202);
    let requests = async || receiver.received_requests().await.expect("recorded");
    second
        .until("it is called", async || !requests().await.is_empty())
        .await;
    let is_gone = async || list(&second).await.is_empty();
    second.until("it has expired", is_gone).await;
    let calls = requests().await;
    assert_eq!(calls.len(), 1);
    assert!(calls[0].headers.contains_key("x-uttera-signature"));
    assert!(redis.keys().iter().all(|key| !key.contains(":job:")));
}
