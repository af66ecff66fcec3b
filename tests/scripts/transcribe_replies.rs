//! Replies to `scripts/transcribe.sh`: every character of a text comes through, and nothing else does.

use std::fmt::Write;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use test_support::PATIENCE;
use test_support::transcribe_script::{Script, answer, told, with_answer};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer};

/// A JSON string in which every UTF-16 unit is escaped.
fn all_escaped(text: &str) -> String {
    let mut json = String::from('"');
    for unit in text.encode_utf16() {
        write!(json, "\\u{unit:04X}").expect("writes");
    }
    json + "\""
}

/// Bodies with this text, in the formats of different servers.
fn bodies(text: &str) -> [String; 4] {
    let plain = serde_json::to_string(text).expect("JSON");
    let words =
        json!({"text": "not this", "error": text, "list": ["text", text, {"text": "nor this"}]});
    let around = json!({"usage": words, "seconds": 3, "text": text, "duration": 1.5e3, "n": null});
    [
        format!("{{\"text\":{plain}}}"),
        format!("{{\"text\":{}}}", all_escaped(text)),
        around.to_string(),
        format!("{around:#}\r\n"),
    ]
}

#[test]
fn any_text_comes_out_as_it_went_in() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let script = Script::new();
    script.file("a.wav", b"sound");
    let server = runtime.block_on(MockServer::start());
    let special =
        prop::sample::select(vec!['"', '\\', '/', '\n', '\u{7f}', '\u{0}', 'u', '{', ':']);
    let character = prop_oneof![special, any::<char>(), prop::char::range(' ', '~')];
    let text = prop::collection::vec(character, 0..40);
    let text = text.prop_map(|characters| characters.into_iter().collect::<String>());
    let case = |(text, style): (String, usize)| {
        let body = bodies(&text)[style].clone();
        let output = runtime.block_on(async {
            server.reset().await;
            Mock::given(method("POST"))
                .respond_with(answer(200, "application/json", body))
                .mount(&server)
                .await;
            script.run(&server.uri(), &["a.wav"]).await
        });
        prop_assert_eq!(told(&output), (Some(0), String::new()));
        prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), text + "\n");
        Ok(())
    };
    let mut runner = TestRunner::new(Config::with_cases(96));
    runner.run(&(text, 0..4_usize), case).expect("all do");
}

#[tokio::test]
async fn every_json_escape_is_resolved_and_an_unpaired_surrogate_is_replaced() {
    let escapes = [
        (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r"\u00e9\u00C9\u20ac\uD83D\uDE00", "éÉ€😀"),
        (r"\u0000a\u007F", "\0a\u{7f}"),
        (
            r"\ud83dx\ude00\ud83d\ud83d\ude00\ud83d\n\ud83d",
            "\u{fffd}x\u{fffd}\u{fffd}😀\u{fffd}\n\u{fffd}",
        ),
        (r"\\u0041\\\u0041\\\\", r"\u0041\A\\"),
        (r#"\\\"\\"#, r#"\"\"#),
        (
            "%s %d \\\\n $(id) `id` ${x} * é",
            "%s %d \\n $(id) `id` ${x} * é",
        ),
        ("", ""),
    ];
    for (escaped, expected) in escapes {
        let body = format!(r#"{{"text":"{escaped}"}}"#);
        let (script, server) = with_answer(200, "application/json", &body).await;
        let output = script.run(&server.uri(), &["a.wav"]).await;
        assert_eq!(told(&output), (Some(0), String::new()), "{escaped}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(text, format!("{expected}\n"), "{escaped}");
    }
}

#[tokio::test]
async fn the_text_of_hours_comes_through() {
    let text = "Жили-были \"дед\" и\tбаба.\n".repeat(2000);
    let body = format!("{{\"text\":{}}}", all_escaped(&text));
    let (script, server) = with_answer(200, "application/json", &body).await;
    let url = server.uri();
    let run = script.run(&url, &["a.wav"]);
    let output = tokio::time::timeout(PATIENCE, run).await.expect("in time");
    assert_eq!(String::from_utf8_lossy(&output.stdout), text + "\n");
}

#[tokio::test]
async fn a_reply_without_a_transcript_is_status_7_and_keeps_the_recording() {
    let cases = [
        ("application/json", ""),
        ("application/json", "{}"),
        ("application/json", r#"{"text":null,"other":"words"}"#),
        ("application/json", r#"{"text":["words"]}"#),
        ("application/json", r#"{"usage":{"text":"words"}}"#),
        ("application/json", r#"["text","words"]"#),
        ("application/json", r#"{"x":"text\":\"words"}"#),
        ("application/json", r#"{"text":"never ends"#),
        ("application/json", r#"{"text":"\q"}"#),
        ("application/json", r#"{"text":"\u12"}"#),
        ("text/html", "<html>{\"text\":\"words\"}</html>"),
        ("application/octet-stream", r#"{"text":"words"}"#),
    ];
    for (kind, body) in cases {
        let (script, server) = with_answer(200, kind, body).await;
        let output = script.run(&server.uri(), &["a.wav", "--remove"]).await;
        assert_eq!(output.status.code(), Some(7), "{body}: {output:?}");
        assert!(output.stdout.is_empty(), "{body}: {output:?}");
        assert!(
            told(&output).1.starts_with("transcribe.sh: the answer ")
                && told(&output).1.lines().count() == 1,
            "{output:?}"
        );
        assert!(script.here().join("a.wav").exists(), "{body}");
    }
}

#[tokio::test]
async fn the_answer_goes_into_a_file_and_json_stays_as_it_is() {
    let body = "{ \"text\" : \"w\\u00f6rds\" }\n";
    let (script, server) = with_answer(200, "application/json", body).await;
    let printed = script.run(&server.uri(), &["a.wav", "--json"]).await;
    assert_eq!(String::from_utf8_lossy(&printed.stdout), body);
    let out = "new folder/-t.txt";
    let named = script.run(&server.uri(), &["a.wav", "--out", out]).await;
    assert_eq!(String::from_utf8_lossy(&named.stdout), format!("{out}\n"));
    let kept = std::fs::read_to_string(script.here().join(out)).expect("is there");
    assert_eq!(kept, "wörds\n");

    // A server that supports only plain text.
    let (script, server) = with_answer(200, "text/plain; charset=utf-8", "w\\u00f6rds").await;
    let printed = script.run(&server.uri(), &["a.wav"]).await;
    assert_eq!(String::from_utf8_lossy(&printed.stdout), "w\\u00f6rds\n");
    let json = script.run(&server.uri(), &["a.wav", "--json"]).await;
    assert_eq!(json.status.code(), Some(7), "{json:?}");
}
