//! `ALLOWED_NETWORKS`: over HTTP, behind a proxy, and over Wyoming.

use test_support::http::client_builder;
use test_support::keys::{KeysFile, hang_up};
use test_support::tls::other_address;
use test_support::wyoming::{self, COMMAND, Format, WyomingClient};
use test_support::{Server, model, refused, sample};
use tokio::io::AsyncReadExt;

const REFUSED: &str = "uttera_stt_refused_connections_total";

/// The status of a request for the models with this `X-Forwarded-For`.
async fn status_from(server: &Server, forwarded_for: &str, path: &str) -> u16 {
    let request = server.client.get(format!("{}{path}", server.url));
    let request = request.header("x-forwarded-for", forwarded_for);
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn this_machine_may_only_ask_for_health_unless_it_is_listed() {
    let settings = [("ALLOWED_NETWORKS", "192.0.2.0/24")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for health in ["/health", "/livez", "/readyz", "/v1/health"] {
        assert_eq!(server.get(health).await.status(), 200, "{health}");
    }
    for path in ["/metrics", "/v1/models", "/", "/nowhere"] {
        let message = refused(server.get(path).await, 403, "address_not_allowed", None).await;
        assert!(message.contains("127.0.0.1"), "{message}");
    }
    let response = server.transcribe(&sample(COMMAND), &[]).await;
    refused(response, 403, "address_not_allowed", None).await;
    // Nobody becomes another client by a header.
    assert_eq!(status_from(&server, "192.0.2.7", "/v1/models").await, 403);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_address_of_the_client_decides() {
    let settings = [
        ("ALLOWED_NETWORKS", "192.0.2.0/24,2001:db8::/32"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for (from, expected) in [
        ("192.0.2.7", 200),
        ("2001:db8::7", 200),
        ("::ffff:192.0.2.7", 200),
        ("198.51.100.7", 403),
        ("192.0.2.7, 198.51.100.7", 403),
        ("unknown", 403),
    ] {
        assert_eq!(
            status_from(&server, from, "/v1/models").await,
            expected,
            "{from}"
        );
    }
    // The proxy's own probe, and one of a client through it.
    assert_eq!(server.get("/readyz").await.status(), 200);
    assert_eq!(status_from(&server, "198.51.100.7", "/readyz").await, 403);
}

#[tokio::test]
async fn the_list_is_read_again_and_never_opens_the_server() {
    let file = KeysFile::new("ALLOWED_NETWORKS=192.0.2.0/24,127.0.0.1\n");
    let settings = [
        ("CONFIG_PATH", file.name()),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        wyoming::PORT,
    ];
    let server = Server::start(&model("tiny.en").await, &settings).await;
    assert_eq!(status_from(&server, "192.0.2.7", "/v1/models").await, 200);
    file.write("ALLOWED_NETWORKS=198.51.100.0/24,127.0.0.1\n");
    hang_up(&server, "the allowed networks were reloaded").await;
    let both = async || {
        let [old, new] = ["192.0.2.7", "198.51.100.7"];
        [
            status_from(&server, old, "/v1/models").await,
            status_from(&server, new, "/v1/models").await,
        ]
    };
    assert_eq!(both().await, [403, 200]);
    for wrong in ["ALLOWED_NETWORKS=\n", ""] {
        file.write(wrong);
        let line = hang_up(&server, "the allowed networks stay as they are").await;
        assert!(line.contains("ERROR"), "{line}");
        assert_eq!(both().await, [403, 200], "{wrong:?}");
    }
    // The port of Wyoming has the same list.
    file.write("ALLOWED_NETWORKS=198.51.100.0/24\n");
    hang_up(&server, "the allowed networks were reloaded").await;
    let address = wyoming::address(&server).await;
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connects");
    let read = test_support::patiently(stream.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_connection_of_another_address_is_closed_before_a_byte_is_read() {
    let settings = [wyoming::PORT, ("ALLOWED_NETWORKS", "127.0.0.1")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    assert_eq!(server.get("/v1/models").await.status(), 200);
    let mut home = WyomingClient::connect(&server).await;
    let (request, audio) = (serde_json::json!({}), wyoming::audio(COMMAND));
    home.utter(request, &Format::USUAL, &audio).await;
    wyoming::assert_command(&home.transcript().await);
    let Some(other) = other_address() else {
        return;
    };
    let stranger = client_builder()
        .local_address(other)
        .build()
        .expect("a client");
    for _ in 0..20 {
        let sent = stranger.get(format!("{}/livez", server.url)).send().await;
        sent.expect_err("refused");
    }
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind((other, 0).into())
        .expect("an address of this machine");
    let address = wyoming::address(&server).await.parse().expect("an address");
    let mut stream = socket.connect(address).await.expect("connects");
    let read = test_support::patiently(stream.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    for (protocol, least) in [("http", 20.0), ("wyoming", 1.0)] {
        let series = format!("{REFUSED}{{protocol=\"{protocol}\",reason=\"address\"}}");
        let counted = server.metric(&series).await;
        assert!(counted > least - 0.5, "{protocol}: {counted}");
    }
    let lines = server.log_lines("its address is not in ALLOWED_NETWORKS");
    assert_eq!(lines.len(), 2, "one for each protocol: {lines:?}");
}
