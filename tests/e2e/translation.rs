//! Translations by a real server and a real model: Whisper's own, and those by a stand-in for LibreTranslate.

use std::path::{Path, PathBuf};

use reqwest::Response;
use serde_json::Value;
use test_support::libretranslate::{Behaviour, StandIn, translated};
use test_support::wav::write_silence;
use test_support::{Server, form, model, refused, sample, sample_text, words};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const PATH: &str = "/v1/audio/translations";
const ERRORS: &str = r#"uttera_stt_errors_total{type="libretranslate"}"#;
const CALLS: &str = r#"uttera_stt_inference_duration_seconds_count{op="libretranslate"}"#;

async fn translate(server: &Server, file: &Path, fields: &[(&str, &str)]) -> Response {
    server.post(PATH, form(file, fields)).await
}

/// A second of silence.
fn silence(server: &Server) -> PathBuf {
    let path = server.folder().join("silence.wav");
    write_silence(&path, 1000);
    path
}

fn mode(response: &Response) -> Option<&str> {
    let header = response.headers().get("x-translation-mode");
    header.map(|value| value.to_str().expect("ASCII"))
}

#[tokio::test]
async fn every_format_is_in_the_target_language() {
    let stand_in = StandIn::start().await;
    let url = stand_in.url() + "/";
    let settings = [("LIBRETRANSLATE_URL", url.as_str())];
    let server = Server::ready(&model("base").await, &settings).await;
    assert_eq!(
        server
            .metric("uttera_stt_libretranslate_configured")
            .await
            .to_string(),
        "1"
    );
    let file = sample("es-sentence.wav");
    let said = words(&sample_text("es-sentence.wav"));
    for format in ["json", "text", "verbose_json", "srt", "vtt"] {
        let fields = [("to_language", "zh-TW"), ("response_format", format)];
        let response = translate(&server, &file, &fields).await;
        assert_eq!(response.status(), 200, "{format}");
        assert_eq!(mode(&response), Some("libretranslate"));
        assert_eq!(response.headers()["x-route"], "HOT");
        let body = response.text().await.expect("a body");
        let text = match format {
            "json" | "verbose_json" => {
                let body: Value = serde_json::from_str(&body).expect("JSON");
                body["text"].as_str().expect("text").to_owned()
            }
            _ => body,
        };
        assert!(text.contains("[zh-Hant]"), "{format}: {text}");
        // The stand-in received the spoken text.
        for word in &said {
            assert!(words(&text).contains(word), "{format}: {text}");
        }
        let counter = format!(
            r#"uttera_stt_translations_total{{mode="libretranslate",response_format="{format}"}}"#
        );
        assert_eq!(server.metric(&counter).await.to_string(), "1");
    }
    for call in stand_in.calls().await {
        assert_eq!(
            (&call["source"], &call["target"]),
            (&"es".into(), &"zh-Hant".into())
        );
        assert_eq!(call.get("api_key"), None);
    }
    assert_eq!(server.metric(CALLS).await.to_string(), "5");
    // If segments may have different languages, each is translated separately.
    let fields = [("to_language", "zh"), ("multilingual", "true")];
    assert_eq!(translate(&server, &file, &fields).await.status(), 200);
    let calls = stand_in.calls().await;
    for call in &calls[5..] {
        assert_eq!(
            (&call["source"], &call["target"]),
            (&"auto".into(), &"zh-Hans".into())
        );
        assert_eq!(call["q"].as_array().map(Vec::len), Some(1));
    }
    assert!(calls.len() > 5);
}

