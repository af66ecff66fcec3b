//! Tests of JSON bodies, valid and malformed.

use actix_web::ResponseError;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;

fn store() -> (tempfile::TempDir, UploadStore) {
    let parent = tempfile::tempdir().expect("a folder");
    let store = UploadStore::open(parent.path(), 100_000).expect("opens");
    (parent, store)
}

async fn parsed(body: &str) -> Result<Parts, ApiError> {
    let (_parent, store) = store();
    let blocks: Vec<_> = (body.as_bytes().chunks(700))
        .map(|block| Ok(Bytes::copy_from_slice(block)))
        .collect();
    let parts = read(futures::stream::iter(blocks), &store, 200_000).await;
    let used = parts.as_ref().ok().and_then(|parts| {
        let file = parts.file.as_ref()?;
        Some(
            std::fs::metadata(file.source.path())
                .expect("is there")
                .len(),
        )
    });
    assert_eq!(
        store.used(),
        used.unwrap_or(0),
        "the encoded body is removed"
    );
    parts
}

async fn audio(body: &str) -> Vec<u8> {
    let (_parent, store) = store();
    let body = futures::stream::iter([Ok(Bytes::copy_from_slice(body.as_bytes()))]);
    let parts = read(body, &store, 200_000).await.expect("is read");
    let file = parts.file.expect("has audio");
    std::fs::read(file.source.path()).expect("is there")
}

fn sound() -> Vec<u8> {
    (0..50_000_u32).map(|index| (index * 7) as u8).collect()
}

#[tokio::test]
async fn every_way_to_write_base64_gives_the_same_audio() {
    let sound = sound();
    let plain = STANDARD.encode(&sound);
    let lines = plain.as_bytes().chunks(76);
    let lines: Vec<_> = lines
        .map(|line| std::str::from_utf8(line).expect("letters"))
        .collect();
    for data in [
        plain.clone(),
        plain.trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(&sound),
        format!("data:audio/wav;base64,{plain}"),
        lines.join("\\r\\n"),
        plain.replace('/', "\\/"),
    ] {
        let body = format!(r#"{{"input_audio": {{"format": "wav", "data": "{data}"}}}}"#);
        assert!(audio(&body).await == sound, "{}", &data[..40]);
    }
}

#[tokio::test]
async fn fields_are_read_as_in_a_form() {
    let body = r#"{
        "model": "whisper-1", "language": "en", "temperature": 0.5, "stream": true,
        "timestamp_granularities": ["word", "segment"], "prompt": "a \"b\" \u00e9",
        "response_format": null, "unknown": {"deep": [1, {"x": "y"}]},
        "input_audio": {"data": "AAAA", "format": "wav", "more": [1]}
    }"#;
    let parts = parsed(body).await.expect("is read");
    let fields: Vec<_> = (parts.fields.iter())
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        fields,
        [
            ("model", "whisper-1"),
            ("language", "en"),
            ("temperature", "0.5"),
            ("stream", "true"),
            ("timestamp_granularities", "word"),
            ("timestamp_granularities", "segment"),
            ("prompt", "a \"b\" é"),
        ]
    );
    assert!(parts.file.is_some());
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_names_of_lists_may_have_brackets() {
    let body = "\u{feff}{\"timestamp_granularities[]\": [\"word\", \"segment\"], \"include[0]\": \"logprobs\"}";
    let parts = parsed(body).await.expect("is read");
    let granularities: Vec<String> = parts.values("timestamp_granularities").collect();
    assert_eq!(granularities, ["word", "segment"]);
    assert_eq!(parts.field("include"), Some("logprobs"));
}

#[tokio::test]
async fn unknown_fields_may_have_any_value_and_a_chunking_strategy_keeps_its_type() {
    let body = format!(
        r#"{{"metadata": "{}", "n": 1e999, "list": ["{0}"], "chunking_strategy": {{"a": 1, "type": "x"}}}}"#,
        "x".repeat(70_000)
    );
    let parts = parsed(&body).await.expect("is read");
    let expected = ("chunking_strategy".to_owned(), r#"{"type":"x"}"#.to_owned());
    assert_eq!(parts.fields, [expected]);
}

#[tokio::test]
async fn bodies_that_would_fill_the_memory_are_rejected_with_a_short_message() {
    let parent = tempfile::tempdir().expect("a folder");
    let store = UploadStore::open(parent.path(), 20_000_000).expect("opens");
    let long = "9".repeat(10_000_000);
    for body in [
        format!(r#"{{"{long}": 1}}"#),
        format!(r#"{{"temperature": {long}}}"#),
        format!(r#"{{"unknown": "{long}"}}"#),
        format!(r#"{{"input_audio": {{"{long}": ""}}}}"#),
    ] {
        let body = futures::stream::iter([Ok(Bytes::from(body))]);
        let error = read(body, &store, 20_000_000).await.expect_err("rejected");
        assert_eq!(error.code(), "malformed_body");
        assert!(error.to_string().len() < 1000);
    }
}

#[tokio::test]
async fn a_body_without_audio_has_no_file() {
    for body in ["{}", r#"{"input_audio": {"format": "wav"}}"#] {
        let parts = parsed(body).await.expect("is read");
        assert!(parts.file.is_none(), "{body}");
    }
}

#[tokio::test]
async fn invalid_json_and_invalid_base64_are_malformed_and_leave_no_file() {
    let deep = format!(r#"{{"unknown": {}"#, "[".repeat(100_000));
    let long = format!(r#"{{"prompt": "{}"}}"#, "x".repeat(70_000));
    for body in [
        "",
        "\u{feff}",
        "\u{feff}\u{feff}{}",
        "[]",
        "null",
        "audio",
        "{",
        r#"{"model": "a""#,
        r#"{"model": "a"} and more"#,
        r#"{"input_audio": "AAAA"}"#,
        r#"{"input_audio": {"data": 7}}"#,
        r#"{"input_audio": {"data": "AAAA"#,
        r#"{"input_audio": {"data": "Ä!"}}"#,
        r#"{"input_audio": {"data": "data:no comma"}}"#,
        r#"{"input_audio": {"data": "AAAA"}, "input_audio": {"data": "AAAA"}}"#,
        "{\"prompt\": \"\\ud800\"}",
        &deep,
        &long,
    ] {
        let error = parsed(body).await.expect_err("rejected");
        let shown = &body[..body.len().min(60)];
        assert_eq!(error.status_code().as_u16(), 400, "{shown}");
        assert_eq!(error.code(), "malformed_body", "{shown}");
    }
}

#[tokio::test]
async fn audio_that_is_too_large_when_decoded_is_rejected() {
    let data = STANDARD.encode(vec![0; 100_001]);
    let body = format!(r#"{{"input_audio": {{"data": "{data}"}}}}"#);
    let error = parsed(&body).await.expect_err("rejected");
    assert_eq!(error.code(), "upload_too_large");
}
