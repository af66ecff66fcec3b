//! HTTPS by the server itself: keys of every kind, client certificates, commands, and what clients do wrong in a
//! handshake.

use std::process::Output;

use futures::future::join_all;
use reqwest::Client;
use serde_json::Value;
use test_support::command_line::{err, out, run_with};
use test_support::http::client_builder;
use test_support::tls::{Authority, KeyKind, client, other_address, text};
use test_support::{Server, model, patiently, program, refused, sample, sample_text, words};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

pub const COMMAND: &str = "en-command.wav";
pub const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

pub async fn server(settings: &[(&str, &str)]) -> Server {
    Server::ready(&model("tiny.en").await, settings).await
}

/// The status of a request, or why there is none.
pub async fn status(client: &Client, server: &Server, path: &str) -> Result<u16, String> {
    let sent = client.get(format!("{}{path}", server.url)).send();
    match patiently(sent).await {
        Ok(response) => Ok(response.status().as_u16()),
        Err(error) => Err(format!("{error:?}")),
    }
}

pub async fn curl(arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--noproxy", "*", "-sS"]).args(arguments);
    patiently(command.output())
        .await
        .expect("curl is installed")
}

fn connection(server: &Server) -> impl Future<Output = std::io::Result<TcpStream>> + use<> {
    let address = server
        .url
        .rsplit('/')
        .next()
        .expect("an address")
        .to_owned();
    TcpStream::connect(address)
}

