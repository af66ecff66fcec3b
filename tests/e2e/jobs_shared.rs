//! Jobs that several real nodes share, over a real Redis.

use serde_json::Value;
use tempfile::TempDir;
use test_support::redis_server::RedisServer;
use test_support::{Server, form, model, sample};

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
    let file = nodes[0].long_file(2);
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
    for mut dead in nodes.drain(1..) {
        dead.child.kill().expect("it runs");
        dead.child.wait().expect("it ends");
    }
    let survivor = &nodes[0];
    let all_done = async || with_status(&list(survivor).await, "done") == COUNT;
    survivor.until("all jobs are done", all_done).await;
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
