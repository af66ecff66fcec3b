//! Nodes that lose their connections and keep running: only the one to Redis, or all of them.

use serde_json::{Value, json};
use test_support::forwarder::Forwarder;
use test_support::http::client;
use test_support::networks::{self, OWN_ADDRESS, Switch};
use test_support::port::free_port;
use test_support::realtime::{Realtime, speech};
use test_support::redis_server::RedisServer;
use test_support::routers::Router;
use test_support::{Server, model, until};

use super::load::{CLIENTS, Load, ask};

/// What the router for nginx knows of a node; null if it does not know it.
async fn known(nginx: &Router, node: &str) -> Value {
    let status = nginx.status().await;
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    let found = nodes.find(|known| known["id"] == node);
    found.cloned().unwrap_or(Value::Null)
}

/// Waits until nginx sends requests to a node and finds no fault with it.
async fn until_used(nginx: &Router, node: &str) {
    let is_used = async || {
        let known = known(nginx, node).await;
        known["accepts_requests"] == true
            && known["unreachable"] == false
            && known["stale"] == false
    };
    nginx.until(&format!("nginx uses {node}"), is_used).await;
}

/// Sends requests through a router; none of them may reach this node, and none may fail.
async fn all_avoid(router: &Router, node: &str) {
    let client = client();
    let replies = (0..4).map(|_| ask(&client, &router.url));
    for reply in futures::future::join_all(replies).await {
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_ne!(reply.node, node);
    }
}

/// A live session through nginx on this node: the router sends it to the node that made its key.
async fn session_on(nginx: &Router, node: &str) -> Realtime {
    let url = format!("{}/v1/realtime/client_secrets", nginx.url);
    let body = json!({"session": {"type": "transcription",
        "audio": {"input": {"turn_detection": null}}}});
    let client = client();
    let mut key = None;
    until("the node makes a key", async || {
        let made = client.post(&url).json(&body).send().await;
        let made = made.expect("an answer");
        if made.headers()["x-node"] == node {
            let made: Value = made.json().await.expect("JSON");
            key = made["value"].as_str().map(str::to_owned);
        }
        key.is_some()
    })
    .await;
    let key = key.expect("a key");
    let protocols = format!("realtime, openai-insecure-api-key.{key}");
    let headers = [("sec-websocket-protocol", &*protocols)];
    let session = Realtime::connect_to(&nginx.url, "/v1/realtime", &headers).await;
    let mut session = session.expect("a session");
    session.event("session.created").await;
    session.configure(json!({"turn_detection": null})).await;
    session
}

/// The text of a turn in a session.
async fn turn(session: &mut Realtime) -> String {
    session.append(&speech(super::COMMAND, 0)).await;
    session.commit().await;
    session.turn().await.0.to_lowercase()
}

#[tokio::test]
async fn a_node_that_loses_only_redis_finishes_its_work_and_gets_no_more_until_it_is_back() {
    let redis = RedisServer::start().await;
    let wires = (
        Forwarder::to(redis.port()).await,
        Forwarder::to(redis.port()).await,
    );
    let model = model("tiny.en").await;
    let agent_ports = (free_port(), free_port());
    let start = async |name: &str, wire: &Forwarder, agent_port: u16| {
        let settings = [
            ("REDIS_URL", &*format!("redis://127.0.0.1:{}", wire.port)),
            ("NODE_ID", name),
            ("AGENT_CHECK_PORT", &*agent_port.to_string()),
            ("COLD_POOL_MANAGER_INTERVAL", "0.2"),
            ("TRUSTED_PROXIES", "127.0.0.1"),
        ];
        Server::ready(&model, &settings).await
    };
    let nodes = tokio::join!(
        start("node-1", &wires.0, agent_ports.0),
        start("node-2", &wires.1, agent_ports.1)
    );
    let port = |node: &Server| {
        let port = node.url.rsplit(':').next().expect("a port");
        port.parse::<u16>().expect("a number")
    };
    let behind_haproxy = [
        (port(&nodes.0), agent_ports.0),
        (port(&nodes.1), agent_ports.1),
    ];
    let (Some(nginx), Some(haproxy)) = (
        Router::nginx(&redis.url()).await,
        Router::haproxy(&behind_haproxy).await,
    ) else {
        return;
    };
    until_used(&nginx, "node-1").await;
    until_used(&nginx, "node-2").await;
    let load = Load::start(&nginx.url);
    load.more(1, Some("node-1")).await;
    load.more(1, Some("node-2")).await;
    let mut session = session_on(&nginx, "node-1").await;

    wires.0.cut();
    let is_gone = |server: &RedisServer| server.get("stt:nodes:node-1").is_none();
    redis.until("its record expires", is_gone).await;
    let is_unknown = async || known(&nginx, "node-1").await.is_null();
    nginx.until("nginx forgets the node", is_unknown).await;
    all_avoid(&nginx, "node-1").await;
    load.more(CLIENTS * 2, Some("node-2")).await;
    // The node itself is well: it goes on with what it has, and takes what comes without a record.
    let text = turn(&mut session).await;
    assert!(text.contains("kitchen"), "{text}");
    assert_eq!(nodes.0.health().await["routing"]["accepts_requests"], true);
    let client = client();
    let through_haproxy = async || {
        let reply = ask(&client, &haproxy.url).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.node == "node-1"
    };
    haproxy
        .until("HAProxy sends it a request", through_haproxy)
        .await;
    nodes.0.log_line("the node cannot be registered").await;
    let lost = load.take_lost();
    assert!(lost.is_empty(), "{lost:#?}\n{}", nginx.log());

    wires.0.mend();
    nodes.0.log_line("the node is registered again").await;
    until_used(&nginx, "node-1").await;
    load.more(1, Some("node-1")).await;
    let text = turn(&mut session).await;
    assert!(text.contains("kitchen"), "{text}");
    let replies = load.end().await;
    let is_answered = |reply: &super::load::Reply| reply.status == 200;
    assert!(replies.iter().all(is_answered), "{replies:#?}");
}

