//! A real server and a real Redis: the record that routers read, and faults of Redis.

use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};

use serde_json::Value;
use test_support::port::free_port;
use test_support::redis_server::RedisServer;
use test_support::{Server, model, sample, signal, until};

fn record(redis: &RedisServer, key: &str) -> Option<Value> {
    let text = redis.get(key)?;
    Some(serde_json::from_str(&text).expect("JSON"))
}

/// A server that registers itself in this Redis as `node-1`.
async fn registered(url: &str, more: &[(&str, &str)]) -> Server {
    let mut settings = vec![
        ("REDIS_URL", url),
        ("NODE_ID", "node-1"),
        ("NODE_HOST", "stt.example"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.2"),
        // No router reads the record.
        ("DRAIN_DELAY_SECONDS", "0"),
    ];
    settings.extend_from_slice(more);
    Server::start(&model("tiny.en").await, &settings).await
}

const KEY: &str = "stt:nodes:node-1";

#[tokio::test]
async fn routers_find_the_node_follow_its_state_and_forget_it_when_it_leaves() {
    let redis = RedisServer::start().await;
    // Until the end of the test, routers have time to read the record.
    let patient = [("DRAIN_DELAY_SECONDS", "3600")];
    let mut server = registered(&redis.url(), &patient).await;
    let accepts = |wanted: bool| {
        let redis = &redis;
        move || async move {
            record(redis, KEY).is_some_and(|record| record["accepts_requests"] == wanted)
        }
    };
    let mut found = Value::Null;
    let is_registered = async || {
        found = record(&redis, KEY).unwrap_or_default();
        found["accepts_requests"] == true
    };
    until("it is registered", is_registered).await;
    let keys: Vec<_> = found.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "load_score",
            "accepts_requests",
            "host",
            "port",
            "version",
            "ts"
        ]
    );
    assert_eq!(found["host"], "stt.example");
    let port: u64 = server
        .url
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number");
    assert_eq!(found["port"], port);
    assert!(found["ts"].is_f64() && found["load_score"].is_number());
    let ends = |redis: &RedisServer| (1..=2).contains(&redis.ttl(KEY));
    redis.until("it ends in two seconds", ends).await;
    // The record is renewed.
    let renewed = || async { record(&redis, KEY).is_some_and(|now| now["ts"] != found["ts"]) };
    server.until("it is renewed", renewed).await;
    // The record shows the work, which lasts until the node drains.
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let request = server.start_long_request().await;
    let loaded =
        || async { record(&redis, KEY).is_some_and(|now| now["load_score"].as_f64() > Some(0.0)) };
    server.until("the load shows", loaded).await;
    signal(server.pid(), "TERM");
    server.until("it drains", accepts(false)).await;
    signal(worker, "CONT");
    assert_eq!(
        request
            .await
            .expect("no panic")
            .expect("an answer")
            .status(),
        200
    );
    server.until("it still drains", accepts(false)).await;
    // The second signal ends the delay.
    assert_eq!(server.terminate().await, Some(0));
    assert_eq!(redis.get(KEY), None);
}

/// The address of this machine on the way to others; `None` without a network.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address of the documentation. Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[tokio::test]
async fn without_node_host_the_address_on_the_way_to_redis_is_registered() {
    let Some(own) = own_address() else { return };
    let redis = RedisServer::start_with(None, &["--bind", "127.0.0.1", &own.to_string()]).await;
    redis.set_option("protected-mode", "no");
    let url = format!("redis://{own}:{}", redis.port());
    let model = model("tiny.en").await;
    let open = [
        ("REDIS_URL", &*url),
        ("HOST", "0.0.0.0"),
        ("DRAIN_DELAY_SECONDS", "0"),
    ];
    let node = Server::start(&model, &open).await;
    node.log_line("registers the address from which it reaches Redis")
        .await;
    let port = node.url.rsplit(':').next().expect("a port");
    let key = format!("stt:nodes:{own}:{port}");
    let is_registered =
        async || record(&redis, &key).is_some_and(|record| record["host"] == own.to_string());
    node.until("it is registered", is_registered).await;
    // Nobody else reaches this one.
    let hidden = Server::start(&model, &[("REDIS_URL", &*url)]).await;
    let line = hidden.log_line("the node does not register itself").await;
    assert!(line.contains("HOST=0.0.0.0"), "{line}");
    let is_alone = |redis: &RedisServer| redis.keys() == [key.as_str()];
    redis.until("nothing else is registered", is_alone).await;
}

#[tokio::test]
async fn a_node_that_dies_is_forgotten_by_itself() {
    let redis = RedisServer::start().await;
    let mut server = registered(&redis.url(), &[]).await;
    let there = || async { redis.get(KEY).is_some() };
    server.until("it is registered", there).await;
    signal(server.pid(), "KILL");
    server.exit_code().await;
    let gone = || async { redis.get(KEY).is_none() };
    server.until("the record ends", gone).await;
}

#[tokio::test]
async fn redis_may_stop_hang_restart_and_refuse_and_no_request_notices() {
    let mut redis = RedisServer::start().await;
    let server = registered(&redis.url(), &[]).await;
    server.until_ready().await;
    let there = |redis: &RedisServer| redis.get(KEY).is_some();
    server.until("registered", || async { there(&redis) }).await;
    let works = || async {
        let response = server.transcribe(&sample("en-command.wav"), &[]).await;
        assert_eq!(response.status(), 200);
        let health = server.health().await;
        assert_eq!(health["status"], "ok");
    };
    redis.stop();
    server.log_line("the node cannot be registered").await;
    works().await;
    redis.restart().await;
    server
        .until("registered again", || async { there(&redis) })
        .await;
    server.log_line("the node is registered again").await;
    redis.pause().await;
    works().await;
    redis.resume().await;
    server
        .until("registered again", || async { there(&redis) })
        .await;
    // The password changes.
    redis.stop();
    redis.restart_with_password(Some("sesame")).await;
    server.log_line("password").await;
    works().await;
    // Each error is logged once per outage, independent of the number of ticks.
    let log = server.log();
    let mut told = HashSet::new();
    for line in &log {
        if line.contains("the node is registered again") {
            told.clear();
        }
        if let Some((_, error)) = line.split_once("the node cannot be registered") {
            assert!(told.insert(error), "{}", log.join("\n"));
        }
    }
    redis.stop();
    redis.restart_with_password(None).await;
    server
        .until("registered again", || async { there(&redis) })
        .await;
    works().await;
}

#[tokio::test]
async fn an_unreachable_redis_is_logged_once_and_the_node_works_and_ends_cleanly() {
    let url = format!("redis://:secret-word@127.0.0.1:{}/0", free_port());
    let mut server = registered(&url, &[]).await;
    server.until_ready().await;
    let line = server.log_line("the node cannot be registered").await;
    assert!(line.contains("the connection was refused"), "{line}");
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(server.terminate().await, Some(0));
    let log = server.log();
    let told = log
        .iter()
        .filter(|line| line.contains("the node cannot be registered"));
    assert_eq!(told.count(), 1);
    assert!(!log.join("\n").contains("secret-word"));
}

#[test]
fn a_url_that_redis_cannot_take_stops_the_start_with_one_line_without_its_password() {
    let output = std::process::Command::new(test_support::program())
        .args(["serve", "--set", "REDIS_URL=http://user:secret-word@host"])
        .output()
        .expect("runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("REDIS_URL") && text.contains("redis://"),
        "{text}"
    );
    assert!(!text.contains("secret-word"), "{text}");
}
