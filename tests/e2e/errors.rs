//! The error table, row by row, over HTTP: status, type, code, and all four keys.

use std::io::{Read, Write};
use std::net::TcpStream;

use reqwest::multipart::{Form, Part};
use serde_json::Value;
use test_support::{Server, corpus, form, model, refused, sample};

const PATH: &str = "/v1/audio/transcriptions";

#[tokio::test]
async fn wrong_forms_and_fields_get_the_tables_answers() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-command.wav");
    let ask = |fields: &[(&str, &str)]| server.post(PATH, form(&file, fields));

    let none = server
        .post(PATH, Form::new().text("model", "whisper-1"))
        .await;
    refused(none, 400, "missing_file", Some("file")).await;
    for (name, value, status, code) in [
        ("response_format", "xml", 422, "invalid_value"),
        ("temperature", "1.5", 422, "invalid_value"),
        ("stream", "maybe", 422, "invalid_value"),
        ("chunking_strategy", "never", 422, "invalid_value"),
        ("language", "klingon", 400, "unsupported_language"),
    ] {
        let message = refused(ask(&[(name, value)]).await, status, code, Some(name)).await;
        assert!(message.contains(value), "{message}");
    }
    for bytes in [
        &b""[..],
        b"this is no audio, whatever the name says",
        &[0_u8; 10_000],
    ] {
        let part = Part::bytes(bytes.to_vec()).file_name("speech.wav");
        let response = server.post(PATH, Form::new().part("file", part)).await;
        refused(response, 400, "audio_decode_error", Some("file")).await;
    }
    let client = &server.client;
    let url = format!("{}{PATH}", server.url);
    let json = client.post(&url).json(&serde_json::json!({"x": 1})).send();
    refused(
        json.await.expect("an answer"),
        400,
        "missing_file",
        Some("input_audio"),
    )
    .await;
    let text = client.post(&url).body("file=speech.wav").send();
    let text = text.await.expect("an answer");
    refused(text, 415, "unsupported_media_type", None).await;
    for (encoding, name) in [("gzip", "gzip"), ("identity, br", "br")] {
        let request = client.post(&url).multipart(form(&file, &[]));
        let compressed = request.header("content-encoding", encoding).send().await;
        let compressed = compressed.expect("an answer");
        let message = refused(compressed, 415, "unsupported_media_type", None).await;
        assert!(message.contains(name), "{message}");
    }
    let malformed = client
        .post(&url)
        .header("content-type", "multipart/form-data; boundary=x")
        .body("--x\r\nnonsense")
        .send()
        .await;
    refused(malformed.expect("an answer"), 400, "malformed_body", None).await;
    refused(server.get(PATH).await, 405, "method_not_allowed", None).await;
    refused(server.get("/v1/nothing").await, 404, "not_found", None).await;
    let message = refused(
        server.get("/audio/transcriptions").await,
        404,
        "not_found",
        None,
    )
    .await;
    assert!(message.ends_with(" /v1/audio/transcriptions"), "{message}");
    for path in ["//v1//audio/transcriptions/", "/v1/audio/transcriptions//"] {
        assert_eq!(
            server.post(path, form(&file, &[])).await.status(),
            200,
            "{path}"
        );
    }
    refused(
        server.get("/v1/models/%ff%00").await,
        404,
        "model_not_found",
        None,
    )
    .await;
    refused(
        server.get("/v1/models/gpt-5").await,
        404,
        "model_not_found",
        None,
    )
    .await;
    let translation = server
        .post("/v1/audio/translations", form(&file, &[]))
        .await;
    let message = refused(translation, 400, "translation_unsupported", None).await;
    assert!(message.contains("LIBRETRANSLATE_URL"), "{message}");
    let to_german = form(&file, &[("to_language", "de")]);
    let to_german = server.post("/v1/audio/translations", to_german).await;
    let message = refused(to_german, 400, "unsupported_language", Some("to_language")).await;
    assert!(message.contains("LIBRETRANSLATE_URL"), "{message}");
    assert_eq!(ask(&[]).await.status(), 200);
}

/// Sends the bytes on a connection of their own and returns everything that the server sends until it closes it.
async fn exchange(server: &Server, bytes: &[u8]) -> String {
    let address = server.url.trim_start_matches("http://").to_owned();
    let bytes = bytes.to_vec();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.write_all(&bytes).expect("sends");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("reads to the end");
        answer
    });
    answer.await.expect("no panic")
}

