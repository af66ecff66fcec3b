//! `/v1/status` and its feed, on a real server: lanes, queue, history, warnings, nodes, and who may watch.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use test_support::events::{Events, Line};
use test_support::redis_server::RedisServer;
use test_support::{Server, form, model, refused, sample, signal};
use tokio::task::JoinHandle;

/// Viewers that the server takes at once.
const MAX_VIEWERS: usize = 64;

async fn status(server: &Server) -> Value {
    let response = server.get("/v1/status").await;
    assert_eq!(response.status(), 200);
    response.json().await.expect("JSON")
}

/// Waits until a report fulfils a condition, and returns it.
async fn report_with(server: &Server, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let is_so = || async { holds(&status(server).await) };
    server.until(what, is_so).await;
    status(server).await
}

async fn watch(server: &Server) -> Events {
    Events::of(server.get("/v1/status/events").await)
}

async fn next(viewer: &mut Events) -> Value {
    match viewer.next().await {
        Some(Line::Event(report)) => report,
        other => panic!("{other:?}"),
    }
}

/// Sends a recording in its own task.
fn send(server: &Server, name: &str) -> JoinHandle<Response> {
    let request = (server.client)
        .post(format!("{}/v1/audio/transcriptions", server.url))
        .multipart(form(&sample(name), &[]));
    tokio::spawn(async move { request.send().await.expect("an answer") })
}

async fn all_answered(requests: Vec<JoinHandle<Response>>) {
    for request in requests {
        assert_eq!(request.await.expect("no panic").status(), 200);
    }
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The sum of a list of counts of the history.
fn sum(report: &Value, list: &str) -> u64 {
    let list = report["history"][list].as_array().expect("a list");
    assert_eq!(list.len(), 90);
    let counts = list.iter().map(|count| count.as_u64().expect("a count"));
    counts.sum()
}

#[tokio::test]
async fn what_runs_and_what_waits_is_told_by_kind() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let idle = status(&server).await;
    assert_eq!(idle["lanes"].as_array().expect("a list").len(), 1);
    let lane = &idle["lanes"][0];
    assert_eq!(
        (&lane["name"], &lane["kind"]),
        (&json!("hot-1"), &json!("hot"))
    );
    assert_eq!(
        (&lane["state"], &lane["work"]),
        (&json!("idle"), &Value::Null)
    );
    assert_eq!(lane["ends_in_seconds"], Value::Null);
    let worker = server.workers()[0];
    assert_eq!(lane["process_id"], worker);
    let of_worker = number(&lane["memory_bytes"]);
    assert!(of_worker > 1e6, "{idle}");
    assert!(number(&idle["memory"]["used_by_server_bytes"]) > of_worker);
    assert_eq!(idle["memory"]["kind"], "system");
    assert_eq!(idle["node"]["status"], "ok");
    assert_eq!(idle["node"]["model"], "tiny.en");
    assert_eq!(
        (&idle["node"]["id"], &idle["nodes"]),
        (&Value::Null, &Value::Null)
    );

    // The worker stands still: what runs goes on running, and what waits goes on waiting.
    signal(worker, "STOP");
    let mut requests = vec![send(&server, "en-command.wav")];
    let busy_with = |report: &Value, kind: &str| report["lanes"][0]["work"]["kind"] == kind;
    let busy = report_with(&server, "it works", |report| busy_with(report, "short")).await;
    assert_eq!(busy["lanes"][0]["state"], "busy");
    assert!(number(&busy["lanes"][0]["work"]["audio_seconds"]) > 1.0);
    requests.extend((0..2).map(|_| send(&server, "en-command.wav")));
    requests.push(send(&server, "en-long.ogg"));
    let waiting = report_with(&server, "the others wait", |report| {
        let waiting = &report["queue"]["waiting"];
        waiting["short"] == 2 && number(&waiting["long"]) >= 1.0
    })
    .await;
    let queue = &waiting["queue"];
    assert_eq!(
        (&queue["requests"], &queue["waiting"]["live"]),
        (&json!(4), &json!(0))
    );
    assert!(number(&queue["audio_seconds"]) > 30.0, "{queue}");
    assert!(number(&queue["drain_seconds"]) > 0.0, "{queue}");
    let lane = &waiting["lanes"][0];
    assert!(number(&lane["seconds"]) >= number(&busy["lanes"][0]["seconds"]));
    signal(worker, "CONT");
    all_answered(requests).await;

    signal(worker, "STOP");
    let long = send(&server, "en-long.ogg");
    report_with(&server, "long work", |report| busy_with(report, "long")).await;
    signal(worker, "CONT");
    all_answered(vec![long]).await;
    let idle = report_with(&server, "it is idle", |report| {
        report["lanes"][0]["state"] == "idle"
    })
    .await;
    assert_eq!(idle["queue"]["waiting"]["long"], 0);
}

