//! The node directory on servers of other kinds: with certificates, behind a sentinel, in a cluster.

use std::path::Path;

use serde_json::Value;
use stt_actors::ports::NodeDirectory;
use test_support::redis_sentinel::RedisSentinel;
use test_support::redis_server::RedisServer;
use test_support::tls::{Authority, text};
use test_support::{Server, model, signal};
use uttera_stt::redis::{RedisDirectory, RedisPem};

use crate::redis_directory::{KEY, directory, load_score, node, publish, refusal};

#[tokio::test]
async fn an_authority_of_ones_own_and_client_certificates_work() {
    let authority = Authority::new();
    let of_node = authority.issue("node");
    let (server, port) = RedisServer::start_with_tls(&authority, true).await;
    let (ca, url) = (
        authority.certificate(),
        format!("rediss://127.0.0.1:{port}"),
    );
    let with = |pem: RedisPem| RedisDirectory::new(&url, &pem, node()).expect("a URL");
    let read = |path: &Path| std::fs::read(path).expect("is there");
    let trusting = RedisPem {
        ca: Some(read(&ca)),
        pair: None,
    };
    refusal(&with(trusting.clone())).await;
    assert_eq!(server.get(KEY), None);
    let known = RedisPem {
        pair: Some((read(&of_node.certificate), read(&of_node.key))),
        ..trusting
    };
    publish(&with(known.clone()), 0.25)
        .await
        .expect("published");
    assert_eq!(load_score(&server), Some(0.25));
    let other = RedisPem {
        ca: Some(read(&Authority::new().certificate())),
        ..known
    };
    let refused = refusal(&with(other)).await;
    assert!(refused.contains("certificate"), "{refused}");
    // By the settings, with the reader of the board.
    let settings = [
        ("REDIS_URL", &*url),
        ("REDIS_CA", text(&ca)),
        ("REDIS_CERT", text(&of_node.certificate)),
        ("REDIS_KEY", text(&of_node.key)),
        ("NODE_ID", "attic"),
    ];
    let node = Server::start(&model("tiny.en").await, &settings).await;
    let is_listed = async || {
        let status: Value = node.get("/v1/status").await.json().await.expect("JSON");
        let mut listed = status["nodes"]["list"].as_array().into_iter().flatten();
        listed.any(|node| node["id"] == "attic" && node["host"] == "localhost")
    };
    node.until("the node sees itself", is_listed).await;
}

#[tokio::test]
async fn after_a_failover_the_record_is_with_the_new_master() {
    let mut redis = RedisSentinel::start().await;
    let watched = directory(&redis.url());
    publish(&watched, 0.25).await.expect("published");
    assert_eq!(load_score(&redis.master), Some(0.25));
    redis.master.stop();
    let refused = refusal(&watched).await;
    assert!(
        refused.contains("the master main of the sentinels"),
        "{refused}"
    );
    redis.allow_failover();
    let is_published = async || publish(&watched, 0.75).await.is_ok();
    redis.until("it is published again", is_published).await;
    assert_eq!(load_score(&redis.replica), Some(0.75));
    watched.withdraw().await.expect("withdrawn");
    let unknown = redis.url().replace("/main", "/other");
    let refused = refusal(&directory(&unknown)).await;
    assert!(refused.contains("know no master"), "{refused}");
}

#[tokio::test]
async fn sentinels_and_their_servers_may_speak_tls_only() {
    let authority = Authority::new();
    let mut redis = RedisSentinel::start_with_tls(&authority).await;
    let url = redis.url();
    refusal(&directory(&url)).await;
    let of_node = authority.issue("node");
    let read = |path: &Path| std::fs::read(path).expect("is there");
    let pem = RedisPem {
        ca: Some(read(&authority.certificate())),
        pair: Some((read(&of_node.certificate), read(&of_node.key))),
    };
    let known = RedisDirectory::new(&url, &pem, node()).expect("a URL");
    publish(&known, 0.25).await.expect("published");
    assert_eq!(load_score(&redis.master), Some(0.25));
    redis.master.stop();
    redis.allow_failover();
    let is_published = async || publish(&known, 0.75).await.is_ok();
    redis.until("it is published again", is_published).await;
    assert_eq!(load_score(&redis.replica), Some(0.75));
}

/// The certificate that the node presents is of an authority that Redis does not trust, until it is replaced.
#[tokio::test]
async fn a_new_certificate_is_read_on_sighup_and_an_unusable_one_is_not() {
    let (authority, other) = (Authority::new(), Authority::new());
    let of_node = other.issue("node");
    let (redis, port) = RedisServer::start_with_tls(&authority, true).await;
    let (ca, url) = (
        authority.certificate(),
        format!("rediss://127.0.0.1:{port}"),
    );
    let settings = [
        ("REDIS_URL", &*url),
        ("REDIS_CA", text(&ca)),
        ("REDIS_CERT", text(&of_node.certificate)),
        ("REDIS_KEY", text(&of_node.key)),
        ("NODE_ID", "attic"),
    ];
    let node = Server::start(&model("tiny.en").await, &settings).await;
    node.log_line("the node cannot be registered").await;
    assert_eq!(redis.get("stt:nodes:attic"), None);
    let key = std::fs::read(&of_node.key).expect("is there");
    std::fs::write(&of_node.key, "no key").expect("writes");
    signal(node.pid(), "HUP");
    node.log_line("the certificates for Redis could not be reloaded")
        .await;
    std::fs::write(&of_node.key, key).expect("writes");
    authority.issue("node").replace(&of_node);
    signal(node.pid(), "HUP");
    node.log_line("the certificates for Redis were reloaded")
        .await;
    node.log_line("the node is registered again").await;
    let is_there = |redis: &RedisServer| redis.get("stt:nodes:attic").is_some();
    redis.until("the record is there", is_there).await;
    let is_listed = async || {
        let status: Value = node.get("/v1/status").await.json().await.expect("JSON");
        let mut listed = status["nodes"]["list"].as_array().into_iter().flatten();
        listed.any(|node| node["id"] == "attic")
    };
    node.until("the board reads it as well", is_listed).await;
}

#[tokio::test]
async fn a_cluster_is_refused_with_the_reason() {
    let server = RedisServer::start_with(None, &["--cluster-enabled", "yes"]).await;
    let refused = refusal(&directory(&server.url())).await;
    assert!(
        refused.contains("cluster, which is not supported"),
        "{refused}"
    );
}
