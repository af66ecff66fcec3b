//! Steady load through nginx and HAProxy while nodes stop, fill, drain, die and return, and while Redis is away: no
//! request is lost but those that a killed node works on.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::http::client;
use test_support::realtime::Realtime;
use test_support::redis_server::RedisServer;
use test_support::routers::Router;
use test_support::{signal, until};
use tokio::net::{TcpSocket, TcpStream};

use super::load::{CLIENTS, Load, ask};
use super::scripted::known;
use super::{Node, send};

/// Everything that takes part.
struct World {
    redis: RedisServer,
    nodes: Vec<Node>,
    nginx: Router,
    haproxy: Router,
    loads: Vec<Load>,
}

impl World {
    /// Waits until both routers send requests to a node, and do not find fault with any.
    async fn until_all_work(&self) {
        for node in &self.nodes {
            let name = &node.name;
            let accepts = async || {
                let known = known(&self.nginx, name).await;
                known["accepts_requests"] == true
                    && known["unreachable"] == false
                    && known["stale"] == false
            };
            self.nginx
                .until(&format!("nginx uses {name}"), accepts)
                .await;
        }
        let all_up = async || {
            let states = self.haproxy.states().await;
            states.len() == 3 && states.iter().all(|(state, _)| state == "UP")
        };
        self.haproxy.until("HAProxy uses all nodes", all_up).await;
    }

    /// Waits until neither router sends new requests to a node.
    async fn until_none_uses(&self, place: usize, state: &str) {
        let name = &self.nodes[place].name;
        let unused = async || {
            let known = known(&self.nginx, name).await;
            known.is_null() || known["accepts_requests"] == false || known["stale"] == true
        };
        self.nginx
            .until(&format!("nginx avoids {name}"), unused)
            .await;
        let is_out = async || self.haproxy.states().await[place].0.starts_with(state);
        self.haproxy
            .until(&format!("HAProxy says that {name} is {state}"), is_out)
            .await;
    }

    /// Sends requests through both routers; none of them may reach this node.
    async fn all_avoid(&self, place: usize) {
        let client = client();
        for router in [&self.nginx, &self.haproxy] {
            let replies = (0..3).map(|_| ask(&client, &router.url));
            for reply in futures::future::join_all(replies).await {
                assert_eq!(reply.status, 200, "{reply:?}");
                assert_ne!(reply.node, self.nodes[place].name);
            }
        }
    }

    /// Checks that no request was lost since the last check.
    fn nothing_is_lost(&self, what: &str) {
        for (load, router) in self.loads.iter().zip([&self.nginx, &self.haproxy]) {
            let lost = load.take_lost();
            assert!(lost.is_empty(), "{what}: {lost:#?}\n{}", router.log());
        }
    }

    /// Waits until both routers have had a reply of a node.
    async fn until_served_by(&self, place: usize) {
        for load in &self.loads {
            load.more(1, Some(&self.nodes[place].name)).await;
        }
    }
}

#[tokio::test]
async fn no_request_is_lost_while_nodes_leave_die_and_return() {
    let redis = RedisServer::start().await;
    let (one, two, three) = tokio::join!(
        Node::start(1, &redis),
        Node::start(2, &redis),
        Node::start(3, &redis)
    );
    let nodes = vec![one, two, three];
    let ports: Vec<_> = nodes
        .iter()
        .map(|node| (node.port, node.agent_port))
        .collect();
    let (Some(nginx), Some(haproxy)) = (
        Router::nginx(&redis.url()).await,
        Router::haproxy(&ports).await,
    ) else {
        return;
    };
    let mut world = World {
        redis,
        nodes,
        nginx,
        haproxy,
        loads: Vec::new(),
    };
    world.until_all_work().await;
    sessions_with_a_key_of_one_node(&world).await;
    world.loads = [&world.nginx, &world.haproxy]
        .map(|router| Load::start(&router.url))
        .into();
    for place in 0..3 {
        world.until_served_by(place).await;
    }
    world.nothing_is_lost("at first");

    eprintln!("a node that cannot be reached");
    unreachable_node(&world).await;
    eprintln!("a Redis that restarts");
    restarted_redis(&mut world).await;
    eprintln!("a node that is stopped");
    stopped_node(&world).await;
    eprintln!("a node that is full");
    full_node(&world).await;
    eprintln!("each node drains and starts again");
    for place in [2, 0, 1] {
        drained_node(&mut world, place).await;
    }
    eprintln!("a node that is killed and starts again");
    killed_node(&mut world).await;

    let World {
        redis,
        mut nodes,
        nginx,
        haproxy,
        loads,
    } = world;
    for load in loads {
        let replies = load.end().await;
        assert!(
            replies.iter().all(|reply| reply.status == 200),
            "{replies:?}"
        );
    }
    // nginx counts a request until after its reply.
    for node in &nodes {
        let is_free = async || known(&nginx, &node.name).await["in_flight"].as_f64() < Some(1e-9);
        nginx.until("nothing is in flight", is_free).await;
    }
    eprintln!("an outage, after which all clients come back at once");
    outage(&redis, &mut nodes, [&nginx, &haproxy]).await;
}

