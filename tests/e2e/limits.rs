//! Limits of a real server: rates, allowances, connections, and stalled uploads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use test_support::events::{Events, Line};
use test_support::keys::KeysFile;
use test_support::{Server, model, refused, sample, signal};

const PATH: &str = "/v1/audio/transcriptions";

/// `Retry-After` of an error, in seconds.
fn retry_after(response: &Response) -> u64 {
    let value = response.headers()[RETRY_AFTER].to_str().expect("ASCII");
    value.parse().expect("whole seconds")
}

/// Sends only the head of a huge upload, and returns the first line of the answer.
fn knock(url: &str, path: &str, headers: &[&str]) -> String {
    let mut stream = connect(url);
    let headers = headers.join("\r\n");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000000\r\n{headers}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sends");
    first_line(&mut stream)
}

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("connects");
    let patience = Some(test_support::PATIENCE);
    stream.set_read_timeout(patience).expect("a time limit");
    stream
}

fn first_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).expect("an answer") == 1 && byte[0] != b'\r' {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("ASCII")
}

#[tokio::test]
async fn each_key_has_a_bucket_and_only_work_takes_from_it() {
    let settings = [
        ("API_KEYS", "one,two"),
        ("RATE_LIMIT_RPS", "0.02"),
        ("RATE_LIMIT_BURST", "2"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    for _ in 0..2 {
        assert_eq!(server.transcribe_with("one", &file).await.status(), 200);
    }
    let before = server.inferences().await;
    let third = server.transcribe_with("one", &file).await;
    let wait = retry_after(&third);
    assert!((1..=50).contains(&wait), "{wait}");
    let message = refused(third, 429, "rate_limit_exceeded", None).await;
    assert!(message.contains("RATE_LIMIT_RPS"), "{message}");
    // On every path, before the body is read.
    for path in [
        PATH,
        "/v1/audio/translations",
        "/asr",
        "/detect-language",
        "/inference",
        "/v1/transcribe",
    ] {
        let url = server.url.clone();
        let answer =
            tokio::task::spawn_blocking(move || knock(&url, path, &["Authorization: Bearer one"]));
        let answer = answer.await.expect("no panic");
        assert!(answer.starts_with("HTTP/1.1 429"), "{path}: {answer}");
    }
    assert!((server.inferences().await - before).abs() < 1e-9);
    assert_eq!(server.transcribe_with("two", &file).await.status(), 200);
    for _ in 0..10 {
        let models = server.client.get(format!("{}/v1/models", server.url));
        let models = models.bearer_auth("one").send().await.expect("an answer");
        assert_eq!(models.status(), 200);
        assert_eq!(server.get("/health").await.status(), 200);
    }
    let refusals = server
        .metric("uttera_stt_errors_total{type=\"rate_limit\"}")
        .await;
    assert!((refusals - 7.0).abs() < 1e-9, "{refusals}");
}

/// The status of a request with this `X-Forwarded-For`.
async fn status_from(server: &Server, forwarded_for: &str) -> u16 {
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.header("x-forwarded-for", forwarded_for).body("x");
    let response = request.send().await.expect("an answer");
    response.status().as_u16()
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_address_has_a_bucket() {
    let settings = [
        ("RATE_LIMIT_RPS", "0.001"),
        ("RATE_LIMIT_BURST", "1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for (from, expected) in [
        ("192.0.2.1", 415),
        ("192.0.2.1", 429),
        // The client's own entry is left of the proxy's.
        ("198.51.100.7, 192.0.2.1", 429),
        ("192.0.2.2, 10.1.2.3", 415),
        ("192.0.2.2", 429),
        // An IPv6 network counts as one client.
        ("2001:db8::1", 415),
        ("2001:db8::2", 429),
        ("2001:db8:0:1::1", 415),
    ] {
        assert_eq!(status_from(&server, from).await, expected, "{from}");
    }
    server
        .log_line("client=\"anonymous\" address=192.0.2.2")
        .await;
}

#[tokio::test]
async fn the_header_of_an_untrusted_peer_is_ignored() {
    let settings = [
        ("RATE_LIMIT_RPS", "0.001"),
        ("RATE_LIMIT_BURST", "1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    assert_eq!(status_from(&server, "192.0.2.1").await, 415);
    assert_eq!(status_from(&server, "192.0.2.2").await, 429);
    let mut log = server.log();
    log.retain(|line| line.contains("address=127.0.0.1"));
    assert!(log.len() >= 2, "{log:?}");
    assert!(!server.log().join("\n").contains("192.0.2"));
}

#[tokio::test]
async fn an_audio_allowance_is_charged_by_real_duration_also_for_shared_work() {
    // The command is 1.8 s long.
    let lines = "once k-1\ntwice k-2 audio_seconds_per_day=3\nany k-3 audio_seconds_per_day=0\n";
    let keys = KeysFile::new(lines);
    let settings = [
        ("API_KEYS_FILE", keys.name()),
        ("MAX_AUDIO_SECONDS_PER_DAY", "1"),
        ("RESULT_CACHE_SECONDS", "600"),
    ];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    server.share_work();
    let file = sample("en-command.wav");
    assert_eq!(server.transcribe_with("k-1", &file).await.status(), 200);
    let spent = server.transcribe_with("k-1", &file).await;
    assert!((1..=120).contains(&retry_after(&spent)));
    assert_eq!(spent.headers()["x-should-retry"], "false");
    let message = refused(spent, 429, "insufficient_quota", None).await;
    assert!(message.contains("midnight UTC, in "), "{message}");

    // A cached result and a stream are charged like any other request.
    let before = server.inferences().await;
    for expected in [200, 200, 429] {
        let response = server.transcribe_with("k-2", &file).await;
        assert_eq!(response.status(), expected);
    }
    assert!((server.inferences().await - before - 1.0).abs() < 1e-9);
    for _ in 0..3 {
        assert_eq!(server.transcribe_with("k-3", &file).await.status(), 200);
    }
    // The server does not wait for the body of a rejected request.
    let url = server.url.clone();
    let knocking =
        tokio::task::spawn_blocking(move || knock(&url, "/asr", &["Authorization: Bearer k-1"]));
    let answer = knocking.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
}

#[tokio::test]
async fn a_stream_and_a_search_for_the_language_are_charged_as_well() {
    let settings = [("API_KEYS", "one,two"), ("MAX_AUDIO_SECONDS_PER_DAY", "3")];
    let server = Server::ready(&model("base").await, &settings).await;
    let file = sample("en-command.wav");
    for (key, path, fields) in [
        ("one", PATH, &[("stream", "true")][..]),
        ("two", "/detect-language", &[]),
    ] {
        // Charged by their real length.
        for expected in [200, 200, 429] {
            let request = server.client.post(format!("{}{path}", server.url));
            let request = request
                .bearer_auth(key)
                .multipart(test_support::form(&file, fields));
            let response = request.send().await.expect("an answer");
            assert_eq!(response.status(), expected, "{path}");
            response.bytes().await.expect("a body");
        }
    }
}

#[tokio::test]
async fn cancelled_work_is_charged_as_far_as_it_was_done() {
    let settings = [("API_KEYS", "one,two"), ("MAX_AUDIO_SECONDS_PER_DAY", "1")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = server.long_file(10);
    let send = |key: &str, fields: &[(&str, &str)]| {
        let request = server.client.post(format!("{}{PATH}", server.url));
        let request = request.bearer_auth(key);
        request.multipart(test_support::form(&file, fields)).send()
    };
    // A client reads the beginning and leaves before the end.
    let mut events = Events::of(send("one", &[("stream", "true")]).await.expect("an answer"));
    let first = events.event().await;
    assert!(matches!(first, Some(Line::Event(_))), "{first:?}");
    drop(events);
    until_charged(&server, "one").await;
    // A client leaves before any text has arrived. The only lane has done the first two chunks by then.
    let goal = server.chunks_handed_out() + 3;
    let worked = || async { server.chunks_handed_out() >= goal };
    tokio::select! {
        early = send("two", &[]) => panic!("{early:?}"),
        () = server.until("the third chunk", worked) => {}
    }
    until_charged(&server, "two").await;
}

#[tokio::test]
async fn a_request_that_joins_running_work_is_charged_as_well() {
    let settings = [("API_KEYS", "one"), ("MAX_AUDIO_SECONDS_PER_DAY", "3")];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    server.share_work();
    let file = sample("en-command.wav");
    // The only worker is stopped until both requests wait for the same work.
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let release = async {
        server.log_line("joining an equal request").await;
        signal(worker, "CONT");
    };
    let (first, second, ()) = tokio::join!(
        server.transcribe_with("one", &file),
        server.transcribe_with("one", &file),
        release
    );
    assert_eq!([first.status(), second.status()], [200; 2]);
    until_charged(&server, "one").await;
}

#[tokio::test]
async fn a_text_whose_escalation_failed_is_charged() {
    let settings = [
        ("API_KEYS", "one"),
        ("MAX_AUDIO_SECONDS_PER_DAY", "1"),
        // Every text is doubtful, and no fallback is reachable.
        ("CONF_LOGPROB_THRESHOLD", "1"),
        ("MIN_WORDS_FOR_CONF", "0"),
        ("FALLBACK_URL", "http://127.0.0.1:9"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let request = server.client.post(format!("{}/v1/transcribe", server.url));
    let form = test_support::form(&sample("en-command.wav"), &[]);
    let request = request.bearer_auth("one").multipart(form);
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 502);
    until_charged(&server, "one").await;
}

/// Waits until a client's work has ended, and asserts that its allowance is used up.
async fn until_charged(server: &Server, key: &str) {
    let idle = || async { !server.is_busy().await };
    server.until("its work is given up", idle).await;
    let file = sample("en-command.wav");
    let refusal = server.transcribe_with(key, &file).await;
    refused(refusal, 429, "insufficient_quota", None).await;
}

#[tokio::test]
async fn beyond_the_connection_limit_health_is_served_and_work_is_rejected() {
    let settings = [("MAX_CONNECTIONS", "4")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    // The connections that waited for readiness count as well.
    let url = server.url.clone();
    let mut held = tokio::task::spawn_blocking(move || {
        let ask = |path: &str| {
            let mut stream = connect(&url);
            let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("sends");
            let line = first_line(&mut stream);
            (stream, line)
        };
        let mut held = Vec::new();
        loop {
            let (stream, line) = ask("/v1/models");
            if line.starts_with("HTTP/1.1 503") {
                break;
            }
            assert!(line.starts_with("HTTP/1.1 200"), "{line}");
            held.push(stream);
            assert!(held.len() <= 4, "more than there may be");
        }
        for path in ["/health", "/livez", "/readyz", "/metrics"] {
            let (mut stream, line) = ask(path);
            assert!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
            // Wait until the server closes it, because the next question needs the connection.
            let mut rest = String::new();
            stream.read_to_string(&mut rest).expect("it is closed");
            assert!(rest.contains("connection: close"), "{path}: {rest}");
        }
        held
    })
    .await
    .expect("no panic");
    let refusal = reqwest::Client::new().get(format!("{}/v1/models", server.url));
    let refusal = refusal.send().await.expect("an answer");
    assert_eq!(refusal.headers()["connection"], "close");
    assert!(retry_after(&refusal) >= 1);
    let message = refused(refusal, 503, "overloaded", None).await;
    assert!(message.contains("MAX_CONNECTIONS"), "{message}");
    // A closed connection makes room for the next one.
    held.pop();
    let welcome = || async {
        let request = reqwest::Client::new().get(format!("{}/v1/models", server.url));
        request.send().await.expect("an answer").status() == 200
    };
    server.until("there is a place", welcome).await;
}

/// The sent part of an upload that stops, and its path.
const STOPPING: &[(&str, &str, &str)] = &[
    (PATH, "multipart/form-data; boundary=x", FORM),
    (
        "/v1/audio/translations",
        "multipart/form-data; boundary=x",
        FORM,
    ),
    ("/asr", "multipart/form-data; boundary=x", FORM),
    ("/detect-language", "multipart/form-data; boundary=x", FORM),
    ("/inference", "multipart/form-data; boundary=x", FORM),
    ("/v1/transcribe", "multipart/form-data; boundary=x", FORM),
    (
        PATH,
        "application/json",
        "{\"input_audio\": {\"data\": \"UklG",
    ),
];
const FORM: &str =
    "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF";

#[tokio::test]
async fn a_stalled_upload_times_out_on_every_path_and_so_does_a_silent_connection() {
    let server = Server::ready(&model("base").await, &[]).await;
    let before = server.inferences().await;
    let stopping = STOPPING.iter().map(|(path, kind, begin)| {
        let url = server.url.clone();
        tokio::task::spawn_blocking(move || {
            let mut stream = connect(&url);
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n{begin}"
            );
            stream.write_all(head.as_bytes()).expect("sends");
            (*path, first_line(&mut stream))
        })
    });
    let stopping: Vec<_> = stopping.collect();
    let url = server.url.clone();
    let silent = tokio::task::spawn_blocking(move || {
        let mut stream = connect(&url);
        stream.write_all(b"POST / HTTP/1.1\r\nHost").expect("sends");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is closed")
    });
    for ended in stopping {
        let (path, line) = ended.await.expect("no panic");
        assert!(line.starts_with("HTTP/1.1 408"), "{path}: {line}");
    }
    tokio::time::timeout(Duration::from_secs(60), silent)
        .await
        .expect("the silent one is closed")
        .expect("no panic");
    assert!((server.inferences().await - before).abs() < 1e-9);
    let given_back = || async { !server.is_busy().await };
    server
        .until("their places are given back", given_back)
        .await;
}

#[tokio::test]
async fn a_refused_body_in_chunks_holds_no_connection() {
    let settings = [("API_KEYS", "right-key"), ("MAX_UPLOAD_MB", "0.1")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let too_large = format!("30000\r\n{FORM}{}\r\n", "x".repeat(0x30000 - FORM.len()));
    let cases = [
        (PATH, "wrong-key", "", 401),
        ("/asr", "wrong-key", "", 401),
        ("/v1/transcribe", "wrong-key", "", 401),
        ("/nowhere", "right-key", "", 404),
        (PATH, "right-key", &*too_large, 413),
    ];
    let asking = cases.map(|(path, key, body, _)| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        );
        let url = server.url.clone();
        tokio::task::spawn_blocking(move || {
            let mut stream = connect(&url);
            stream.write_all(head.as_bytes()).expect("sends");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("it is closed");
            answer
        })
    });
    for (asking, (path, _, _, status)) in asking.into_iter().zip(cases) {
        let answer = asking.await.expect("no panic");
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{path}: {answer}");
        assert!(answer.contains("connection: close"), "{path}: {answer}");
    }
}
