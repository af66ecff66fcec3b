//! The errors of the API that a client can cause: status, type, code, `param`, the four keys of the error
//! object, and `detail` beside it.

use std::sync::Arc;

use anyhow::{bail, ensure};
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::multipart::Form;
use reqwest::{Body, Method};

use super::check::{Check, Skip};
use super::expect::Refusal;
use super::target::{Reply, TRANSCRIPTIONS, TRANSLATIONS, Target, bearer, file};
use crate::probe::speech::{COMMAND, SPANISH};

/// An upload larger than any server accepts: 64 GiB.
const ENDLESS_BYTES: u64 = 64 << 30;

pub fn checks() -> Vec<Check> {
    let mut checks = vec![
        Check::new("no file", no_file),
        Check::new("an empty file", |target| refuses_file(target, Bytes::new())),
        Check::new("a file that is not audio", |target| {
            refuses_file(target, Bytes::from_static(b"<html>no sound at all</html>"))
        }),
    ];
    for (fields, param) in BAD_FIELDS {
        let name = fields.iter().map(|(name, value)| format!("{name}={value}"));
        let name = name.collect::<Vec<_>>().join(", ");
        checks.push(Check::new(name, |target| {
            refuses_fields(target, fields, param)
        }));
    }
    checks.extend([
        Check::new("a truncated form", broken_form),
        Check::new("a form without its boundary", no_boundary),
        Check::new("invalid JSON", |target| refuses_json(target, "{\"a\":")),
        Check::new("JSON with invalid base64 audio", |target| {
            let audio = r#"{"input_audio":{"data":"%%%","format":"wav"}}"#;
            refuses_json(target, audio)
        }),
        Check::new("a body with another content type", other_type),
        Check::new("a body without a content type", no_type),
        Check::new("an upload of 64 GiB", too_large),
        Check::new("an unknown path", unknown_path),
        Check::new("a wrong method", wrong_method),
        Check::new("no key and a wrong key", keys),
        Check::new(
            "a translation by a model that supports English only",
            english_only,
        ),
    ]);
    checks
}

/// Fields with invalid values, and the name of the field that the error must name.
const BAD_FIELDS: [(&[(&str, &str)], &str); 10] = [
    (&[("response_format", "yaml")], "response_format"),
    (&[("temperature", "1.5")], "temperature"),
    (&[("temperature", "-0.1")], "temperature"),
    (&[("temperature", "warm")], "temperature"),
    (&[("temperature", "NaN")], "temperature"),
    (
        &[("timestamp_granularities[]", "letter")],
        "timestamp_granularities",
    ),
    (&[("include[]", "everything")], "include"),
    (&[("stream", "maybe")], "stream"),
    (&[("vad_filter", "maybe")], "vad_filter"),
    (&[("hallucination_guard", "maybe")], "hallucination_guard"),
];

async fn no_file(target: Arc<Target>) -> anyhow::Result<()> {
    let missing = Refusal::new(400, "missing_file", Some("file"));
    let form = Form::new().text("model", target.model.clone());
    missing.ensure(&target.post_form(TRANSCRIPTIONS, form).await?)
}

async fn refuses_file(target: Arc<Target>, audio: Bytes) -> anyhow::Result<()> {
    let form = Form::new()
        .part("file", file(audio, "audio.wav"))
        .text("model", target.model.clone());
    let reply = target.post_form(TRANSCRIPTIONS, form).await?;
    Refusal::new(400, "audio_decode_error", Some("file")).ensure(&reply)
}

async fn refuses_fields(
    target: Arc<Target>,
    fields: &[(&str, &str)],
    param: &'static str,
) -> anyhow::Result<()> {
    let reply = target.transcribe(&COMMAND, fields).await?;
    Refusal::new(422, "invalid_value", Some(param)).ensure(&reply)
}

async fn send(
    target: &Target,
    content_type: Option<&str>,
    body: impl Into<Body>,
) -> anyhow::Result<Reply> {
    let request = target.post(TRANSCRIPTIONS).body(body);
    let request = match content_type {
        Some(content_type) => request.header(CONTENT_TYPE, content_type),
        None => request,
    };
    target.send(request).await
}