/// Only the node that made an ephemeral key knows what its sessions are like: the router for nginx finds that node again.
async fn sessions_with_a_key_of_one_node(world: &World) {
    let body = json!({"session": {"type": "transcription",
        "audio": {"input": {"turn_detection": null}}}});
    let url = format!("{}/v1/realtime/client_secrets", world.nginx.url);
    let made = client().post(url).json(&body).send().await;
    let made: Value = made.expect("an answer").json().await.expect("JSON");
    let protocols = format!(
        "realtime, openai-insecure-api-key.{}",
        made["value"].as_str().expect("a key")
    );
    let mut sessions = Vec::new();
    for _ in 0..6 {
        let page = [("sec-websocket-protocol", protocols.as_str())];
        let mut session = Realtime::connect_to(&world.nginx.url, "/v1/realtime", &page)
            .await
            .expect("a session");
        let created = session.event("session.created").await;
        let turns = &created["session"]["audio"]["input"]["turn_detection"];
        assert!(turns.is_null(), "{created}");
        sessions.push(session);
    }
}

/// The record is there, and its machine does not answer: packets to it get lost.
async fn unreachable_node(world: &World) {
    let socket = TcpSocket::new_v4().expect("a socket");
    let address = "127.0.0.1:0".parse().expect("an address");
    socket.bind(address).expect("binds");
    let address = socket.local_addr().expect("an address");
    let _listener = socket.listen(1).expect("listens");
    // Nobody accepts these connections. When the queue is full, the kernel drops the packets of further ones.
    let mut queued = Vec::new();
    let patience = Duration::from_millis(300);
    while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        queued.push(stream);
    }
    let record = json!({"load_score": 0.0, "accepts_requests": true, "host": "127.0.0.1",
        "port": address.port(), "version": "1", "ts": 1.0});
    let key = "stt:nodes:far";
    let _: () = world.redis.ask(&["SET", key, &record.to_string()]);
    let failed = async || known(&world.nginx, "far").await["failures"].as_u64() > Some(0);
    world.nginx.until("a request came to it", failed).await;
    world.loads[0].more(3, None).await;
    let _: i64 = world.redis.ask(&["DEL", key]);
    world.nothing_is_lost("with a node that cannot be reached");
}

async fn restarted_redis(world: &mut World) {
    world.redis.stop();
    let noticed = async || world.nginx.status().await["redis"]["error"].is_string();
    world.nginx.until("nginx notices it", noticed).await;
    for load in &world.loads {
        load.more(3, None).await;
    }
    world.redis.restart().await;
    world.until_all_work().await;
    for load in &world.loads {
        load.more(2, None).await;
    }
    world.nothing_is_lost("with a Redis that restarts");
}

/// A stopped process accepts connections and answers none. What it has waits until it goes on.
async fn stopped_node(world: &World) {
    let server = &world.nodes[0].server;
    signal(server.pid(), "STOP");
    world.until_none_uses(0, "DOWN").await;
    world.all_avoid(0).await;
    signal(server.pid(), "CONT");
    world.until_all_work().await;
    world.until_served_by(0).await;
    world.nothing_is_lost("with a node that is stopped");
}

