//! The board in a real browser. `tests/support/page/board.mjs` has the scenarios.

use serde_json::json;
use test_support::page::Scenario;
use test_support::redis_server::RedisServer;
use test_support::{Server, form, model, sample, signal};
use tokio::task::JoinHandle;

fn scenario(name: &str, server: &Server, key: &str) -> Option<Scenario> {
    let settings = json!({
        "url": format!("{}/", server.url),
        "key": key,
        "microphone": sample("en-command.wav").canonicalize().expect("it is there"),
    });
    Scenario::begin("board.mjs", name, &settings)
}

/// Sends a command.
fn send(server: &Server) -> JoinHandle<reqwest::Result<reqwest::Response>> {
    let request = (server.client)
        .post(format!("{}/v1/audio/transcriptions", server.url))
        .multipart(form(&sample("en-command.wav"), &[]));
    tokio::spawn(request.send())
}

#[tokio::test]
async fn the_board_shows_lanes_requests_warnings_nodes_and_the_end() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
        ("REDIS_URL", &*url),
        ("NODE_ID", "kitchen"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let Some(mut board) = scenario("look", &server, "") else {
        return;
    };
    let mut requests = Vec::new();
    let (mut hot, mut stopped) = (0, Vec::new());
    while let Some(question) = board.next().await {
        match question.as_str() {
            "work" => {
                hot = server.workers()[0];
                server.start_cold_worker().await;
                // Both workers stand still, so that the browser has time to look.
                stopped = server.workers();
                for worker in &stopped {
                    signal(*worker, "STOP");
                }
                requests.extend((0..16).map(|_| send(&server)));
            }
            "go on" => {
                for worker in &stopped {
                    signal(*worker, "CONT");
                }
                for request in requests.drain(..) {
                    let response = request.await.expect("no panic").expect("an answer");
                    assert_eq!(response.status(), 200);
                }
            }
            "fail" => signal(hot, "KILL"),
            "stop" => signal(server.pid(), "TERM"),
            other => panic!("{other}"),
        }
        board.answer().await;
    }
}

#[tokio::test]
async fn the_board_asks_for_a_key_and_fits_a_phone() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    if let Some(mut board) = scenario("key", &server, "secret") {
        assert_eq!(board.next().await, None);
    }
}