const MALFORMED: Refusal = Refusal::new(400, "malformed_body", None);

async fn broken_form(target: Arc<Target>) -> anyhow::Result<()> {
    let body = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nabc";
    let content_type = Some("multipart/form-data; boundary=x");
    MALFORMED.ensure(&send(&target, content_type, body).await?)
}

async fn no_boundary(target: Arc<Target>) -> anyhow::Result<()> {
    MALFORMED.ensure(&send(&target, Some("multipart/form-data"), "--x--\r\n").await?)
}

async fn refuses_json(target: Arc<Target>, body: &'static str) -> anyhow::Result<()> {
    MALFORMED.ensure(&send(&target, Some("application/json"), body).await?)
}

const UNSUPPORTED: Refusal = Refusal::new(415, "unsupported_media_type", None);

async fn other_type(target: Arc<Target>) -> anyhow::Result<()> {
    UNSUPPORTED.ensure(&send(&target, Some("audio/wav"), COMMAND.bytes()).await?)
}

async fn no_type(target: Arc<Target>) -> anyhow::Result<()> {
    UNSUPPORTED.ensure(&send(&target, None, COMMAND.bytes()).await?)
}

/// Announces the size in `Content-Length` and sends nothing of the body.
async fn too_large(target: Arc<Target>) -> anyhow::Result<()> {
    let nothing = futures::stream::pending::<std::io::Result<Bytes>>();
    let request = target
        .post(TRANSCRIPTIONS)
        .header(CONTENT_TYPE, "multipart/form-data; boundary=x")
        .header(CONTENT_LENGTH, ENDLESS_BYTES)
        .body(Body::wrap_stream(nothing));
    let reply = target.send(request).await?;
    Refusal::new(413, "upload_too_large", None).ensure(&reply)?;
    let sizes = reply.text()?.matches(char::is_numeric).count();
    ensure!(
        sizes > 0 && reply.text()?.contains(&ENDLESS_BYTES.to_string()),
        "the message does not name both sizes"
    );
    Ok(())
}

async fn unknown_path(target: Arc<Target>) -> anyhow::Result<()> {
    for path in ["/no/such/path", "/v1/audio/speech-to-nothing"] {
        let reply = target.send(target.get(path)).await?;
        Refusal::new(404, "not_found", None).ensure(&reply)?;
    }
    Ok(())
}

async fn wrong_method(target: Arc<Target>) -> anyhow::Result<()> {
    for (method, path) in [
        (Method::GET, TRANSCRIPTIONS),
        (Method::DELETE, TRANSLATIONS),
        (Method::POST, "/v1/models"),
        (Method::PUT, "/health"),
        (Method::POST, "/metrics"),
    ] {
        let reply = target.send(target.request(method, path)).await?;
        Refusal::new(405, "method_not_allowed", None).ensure(&reply)?;
    }
    Ok(())
}

async fn keys(target: Arc<Target>) -> anyhow::Result<()> {
    if !target.has_key() {
        bail!(Skip("no key was given (--key)"));
    }
    for (method, path) in [
        (Method::POST, TRANSCRIPTIONS),
        (Method::POST, TRANSLATIONS),
        (Method::POST, "/asr"),
        (Method::POST, "/detect-language"),
        (Method::POST, "/inference"),
        (Method::GET, "/v1/models"),
        (Method::GET, "/v1/models/whisper-1"),
    ] {
        let bare = target.bare_request(method.clone(), path);
        let wrong = bearer(target.bare_request(method, path), "not-the-key");
        for request in [bare, wrong] {
            let reply = target.send(request).await?;
            Refusal::new(401, "invalid_api_key", None).ensure(&reply)?;
            let challenge = reply.header("www-authenticate");
            ensure!(
                challenge.starts_with("Bearer"),
                "WWW-Authenticate is {challenge:?}"
            );
        }
    }
    Ok(())
}

async fn english_only(target: Arc<Target>) -> anyhow::Result<()> {
    if !target.english_only {
        bail!(Skip("the model can translate"));
    }
    let reply = target.translate(&SPANISH, &[]).await?;
    Refusal::new(400, "translation_unsupported", None).ensure(&reply)
}
