//! What passes through the router for nginx, and what does not.

use futures::StreamExt;
use reqwest::Body;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use test_support::events::{Events, Line};
use test_support::http::client;
use test_support::realtime::{Realtime, speech};
use test_support::redis_server::RedisServer;
use test_support::routers::Router;
use test_support::wav::write_silence;
use test_support::{refused, sample, signal};

use super::scripted::until_state;
use super::{Node, send};

/// What the router has in flight on the node.
async fn in_flight(router: &Router) -> f64 {
    let status = router.status().await;
    status["nodes"][0]["in_flight"].as_f64().expect("a number")
}

/// A stream, whose events arrive while the node still works.
async fn streams(node: &Node, url: &str) {
    let request = client().post(format!("{url}/v1/audio/transcriptions"));
    let form = test_support::form(&node.server.long_file(3), &[("stream", "true")]);
    let reply = request.multipart(form).send().await.expect("an answer");
    let mut events = Events::of(reply);
    let Some(Line::Event(first)) = events.event().await else {
        panic!("no event");
    };
    let first = first["delta"].as_str().expect("a delta").to_owned();
    assert!(node.server.is_busy().await, "it came at the end");
    let (deltas, done) = events.rest().await;
    assert_eq!(first + &deltas.concat(), done["text"]);
}

async fn live_session(url: &str) {
    let mut live = Realtime::connect_to(url, "/v1/realtime?intent=transcription", &[])
        .await
        .expect("a session");
    live.event("session.created").await;
    live.configure(json!({"turn_detection": null})).await;
    live.append(&speech("en-command.wav", 0)).await;
    live.commit().await;
    let (text, _) = live.turn().await;
    assert!(!text.is_empty());
    live.cut();
}

