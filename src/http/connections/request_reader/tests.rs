//! Tests of requests that offer an upgrade, and of requests that cannot be read.

use actix_http::ServiceConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// What the HTTP library reads of these bytes, which arrive in blocks of this size.
async fn passed_on(sent: &[u8], block: usize) -> String {
    let (mut client, server) = tokio::io::duplex(64);
    let blocks: Vec<Vec<u8>> = sent.chunks(block).map(<[u8]>::to_vec).collect();
    let sending = async move {
        for block in blocks {
            client.write_all(&block).await.expect("sends");
        }
        drop(client);
    };
    let mut reader = RequestReader::new(server, ServiceConfig::default());
    let mut passed = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut passed), sending);
    read.expect("reads");
    String::from_utf8(passed).expect("UTF-8")
}

/// Header lines have no order across names: sorts them.
fn sorted(head: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = head.split("\r\n").collect();
    lines[1..].sort_unstable();
    lines
}

const HOST: &str = "GET /health?a=b HTTP/1.1\r\nhost: x\r\n";

#[actix_web::test]
async fn an_offer_to_upgrade_is_removed_and_other_options_stay() {
    for (offer, left) in [
        ("", ""),
        (
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n",
            "",
        ),
        ("connection: upgrade\r\n", ""),
        ("connection: upgrade\r\nupgrade: websocket\r\n", ""),
        ("upgrade: TLS/1.0\r\n", ""),
        (
            "connection: keep-alive, Upgrade\r\nupgrade: h2c\r\n",
            "connection: keep-alive\r\n",
        ),
        (
            "connection: close\r\nconnection: UPGRADE\r\n",
            "connection: close\r\n",
        ),
        ("connection: upgrade, close\r\n", "connection: close\r\n"),
        (
            "connection: close\r\nx-own: Upgrade\r\n",
            "connection: close\r\nx-own: Upgrade\r\n",
        ),
    ] {
        let request = format!("{HOST}{offer}\r\n");
        let expected = format!("{HOST}{left}\r\n");
        for block in [1, 7, 1000] {
            let twice = passed_on(request.repeat(2).as_bytes(), block).await;
            let (first, second) = twice.split_at(twice.len() / 2);
            assert_eq!(first, second, "{offer}");
            assert_eq!(sorted(first), sorted(&expected), "{offer}");
        }
    }
}

#[actix_web::test]
async fn a_web_socket_of_the_path_that_has_one_passes_and_so_do_its_bytes() {
    const OFFER: &str = "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n";
    // They look like requests, and are not.
    let frames = "GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n\u{1}\u{2} POST /a b c\r\n\r\n";
    for path in [
        "/v1/realtime?intent=transcription",
        "/v1/realtime",
        "//v1/realtime/",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{OFFER}x-a: b\r\n\r\n");
        for block in [1, 7, 1000] {
            let sent = format!("{HOST}\r\n{head}{frames}");
            let passed = passed_on(sent.as_bytes(), block).await;
            let rest = passed.strip_prefix(&format!("{HOST}\r\n"));
            let (passed_head, rest) = rest
                .and_then(|rest| rest.split_once("\r\n\r\n"))
                .expect("a head");
            assert_eq!(sorted(&format!("{passed_head}\r\n\r\n")), sorted(&head));
            assert_eq!(rest, frames);
        }
    }
    for (request, left) in [
        (
            "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
                .to_owned(),
            "",
        ),
        (
            format!("GET /v1/realtime/x HTTP/1.1\r\nhost: x\r\n{OFFER}\r\n"),
            "connection: keep-alive\r\n",
        ),
        (
            format!("POST /v1/realtime HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{OFFER}\r\n"),
            "connection: keep-alive\r\ncontent-length: 0\r\n",
        ),
    ] {
        let passed = passed_on(request.as_bytes(), 1000).await;
        let (first, _) = request.split_once("\r\n").expect("a line");
        let expected = format!("{first}\r\nhost: x\r\n{left}\r\n");
        assert_eq!(sorted(&passed), sorted(&expected));
    }
}

#[actix_web::test]
async fn the_server_ends_a_web_socket_and_no_other_request() {
    let web_socket =
        "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    for (request, ends) in [(web_socket, true), (&format!("{HOST}\r\n"), false)] {
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(request.as_bytes()).await.expect("sends");
        let mut reader = RequestReader::new(server, ServiceConfig::default());
        let mut head = vec![0; 1024];
        let length = reader.read(&mut head).await.expect("reads");
        assert!(head[..length].ends_with(b"\r\n\r\n"));
        let end = reader.end_of_input();
        let mut rest = [0; 8];
        let mut reading = std::pin::pin!(reader.read(&mut rest));
        assert!(futures::poll!(&mut reading).is_pending());
        end.reach();
        match futures::poll!(&mut reading) {
            Poll::Ready(read) => assert_eq!(read.expect("reads"), usize::from(!ends)),
            Poll::Pending => assert!(!ends),
        }
    }
}

