//! `response_format`: json, text, srt and vtt.

use std::sync::Arc;

use anyhow::{Context, ensure};

use super::check::Check;
use super::expect::{list, number, says, text, usage};
use super::subtitles;
use super::target::Target;
use crate::probe::speech::{COMMAND, LONG, SENTENCE};

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("json is the default format, with text and usage", json),
        Check::new("text is text/plain", plain_text),
        Check::new("srt has numbers, times and the words", srt),
        Check::new("vtt has times and the words", vtt),
        Check::new("srt of a long file runs to its end", long_srt),
        Check::new("include[]=logprobs adds logprobs to json", logprobs),
        Check::new(
            "prompt and temperature are accepted",
            prompt_and_temperature,
        ),
    ]
}

async fn json(target: Arc<Target>) -> anyhow::Result<()> {
    for fields in [&[][..], &[("response_format", "json")]] {
        let body = target.transcribe(&COMMAND, fields).await?.good_json()?;
        says(text(&body, "text")?, &COMMAND)?;
        usage(&body, COMMAND.seconds)?;
        ensure!(body.get("segments").is_none(), "json has segments");
    }
    Ok(())
}

async fn plain_text(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .transcribe(&COMMAND, &[("response_format", "text")])
        .await?;
    reply.ensure_status(200)?;
    reply.ensure_type("text/plain")?;
    let body = reply.text()?;
    ensure!(
        !body.trim_start().starts_with(['{', '"']),
        "the text is JSON"
    );
    says(body, &COMMAND)
}

async fn srt(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .transcribe(&SENTENCE, &[("response_format", "srt")])
        .await?;
    reply.ensure_status(200)?;
    says(&subtitles::srt(reply.text()?, &SENTENCE)?, &SENTENCE)
}

async fn vtt(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .transcribe(&SENTENCE, &[("response_format", "vtt")])
        .await?;
    reply.ensure_status(200)?;
    says(&subtitles::vtt(reply.text()?, &SENTENCE)?, &SENTENCE)
}

async fn long_srt(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .transcribe(&LONG, &[("response_format", "srt")])
        .await?;
    reply.ensure_status(200)?;
    says(&subtitles::srt(reply.text()?, &LONG)?, &LONG)
}

async fn logprobs(target: Arc<Target>) -> anyhow::Result<()> {
    let fields = [("response_format", "json"), ("include[]", "logprobs")];
    let body = target.transcribe(&COMMAND, &fields).await?.good_json()?;
    let tokens = list(&body, "logprobs")?;
    ensure!(!tokens.is_empty(), "logprobs is empty");
    let mut said = String::new();
    for token in tokens {
        said.push_str(text(token, "token")?);
        let logprob = number(token, "logprob")?;
        ensure!(logprob <= 0.0, "a logprob is {logprob}");
        let bytes = list(token, "bytes")?;
        ensure!(
            bytes.iter().all(|byte| byte.as_u64() < Some(256)),
            "bytes is not a list of bytes"
        );
    }
    says(&said, &COMMAND).context("the tokens joined")
}

async fn prompt_and_temperature(target: Arc<Target>) -> anyhow::Result<()> {
    let fields = [("prompt", "The kitchen light."), ("temperature", "0.0")];
    let body = target.transcribe(&COMMAND, &fields).await?.good_json()?;
    says(text(&body, "text")?, &COMMAND)
}