/// Everything that arrives until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends it as well.
    let _ = patiently(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn keys_of_every_kind_work_and_only_http_1_is_negotiated() {
    let authority = Authority::new();
    let ca = authority.certificate();
    let tiny = model("tiny.en").await;
    let kinds = [
        KeyKind::EcPkcs8,
        KeyKind::EcSec1,
        KeyKind::RsaPkcs8,
        KeyKind::RsaPkcs1,
    ];
    let asked = kinds.map(async |kind| {
        let issued = authority.issue_with(&format!("{kind:?}"), kind, 90);
        let server = Server::start(&tiny, &issued.settings()).await;
        let url = format!("{}/livez", server.url);
        for (version, limit) in [("1.2", "--tls-max"), ("1.3", "--tlsv1.3")] {
            let limits: &[&str] = if version == "1.2" {
                &[limit, "1.2"]
            } else {
                &[limit]
            };
            let offered = [
                "--http2",
                "-w",
                " %{http_version}",
                "--cacert",
                text(&ca),
                &url,
            ];
            let output = curl(&[limits, &offered].concat()).await;
            let printed = out(&output);
            assert!(printed.ends_with("} 1.1"), "{kind:?} {version}: {output:?}");
        }
        // The system does not know the authority.
        assert!(!curl(&[&url]).await.status.success(), "{kind:?}");
    });
    join_all(asked).await;
}

#[tokio::test]
async fn a_transcription_a_stream_a_kept_connection_and_a_stop() {
    let authority = Authority::new();
    let issued = authority.issue("server");
    let mut server = server(&issued.settings()).await;
    server.client = client(&authority, None);
    for fields in [&[][..], &[("stream", "true")]] {
        let response = server.transcribe(&sample(COMMAND), fields).await;
        assert_eq!(response.status(), 200, "{fields:?}");
        let said = response.text().await.expect("a body");
        assert!(said.contains("kitchen"), "{said}");
    }
    // A body that is rejected unread, and a request that cannot be read.
    let large = server
        .client
        .post(format!("{}{TRANSCRIPTIONS}", server.url));
    let large = large.body(vec![0; 1 << 20]).send().await;
    refused(
        large.expect("an answer"),
        415,
        "unsupported_media_type",
        None,
    )
    .await;
    let strange = curl(&["-X", "GET\t", "-k", &server.url]).await;
    assert!(out(&strange).contains("malformed_request"), "{strange:?}");
    // A client that leaves cancels its work, and connections that are idle or in their handshake delay no stop.
    let work = server.start_long_request().await;
    work.abort();
    server.log_line("the client disconnected before").await;
    let _waiting = connection(&server).await.expect("connects");
    assert_eq!(server.get("/livez").await.status(), 200);
    assert_eq!(patiently(server.terminate()).await, Some(0));
}

#[tokio::test]
async fn plain_http_gets_a_hint_and_garbage_costs_nothing() {
    let authority = Authority::new();
    let issued = authority.issue("server");
    let server = server(&issued.settings()).await;
    let plain = server.url.replace("https://", "http://");
    let response = reqwest::get(format!("{plain}/livez"))
        .await
        .expect("an answer");
    let message = refused(response, 400, "malformed_request", None).await;
    assert!(message.contains("https://"), "{message}");
    // Neither silent clients nor garbage keep others from being served.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(connection(&server).await.expect("connects"));
    }
    let failed = "uttera_stt_refused_connections_total{protocol=\"http\",reason=\"handshake\"}";
    let before = server.metric(failed).await;
    for garbage in [&b"\x00\xff garbage"[..], b"\x16\x03\x01\x00\x05hello"] {
        let mut stream = connection(&server).await.expect("connects");
        stream.write_all(garbage).await.expect("sends");
        let told = rest(&mut stream).await;
        assert!(!told.contains("HTTP"), "{told}");
    }
    let counted = async || server.metric(failed).await > before + 1.5;
    server.until("both are counted", counted).await;
    let trusting = client(&authority, None);
    assert_eq!(status(&trusting, &server, "/readyz").await, Ok(200));
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_authority_are_served() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (issued, primary) = (authority.issue("server"), authority.issue("primary"));
    let ca = authority.certificate();
    let client_ca = [("TLS_CLIENT_CA", text(&ca))];
    let settings = [&issued.settings()[..], &client_ca].concat();
    let server = server(&settings).await;
    let with = client(&authority, Some(&primary));
    assert_eq!(status(&with, &server, "/v1/models").await, Ok(200));
    let foreign = client(&authority, Some(&stranger.issue("primary")));
    status(&foreign, &server, "/livez")
        .await
        .expect_err("refused");
    // This machine may ask for the health of the server, and no more.
    let without = client(&authority, None);
    for health in ["/health", "/livez", "/readyz", "/v1/health"] {
        assert_eq!(status(&without, &server, health).await, Ok(200), "{health}");
    }
    let request = without
        .get(format!("{}/v1/models", server.url))
        .send()
        .await;
    refused(
        request.expect("an answer"),
        403,
        "client_certificate_required",
        None,
    )
    .await;
    assert_eq!(status(&without, &server, "/metrics").await, Ok(403));
    let refused = async || {
        let page = with.get(format!("{}/metrics", server.url)).send().await;
        let page = page.expect("an answer").text().await.expect("a body");
        let name = "uttera_stt_refused_connections_total{protocol=\"http\",reason=\"client_certificate\"} ";
        let count = page.lines().find_map(|line| line.strip_prefix(name));
        count.expect("the series").parse::<u32>().expect("a number")
    };
    let before = refused().await;
    assert!(before > 0);
    if let Some(other) = other_address() {
        let trusted = std::fs::read(&ca).expect("is there");
        let trusted = reqwest::Certificate::from_pem(&trusted).expect("a certificate");
        let elsewhere = client_builder()
            .tls_certs_only([trusted])
            .local_address(other);
        let told = status(&elsewhere.build().expect("a client"), &server, "/livez").await;
        let told = told.expect_err("refused");
        assert!(told.contains("CertificateRequired"), "{told}");
        let counted = async || refused().await > before;
        server.until("it is counted", counted).await;
    }
    let lines = server.log_lines("an authority in TLS_CLIENT_CA");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn the_server_can_be_asked_by_its_own_commands() {
    let authority = Authority::new();
    let issued = authority.issue("server");
    let ca = authority.certificate();
    let more = [
        ("TLS_CLIENT_CA", text(&ca)),
        ("ALLOWED_NETWORKS", "192.0.2.1"),
    ];
    let settings = [&issued.settings()[..], &more].concat();
    let running = server(&settings).await;
    let port = running.url.rsplit(':').next().expect("a port");
    let settings = [&settings[..], &[("PORT", port)]].concat();
    let folder = running.folder().to_owned();
    let run = async |arguments: &[&str]| {
        let (arguments, folder): (Vec<String>, _) = (
            arguments.iter().map(|&one| one.to_owned()).collect(),
            folder.clone(),
        );
        let settings: Vec<(String, String)> = (settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        .collect();
        let run = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let settings: Vec<(&str, &str)> = settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            run_with(&folder, &arguments, &settings)
        });
        run.await.expect("it runs")
    };
    let healthy = run(&["healthcheck"]).await;
    assert_eq!(
        (healthy.status.code(), out(&healthy).trim()),
        (Some(0), "ready")
    );
    let doctor = run(&["doctor", "--json"]).await;
    let findings: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let of = |check: &str| {
        let all = findings.as_array().expect("a list").iter();
        all.filter(|found| found["check"] == check)
            .collect::<Vec<_>>()
    };
    let port = of("port");
    assert!(
        port[0]["what"]
            .as_str()
            .expect("a text")
            .contains("uttera-stt"),
        "{port:?}"
    );
    let tls = of("tls");
    assert!(
        tls.len() == 2 && tls.iter().all(|found| found["severity"] == "ok"),
        "{tls:?}"
    );
}

#[tokio::test]
async fn smoke_and_transcribe_take_certificates() {
    let authority = Authority::new();
    let (issued, own) = (authority.issue("server"), authority.issue("client"));
    let ca = authority.certificate();
    let settings = [&issued.settings()[..], &[("TLS_CLIENT_CA", text(&ca))]].concat();
    let strict = server(&settings).await;
    let pair = [
        "--client-cert",
        text(&own.certificate),
        "--client-key",
        text(&own.key),
    ];
    let mut command = Command::new(program());
    command.args(["smoke", &strict.url, "--ca", text(&ca), "--language", "en"]);
    command.args(pair).arg("--file").arg(sample(COMMAND));
    let smoke = patiently(command.output()).await.expect("runs");
    assert!(smoke.status.success(), "{smoke:?}");
    let open = server(&issued.settings()).await;
    let mut command = Command::new(program());
    command
        .args(["transcribe", "--url", &open.url])
        .arg(sample(COMMAND));
    command.env("SSL_CERT_FILE", &ca);
    let transcribed = patiently(command.output()).await.expect("runs");
    let said = words(&sample_text(COMMAND));
    assert_eq!(words(&out(&transcribed)), said, "{}", err(&transcribed));
}
