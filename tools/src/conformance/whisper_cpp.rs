//! `/inference`, as clients of whisper.cpp's server use it.

use std::sync::Arc;

use reqwest::multipart::Form;

use super::check::Check;
use super::expect::{Refusal, list, says, text};
use super::subtitles;
use super::target::{Reply, Target, file};
use crate::probe::speech::{COMMAND, SENTENCE};

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("json has the text", json),
        Check::new("text, srt, vtt and verbose_json", formats),
        Check::new("a request without a file is 400", no_file),
        Check::new("an unknown response_format is 422", unknown_format),
    ]
}

async fn ask(target: &Target, format: &str) -> anyhow::Result<Reply> {
    let form = Form::new()
        .part("file", file(SENTENCE.bytes(), SENTENCE.name))
        .text("temperature", "0.0")
        .text("temperature_inc", "0.2")
        .text("response_format", format.to_owned());
    let reply = target.post_form("/inference", form).await?;
    reply.ensure_status(200)?;
    Ok(reply)
}

async fn json(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, "json").await?.good_json()?;
    says(text(&body, "text")?, &SENTENCE)
}

async fn formats(target: Arc<Target>) -> anyhow::Result<()> {
    says(ask(&target, "text").await?.text()?, &SENTENCE)?;
    let srt = ask(&target, "srt").await?;
    says(&subtitles::srt(srt.text()?, &SENTENCE)?, &SENTENCE)?;
    let vtt = ask(&target, "vtt").await?;
    says(&subtitles::vtt(vtt.text()?, &SENTENCE)?, &SENTENCE)?;
    let body = ask(&target, "verbose_json").await?.good_json()?;
    list(&body, "segments")?;
    says(text(&body, "text")?, &SENTENCE)
}

async fn no_file(target: Arc<Target>) -> anyhow::Result<()> {
    let form = Form::new().text("response_format", "json");
    let reply = target.post_form("/inference", form).await?;
    Refusal::new(400, "missing_file", Some("file")).ensure(&reply)
}

async fn unknown_format(target: Arc<Target>) -> anyhow::Result<()> {
    let form = Form::new()
        .part("file", file(COMMAND.bytes(), COMMAND.name))
        .text("response_format", "yaml");
    let reply = target.post_form("/inference", form).await?;
    Refusal::new(422, "invalid_value", Some("response_format")).ensure(&reply)
}
