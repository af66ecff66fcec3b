//! What routers send to another node, what they keep for themselves, and which requests full nodes still get.

use reqwest::{Client, Method, Response};
use serde_json::json;
use test_support::http::client;
use test_support::redis_server::RedisServer;
use test_support::refused;
use test_support::routers::Router;
use wiremock::{Request, ResponseTemplate};

use super::scripted::{ScriptedNode, until_known, until_state};

const JOBS: &str = "/v1/audio/jobs";
const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

/// Two nodes with their Redis behind both routers; `None` if a router is not installed.
struct World {
    redis: RedisServer,
    nodes: [ScriptedNode; 2],
    nginx: Router,
    haproxy: Router,
    client: Client,
}

impl World {
    async fn start(
        answer: impl Fn(&'static str, &Request) -> ResponseTemplate + Copy + Send + Sync + 'static,
    ) -> Option<Self> {
        let redis = RedisServer::start().await;
        let node = |name| ScriptedNode::start(name, move |request| answer(name, request));
        let nodes = [node("node-1").await, node("node-2").await];
        let ports = [nodes[0].ports(), nodes[1].ports()];
        let world = Self {
            nginx: Router::nginx(&redis.url()).await?,
            haproxy: Router::haproxy(&ports).await?,
            redis,
            nodes,
            client: client(),
        };
        world.register();
        until_known(&world.nginx, &["node-1", "node-2"]).await;
        until_state(&world.haproxy, "UP").await;
        Some(world)
    }

    fn register(&self) {
        for node in &self.nodes {
            node.register(&self.redis, &json!({}));
        }
    }

    async fn send(&self, router: &Router, method: Method, path: &str, bytes: usize) -> Response {
        let url = format!("{}{path}", router.url);
        let request = self.client.request(method, url).body(vec![0; bytes]);
        request.send().await.expect("an answer")
    }

    /// Requests of all nodes.
    async fn requests(&self) -> usize {
        self.nodes[0].requests().await + self.nodes[1].requests().await
    }
}

#[tokio::test]
async fn only_a_rejection_before_any_work_goes_to_another_node() {
    let reject = |_: &str, request: &Request| {
        let error = json!({"error": {"message": "full", "type": "server_error", "param": null,
            "code": "overloaded"}, "detail": "full"});
        let reply = ResponseTemplate::new(503).set_body_json(error);
        let reply = reply.insert_header("retry-after", "7");
        if request.url.path() == TRANSCRIPTIONS {
            reply.insert_header("x-not-processed", "1")
        } else {
            reply
        }
    };
    let Some(world) = World::start(reject).await else {
        return;
    };
    // The job may have been stored.
    for (router, path) in [
        (&world.nginx, JOBS),
        (&world.nginx, "//v1/audio/%6aobs/"),
        (&world.haproxy, JOBS),
        (&world.haproxy, "//v1/audio/%6aobs/"),
    ] {
        let before = world.requests().await;
        let reply = world.send(router, Method::POST, path, 1000).await;
        assert_eq!(reply.headers()["retry-after"], "7");
        refused(reply, 503, "overloaded", None).await;
        assert_eq!(
            world.requests().await,
            before + 1,
            "{path}\n{}",
            router.log()
        );
    }
    for router in [&world.nginx, &world.haproxy] {
        let (mut before, mut more) = ([0, 0], [0, 0]);
        for (place, node) in world.nodes.iter().enumerate() {
            before[place] = node.requests().await;
        }
        let reply = world.send(router, Method::POST, TRANSCRIPTIONS, 1000).await;
        assert_eq!(reply.headers()["retry-after"], "7");
        refused(reply, 503, "overloaded", None).await;
        for (place, node) in world.nodes.iter().enumerate() {
            more[place] = node.requests().await - before[place];
        }
        assert!(more[0] > 0 && more[1] > 0, "{more:?}\n{}", router.log());
    }
}

#[tokio::test]
async fn what_each_node_has_for_itself_is_not_passed_on_however_it_is_spelled() {
    let Some(world) = World::start(|_, _| ResponseTemplate::new(200)).await else {
        return;
    };
    for router in [&world.nginx, &world.haproxy] {
        for path in [
            "/metrics",
            "//metrics",
            "/metrics/",
            "/metrics//",
            "/%6detrics?x=1",
            "/v1/metrics",
            "//v1//metrics/",
            "/admin",
            "/admin/drain",
            "//admin/drain",
            "/admin//drain/",
            "/%61dmin/drain",
        ] {
            let reply = world.send(router, Method::POST, path, 0).await;
            let message = refused(reply, 404, "not_found", None).await;
            assert!(message.contains("the node itself"), "{path}: {message}");
        }
        assert_eq!(world.requests().await, 0);
    }
    // Others that look similar are.
    let reply = world
        .send(&world.haproxy, Method::GET, "/metricsx", 0)
        .await;
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn nodes_that_accept_no_work_still_answer_what_is_none() {
    let Some(world) = World::start(|_, _| ResponseTemplate::new(200)).await else {
        return;
    };
    for node in &world.nodes {
        node.fill();
    }
    world.register();
    let rejects = async || {
        let reply = world
            .send(&world.nginx, Method::POST, TRANSCRIPTIONS, 10)
            .await;
        reply.status() == 503
    };
    world
        .nginx
        .until("it knows that both are full", rejects)
        .await;
    until_state(&world.haproxy, "DRAIN").await;
    for router in [&world.nginx, &world.haproxy] {
        let reply = world.send(router, Method::POST, TRANSCRIPTIONS, 10).await;
        assert!(reply.headers().contains_key("retry-after"));
        refused(reply, 503, "overloaded", None).await;
        for (method, path, bytes) in [
            (Method::GET, "/v1/models", 0),
            (Method::GET, "/v1/audio/jobs/7f/result", 0),
            (Method::DELETE, "/v1/audio/jobs/7f", 0),
            (Method::POST, JOBS, 1000),
            // Too large for a second attempt, so nginx asks the node first.
            (Method::POST, JOBS, 3_000_000),
        ] {
            let reply = world.send(router, method, path, bytes).await;
            assert_eq!(reply.status(), 200, "{path}\n{}", router.log());
        }
    }
}

#[tokio::test]
async fn requests_about_a_job_go_to_the_node_that_accepted_it() {
    let answer = |name: &'static str, request: &Request| {
        if request.method != "POST" {
            return ResponseTemplate::new(200);
        }
        let ids = ["a", "b"].map(|file| format!("{}{file}", name.replace("node-", "7")));
        let reply = ResponseTemplate::new(202);
        if request.body.len() < 100 {
            let location = format!("{JOBS}/{}", ids[0]);
            let reply = reply.insert_header("location", &*location);
            return reply.set_body_json(json!({"id": ids[0], "batch": ids[0]}));
        }
        let location = format!("{JOBS}?batch={}", ids[0]);
        let jobs = ids.clone().map(|id| json!({"id": id, "batch": ids[0]}));
        let reply = reply.insert_header("location", &*location);
        reply.set_body_json(json!({"object": "list", "data": jobs}))
    };
    let Some(mut world) = World::start(answer).await else {
        return;
    };
    let mut first = None;
    for bytes in [10, 1000] {
        let reply = world.send(&world.nginx, Method::POST, JOBS, bytes).await;
        let (node, location) = (
            reply.headers()["x-node"].clone(),
            reply.headers()["location"]
                .to_str()
                .expect("ASCII")
                .to_owned(),
        );
        let mut paths = vec![location.clone(), format!("{location}/events")];
        if bytes > 100 {
            let second = if node == "node-1" { "71b" } else { "72b" };
            paths = vec![location, format!("{JOBS}/{second}/result")];
        }
        for path in paths {
            for _ in 0..6 {
                let reply = world.send(&world.nginx, Method::GET, &path, 0).await;
                assert_eq!(reply.headers()["x-node"], node, "{path}");
            }
            first.get_or_insert((node.clone(), path));
        }
    }
    // A job that nodes share is asked of another one when this one is gone.
    let (node, path) = first.expect("a job");
    let place = usize::from(node == "node-2");
    let gone = ScriptedNode::start("gone", |_| ResponseTemplate::new(200)).await;
    drop(std::mem::replace(&mut world.nodes[place], gone));
    let answered = async || {
        let reply = world.send(&world.nginx, Method::GET, &path, 0).await;
        reply.status() == 200 && reply.headers()["x-node"] != node
    };
    world.nginx.until("another node answers", answered).await;
}

/// Nodes that do not share their jobs answer 404 for those of others, and an empty list for batches of others.
#[tokio::test]
async fn a_job_whose_node_is_away_is_not_reported_as_gone() {
    let redis = RedisServer::start().await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let answer = |request: &Request| match (request.method.as_str(), request.url.path()) {
        ("POST", _) => ResponseTemplate::new(202).set_body_json(json!({"id": "7f"})),
        (_, JOBS) => {
            ResponseTemplate::new(200).set_body_json(json!({"object": "list", "data": []}))
        }
        (_, "/v1/audio/jobs/7f/events") => ResponseTemplate::new(404)
            .insert_header("x-jobs-shared", "1")
            .set_body_json(json!({"error": {"message": "none", "param": null,
                "type": "invalid_request_error", "code": "job_not_found"}, "detail": "none"})),
        _ => ResponseTemplate::new(404).set_body_json(json!({"error": {"message": "none",
            "type": "invalid_request_error", "param": null, "code": "job_not_found"},
            "detail": "none"})),
    };
    let nodes = [
        ScriptedNode::start("node-1", answer).await,
        ScriptedNode::start("node-2", answer).await,
    ];
    for node in &nodes {
        node.register(&redis, &json!({}));
    }
    until_known(&nginx, &["node-1", "node-2"]).await;
    let client = client();
    let submitted = client.post(format!("{}{JOBS}", nginx.url)).body("audio");
    let submitted = submitted.send().await.expect("an answer");
    assert_eq!(submitted.status(), 202);
    let owner = submitted.headers()["x-node"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    let get = async |rest: &str| {
        let reply = client.get(format!("{}{JOBS}{rest}", nginx.url)).send();
        reply.await.expect("an answer")
    };
    let reply = get("/7f").await;
    assert_eq!(reply.headers()["x-node"], *owner, "it says that it is gone");
    refused(reply, 404, "job_not_found", None).await;
    let [one, other] = nodes;
    drop(if one.name == owner { one } else { other });
    let is_gone = async || {
        let reply = get("/7f").await;
        // It may still answer for a moment, and no other node may do so for it.
        assert!(reply.status() == 503 || reply.headers()["x-node"] == *owner);
        reply.status() == 503
    };
    nginx.until("the owner is gone", is_gone).await;
    for rest in ["/7f", "?batch=7f"] {
        let reply = get(rest).await;
        assert!(reply.headers().contains_key("retry-after"));
        refused(reply, 503, "jobs_unavailable", None).await;
    }
    // A node that shares its jobs knows better.
    refused(get("/7f/events").await, 404, "job_not_found", None).await;
    // No question about the job.
    refused(get("/7f/nothing").await, 404, "job_not_found", None).await;
}
