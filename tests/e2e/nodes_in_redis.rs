//! The client's pool of the nodes in Redis: whom it asks, and a rolling restart under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use test_support::processes::signal;
use test_support::redis_server::RedisServer;
use test_support::{Server, model, patiently, sample, until};
use uttera_stt_client::{Audio, RedisNodes, SpeechOptions, Standing, SttPool};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

const KEY: &str = "sesame";

async fn pool(redis: &RedisServer) -> SttPool {
    let nodes = RedisNodes::new(redis.url())
        .interval(Duration::from_millis(100))
        .client(|client| client.api_key(KEY).header("cache-control", "no-store"));
    nodes.connect(SttPool::builder([])).await.expect("a pool")
}

/// A node that answers with its name.
async fn named(name: &str) -> MockServer {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_json(json!({"text": name}));
    Mock::given(method("POST"))
        .respond_with(answer)
        .mount(&server)
        .await;
    server
}

fn register(redis: &RedisServer, id: &str, node: &MockServer, load: f64, accepts: bool) {
    let address = node.address();
    let record = json!({
        "load_score": load, "accepts_requests": accepts, "host": address.ip(),
        "port": address.port(), "version": "0.1.0", "ts": 0.0,
    });
    redis.ask::<()>(&["SET", &format!("stt:nodes:{id}"), &record.to_string()]);
}

async fn answer(pool: &SttPool) -> String {
    let (speech, options) = (pool.transcriptions(), SpeechOptions::default());
    let reply = speech.json(Audio::bytes(&b"RIFF"[..]), &options).await;
    reply.expect("an answer").text
}

/// The loads and standings, as soon as these are the loads.
async fn until_loads(pool: &SttPool, expected: &[f64]) {
    let loads = || -> Vec<f64> { pool.nodes().iter().map(|node| node.load).collect() };
    until("the list is read", async || loads() == expected).await;
}

#[tokio::test]
async fn a_pool_follows_the_records_and_keeps_them_while_redis_is_away() {
    let mut redis = RedisServer::start().await;
    let (a, b) = (named("a").await, named("b").await);
    register(&redis, "a", &a, 0.75, true);
    let pool = pool(&redis).await;
    assert_eq!(answer(&pool).await, "a");
    // What is no record is no node.
    redis.ask::<()>(&["SET", "stt:nodes:c", "{}"]);
    register(&redis, "b", &b, 0.25, true);
    until_loads(&pool, &[0.75, 0.25]).await;
    assert_eq!(answer(&pool).await, "b");
    register(&redis, "b", &b, 0.5, false);
    until_loads(&pool, &[0.75, 0.5]).await;
    assert_eq!(pool.nodes()[1].standing, Standing::Declining);
    assert_eq!(answer(&pool).await, "a");
    register(&redis, "b", &b, 0.125, true);
    until_loads(&pool, &[0.75, 0.125]).await;
    redis.stop();
    for _ in 0..3 {
        assert_eq!(answer(&pool).await, "b");
    }
    // An empty Redis: a server that is not listed any more is better than none.
    redis.restart().await;
    until_loads(&pool, &[]).await;
    assert_eq!(answer(&pool).await, "b");
    register(&redis, "a", &a, 0.5, true);
    until_loads(&pool, &[0.5]).await;
    assert_eq!(answer(&pool).await, "a");
}

#[tokio::test]
async fn a_pool_needs_redis_at_its_start() {
    let nodes = RedisNodes::new("redis://:hunter2@127.0.0.1:1");
    let error = nodes.connect(SttPool::builder([])).await.expect_err("away");
    assert!(error.to_string().contains("Redis"), "{error}");
    let nodes = RedisNodes::new("redis://:hunter2@:x");
    let error = nodes
        .connect(SttPool::builder([]))
        .await
        .expect_err("no URL");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn nodes_that_cannot_all_be_found_are_not_taken_for_gone() {
    let redis = RedisServer::start().await;
    let a = named("a").await;
    register(&redis, "a", &a, 0.25, true);
    // More keys than one reading searches.
    let fill = "for i = 1, 100000 do redis.call('SET', KEYS[1] .. i, '') end";
    for part in ["x", "y", "z"] {
        redis.ask::<()>(&["EVAL", fill, "1", part]);
    }
    let are_too_many = async || {
        let nodes = RedisNodes::new(redis.url());
        let error = nodes.connect(SttPool::builder([])).await.expect_err("many");
        // On a slow machine, the limit of time may come first.
        error.to_string().contains("too many keys")
    };
    until("it says that there are too many keys", are_too_many).await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_nodes_under_load_loses_no_request() {
    let redis = RedisServer::start().await;
    let model = model("tiny.en").await;
    let url = redis.url();
    let start = async |id: &str| {
        let settings = [
            ("REDIS_URL", &*url),
            ("NODE_ID", id),
            ("API_KEYS", KEY),
            ("DRAIN_DELAY_SECONDS", "1"),
        ];
        let node = Server::ready(&model, &settings).await;
        let key = format!("stt:nodes:{id}");
        let accepts = || {
            redis
                .get(&key)
                .is_some_and(|record| record.contains("\"accepts_requests\":true"))
        };
        node.until("it is registered", async || accepts()).await;
        node
    };
    let mut nodes = vec![("one", start("one").await), ("two", start("two").await)];
    let pool = pool(&redis).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let users: Vec<_> = (0..2)
        .map(|_| {
            let (pool, is_over) = (pool.clone(), Arc::clone(&is_over));
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let audio = Audio::file(sample("en-command.wav"));
                    let reply = pool
                        .transcriptions()
                        .json(audio, &SpeechOptions::default())
                        .await;
                    let text = reply.expect("no request is lost").text;
                    assert!(text.to_lowercase().contains("kitchen"), "{text}");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = async |number: usize| {
        let before = answered.load(Ordering::SeqCst);
        until("requests are answered", async || {
            answered.load(Ordering::SeqCst) >= before + number
        })
        .await;
    };
    more(4).await;
    for (id, node) in &mut nodes {
        signal(node.pid(), "TERM");
        assert_eq!(node.exit_code().await, Some(0));
        let log = node.log();
        let place = |text: &str| log.iter().position(|line| line.contains(text)).expect(text);
        assert!(place("draining") < place("new requests are rejected"));
        assert_eq!(redis.get(&format!("stt:nodes:{id}")), None);
        *node = start(id).await;
        let has_its_share = async || node.inferences().await > 0.0;
        until("the new node gets its share", has_its_share).await;
    }
    is_over.store(true, Ordering::SeqCst);
    for user in users {
        patiently(user).await.expect("no request is lost");
    }
}