#[actix_web::test]
async fn bodies_arrive_unchanged_and_are_not_searched_for_offers() {
    let body = "GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n";
    let offer = "upgrade: websocket\r\n";
    let with_length = |offer| {
        let length = body.len();
        format!("POST /a HTTP/1.1\r\nhost: x\r\n{offer}content-length: {length}\r\n\r\n{body}")
    };
    let chunked = |offer| {
        let (first, rest) = body.split_at(7);
        let chunks = format!(
            "7;name=value\r\n{first}\r\n{:X}\r\n{rest}\r\n0\r\ntrailer: t\r\n\r\n",
            rest.len()
        );
        format!("POST /b HTTP/1.1\r\nhost: x\r\n{offer}transfer-encoding: chunked\r\n\r\n{chunks}")
    };
    for offer in ["", offer] {
        let requests = [
            with_length(offer),
            chunked(offer),
            format!("{HOST}{offer}\r\n"),
        ]
        .concat();
        for block in [1, 10, 1000] {
            let passed = passed_on(requests.as_bytes(), block).await;
            let (first, rest) = passed.split_once(body).expect("the first body");
            assert!(
                first.starts_with("POST /a ") && !first.contains("upgrade"),
                "{first}"
            );
            let (head, rest) = rest.split_once("\r\n\r\n").expect("the second head");
            assert!(
                head.starts_with("POST /b ") && !head.contains("upgrade"),
                "{head}"
            );
            assert!(joined_chunks(rest).starts_with(body), "{rest}");
            assert_eq!(
                passed.matches("GET /health?a=b HTTP/1.1").count(),
                1,
                "{passed}"
            );
            assert_eq!(passed.matches("upgrade").count(), 2, "{passed}");
        }
    }
}

/// The content of chunks, and what follows them.
fn joined_chunks(mut text: &str) -> String {
    let mut joined = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n").expect("a size");
        let size = usize::from_str_radix(size, 16).expect("hexadecimal");
        joined += &rest[..size];
        text = rest[size..].strip_prefix("\r\n").expect("its end");
        if size == 0 {
            return joined + text;
        }
    }
}

#[actix_web::test]
async fn a_request_that_cannot_be_read_becomes_one_that_is_answered() {
    let many = "x: y\r\n".repeat(100);
    let large = format!("x: {}\r\n", "y".repeat(200_000));
    for (request, reason) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}", "HTTPS"),
        ("GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", "neither"),
        ("GET / HTTP/3.0\r\nhost: x\r\n\r\n", "neither HTTP/1.1"),
        ("GET / HTTP/1.1\r\n\r\n", "header"),
        ("GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", "header"),
        (
            "GET / HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n",
            "header",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            "header",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "header",
        ),
        (
            "POST / HTTP/1.0\r\nupgrade: websocket\r\n\r\nbody",
            "header",
        ),
        (
            &format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
            TOO_LARGE,
        ),
        (
            &format!("GET / HTTP/1.1\r\nhost: x\r\n{large}\r\n"),
            TOO_LARGE,
        ),
    ] {
        let shown = &request[..request.len().min(60)];
        let passed = passed_on(request.as_bytes(), 1000).await;
        let (_, found) = passed
            .split_once("x-malformed-request: ")
            .unwrap_or_else(|| panic!("{shown}"));
        assert!(found.contains(reason), "{shown}: {found}");
        assert!(
            passed.starts_with("GET / HTTP/1.1\r\n") && passed.ends_with("\r\n\r\n"),
            "{passed}"
        );
    }
    // Only the server itself marks requests.
    let passed = passed_on(
        format!("{HOST}x-malformed-request: hello\r\n\r\n").as_bytes(),
        9,
    )
    .await;
    assert_eq!(passed, format!("{HOST}\r\n"));
}

#[actix_web::test]
async fn a_chunked_body_that_cannot_be_read_ends_and_the_reason_follows() {
    let request =
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n";
    let passed = passed_on(request.as_bytes(), 1000).await;
    let (_, chunks) = passed.split_once("\r\n\r\n").expect("a head");
    let joined = joined_chunks(chunks);
    assert!(joined.starts_with("abcGET / HTTP/1.1\r\n"), "{joined}");
    assert!(
        joined.contains("x-malformed-request: its chunked body"),
        "{joined}"
    );
}