/// An upload that no router keeps in memory; the node answers silence at once.
async fn large_upload(node: &Node, url: &str) {
    let file = node.server.folder().join("silence.wav");
    write_silence(&file, 150_000);
    let bytes = std::fs::metadata(&file).expect("is there").len();
    assert!(bytes > 4 * 1024 * 1024, "{bytes}");
    let request = client().post(format!("{url}/v1/audio/transcriptions"));
    let form = test_support::form(&file, &[("response_format", "verbose_json")]);
    let reply = request.multipart(form).send().await.expect("an answer");
    let reply: Value = reply.json().await.expect("JSON");
    assert_eq!(reply["duration"], 150.0);
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "the checks share a node and a router, whose start takes seconds"
)]
async fn uploads_streams_and_sockets_pass_and_everything_is_counted_down() {
    let redis = RedisServer::start_with_password("secret").await;
    let Some(router) = Router::nginx(&redis.url()).await else {
        return;
    };
    let client = client();
    // Without a node, uploads of every size are rejected in the format of the API.
    for bytes in [1000, 5_000_000] {
        let form = Form::new().part("file", Part::bytes(vec![0; bytes]));
        let request = client.post(format!("{}/v1/audio/transcriptions", router.url));
        let reply = request.multipart(form).send().await.expect("an answer");
        assert!(reply.headers().contains_key("retry-after"));
        assert!(reply.headers().contains_key("x-request-id"));
        refused(reply, 503, "no_node", None).await;
    }
    let ready = async |wanted: u16| {
        let reply = client.get(format!("{}/readyz", router.url)).send().await;
        reply.expect("an answer").status() == wanted
    };
    assert!(ready(503).await);
    let mut node = Node::start(1, &redis).await;
    router
        .until("it has found the node", async || ready(200).await)
        .await;

    // A command, with the client's own id.
    let request = client.post(format!("{}/v1/audio/transcriptions", router.url));
    let form = test_support::form(&sample("en-command.wav"), &[]);
    let reply = request
        .header("x-request-id", "mine")
        .multipart(form)
        .send()
        .await;
    let reply = reply.expect("an answer");
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.headers()["x-node"], "node-1");
    let ids: Vec<_> = reply.headers().get_all("x-request-id").iter().collect();
    assert_eq!(ids, ["mine"]);
    // Without one, the node and the client get the router's.
    let reply = send(&client, &router.url).await.expect("an answer");
    let id = reply.headers()["x-request-id"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    assert_eq!(id.len(), 32);
    assert!(!node.server.log_lines(&id).is_empty());

    let haproxy = Router::haproxy(&[(node.port, node.agent_port)]).await;
    let Some(haproxy) = haproxy else {
        return;
    };
    until_state(&haproxy, "UP").await;
    for url in [&router.url, &haproxy.url] {
        streams(&node, url).await;
        live_session(url).await;
        large_upload(&node, url).await;
    }

    // A large upload, with a length and without one: it is passed on while it arrives.
    let file = node.server.long_file(3);
    let bytes = std::fs::read(&file).expect("reads");
    assert!(bytes.len() > 2 * 1024 * 1024, "{}", bytes.len());
    let worker = node.server.workers()[0];
    signal(worker, "STOP");
    for with_length in [true, false] {
        let chunks: Vec<Vec<u8>> = bytes.chunks(65_536).map(<[u8]>::to_vec).collect();
        let body = futures::stream::iter(chunks).map(Ok::<_, std::io::Error>);
        let body = Body::wrap_stream(body);
        let part = if with_length {
            Part::stream_with_length(body, bytes.len() as u64)
        } else {
            Part::stream(body)
        };
        let form = Form::new().part("file", part.file_name("long.flac"));
        let request = client.post(format!("{}/v1/audio/transcriptions", router.url));
        let running = tokio::spawn(request.multipart(form).send());
        node.server
            .until("the node has work", || node.server.is_busy())
            .await;
        assert!(in_flight(&router).await > 0.005);
        // The client goes; so does the work, and its weight.
        running.abort();
        router
            .until("it is counted down", async || {
                in_flight(&router).await < 1e-9
            })
            .await;
        let idle = || async { !node.server.is_busy().await };
        node.server
            .until("the node has stopped the work", idle)
            .await;
    }
    signal(worker, "CONT");

    let mut live = Realtime::connect_to(&router.url, "/v1/realtime?intent=transcription", &[])
        .await
        .expect("a session");
    live.event("session.created").await;
    assert!(in_flight(&router).await > 0.0);
    live.cut();
    router
        .until("it is counted down", async || {
            in_flight(&router).await < 1e-9
        })
        .await;

    let log = router.log();
    assert!(!log.contains("temporary file"), "on disk:\n{log}");

    // The node's own errors are passed on; what each node has for itself is not.
    let reply = client
        .get(format!("{}/v1/nothing", router.url))
        .send()
        .await;
    refused(reply.expect("an answer"), 404, "not_found", None).await;
    for path in ["/metrics", "/admin/drain"] {
        let reply = client.post(format!("{}{path}", router.url)).send().await;
        let message = refused(reply.expect("an answer"), 404, "not_found", None).await;
        assert!(message.contains("the node itself"), "{message}");
    }
    let page = client.get(format!("{}/", router.status_url)).send().await;
    let page = page.expect("an answer").text().await.expect("a body");
    assert!(page.contains("<td>node-1</td>"), "{page}");

    // A node that is lost at work.
    signal(worker, "STOP");
    let lost = tokio::spawn({
        let (client, url) = (client.clone(), router.url.clone());
        async move { send(&client, &url).await }
    });
    node.server
        .until("the node has work", || node.server.is_busy())
        .await;
    node.kill();
    let reply = lost.await.expect("no panic").expect("an answer");
    refused(reply, 502, "node_lost", None).await;
    let reply = send(&client, &router.url).await.expect("an answer");
    assert!(reply.headers().contains_key("retry-after"));
    refused(reply, 503, "overloaded", None).await;
    assert!(in_flight(&router).await < 1e-9);
}