#[tokio::test]
async fn every_segment_is_translated_and_the_text_is_the_segments() {
    let stand_in = StandIn::start().await;
    let url = stand_in.url();
    let settings = [("LIBRETRANSLATE_URL", url.as_str())];
    // A model that cannot translate by itself.
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    // One chunk even on a slow machine, so that both requests have the same segments.
    let file = server.joined_file(&["en-sentence.wav", "en-command.wav"]);
    let verbose = ("response_format", "verbose_json");
    let fields = [verbose, ("to_language", "German"), ("language", "en-GB")];
    let original: Value = (server.transcribe(&file, &[verbose]).await.json().await).expect("JSON");
    let response = translate(&server, &file, &fields).await;
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(
        (&body["task"], &body["language"]),
        (&"translate".into(), &"german".into())
    );
    assert_eq!(body["duration"], original["duration"]);
    let (before, after) = (segments(&original), segments(&body));
    assert!(after.len() > 1 && after.len() == before.len(), "{body}");
    let mut joined = String::new();
    for (before, after) in before.iter().zip(after) {
        let text = after["text"].as_str().expect("text");
        let said = before["text"].as_str().expect("text");
        assert_eq!(text, format!(" {}", translated(said.trim(), "de")));
        for kept in [
            "id",
            "seek",
            "start",
            "end",
            "avg_logprob",
            "no_speech_prob",
        ] {
            assert_eq!(after[kept], before[kept], "{kept}");
        }
        assert_eq!(after["tokens"].as_array().map(Vec::len), Some(0));
        joined.push_str(text);
    }
    assert_eq!(body["text"], joined.trim());
    let srt = translate(
        &server,
        &file,
        &[("to_language", "de"), ("response_format", "srt")],
    )
    .await;
    let srt = srt.text().await.expect("a body");
    // All texts in one call, as a list.
    let calls = stand_in.calls().await;
    assert_eq!(calls.len(), 2);
    let sent = |call: &Value| call["q"].as_array().map(Vec::len);
    assert_eq!(sent(&calls[0]), Some(before.len()));
    assert_eq!(Some(srt.matches("[de] ").count()), sent(&calls[1]));
}

fn segments(body: &Value) -> &Vec<Value> {
    body["segments"].as_array().expect("segments")
}

#[tokio::test]
async fn nothing_is_asked_where_there_is_nothing_to_translate() {
    let stand_in = StandIn::start().await;
    let url = stand_in.url();
    let settings = [("LIBRETRANSLATE_URL", url.as_str())];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    // The target is English by default, and the text is English.
    let response = translate(&server, &sample("en-command.wav"), &[]).await;
    assert_eq!(mode(&response), Some("libretranslate"));
    let body: Value = response.json().await.expect("JSON");
    let text = body["text"].as_str().expect("text");
    assert_eq!(words(text), words(&sample_text("en-command.wav")));
    let fields = [("to_language", "fr"), ("response_format", "verbose_json")];
    let response = translate(&server, &silence(&server), &fields).await;
    assert_eq!(mode(&response), Some("libretranslate"));
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(
        (&body["text"], &body["language"]),
        (&"".into(), &"french".into())
    );
    assert_eq!(stand_in.calls().await, Vec::<Value>::new());
    assert_eq!(server.metric(CALLS).await.to_string(), "0");
    // A plain transcription has no translation mode.
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(mode(&response), None);
}

