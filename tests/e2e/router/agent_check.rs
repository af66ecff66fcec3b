//! The node's side of HAProxy's agent check, and its load in the header that Envoy reads.

use test_support::{Server, model, sample, signal, until};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The line that a connection to this address gets; empty if it is refused.
async fn line(address: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return String::new();
    };
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

/// The address on which a server answers agent checks.
async fn address(server: &Server) -> String {
    let logged = server
        .log_line("the agent check of HAProxy is answered")
        .await;
    let address = logged.split("address=").nth(1).expect("an address");
    address
        .split_whitespace()
        .next()
        .expect("an address")
        .to_owned()
}

#[tokio::test]
async fn a_node_says_whether_it_takes_requests_and_how_loaded_it_is() {
    let settings = [
        ("AGENT_CHECK_PORT", "0"),
        ("ROUTING_DRAIN_CAP_SECONDS", "20"),
    ];
    let server = Server::start(&model("tiny.en").await, &settings).await;
    let address = address(&server).await;
    let first = line(&address).await;
    assert!(
        ["down #loading\n", "up 100% ready\n"].contains(&&*first),
        "{first}"
    );
    server.until_ready().await;
    assert_eq!(line(&address).await, "up 100% ready\n");
    // The work of a long file shows, until it is more than the node wants.
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let file = server.long_file(2);
    let url = format!("{}/v1/audio/transcriptions", server.url);
    let long = || {
        let form = test_support::form(&file, &[]);
        tokio::spawn(server.client.post(&url).multipart(form).send())
    };
    let mut running = vec![long()];
    until("its weight is lower", async || {
        let line = line(&address).await;
        line == "drain\n" || (line.starts_with("up ") && line != "up 100% ready\n")
    })
    .await;
    let drains = async || line(&address).await == "drain\n";
    while !drains().await {
        running.push(long());
        let requests = running.len();
        until("it has one more", async || {
            drains().await
                || server.health().await["routing"]["load_score"].as_f64() > Some(0.0) && {
                    let open = server.metric("uttera_stt_inflight_requests").await;
                    open >= requests as f64
                }
        })
        .await;
        assert!(requests < 500, "{}", line(&address).await);
    }
    for request in &running {
        request.abort();
    }
    signal(worker, "CONT");
    until("it has nothing to do again", async || {
        line(&address).await == "up 100% ready\n"
    })
    .await;
    let idle = || async { !server.is_busy().await };
    server.until("the aborted work has ended", idle).await;
    // Draining shows until the end.
    signal(worker, "STOP");
    let last = tokio::spawn(server.transcription("en-command.wav"));
    server.until("it has work", || server.is_busy()).await;
    signal(server.pid(), "TERM");
    until("it drains", drains).await;
    signal(worker, "CONT");
    let reply = last.await.expect("no panic").expect("an answer");
    assert_eq!(reply.status(), 200);
    until("the port is closed", async || {
        line(&address).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn replies_with_audio_tell_envoy_the_load_and_strangers_learn_nothing() {
    let settings = [
        ("AGENT_CHECK_PORT", "0"),
        ("ALLOWED_NETWORKS", "192.0.2.0/24"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    assert_eq!(line(&address(&server).await).await, "");
    let refused =
        r#"uttera_stt_refused_connections_total{protocol="agent_check",reason="address"}"#;
    let metrics = server.client.get(format!("{}/metrics", server.url));
    let metrics = metrics.header("x-forwarded-for", "192.0.2.7").send().await;
    let metrics = metrics.expect("an answer").text().await.expect("a body");
    assert!(metrics.contains(&format!("{refused} 1\n")), "{metrics}");
    let request = server
        .client
        .post(format!("{}/v1/audio/transcriptions", server.url));
    let form = test_support::form(&sample("en-command.wav"), &[]);
    let request = request
        .header("x-forwarded-for", "192.0.2.7")
        .multipart(form);
    let reply = request.send().await.expect("an answer");
    assert_eq!(reply.status(), 200);
    let load = reply.headers()["endpoint-load-metrics"]
        .to_str()
        .expect("ASCII");
    let pairs = load.strip_prefix("TEXT ").expect("the format").split(',');
    let pairs: Vec<_> = pairs
        .map(|pair| pair.split_once('=').expect("a pair"))
        .collect();
    let names: Vec<_> = pairs.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "application_utilization",
            "rps_fractional",
            "named_metrics.load_score"
        ]
    );
    for (name, value) in &pairs[..2] {
        let value: f64 = value.parse().expect("a number");
        assert!(value > 0.0, "{name}: Envoy ignores a report with zero");
    }
    let models = server.client.get(format!("{}/v1/models", server.url));
    let models = models.header("x-forwarded-for", "192.0.2.7").send().await;
    assert!(
        !models
            .expect("an answer")
            .headers()
            .contains_key("endpoint-load-metrics")
    );
}
