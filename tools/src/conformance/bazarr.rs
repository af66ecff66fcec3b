//! `/asr` and `/detect-language`, as Bazarr requests subtitles.

use std::sync::Arc;

use anyhow::{bail, ensure};
use bytes::Bytes;
use reqwest::multipart::Form;

use super::check::{Check, Skip};
use super::expect::{Refusal, equal, says};
use super::subtitles;
use super::target::{Reply, Target, file};
use super::translations::is_english;
use crate::probe::speech::{COMMAND, SENTENCE, SPANISH, Speech};

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("/asr takes headerless samples and gives srt", transcribed),
        Check::new("/asr takes a file where encode is not false", encoded),
        Check::new("/asr?task=translate gives English", translated),
        Check::new("/detect-language names a language and its code", detected),
        Check::new("a request without audio_file is 400", no_file),
        Check::new("an unknown language is 400", unknown_language),
    ]
}

async fn ask(target: &Target, path: &str, audio: Bytes) -> anyhow::Result<Reply> {
    let form = Form::new().part("audio_file", file(audio, "audio"));
    target.post_form(path, form).await
}

async fn subtitles(target: &Target, path: &str, speech: &Speech) -> anyhow::Result<String> {
    let reply = ask(target, path, speech.samples()).await?;
    reply.ensure_status(200)?;
    subtitles::srt(reply.text()?, speech)
}

async fn transcribed(target: Arc<Target>) -> anyhow::Result<()> {
    let path = "/asr?task=transcribe&language=en&output=srt&encode=false";
    says(&subtitles(&target, path, &SENTENCE).await?, &SENTENCE)
}

async fn encoded(target: Arc<Target>) -> anyhow::Result<()> {
    let path = "/asr?task=transcribe&language=en&output=srt";
    let reply = ask(&target, path, SENTENCE.bytes()).await?;
    reply.ensure_status(200)?;
    says(&subtitles::srt(reply.text()?, &SENTENCE)?, &SENTENCE)
}

async fn translated(target: Arc<Target>) -> anyhow::Result<()> {
    if target.english_only {
        bail!(Skip("the model supports English only"));
    }
    let path = "/asr?task=translate&language=es&output=srt&encode=false";
    is_english(&subtitles(&target, path, &SPANISH).await?)
}

async fn detected(target: Arc<Target>) -> anyhow::Result<()> {
    let spoken = if target.english_only {
        (&SENTENCE, "english", "en")
    } else {
        (&SPANISH, "spanish", "es")
    };
    let (speech, name, code) = spoken;
    let path = "/detect-language?encode=false";
    let body = ask(&target, path, speech.samples()).await?.good_json()?;
    equal(&body, "language_code", code)?;
    let found = body["detected_language"].as_str().unwrap_or_default();
    ensure!(
        found.eq_ignore_ascii_case(name),
        "detected_language is {found:?}"
    );
    Ok(())
}

async fn no_file(target: Arc<Target>) -> anyhow::Result<()> {
    for path in ["/asr?output=srt", "/detect-language"] {
        let form = Form::new().text("nothing", "at all");
        let reply = target.post_form(path, form).await?;
        Refusal::new(400, "missing_file", None).ensure(&reply)?;
    }
    Ok(())
}

async fn unknown_language(target: Arc<Target>) -> anyhow::Result<()> {
    let path = "/asr?task=transcribe&language=klingon&output=srt&encode=false";
    let reply = ask(&target, path, COMMAND.samples()).await?;
    Refusal::new(400, "unsupported_language", Some("language")).ensure(&reply)
}