#[tokio::test]
async fn an_idle_cold_worker_counts_down_and_a_killed_one_is_gone_with_a_warning() {
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
        ("COLD_WORKER_IDLE_TIMEOUT", "3000"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    server.start_cold_worker().await;
    let is_idle = |report: &Value| report["lanes"][1]["state"] == "idle";
    let first = report_with(&server, "the cold lane is idle", is_idle).await;
    let cold = &first["lanes"][1];
    assert_eq!(
        (&cold["name"], &cold["kind"]),
        (&json!("cold-1"), &json!("cold"))
    );
    let end = |report: &Value| number(&report["lanes"][1]["ends_in_seconds"]);
    // 3000 s, and 10 s for the only slot.
    assert!((2000.0..=3010.0).contains(&end(&first)), "{first}");
    assert_eq!(
        (&first["pool"]["active"], &first["pool"]["spawned"]),
        (&json!(1), &json!(1))
    );
    let later = |report: &Value| end(report) < end(&first) - 0.2;
    let second = report_with(&server, "it counts down", later).await;
    let both = |report: &Value| end(report) + number(&report["lanes"][1]["seconds"]);
    assert!((both(&first) - both(&second)).abs() < 0.01, "{second}");

    let process = cold["process_id"].as_u64().expect("a process");
    signal(u32::try_from(process).expect("a process id"), "KILL");
    let one_lane = |report: &Value| report["lanes"].as_array().is_some_and(|all| all.len() == 1);
    report_with(&server, "it is gone", one_lane).await;
    let failed = |report: &Value| {
        let warnings = report["warnings"].as_array().expect("a list");
        let mut warnings = warnings.iter();
        warnings.any(|warning| {
            let message = warning["message"].as_str().expect("text");
            message.starts_with("a cold worker failed worker=cold-1 reason=")
                && warning["level"] == "WARN"
                && warning["target"]
                    .as_str()
                    .expect("text")
                    .starts_with("stt_actors::")
        })
    };
    let report = report_with(&server, "a warning", failed).await;
    assert!(number(&report["warnings"][0]["at"]) <= number(&report["at"]));
}

#[tokio::test]
async fn the_history_has_requests_with_audio_by_their_end() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-command.wav");
    for _ in 0..2 {
        assert_eq!(server.transcribe(&file, &[]).await.status(), 200);
    }
    let invalid = server
        .transcribe(&file, &[("response_format", "evil-value")])
        .await;
    assert_eq!(invalid.status(), 422);
    let none = server
        .post("/inference", reqwest::multipart::Form::new())
        .await;
    assert_eq!(none.status(), 400);
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let stays = send(&server, "en-command.wav");
    let leaves = send(&server, "en-command.wav");
    let both = |report: &Value| report["queue"]["waiting"]["short"] == 1;
    report_with(&server, "one waits for the other", both).await;
    // Whichever waits: both are the same recording.
    leaves.abort();
    let has_left = |report: &Value| sum(report, "left") > 0;
    report_with(&server, "the client left", has_left).await;
    // While the server drains, it takes no requests.
    signal(server.pid(), "TERM");
    let is_draining = |report: &Value| report["node"]["status"] == "draining";
    report_with(&server, "it drains", is_draining).await;
    assert_eq!(server.transcribe(&file, &[]).await.status(), 503);
    let left = status(&server).await;
    signal(worker, "CONT");
    all_answered(vec![stays]).await;
    let sums = |report: &Value| {
        ["requests", "client_errors", "server_errors", "left"].map(|list| sum(report, list))
    };
    assert_eq!(sums(&left), [6, 2, 1, 1], "{}", left["history"]);
    assert_eq!(left["history"]["step_seconds"], 10);
    let newest = number(&left["history"]["newest"]);
    assert!(
        (0.0..=10.1).contains(&(number(&left["at"]) - newest)),
        "{left}"
    );
    for list in ["p50_seconds", "p95_seconds"] {
        let list = left["history"][list].as_array().expect("a list");
        assert_eq!(list.len(), 90);
        let known = list.iter().filter(|seconds| !seconds.is_null());
        assert!(known.map(number).all(|seconds| seconds > 0.0));
        assert!(list.iter().any(|seconds| !seconds.is_null()));
    }
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn the_status_needs_a_key_where_the_server_has_keys_and_head_has_an_end() {
    let server = Server::start(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    for path in ["/v1/status", "/v1/status/events"] {
        refused(server.get(path).await, 401, "invalid_api_key", None).await;
        for (key, expected) in [("wrong", 401), ("secret", 200)] {
            for method in [Method::GET, Method::HEAD] {
                let url = format!("{}{path}", server.url);
                let request = server.client.request(method.clone(), url).bearer_auth(key);
                let response = request.send().await.expect("an answer");
                assert_eq!(response.status(), expected, "{method} {path} {key}");
                if method == Method::HEAD {
                    assert!(response.bytes().await.expect("an end").is_empty());
                }
            }
        }
    }
}

#[tokio::test]
async fn without_a_board_there_is_no_status() {
    let server = Server::start(&model("tiny.en").await, &[("BOARD", "0")]).await;
    for path in ["/v1/status", "/v1/status/events", "/"] {
        let message = refused(server.get(path).await, 404, "not_found", None).await;
        assert!(!message.contains("the path is"), "{message}");
    }
}

#[tokio::test]
async fn many_viewers_get_the_same_reports_one_too_many_is_refused_and_none_holds_up_the_end() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut viewers = Vec::new();
    for _ in 0..MAX_VIEWERS {
        viewers.push(watch(&server).await);
    }
    let first = next(&mut viewers[0]).await;
    assert_eq!(first["lanes"][0]["state"], "idle");
    let response = server.get("/v1/status/events").await;
    assert!(response.headers().contains_key("retry-after"));
    let message = refused(response, 503, "overloaded", None).await;
    assert!(message.contains("64 viewers"), "{message}");
    // One report can be had nevertheless.
    status(&server).await;
    // The others do not read meanwhile.
    let mut last = number(&first["at"]);
    for _ in 0..3 {
        let report = next(&mut viewers[0]).await;
        assert!(number(&report["at"]) > last, "{report}");
        last = number(&report["at"]);
    }
    // A viewer that is slow skips reports.
    let mut report = next(&mut viewers[0]).await;
    let mut of_another = next(&mut viewers[1]).await;
    while report["at"] != of_another["at"] {
        if number(&of_another["at"]) < number(&report["at"]) {
            of_another = next(&mut viewers[1]).await;
        } else {
            report = next(&mut viewers[0]).await;
        }
    }
    assert_eq!(report, of_another);
    drop(viewers.pop());
    let has_room = || async {
        let response = server.get("/v1/status/events").await;
        response.status() == 200
    };
    server.until("another viewer has room", has_room).await;
    // A viewer that leaves is an ordinary end.
    let ended = server
        .log_line("path=\"/v1/status/events\" status=200")
        .await;
    assert!(ended.contains(" INFO "), "{ended}");
    let of_reports = server.log_lines("path=\"/v1/status\" status=200");
    assert!(
        of_reports.iter().all(|line| line.contains("DEBUG")),
        "{of_reports:?}"
    );
    assert!(server.log_lines("the client disconnected").is_empty());

    signal(server.pid(), "TERM");
    // The last one has read nothing at all so far.
    for viewer in &mut viewers {
        while viewer.next().await.is_some() {}
    }
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_viewer_that_never_reads_delays_neither_the_others_nor_the_end() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut deaf = watch(&server).await;
    let mut viewer = watch(&server).await;
    for _ in 0..3 {
        next(&mut viewer).await;
    }
    signal(server.pid(), "TERM");
    while viewer.next().await.is_some() {}
    assert_eq!(server.exit_code().await, Some(0));
    // Its feed had an end as well: the server did not cut it off after a grace.
    while deaf.next().await.is_some() {}
}

#[tokio::test]
async fn a_viewer_sees_the_server_drain_and_then_its_end() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut viewer = watch(&server).await;
    assert_eq!(next(&mut viewer).await["node"]["status"], "ok");
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let request = send(&server, "en-command.wav");
    let is_busy = |report: &Value| report["lanes"][0]["state"] == "busy";
    report_with(&server, "it works", is_busy).await;
    signal(server.pid(), "TERM");
    let draining = loop {
        let report = next(&mut viewer).await;
        if report["node"]["status"] == "draining" {
            break report;
        }
    };
    assert_eq!(draining["queue"]["requests"], 1);
    assert_eq!(draining["lanes"][0]["state"], "busy");
    signal(worker, "CONT");
    all_answered(vec![request]).await;
    while viewer.next().await.is_some() {}
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn nodes_in_redis_are_listed_and_a_redis_that_hangs_delays_nothing() {
    let redis = RedisServer::start().await;
    let record = r#"{"load_score":0.5,"accepts_requests":false,"host":"10.0.0.8","port":9006,"version":"9.9","ts":1.5}"#;
    redis.ask::<()>(&["SET", "stt:nodes:other", record]);
    redis.ask::<()>(&["SET", "stt:nodes:no-record", "{}"]);
    redis.ask::<()>(&["LPUSH", "stt:nodes:no-text", "1"]);
    redis.ask::<()>(&["SET", "unrelated", "1"]);
    let url = redis.url();
    let settings = [("REDIS_URL", &*url), ("NODE_ID", "kitchen")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let ids = |report: &Value| {
        let list = report["nodes"]["list"].as_array().expect("a list");
        let ids = list.iter().map(|node| node["id"].as_str().expect("text"));
        ids.collect::<Vec<_>>().join(" ")
    };
    // The record of a node that has just become ready may be older.
    let both = |report: &Value| {
        ids(report) == "kitchen other" && report["nodes"]["list"][0]["accepts_requests"] == true
    };
    let report = report_with(&server, "both nodes", both).await;
    assert_eq!(report["node"]["id"], "kitchen");
    let nodes = &report["nodes"];
    assert_eq!(
        (&nodes["error"], &nodes["complete"]),
        (&Value::Null, &json!(true))
    );
    let own = &nodes["list"][0];
    assert_eq!(
        (&own["host"], &own["accepts_requests"]),
        (&json!("localhost"), &json!(true))
    );
    assert!(
        (0.0..=3.0).contains(&number(&own["expires_in_seconds"])),
        "{own}"
    );
    let other = json!({
        "id": "other", "host": "10.0.0.8", "port": 9006, "load_score": 0.5,
        "accepts_requests": false, "version": "9.9", "expires_in_seconds": null,
    });
    assert_eq!(nodes["list"][1], other);

    redis.pause().await;
    let mut viewer = watch(&server).await;
    let away = loop {
        let report = next(&mut viewer).await;
        if !report["nodes"]["error"].is_null() {
            break report;
        }
    };
    let error = away["nodes"]["error"].as_str().expect("text");
    assert!(error.contains("no answer in time"), "{error}");
    // The own record has expired since, the other one never does.
    assert_eq!(ids(&away), "other");
    redis.resume().await;
    report_with(&server, "both nodes again", |report| {
        both(report) && report["nodes"]["error"].is_null()
    })
    .await;
}

/// Far more than a report takes: only a hanging one reaches it.
const HANGS: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_redis_that_is_not_there_is_an_error_in_the_report() {
    let redis = test_support::port::free_port();
    let url = format!("redis://:hunter2@127.0.0.1:{redis}");
    let server = Server::ready(&model("tiny.en").await, &[("REDIS_URL", &url)]).await;
    let refused = |report: &Value| {
        let error = report["nodes"]["error"].as_str();
        error.is_some_and(|error| error.contains("the connection was refused"))
    };
    let waits = report_with(&server, "it says so", refused);
    let report = tokio::time::timeout(HANGS, waits).await.expect("in time");
    assert_eq!(report["nodes"]["list"], json!([]));
    assert_eq!(report["nodes"]["age_seconds"], Value::Null);
    assert!(!report.to_string().contains("hunter2"));
}
