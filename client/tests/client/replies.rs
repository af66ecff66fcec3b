//! Complete replies, and minimal ones of older servers.

use std::time::Duration;

use crate::support::{Scripted, json};
use uttera_stt_client::{Audio, Client, Error, TranscribeOptions, Transcript};

async fn reply(headers: &str, body: &str) -> Result<Transcript, Error> {
    let server = Scripted::start([json(200, headers, body)]).await;
    let client = server.client().build()?;
    let audio = Audio::bytes(&b"RIFF"[..]);
    client
        .transcribe(audio, &TranscribeOptions::default())
        .await
}

#[tokio::test]
async fn all_information_of_v1_transcribe_is_parsed() {
    let body = r#"{
        "text": "Good morning.", "language": "en", "language_probability": 0.98, "confidence": 0.71,
        "duration": 1.78, "model": "medium", "fallback_used": true, "request_id": "r1",
        "segments": [{
            "id": 0, "seek": 0, "start": 0.0, "end": 1.78, "text": " Good morning.", "avg_logprob": -0.34,
            "no_speech_prob": 0.03, "compression_ratio": 0.76, "temperature": 0.2, "tokens": [50363, 4599],
            "words": [{"word": "Good", "start": 0.1, "end": 0.4, "probability": 0.9},
                      {"word": "morning.", "start": 0.4, "end": 1.0}]
        }],
        "timings": {"queue_wait_ms": 12, "primary_infer_ms": 340, "fallback_infer_ms": 900.5, "total_ms": 1260},
        "something_new": {"a": 1}
    }"#;
    let headers = "X-Req-Id: r1\r\nX-Queue-Wait-ms: 12\r\nX-Primary-Infer-ms: 340\r\nX-Fallback-Infer-ms: 900\r\n\
        X-Total-ms: 1260\r\nX-Fallback-Used: true\r\nX-Final-Model: medium\r\n\
        X-Conf-Below: logprob,langprob\r\nX-Lang-Check-Applicable: true\r\n";
    let reply = reply(headers, body).await.expect("a reply");
    assert_eq!(
        (reply.text.as_str(), reply.language.as_deref()),
        ("Good morning.", Some("en"))
    );
    assert_eq!(
        (reply.language_probability, reply.confidence),
        (Some(0.98), Some(0.71))
    );
    assert_eq!(
        (reply.duration, reply.model.as_deref()),
        (Some(1.78), Some("medium"))
    );
    assert!(reply.fallback_used);
    assert_eq!(reply.timings.fallback_infer_ms, Some(900.5));
    assert_eq!(reply.timings.total_ms, Some(1260.0));
    let segment = &reply.segments[0];
    assert_eq!(
        (segment.avg_logprob, segment.no_speech_prob),
        (Some(-0.34), Some(0.03))
    );
    assert_eq!(
        (segment.compression_ratio, segment.temperature),
        (Some(0.76), Some(0.2))
    );
    assert_eq!(segment.tokens, [50363, 4599]);
    let words: Vec<_> = reply.all_words().map(|word| word.word.as_str()).collect();
    assert_eq!(words, ["Good", "morning."]);
    let headers = &reply.headers;
    assert_eq!(headers.queue_wait, Some(Duration::from_millis(12)));
    assert_eq!(headers.primary_infer, Some(Duration::from_millis(340)));
    assert_eq!(headers.fallback_infer, Some(Duration::from_millis(900)));
    assert_eq!(headers.total, Some(Duration::from_millis(1260)));
    assert_eq!(
        (headers.fallback_used, headers.final_model.as_deref()),
        (Some(true), Some("medium"))
    );
    assert_eq!(headers.conf_below, ["logprob", "langprob"]);
    assert_eq!(headers.lang_check_applicable, Some(true));
}

#[tokio::test]
async fn a_reply_with_only_a_text_is_valid() {
    let nulls = r#"{"text": "", "language": null, "language_probability": null, "confidence": null,
        "duration": null, "model": null, "fallback_used": null, "request_id": null, "segments": null,
        "timings": {"queue_wait_ms": null}}"#;
    for body in [r#"{"text": ""}"#, nulls] {
        let reply = reply("X-Request-Id: r2\r\n", body).await.expect("a reply");
        assert_eq!(reply.request_id.as_deref(), Some("r2"));
        let bare = Transcript {
            request_id: reply.request_id.clone(),
            headers: reply.headers.clone(),
            ..Transcript::default()
        };
        assert_eq!(reply, bare);
    }
}

#[tokio::test]
async fn requests_without_audio_go_to_their_paths() {
    let model = r#"{"object":"list","data":[{"id":"whisper-1","object":"model","created":1677610602,"owned_by":"uttera"}]}"#;
    let any = json(200, "", r#"{"ok":true}"#);
    let server = Scripted::start([any.clone(), any.clone(), any, json(200, "", model)]).await;
    // The base address has a path, as behind a proxy.
    let client = Client::builder(format!("{}/stt/v1/", server.url)).no_proxy();
    let client = client.api_key("sesame").build().expect("a client");
    assert_eq!(client.health().await.expect("a reply")["ok"], true);
    assert_eq!(client.tier_health().await.expect("a reply")["ok"], true);
    assert_eq!(client.metrics().await.expect("a reply")["ok"], true);
    let models = client.models().await.expect("a reply");
    assert_eq!(models[0].id, "whisper-1");
    let paths = [
        "/stt/health",
        "/stt/v1/health",
        "/stt/v1/metrics",
        "/stt/v1/models",
    ];
    for (request, path) in server.requests().iter().zip(paths) {
        assert!(
            request.head.starts_with(&format!("get {path} ")),
            "{}",
            request.head
        );
        assert!(request.head.contains("authorization: bearer sesame"));
    }
}