/// Three machines on one switch, with a node on each; Redis, nginx and the clients are on a fourth.
#[tokio::test]
async fn a_machine_whose_cable_is_pulled_loses_no_request_and_comes_back() {
    let model = model("tiny.en").await;
    test_support::voice_activity().await;
    if !networks::enter(concat!(
        "router::cut_off::",
        "a_machine_whose_cable_is_pulled_loses_no_request_and_comes_back"
    )) {
        return;
    }
    let switch = Switch::new();
    let options = ["--bind", "0.0.0.0", "--protected-mode", "no"];
    let redis = RedisServer::start_with(None, &options).await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let machines = (
        switch.machine(1).await,
        switch.machine(2).await,
        switch.machine(3).await,
    );
    let start = async |name: &str, machine: &networks::Machine| {
        let settings = [
            (
                "REDIS_URL",
                &*format!("redis://{OWN_ADDRESS}:{}", redis.port()),
            ),
            ("HOST", &*machine.address),
            ("NODE_ID", name),
            ("COLD_POOL_MANAGER_INTERVAL", "0.2"),
            ("TRUSTED_PROXIES", OWN_ADDRESS),
        ];
        Server::ready_on(machine, &model, &settings).await
    };
    let nodes = tokio::join!(
        start("node-1", &machines.0),
        start("node-2", &machines.1),
        start("node-3", &machines.2)
    );
    let names = ["node-1", "node-2", "node-3"];
    for node in names {
        until_used(&nginx, node).await;
    }
    // Without NODE_HOST, a node registers the address that it listens on.
    let record = redis.get("stt:nodes:node-1").expect("a record");
    assert!(record.contains(&machines.0.address), "{record}");

    // For each node this process is on another machine.
    let drain = client().post(format!("{}/admin/drain", nodes.1.url));
    let refused = drain.send().await.expect("an answer");
    test_support::refused(refused, 403, "drain_not_allowed", None).await;

    // More clients than can wait for the node that is cut off.
    let loads = [Load::start(&nginx.url), Load::start(&nginx.url)];
    for node in names {
        loads[0].more(1, Some(node)).await;
    }
    machines.0.pull_cable();
    let is_avoided = async || known(&nginx, "node-1").await.is_null();
    nginx.until("nginx forgets the node", is_avoided).await;
    all_avoid(&nginx, "node-1").await;
    let others = async || {
        tokio::select! {
            () = loads[0].more(4, None) => {}
            () = loads[1].more(4, None) => {}
        }
    };
    others().await;
    machines.0.plug_in();
    until_used(&nginx, "node-1").await;
    for load in &loads {
        load.more(1, Some("node-1")).await;
    }
    for load in loads {
        // What the node had in hand was answered after the cable was back.
        let replies = load.end().await;
        let is_answered = |reply: &super::load::Reply| reply.status == 200;
        assert!(replies.iter().all(is_answered), "{replies:#?}");
    }
}
