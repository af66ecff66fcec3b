//! Requests that proxies and careless clients send: whatever has one meaning only is accepted, and the rest gets
//! a clear error.

use std::sync::Arc;

use anyhow::ensure;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::multipart::Form;

use super::check::Check;
use super::expect::{Refusal, error_of, list, says, text};
use super::raw::Connection;
use super::target::{Reply, TRANSCRIPTIONS, Target};
use crate::probe::speech::COMMAND;

pub fn checks() -> Vec<Check> {
    vec![
        Check::new(
            "an offer of HTTP/2 (h2c) is ignored, and the connection stays open",
            h2c,
        ),
        Check::new("HTTP/2 without an offer ends with an error", http2),
        Check::new(
            "file names in any encoding and with any quoting",
            file_names,
        ),
        Check::new("doubled slashes and a slash at the end", slashes),
        Check::new("an unknown path names the one that is meant", wrong_paths),
        Check::new("HEAD of the models has GET's status", head),
        Check::new("a compressed body is 415", compressed),
        Check::new(
            "a form whose lines end in LF is 400 and says so",
            line_feeds,
        ),
        Check::new("a byte order mark before JSON is skipped", byte_order_mark),
        Check::new("lists with an index, as JSON and with commas", lists),
        Check::new("response_format in capital letters", capital_letters),
        Check::new("null, undefined and None count as absent", absent),
        Check::new(
            "subtitles are text/plain where Accept asks for it",
            plain_subtitles,
        ),
    ]
}

async fn h2c(target: Arc<Target>) -> anyhow::Result<()> {
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n";
    // What nginx sends where it is set up for WebSocket.
    let from_nginx = "Connection: upgrade\r\n";
    let mut connection = Connection::open(&target).await?;
    for headers in [offer, offer, from_nginx, from_nginx, ""] {
        let answer = connection.get("/livez", headers).await?;
        ensure!(answer.status == 200, "status {}", answer.status);
        let closes = answer
            .headers
            .iter()
            .find(|line| line.starts_with("connection:"));
        ensure!(closes.is_none(), "the answer has {closes:?}");
    }
    Ok(())
}

async fn http2(target: Arc<Target>) -> anyhow::Result<()> {
    let mut connection = Connection::open(&target).await?;
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let answer = connection.answer().await?;
    ensure!(answer.status == 400, "status {}", answer.status);
    ensure!(
        answer.body.contains("malformed_request"),
        "the body is {:?}",
        answer.body
    );
    connection.ensure_closed().await
}

/// Sends a form whose bytes are written here, with the boundary `x`.
async fn send_form(target: &Target, body: Vec<u8>) -> anyhow::Result<Reply> {
    let request = target.post(TRANSCRIPTIONS).body(body);
    let request = request.header(CONTENT_TYPE, "multipart/form-data; boundary=x");
    target.send(request).await
}

async fn file_names(target: Arc<Target>) -> anyhow::Result<()> {
    let head = b"--x\r\nContent-Disposition: form-data; ";
    let latin1 = b"name=\"file\"; filename=\"Gespr\xe4ch.wav\"";
    let form = [
        head,
        &latin1[..],
        b"\r\n\r\n",
        COMMAND.audio,
        b"\r\n--x--\r\n",
    ]
    .concat();
    let body = send_form(&target, form).await?.good_json()?;
    says(text(&body, "text")?, &COMMAND)?;
    // Without audio, so that nothing is transcribed: the file is found, and is the only fault.
    for disposition in [
        &b"name=\"file\"; filename=\"C:\\recordings\\\""[..],
        b"filename=\"C:\\recordings\\\"; name=\"file\"",
        b"name=\"file\"; filename*=nonsense",
        b"name=\"file\"; filename=\"unclosed.wav",
        b"name=\"file\"; filename=\"\"",
    ] {
        let form = [head, disposition, b"\r\n\r\nno audio\r\n--x--\r\n"].concat();
        let reply = send_form(&target, form).await?;
        Refusal::new(400, "audio_decode_error", Some("file")).ensure(&reply)?;
    }
    Ok(())
}

async fn slashes(target: Arc<Target>) -> anyhow::Result<()> {
    for path in [
        "/health/",
        "//health",
        "//v1//models//",
        "/v1/models/whisper-1/",
    ] {
        target.send(target.get(path)).await?.ensure_status(200)?;
    }
    let form = target.form(&COMMAND, &[]);
    let reply = target
        .post_form("//v1/audio//transcriptions/", form)
        .await?;
    says(text(&reply.good_json()?, "text")?, &COMMAND)
}

