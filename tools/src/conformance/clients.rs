//! Requests exactly as well-known clients send them.

use std::sync::Arc;

use anyhow::{bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::check::{Check, Skip};
use super::expect::{list, says, text};
use super::target::{Reply, TRANSCRIPTIONS, Target, bearer, file};
use crate::probe::speech::{COMMAND, LONG, SENTENCE, Speech, silence};

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("openai: the request of its Python package", openai_package),
        Check::new(
            "openai: every name of its transcription models",
            model_names,
        ),
        Check::new("Open-WebUI: a file and a language", open_webui),
        Check::new(
            "Open-WebUI: an empty bearer where no key is wanted",
            empty_bearer,
        ),
        Check::new("Open-WebUI: JSON with base64 audio", json_request),
        Check::new("Open-WebUI: several parts of one file at once", at_once),
        Check::new(
            "OpenClaw: a voice note, Opus in Ogg, of no known type",
            voice_note,
        ),
        Check::new("OpenClaw: an instruction as prompt is dropped", instruction),
        Check::new("n8n: its credential test, and whisper-1", n8n),
        Check::new("parts in any order", any_order),
        Check::new(
            "parts without a content type or a useful file name",
            bare_parts,
        ),
        Check::new(
            "unknown fields are ignored, even if they are files",
            unknown_fields,
        ),
        Check::new("empty fields count as absent", empty_fields),
        Check::new("silence has an empty text", silent),
    ]
}

fn good(reply: &Reply, speech: &Speech) -> anyhow::Result<Value> {
    let body = reply.good_json()?;
    says(text(&body, "text")?, speech)?;
    Ok(body)
}

async fn openai_package(target: Arc<Target>) -> anyhow::Result<()> {
    let form = Form::new()
        .text("model", target.model.clone())
        .text("language", "en")
        .text("response_format", "verbose_json")
        .text("temperature", "0")
        .text("timestamp_granularities[]", "word")
        .text("timestamp_granularities[]", "segment")
        .part("file", file(COMMAND.bytes(), COMMAND.name));
    let reply = target.post_form(TRANSCRIPTIONS, form).await?;
    let body = good(&reply, &COMMAND)?;
    ensure!(!list(&body, "words")?.is_empty(), "`words` is empty");
    ensure!(!list(&body, "segments")?.is_empty(), "`segments` is empty");
    let id = reply.header("x-request-id");
    ensure!(!id.is_empty(), "the answer has no X-Request-Id");
    Ok(())
}

async fn model_names(target: Arc<Target>) -> anyhow::Result<()> {
    for name in ["whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"] {
        let form = Form::new()
            .part("file", file(COMMAND.bytes(), COMMAND.name))
            .text("model", name);
        good(&target.post_form(TRANSCRIPTIONS, form).await?, &COMMAND)?;
        let path = format!("/v1/models/{name}");
        target.send(target.get(&path)).await?.ensure_status(200)?;
    }
    Ok(())
}

async fn open_webui(target: Arc<Target>) -> anyhow::Result<()> {
    let part = file(COMMAND.bytes(), "recording.wav").mime_str("audio/wav")?;
    let form = Form::new()
        .text("model", "whisper-1")
        .text("language", "en")
        .part("file", part);
    good(&target.post_form(TRANSCRIPTIONS, form).await?, &COMMAND)?;
    Ok(())
}

async fn empty_bearer(target: Arc<Target>) -> anyhow::Result<()> {
    if target.has_key() {
        bail!(Skip("the server requires a key"));
    }
    let request = target.bare_request(Method::POST, TRANSCRIPTIONS);
    let request = bearer(request, "").multipart(target.form(&COMMAND, &[]));
    good(&target.send(request).await?, &COMMAND)?;
    Ok(())
}