#[tokio::test]
async fn a_request_that_is_no_http_gets_the_body_of_all_errors_and_a_log_line() {
    let server = Server::start(&model("tiny.en").await, &[]).await;
    for (sent, status, code) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request"),
        ("GET /livez HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}", 400, "malformed_request"),
        (
            &format!(
                "GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
                "x".repeat(200_000)
            ),
            431,
            "headers_too_large",
        ),
    ] {
        let answer = exchange(&server, sent.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let expected = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&expected), "{answer}");
        assert!(head.contains("x-request-id: "), "{answer}");
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["error"]["code"], code);
        assert_eq!(body["detail"], body["error"]["message"]);
        server.log_line(&format!("code=\"{code}\"")).await;
    }
    // An earlier request on the connection keeps its answer.
    let two = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/9\r\n\r\n";
    let answer = exchange(&server, two.as_bytes()).await;
    assert_eq!(answer.matches("x-request-id: ").count(), 2, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_translation_to_another_language_names_the_missing_setting() {
    let server = Server::ready(&model("base").await, &[]).await;
    let form = form(&sample("es-sentence.wav"), &[("to_language", "de")]);
    let response = server.post("/v1/audio/translations", form).await;
    let message = refused(response, 400, "unsupported_language", Some("to_language")).await;
    assert!(message.contains("LIBRETRANSLATE_URL"), "{message}");
}

#[tokio::test]
async fn an_oversized_body_is_rejected_before_and_while_it_is_read_with_both_sizes() {
    let server = Server::ready(&model("tiny.en").await, &[("MAX_UPLOAD_MB", "0.5")]).await;
    let big = vec![0_u8; 3 * 1024 * 1024];
    let part = Part::bytes(big.clone()).file_name("a.wav");
    let response = server.post(PATH, Form::new().part("file", part)).await;
    let message = refused(response, 413, "upload_too_large", None).await;
    assert!(message.contains("524288"), "{message}");
    // Chunked, without a Content-Length to check first.
    let mut head =
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n".to_vec();
    head.extend_from_slice(&big);
    let response = server
        .client
        .post(format!("{}{PATH}", server.url))
        .header("content-type", "multipart/form-data; boundary=x")
        .header("transfer-encoding", "chunked")
        .body(head)
        .send()
        .await;
    refused(response.expect("an answer"), 413, "upload_too_large", None).await;
    assert_eq!(
        server
            .transcribe(&sample("en-command.wav"), &[])
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_big_uploader_sees_the_refusal_and_not_a_reset() {
    let settings = [("API_KEYS", "sesame"), ("MAX_UPLOAD_MB", "512")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let answers = tokio::task::spawn_blocking(move || {
        let length = 600 * 1024 * 1024_usize;
        ["Authorization: Bearer wrong", "Authorization: Bearer sesame"].map(|key| {
            let mut stream = TcpStream::connect(&address).expect("connects");
            let head = format!(
                "POST {PATH} HTTP/1.1\r\nHost: x\r\n{key}\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).expect("sends");
            // Continues to send like a simple client, until everything is sent or the server closes the connection.
            let block = vec![b'x'; 1024 * 1024];
            let mut reader = stream.try_clone().expect("clones");
            let sender = std::thread::spawn(move || {
                for _ in 0..600 {
                    if stream.write_all(&block).is_err() {
                        break;
                    }
                }
            });
            let mut answer = vec![0_u8; 12];
            reader.read_exact(&mut answer).expect("an answer before the end");
            drop(reader);
            drop(sender);
            String::from_utf8(answer).expect("ASCII")
        })
    });
    let answers = answers.await.expect("no panic");
    assert_eq!(answers, ["HTTP/1.1 401", "HTTP/1.1 413"]);
    assert_eq!(server.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn keys_are_asked_for_before_anything_else_and_never_logged() {
    let settings = [("API_KEYS", "open-sesame,other-key")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    let ask = |key: Option<&'static str>| {
        let request = server.client.post(format!("{}{PATH}", server.url));
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        request.multipart(form(&file, &[])).send()
    };
    for wrong in [None, Some(""), Some("wrong")] {
        let response = ask(wrong).await.expect("an answer");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert!(response.headers().contains_key("x-request-id"));
        refused(response, 401, "invalid_api_key", None).await;
    }
    for right in ["open-sesame", "other-key"] {
        assert_eq!(ask(Some(right)).await.expect("an answer").status(), 200);
    }
    assert_eq!(server.get("/v1/models").await.status(), 401);
    for open in ["/health", "/livez", "/readyz"] {
        assert_eq!(server.get(open).await.status(), 200);
    }
    assert!(!server.log().join("\n").contains("sesame"));
}

/// The expected result for each broken file: an error, or the text of the part that a player would play.
const BROKEN: &[(&str, Option<&str>)] = &[
    ("empty.wav", Some("audio_decode_error")),
    ("text.mp3", Some("audio_decode_error")),
    ("header_only.wav", Some("audio_decode_error")),
    ("random.bin", Some("audio_decode_error")),
    ("truncated_moov_missing.mp4", Some("audio_decode_error")),
    ("video_without_audio.mp4", Some("audio_decode_error")),
    ("truncated.mp3", None),
    ("truncated.oga", None),
    ("truncated.wav", None),
    ("garbage_middle.mp3", None),
    ("short_50ms.wav", None),
];

#[tokio::test]
async fn every_broken_file_of_the_corpus_is_refused_or_played_as_far_as_it_goes() {
    let Some(corpus) = corpus() else { return };
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    for (name, code) in BROKEN {
        let response = server
            .transcribe(&corpus.join("broken").join(name), &[])
            .await;
        if let Some(code) = code {
            let message = refused(response, 400, code, Some("file")).await;
            assert!(!message.contains('/'), "a path in {message:?}");
            continue;
        }
        assert_eq!(response.status(), 200, "{name}");
        let body: Value = response.json().await.expect("JSON");
        let empty = body["text"].as_str().expect("text").is_empty();
        assert_eq!(empty, *name == "short_50ms.wav", "{name}: {body}");
    }
}
