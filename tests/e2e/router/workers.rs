//! nginx reads its configuration again, or loses its worker processes, while requests are on nodes.

use std::sync::Arc;

use serde_json::json;
use test_support::http::client_builder;
use test_support::processes::children;
use test_support::redis_server::RedisServer;
use test_support::routers::Router;
use test_support::signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::scripted::{known, until_known};

/// A node that answers a request only when its test gives a permit.
async fn holding_node(redis: &RedisServer, permits: Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let permits = Arc::clone(&permits);
            tokio::spawn(async move {
                let mut request = vec![0; 65_536];
                let _ = stream.read(&mut request).await;
                if let Ok(permit) = permits.acquire().await {
                    permit.forget();
                }
                let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _ = stream.write_all(reply.as_bytes()).await;
            });
        }
    });
    let record = json!({"load_score": 0.1, "accepts_requests": true, "host": "127.0.0.1",
        "port": port, "version": "1", "ts": 1});
    let _: () = redis.ask(&["SET", "stt:nodes:node-1", &record.to_string()]);
}

/// Has nginx read its configuration, and waits for its new worker processes.
async fn reload(nginx: &Router) {
    let started = || nginx.log().matches("start worker process ").count();
    let before = started();
    signal(nginx.process.id(), "HUP");
    let is_new = async || started() >= before + 2;
    nginx
        .until("new worker processes have started", is_new)
        .await;
}

async fn in_flight(nginx: &Router) -> f64 {
    known(nginx, "node-1").await["in_flight"]
        .as_f64()
        .unwrap_or_default()
}

#[tokio::test]
async fn requests_in_flight_are_counted_through_reloads_and_lost_workers() {
    let redis = RedisServer::start().await;
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let permits = Arc::new(Semaphore::new(0));
    holding_node(&redis, Arc::clone(&permits)).await;
    until_known(&nginx, &["node-1"]).await;
    // Each request has a connection of its own, because nginx closes idle ones when its processes change.
    let client = client_builder().pool_max_idle_per_host(0).build();
    let client = client.expect("a client");
    let send = || {
        let request = client.post(format!("{}/v1/audio/transcriptions", nginx.url));
        tokio::spawn(request.body("audio").send())
    };
    let held = send();
    let is_counted = async || in_flight(&nginx).await > 0.0;
    nginx.until("it is on the node", is_counted).await;
    for _ in 0..3 {
        reload(&nginx).await;
        let other = send();
        let both = async || in_flight(&nginx).await > 0.009;
        nginx.until("both are counted", both).await;
        other.abort();
        let one = async || in_flight(&nginx).await < 0.006;
        nginx.until("the other one has left", one).await;
        assert!(in_flight(&nginx).await > 0.0, "{}", nginx.log());
    }
    permits.add_permits(100);
    let reply = held.await.expect("no panic").expect("an answer");
    assert_eq!(reply.status(), 200, "{}", nginx.log());
    let none = async || in_flight(&nginx).await < 1e-9;
    nginx.until("none is counted", none).await;

    // All requests of a steady load are answered while the configuration is read.
    let answered = async {
        for _ in 0..40 {
            let reply = send().await.expect("no panic").expect("an answer");
            assert_eq!(reply.status(), 200, "{}", nginx.log());
        }
    };
    let read = async {
        reload(&nginx).await;
        reload(&nginx).await;
    };
    permits.add_permits(100);
    tokio::join!(answered, read);

    // What lost processes had in flight is forgotten.
    permits.forget_permits(usize::MAX);
    let held = send();
    nginx.until("it is on the node", is_counted).await;
    // Those of earlier configurations that end have another title.
    let workers = || children(nginx.process.id(), "nginx: worker process");
    let are_two = async || workers().len() == 2;
    nginx.until("there are two processes", are_two).await;
    for worker in workers() {
        signal(worker, "KILL");
    }
    assert!(held.await.expect("no panic").is_err());
    nginx.until("none is counted", none).await;
    permits.add_permits(100);
    let reply = send().await.expect("no panic").expect("an answer");
    assert_eq!(reply.status(), 200, "{}", nginx.log());
    nginx.until("none is counted", none).await;
}