#[tokio::test]
async fn whatever_goes_wrong_there_is_a_502_and_never_the_untranslated_text() {
    let stand_in = StandIn::start().await;
    let url = stand_in.url();
    let settings = [
        ("LIBRETRANSLATE_URL", url.as_str()),
        ("LIBRETRANSLATE_API_KEY", "hunter2"),
        ("LIBRETRANSLATE_TIMEOUT_S", "10"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    let german = [("to_language", "de")];
    let mut failures = 0;
    for (behaviour, says, is_final) in [
        (Behaviour::Slow, "within 10 s", true),
        (Behaviour::BreaksDown, "500", false),
        (
            Behaviour::SaysNo(429),
            "429 Too Many Requests: Slowdown",
            false,
        ),
        (Behaviour::SaysNo(400), "Slowdown", true),
        (
            Behaviour::WantsKey("another"),
            "403 Forbidden: Invalid API key",
            true,
        ),
        (Behaviour::ErrorWithSuccess, "Cannot translate text", false),
        (Behaviour::NoJson, "not its JSON", false),
        (Behaviour::NoTexts, "no translatedText", false),
        (Behaviour::OneTextLess, "too many or too few", false),
        (Behaviour::Redirects, "307", true),
    ] {
        stand_in.behave(behaviour);
        let response = translate(&server, &file, &german).await;
        let retry = response.headers().get("x-should-retry");
        assert_eq!(
            retry.is_some_and(|value| value == "false"),
            is_final,
            "{behaviour:?}"
        );
        let message = refused(response, 502, "translation_backend", None).await;
        assert!(message.contains(says), "{behaviour:?}: {message}");
        assert!(!message.to_lowercase().contains("light"), "{message}");
        failures += 1;
        assert_eq!(
            server.metric(ERRORS).await.to_string(),
            failures.to_string()
        );
    }
    stand_in.behave(Behaviour::WantsKey("hunter2"));
    let response = translate(&server, &file, &[("to_language", "eo")]).await;
    let message = refused(response, 502, "translation_backend", None).await;
    assert!(message.contains("eo is not supported"), "{message}");
    let response = translate(&server, &file, &[("to_language", "klingon")]).await;
    let message = refused(response, 400, "unsupported_language", Some("to_language")).await;
    assert!(message.contains("klingon"), "{message}");
    assert_eq!(translate(&server, &file, &german).await.status(), 200);
    let log = server.log().join("\n");
    assert!(!log.contains("hunter2") && !log.contains(&url), "{log}");
}

#[tokio::test]
async fn an_unreachable_server_is_reported_as_such() {
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let settings = [
        ("LIBRETRANSLATE_URL", url.as_str()),
        // This proxy must not get the text.
        ("http_proxy", "http://127.0.0.1:1"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let response = translate(&server, &sample("en-command.wav"), &[("to_language", "de")]).await;
    let message = refused(response, 502, "translation_backend", None).await;
    assert!(
        message.contains("cannot be reached") && !message.contains("127.0.0.1"),
        "{message}"
    );
}

#[tokio::test]
async fn the_lane_is_free_meanwhile_and_a_client_that_leaves_ends_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let settings = [
        ("LIBRETRANSLATE_URL", url.as_str()),
        ("LIBRETRANSLATE_TIMEOUT_S", "3600"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    let request = server
        .client
        .post(format!("{}{PATH}", server.url))
        .multipart(form(&file, &[("to_language", "de")]));
    let client = tokio::spawn(request.send());
    let (mut call, _) = listener.accept().await.expect("a call");
    // The call is never answered, and the only worker is free for other requests.
    assert_eq!(server.transcribe(&file, &[]).await.status(), 200);
    client.abort();
    let mut asked = Vec::new();
    let ended = tokio::time::timeout(test_support::PATIENCE, call.read_to_end(&mut asked)).await;
    ended.expect("the call ends").ok();
    assert!(String::from_utf8_lossy(&asked).starts_with("POST /translate "));
    server
        .log_line("the client disconnected before the response was complete")
        .await;
}

#[tokio::test]
async fn whispers_own_translation_is_english_and_says_so() {
    let server = Server::ready(&model("base").await, &[]).await;
    let fields = [("response_format", "verbose_json"), ("language", "Spanish")];
    let response = translate(&server, &sample("es-sentence.wav"), &fields).await;
    assert_eq!(mode(&response), None);
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(
        (&body["task"], &body["language"]),
        (&"translate".into(), &"english".into())
    );
    let native = r#"uttera_stt_translations_total{mode="native",response_format="verbose_json"}"#;
    assert_eq!(server.metric(native).await.to_string(), "1");
    assert_eq!(
        server
            .metric("uttera_stt_libretranslate_configured")
            .await
            .to_string(),
        "0"
    );
}
