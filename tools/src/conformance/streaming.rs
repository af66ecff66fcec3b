//! `stream=true`: the text as server-sent events during transcription.

use std::sync::Arc;

use anyhow::{Context, ensure};

use super::check::{Check, Skip};
use super::events::Events;
use super::expect::{list, says, text, usage};
use super::subtitles;
use super::target::{Reply, Target};
use super::translations::is_english;
use crate::probe::speech::{COMMAND, LONG, SPANISH, Speech, beginning_of_long};
use crate::probe::word_error_rate::Score;

/// Share of words in which two transcripts of the same audio may differ.
const MOST_DIFFERENT: f64 = 0.1;

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("events: deltas, done and [DONE]", short),
        Check::new("the format text streams as well", text_format),
        Check::new("a long file is sent in several deltas", long),
        Check::new(
            "a short compressed file has the text of a plain answer",
            compressed,
        ),
        Check::new("include[]=logprobs adds logprobs to done", logprobs),
        Check::new("stream=false is a plain answer", not_streamed),
        Check::new("stream is ignored with verbose_json, srt and vtt", ignored),
        Check::new("translations stream as well", translation),
    ]
}

async fn events(target: &Target, speech: &Speech, more: &[(&str, &str)]) -> anyhow::Result<Events> {
    let fields = [&[("stream", "true")], more].concat();
    read(&target.transcribe(speech, &fields).await?)
}

fn read(reply: &Reply) -> anyhow::Result<Events> {
    reply.ensure_status(200)?;
    reply.ensure_type("text/event-stream")?;
    let events = Events::read(reply.text()?)?;
    let joined = events.joined()?;
    let whole = text(&events.done, "text")?;
    ensure!(
        joined == whole,
        "done has {whole:?} and the deltas joined are {joined:?}"
    );
    Ok(events)
}

async fn short(target: Arc<Target>) -> anyhow::Result<()> {
    let events = events(&target, &COMMAND, &[]).await?;
    says(text(&events.done, "text")?, &COMMAND)?;
    ensure!(!events.deltas.is_empty(), "the stream has no delta");
    usage(&events.done, COMMAND.seconds).context("done")
}

async fn text_format(target: Arc<Target>) -> anyhow::Result<()> {
    let events = events(&target, &COMMAND, &[("response_format", "text")]).await?;
    says(text(&events.done, "text")?, &COMMAND)
}

async fn long(target: Arc<Target>) -> anyhow::Result<()> {
    let events = events(&target, &LONG, &[]).await?;
    says(text(&events.done, "text")?, &LONG)?;
    ensure!(
        events.deltas.len() > 1,
        "the text of all {} s is a single delta",
        LONG.seconds
    );
    Ok(())
}

/// Such a file states no length, and must not be cut as a long one is.
async fn compressed(target: Arc<Target>) -> anyhow::Result<()> {
    let speech = beginning_of_long(7.0);
    let plain = target.transcribe(&speech, &[]).await?.good_json()?;
    let plain = text(&plain, "text")?;
    let events = events(&target, &speech, &[]).await?;
    let streamed = text(&events.done, "text")?;
    ensure!(
        Score::of(plain, streamed).rate() <= MOST_DIFFERENT,
        "the plain answer is {plain:?}, the streamed one {streamed:?}"
    );
    Ok(())
}

async fn logprobs(target: Arc<Target>) -> anyhow::Result<()> {
    let events = events(&target, &COMMAND, &[("include[]", "logprobs")]).await?;
    let tokens = list(&events.done, "logprobs")?;
    ensure!(!tokens.is_empty(), "logprobs is empty");
    Ok(())
}

async fn not_streamed(target: Arc<Target>) -> anyhow::Result<()> {
    let fields = [("stream", "false")];
    let body = target.transcribe(&COMMAND, &fields).await?.good_json()?;
    says(text(&body, "text")?, &COMMAND)
}

async fn ignored(target: Arc<Target>) -> anyhow::Result<()> {
    for format in ["verbose_json", "srt", "vtt"] {
        let fields = [("response_format", format), ("stream", "true")];
        let reply = target.transcribe(&COMMAND, &fields).await?;
        reply.ensure_status(200)?;
        let said = match format {
            "verbose_json" => text(&reply.good_json()?, "text")?.to_owned(),
            "srt" => subtitles::srt(reply.text()?, &COMMAND)?,
            _ => subtitles::vtt(reply.text()?, &COMMAND)?,
        };
        says(&said, &COMMAND).context(format)?;
    }
    Ok(())
}

async fn translation(target: Arc<Target>) -> anyhow::Result<()> {
    if target.english_only {
        anyhow::bail!(Skip("the model supports English only"));
    }
    let events = read(&target.translate(&SPANISH, &[("stream", "true")]).await?)?;
    is_english(text(&events.done, "text")?)
}