async fn wrong_paths(target: Arc<Target>) -> anyhow::Result<()> {
    for (sent, meant) in [
        ("/audio/transcriptions", " /v1/audio/transcriptions"),
        ("/v1/v1/audio/transcriptions", " /v1/audio/transcriptions"),
        ("/v1/audio/transcription", " /v1/audio/transcriptions"),
        ("/models", " /v1/models"),
    ] {
        let reply = target.send(target.get(sent)).await?;
        Refusal::new(404, "not_found", None).ensure(&reply)?;
        let error = error_of(&reply)?;
        let message = text(&error, "message")?;
        ensure!(message.ends_with(meant), "{message:?} does not name{meant}");
    }
    Ok(())
}

async fn head(target: Arc<Target>) -> anyhow::Result<()> {
    for (path, status) in [
        ("/v1/models", 200),
        ("/v1/models/whisper-1", 200),
        ("/v1/models/no-such-model-anywhere", 404),
    ] {
        let reply = target.send(target.request(Method::HEAD, path)).await?;
        reply.ensure_status(status)?;
    }
    Ok(())
}

async fn compressed(target: Arc<Target>) -> anyhow::Result<()> {
    let request = target
        .post(TRANSCRIPTIONS)
        .multipart(target.form(&COMMAND, &[]));
    let reply = target
        .send(request.header(CONTENT_ENCODING, "gzip"))
        .await?;
    Refusal::new(415, "unsupported_media_type", None).ensure(&reply)
}

async fn line_feeds(target: Arc<Target>) -> anyhow::Result<()> {
    let form = "--x\nContent-Disposition: form-data; name=\"file\"\n\nabc\n--x--\n";
    let reply = send_form(&target, form.into()).await?;
    Refusal::new(400, "malformed_body", None).ensure(&reply)?;
    let error = error_of(&reply)?;
    let message = text(&error, "message")?;
    ensure!(
        message.contains("LF"),
        "{message:?} does not name the line ends"
    );
    Ok(())
}

/// The answer to a request with these fields and without audio. Nothing is transcribed, so this is fast.
async fn without_audio(target: &Target, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
    let mut form = Form::new();
    for (name, value) in fields {
        form = form.text((*name).to_owned(), (*value).to_owned());
    }
    target.post_form(TRANSCRIPTIONS, form).await
}

/// Checks that fields are accepted: the request lacks the audio only.
async fn accepts(target: &Target, fields: &[(&str, &str)]) -> anyhow::Result<()> {
    let reply = without_audio(target, fields).await?;
    Refusal::new(400, "missing_file", None).ensure(&reply)
}

async fn byte_order_mark(target: Arc<Target>) -> anyhow::Result<()> {
    let request = target
        .post(TRANSCRIPTIONS)
        .body("\u{feff}{\"model\": \"whisper-1\"}");
    let request = request.header(CONTENT_TYPE, "application/json");
    Refusal::new(400, "missing_file", None).ensure(&target.send(request).await?)
}

async fn lists(target: Arc<Target>) -> anyhow::Result<()> {
    const NAME: &str = "timestamp_granularities";
    const REFUSAL: Refusal = Refusal::new(422, "invalid_value", Some(NAME));
    let both = [
        ("timestamp_granularities[0]", "word"),
        ("timestamp_granularities[1]", "segment"),
    ];
    let fields = [&[("response_format", "verbose_json")], &both[..]].concat();
    let body = target.transcribe(&COMMAND, &fields).await?.good_json()?;
    for key in ["words", "segments"] {
        ensure!(!list(&body, key)?.is_empty(), "{key:?} is empty");
    }
    for (good, bad) in [
        ("word,segment", "word,letter"),
        ("[\"word\", \"segment\"]", "[\"word\", \"letter\"]"),
    ] {
        accepts(&target, &[(NAME, good)]).await?;
        REFUSAL.ensure(&without_audio(&target, &[(NAME, bad)]).await?)?;
    }
    Ok(())
}

async fn capital_letters(target: Arc<Target>) -> anyhow::Result<()> {
    for format in ["JSON", "Text", "SRT", "Verbose_JSON"] {
        accepts(&target, &[("response_format", format)]).await?;
    }
    Ok(())
}

async fn absent(target: Arc<Target>) -> anyhow::Result<()> {
    for value in ["null", "undefined", "None", ""] {
        let names = [
            "language",
            "prompt",
            "response_format",
            "temperature",
            "stream",
            "timestamp_granularities[]",
        ];
        accepts(&target, &names.map(|name| (name, value))).await?;
    }
    Ok(())
}

async fn plain_subtitles(target: Arc<Target>) -> anyhow::Result<()> {
    for (accept, expected) in [
        ("text/plain", "text/plain"),
        ("*/*", "application/x-subrip"),
    ] {
        let form = target.form(&COMMAND, &[("response_format", "srt")]);
        let request = target
            .post(TRANSCRIPTIONS)
            .header(ACCEPT, accept)
            .multipart(form);
        let reply = target.send(request).await?;
        reply.ensure_status(200)?;
        reply.ensure_type(expected)?;
    }
    Ok(())
}
