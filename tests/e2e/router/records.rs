//! What the router for nginx makes of the records in Redis: those that cannot be used, names and IPv6 addresses, a Redis
//! that is empty, and one that sentinels name.

use std::net::Ipv6Addr;

use serde_json::json;
use test_support::http::client;
use test_support::redis_sentinel::RedisSentinel;
use test_support::redis_server::RedisServer;
use test_support::routers::Router;
use test_support::tls::Authority;
use test_support::{refused, until};
use wiremock::{Request, ResponseTemplate};

use super::scripted::{ScriptedNode, known, until_known};

fn fine(_: &Request) -> ResponseTemplate {
    ResponseTemplate::new(200)
}

/// Sends requests through the router; each has to be answered by one of these nodes.
async fn served_by(nginx: &Router, names: &[&str]) {
    let client = client();
    for _ in 0..8 {
        let url = format!("{}/v1/audio/transcriptions", nginx.url);
        let reply = client.post(url).body("audio").send().await;
        let reply = reply.expect("an answer");
        assert_eq!(reply.status(), 200, "{}", nginx.log());
        let node = reply.headers()["x-node"].to_str().expect("ASCII");
        assert!(names.contains(&node), "{node}");
    }
}

#[tokio::test]
async fn records_that_cannot_be_used_are_left_out_and_harm_nothing() {
    let redis = RedisServer::start().await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let node = ScriptedNode::start("node-1", fine).await;
    let record = |host: &str, rest: &str| {
        format!(
            r#"{{"load_score":0,"accepts_requests":true,"host":"{host}","port":9005,"version":"1"{rest}}}"#
        )
    };
    for (name, record) in [
        ("port-in-host", record("10.0.0.5:9005", "")),
        ("no-octets", record("999.1.1.1", "")),
        ("no-ipv6", record("a:b", "")),
        ("line\nbreak", record("127.0.0.1", "")),
        (
            "long",
            record("127.0.0.1", &format!(r#","x":"{}""#, "x".repeat(5000))),
        ),
        ("text", "no record".to_owned()),
    ] {
        let _: () = redis.ask(&["SET", &format!("stt:nodes:{name}"), &record]);
    }
    // JSON has no infinity, but readers make one of this.
    let (port, _) = node.ports();
    let record = format!(
        r#"{{"load_score":0.1,"accepts_requests":true,"host":"127.0.0.1","port":{port},"ts":1e999}}"#
    );
    let _: () = redis.ask(&["SET", "stt:nodes:node-0", &record]);
    node.register(&redis, &json!({}));
    until_known(&nginx, &["node-0", "node-1"]).await;
    served_by(&nginx, &["node-0", "node-1"]).await;
    // The view goes on, and a complaint is logged once, however often the records are read.
    for load in [0.2, 0.3, 0.4] {
        node.register(&redis, &json!({"load_score": load}));
        let read = async || known(&nginx, "node-1").await["load_score"] == load;
        nginx.until("it has read the new record", read).await;
    }
    assert!(nginx.status().await["redis"]["error"].is_null());
    let log = nginx.log();
    for name in [
        "port-in-host",
        "no-octets",
        "no-ipv6",
        r"line\x0abreak",
        "long",
        "text",
    ] {
        let complaint = format!("stt:nodes:{name} is left out");
        assert_eq!(log.matches(&complaint).count(), 1, "{name}:\n{log}");
    }
}

#[tokio::test]
async fn nodes_have_names_or_addresses_of_both_kinds() {
    let redis = RedisServer::start().await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let named = ScriptedNode::start("named", fine).await;
    named.register(&redis, &json!({"host": "localhost"}));
    until_known(&nginx, &["named"]).await;
    served_by(&nginx, &["named"]).await;
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let six = ScriptedNode::start_on(Ipv6Addr::LOCALHOST.into(), "six", fine).await;
    six.register(&redis, &json!({"host": "[::1]"}));
    let _: i64 = redis.ask(&["DEL", "stt:nodes:named"]);
    let reads = async || known(&nginx, "six").await["accepts_requests"] == true;
    nginx.until("it knows the node", reads).await;
    named.register(&redis, &json!({"accepts_requests": false}));
    let is_full = async || known(&nginx, "named").await["accepts_requests"] == false;
    nginx.until("the other one takes nothing", is_full).await;
    served_by(&nginx, &["six"]).await;
}

#[tokio::test]
async fn a_redis_that_restarts_empty_takes_no_node_away() {
    let mut redis = RedisServer::start().await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let mut nodes = Vec::new();
    for name in ["full", "node-1", "node-2"] {
        nodes.push(ScriptedNode::start(name, fine).await);
    }
    nodes[0].fill();
    for node in &nodes {
        node.register(&redis, &json!({}));
    }
    let all = ["full", "node-1", "node-2"];
    until_known(&nginx, &all).await;
    redis.restart().await;
    // Their records are missing for longer than usual.
    let stale = async || known(&nginx, "node-2").await["stale"] == true;
    nginx.until("it has read the empty Redis", stale).await;
    served_by(&nginx, &["node-1", "node-2"]).await;
    // One record is there again, the others not yet.
    nodes[1].register(&redis, &json!({}));
    let is_back = async || known(&nginx, "node-1").await["stale"] == false;
    nginx.until("it has read the first record", is_back).await;
    until_known(&nginx, &all).await;
    served_by(&nginx, &["node-1"]).await;
    // Its node fills up: the one whose record is still missing helps, and not the one that was full.
    nodes[1].fill();
    nodes[1].register(&redis, &json!({}));
    let is_full = async || known(&nginx, "node-1").await["accepts_requests"] == false;
    nginx.until("the first node is full", is_full).await;
    served_by(&nginx, &["node-2"]).await;
}

#[tokio::test]
async fn sentinels_name_the_redis_that_is_read() {
    let mut sentinel = RedisSentinel::start().await;
    let Some(nginx) = Router::nginx(&sentinel.url()).await else {
        return;
    };
    let node = ScriptedNode::start("node-1", fine).await;
    node.register(&sentinel.master, &json!({}));
    until_known(&nginx, &["node-1"]).await;
    served_by(&nginx, &["node-1"]).await;
    sentinel.master.stop();
    sentinel.allow_failover();
    sentinel.until_failover().await;
    node.register(&sentinel.replica, &json!({"load_score": 0.3}));
    let read = async || known(&nginx, "node-1").await["load_score"] == 0.3;
    nginx.until("it reads the new master", read).await;
}

#[tokio::test]
async fn redis_is_read_over_tls_by_its_name_and_by_its_address() {
    let authority = Authority::new();
    let (redis, port) = RedisServer::start_with_tls(&authority, false).await;
    let ca = authority.certificate();
    let node = ScriptedNode::start("node-1", fine).await;
    node.register(&redis, &json!({}));
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("rediss://{host}:{port}");
        let Some(nginx) = Router::nginx_that_trusts(&ca, &url).await else {
            return;
        };
        until_known(&nginx, &["node-1"]).await;
        served_by(&nginx, &["node-1"]).await;
    }
    let other = Authority::new();
    let url = format!("rediss://127.0.0.1:{port}");
    let nginx = Router::nginx_that_trusts(&other.certificate(), &url).await;
    let nginx = nginx.expect("it is installed");
    let is_refused = async || nginx.log().contains("the TLS handshake failed");
    until("the certificate is refused", is_refused).await;
    assert!(known(&nginx, "node-1").await.is_null());
}

/// The kernel of a node that is stopped still accepts connections.
#[tokio::test]
async fn a_node_that_gives_no_answer_holds_no_request() {
    let redis = RedisServer::start().await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = silent.local_addr().expect("an address").port();
    let register = |ts: f64| {
        let record = json!({"load_score": 0.0, "accepts_requests": true, "host": "127.0.0.1",
            "port": port, "version": "1", "ts": ts});
        let _: () = redis.ask(&["SET", "stt:nodes:silent", &record.to_string()]);
    };
    // It renews its record once, and never again. The time has as many digits as those of nodes.
    register(1_796_026_235.159_662);
    until_known(&nginx, &["silent"]).await;
    register(1_796_026_235.659_671);
    let is_stale = async || known(&nginx, "silent").await["stale"] == true;
    nginx.until("its record is stale", is_stale).await;
    let overloaded = |_: &Request| {
        ResponseTemplate::new(503)
            .insert_header("x-not-processed", "1")
            .set_body_json(json!({"error": {"message": "full", "type": "server_error",
                "param": null, "code": "overloaded"}, "detail": "full"}))
    };
    let full = ScriptedNode::start("full", overloaded).await;
    full.register(&redis, &json!({}));
    until_known(&nginx, &["full", "silent"]).await;
    let rejected = async || {
        let url = format!("{}/v1/audio/transcriptions", nginx.url);
        let reply = client().post(url).body("audio").send().await;
        refused(reply.expect("an answer"), 503, "overloaded", None).await;
    };
    rejected().await;
    assert_eq!(full.requests().await, 1);
    // Now it is asked, because no other node accepts requests.
    full.fill();
    full.register(&redis, &json!({}));
    let is_full = async || known(&nginx, "full").await["accepts_requests"] == false;
    nginx.until("the other node is full", is_full).await;
    rejected().await;
    assert_eq!(known(&nginx, "silent").await["unreachable"], true);
}