/// A node with more work than it wants, because its worker does nothing.
async fn full_node(world: &World) {
    let server = &world.nodes[1].server;
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let file = server.long_file(30);
    let url = format!("{}/v1/audio/transcriptions", server.url);
    let mut running = Vec::new();
    let is_full = async || server.health().await["routing"]["accepts_requests"] == false;
    while !is_full().await {
        let form = test_support::form(&file, &[]);
        let before = server.health().await["smart_routing"]["queue_audio_seconds"].as_f64();
        running.push(tokio::spawn(
            server.client.post(&url).multipart(form).send(),
        ));
        let more = async || {
            let now = server.health().await["smart_routing"]["queue_audio_seconds"].as_f64();
            is_full().await || now > before.map(|before| before + 60.0)
        };
        until("it has more work", more).await;
    }
    world.until_none_uses(1, "DRAIN").await;
    world.all_avoid(1).await;
    for request in running {
        request.abort();
    }
    signal(worker, "CONT");
    world.until_all_work().await;
    world.until_served_by(1).await;
    world.nothing_is_lost("with a node that is full");
}

async fn drained_node(world: &mut World, place: usize) {
    assert_eq!(world.nodes[place].server.terminate().await, Some(0));
    // Routers sent nothing to it any more when it began to reject requests.
    let mut rejections = world.nodes[place].server.log_lines("draining");
    rejections.retain(|line| line.contains("status=503") && !line.contains("/readyz"));
    assert!(rejections.is_empty(), "{rejections:#?}");
    for load in &world.loads {
        load.more(2, None).await;
    }
    world.nothing_is_lost("with a node that drains");
    let (node, redis) = (&mut world.nodes[place], &world.redis);
    node.start_again(redis).await;
    world.until_all_work().await;
    world.until_served_by(place).await;
    world.nothing_is_lost("with a node that has started again");
}

async fn killed_node(world: &mut World) {
    world.nodes[0].kill();
    for (load, closes) in world.loads.iter().zip([false, true]) {
        load.more(3, None).await;
        let lost = load.take_lost();
        assert!(lost.len() <= CLIENTS, "{lost:?}");
        for reply in lost {
            // HAProxy closes the connection instead, unless the request was the first on it.
            let is_closed = closes && reply.status == 0;
            let is_told = reply.status == 502 && reply.body.contains("node_lost");
            assert!(is_closed || is_told, "{reply:?}");
        }
    }
    let (node, redis) = (&mut world.nodes[0], &world.redis);
    node.start_again(redis).await;
    world.until_all_work().await;
    world.until_served_by(0).await;
    world.nothing_is_lost("with a node that was killed and has started again");
}

/// All nodes are gone; then they come back, and so do all clients.
async fn outage(redis: &RedisServer, nodes: &mut [Node], routers: [&Router; 2]) {
    for node in nodes.iter_mut() {
        node.kill();
    }
    let client = client();
    for router in routers {
        let refuses = async || {
            let reply = ask(&client, &router.url).await;
            assert_ne!(reply.status, 200);
            reply.status == 503 && reply.body.contains("overloaded")
        };
        router.until("it rejects requests", refuses).await;
        let reply = send(&client, &router.url).await.expect("an answer");
        let seconds = reply.headers()["retry-after"].to_str().expect("ASCII");
        assert!((1..=10).contains(&seconds.parse::<u32>().expect("a number")));
    }
    let client = &client;
    let herd = (0..16).map(|number| async move {
        let url = &routers[number % 2].url;
        until("the client gets its text", async || {
            let reply = ask(client, url).await;
            assert!([200, 503].contains(&reply.status), "{reply:?}");
            reply.status == 200
        })
        .await;
    });
    let starts = nodes.iter_mut().map(|node| node.start_again(redis));
    futures::future::join(
        futures::future::join_all(starts),
        futures::future::join_all(herd),
    )
    .await;
}