async fn json_request(target: Arc<Target>) -> anyhow::Result<()> {
    let body = json!({
        "model": target.model,
        "language": "en",
        "input_audio": {"data": BASE64_STANDARD.encode(COMMAND.audio), "format": "wav"},
    });
    let request = target
        .post(TRANSCRIPTIONS)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string());
    good(&target.send(request).await?, &COMMAND)?;
    Ok(())
}

async fn at_once(target: Arc<Target>) -> anyhow::Result<()> {
    let ask = || target.transcribe(&SENTENCE, &[]);
    let replies = futures::future::try_join_all([ask(), ask(), ask()]).await?;
    for reply in replies {
        good(&reply, &SENTENCE)?;
    }
    Ok(())
}

async fn voice_note(target: Arc<Target>) -> anyhow::Result<()> {
    let part = file(LONG.bytes(), "voice.bin").mime_str("application/octet-stream")?;
    let form = Form::new()
        .part("file", part)
        .text("model", "gpt-4o-mini-transcribe");
    good(&target.post_form(TRANSCRIPTIONS, form).await?, &LONG)?;
    Ok(())
}

async fn instruction(target: Arc<Target>) -> anyhow::Result<()> {
    let fields = [("prompt", "Transcribe the audio.")];
    good(&target.transcribe(&COMMAND, &fields).await?, &COMMAND)?;
    Ok(())
}

async fn n8n(target: Arc<Target>) -> anyhow::Result<()> {
    let body = target.send(target.get("/v1/models")).await?.good_json()?;
    let models = list(&body, "data")?;
    ensure!(
        models.iter().any(|model| model["id"] == "whisper-1"),
        "whisper-1 is not in the list of models"
    );
    let form = Form::new()
        .text("model", "whisper-1")
        .part("file", file(COMMAND.bytes(), "data"));
    good(&target.post_form(TRANSCRIPTIONS, form).await?, &COMMAND)?;
    Ok(())
}

async fn any_order(target: Arc<Target>) -> anyhow::Result<()> {
    let form = Form::new()
        .text("response_format", "verbose_json")
        .part("file", file(COMMAND.bytes(), COMMAND.name))
        .text("language", "en")
        .text("model", target.model.clone());
    let body = good(&target.post_form(TRANSCRIPTIONS, form).await?, &COMMAND)?;
    list(&body, "segments")?;
    Ok(())
}

async fn bare_parts(target: Arc<Target>) -> anyhow::Result<()> {
    // Without content type and file name; then with a misleading name.
    let unnamed = Part::bytes(COMMAND.audio);
    let lying = file(COMMAND.bytes(), "notes.txt").mime_str("text/plain")?;
    for part in [unnamed, lying] {
        let form = Form::new()
            .part("file", part)
            .text("model", target.model.clone());
        good(&target.post_form(TRANSCRIPTIONS, form).await?, &COMMAND)?;
    }
    Ok(())
}

async fn unknown_fields(target: Arc<Target>) -> anyhow::Result<()> {
    let form = target
        .form(&COMMAND, &[("user", "me"), ("no_such_field[]", "1")])
        .part("attachment", file(Bytes::from_static(b"\0\xff"), "a.bin"));
    good(&target.post_form(TRANSCRIPTIONS, form).await?, &COMMAND)?;
    Ok(())
}

async fn empty_fields(target: Arc<Target>) -> anyhow::Result<()> {
    let fields = [
        ("language", ""),
        ("prompt", ""),
        ("response_format", ""),
        ("temperature", ""),
    ];
    good(&target.transcribe(&COMMAND, &fields).await?, &COMMAND)?;
    Ok(())
}

async fn silent(target: Arc<Target>) -> anyhow::Result<()> {
    let form = Form::new()
        .part("file", file(silence(), "silence.wav"))
        .text("model", target.model.clone());
    let body = target.post_form(TRANSCRIPTIONS, form).await?.good_json()?;
    let said = text(&body, "text")?;
    ensure!(
        said.trim().is_empty(),
        "the transcript of silence is {said:?}"
    );
    Ok(())
}
