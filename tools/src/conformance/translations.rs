//! `/v1/audio/translations`: English text of speech in any language.

use std::sync::Arc;

use anyhow::{bail, ensure};

use super::check::{Check, Skip};
use super::expect::{equal, list, number, text, usage};
use super::subtitles;
use super::target::{Reply, Target};
use crate::probe::speech::SPANISH;

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("json has English text", json),
        Check::new("text is text/plain", plain_text),
        Check::new("verbose_json says that it was translated", verbose_json),
        Check::new("srt and vtt are in English", subtitle_formats),
    ]
}

async fn ask(target: &Target, format: &str) -> anyhow::Result<Reply> {
    if target.english_only {
        bail!(Skip("the model supports English only"));
    }
    let reply = target
        .translate(&SPANISH, &[("response_format", format)])
        .await?;
    reply.ensure_status(200)?;
    Ok(reply)
}

/// The recording is about music and friends; models phrase the translation differently.
pub fn is_english(said: &str) -> anyhow::Result<()> {
    let lower = said.to_lowercase();
    ensure!(
        ["music", "sing", "friends"]
            .iter()
            .any(|word| lower.contains(word)),
        "{said:?} is not a translation"
    );
    Ok(())
}

async fn json(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, "json").await?.good_json()?;
    is_english(text(&body, "text")?)?;
    usage(&body, SPANISH.seconds)
}

async fn plain_text(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = ask(&target, "text").await?;
    reply.ensure_type("text/plain")?;
    is_english(reply.text()?)
}

async fn verbose_json(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, "verbose_json").await?.good_json()?;
    equal(&body, "task", "translate")?;
    is_english(text(&body, "text")?)?;
    let duration = number(&body, "duration")?;
    ensure!(
        (duration - SPANISH.seconds).abs() < 0.01,
        "duration is {duration} and the audio has {} s",
        SPANISH.seconds
    );
    ensure!(!list(&body, "segments")?.is_empty(), "`segments` is empty");
    Ok(())
}

async fn subtitle_formats(target: Arc<Target>) -> anyhow::Result<()> {
    let srt = ask(&target, "srt").await?;
    is_english(&subtitles::srt(srt.text()?, &SPANISH)?)?;
    let vtt = ask(&target, "vtt").await?;
    is_english(&subtitles::vtt(vtt.text()?, &SPANISH)?)
}
