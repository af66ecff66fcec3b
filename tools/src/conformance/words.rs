//! `timestamp_granularities[]=word`: the times of each word.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::Value;

use super::check::Check;
use super::expect::{list, number, says, text};
use super::target::Target;
use super::verbose_json::last_end;
use crate::probe::speech::{LONG, SENTENCE, Speech};

/// Maximum effect of rounding to the millisecond.
const ROUNDING_SECONDS: f64 = 0.002;

pub fn checks() -> Vec<Check> {
    vec![
        Check::new(
            "words have text, start and end, and together are the text",
            words,
        ),
        Check::new("words run on in time, within the audio", times),
        Check::new(
            "word and segment give both, and words lie in segments",
            both,
        ),
        Check::new("the field's name is accepted without [] too", bare_name),
    ]
}

async fn ask(
    target: &Target,
    speech: &Speech,
    granularities: &[(&str, &str)],
) -> anyhow::Result<Value> {
    let fields = [&[("response_format", "verbose_json")], granularities].concat();
    target.transcribe(speech, &fields).await?.good_json()
}

const WORD: (&str, &str) = ("timestamp_granularities[]", "word");
const SEGMENT: (&str, &str) = ("timestamp_granularities[]", "segment");

fn joined(body: &Value) -> anyhow::Result<String> {
    let words = list(body, "words")?;
    let words: Vec<&str> = words
        .iter()
        .map(|word| text(word, "word"))
        .collect::<Result<_, _>>()?;
    Ok(words.join(" "))
}

fn times_of(word: &Value) -> anyhow::Result<(f64, f64)> {
    Ok((number(word, "start")?, number(word, "end")?))
}

async fn words(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, &SENTENCE, &[WORD]).await?;
    for word in list(&body, "words")? {
        let said = text(word, "word")?;
        ensure!(!said.trim().is_empty(), "a word is empty");
        ensure!(
            said.split_whitespace().count() == 1,
            "{said:?} is more than one word"
        );
        times_of(word)?;
    }
    says(&joined(&body)?, &SENTENCE)
}

async fn times(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, &LONG, &[WORD]).await?;
    let last = last_end(list(&body, "words")?, number(&body, "duration")?)?;
    ensure!(last > 30.0, "the last word ends at {last} s");
    Ok(())
}

async fn both(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, &SENTENCE, &[WORD, SEGMENT]).await?;
    says(&joined(&body)?, &SENTENCE)?;
    let segments: Vec<(f64, f64)> = (list(&body, "segments")?.iter())
        .map(times_of)
        .collect::<Result<_, _>>()?;
    for word in list(&body, "words")? {
        let (start, end) = times_of(word)?;
        let within = |(from, to): &(f64, f64)| {
            from - ROUNDING_SECONDS <= start && end <= to + ROUNDING_SECONDS
        };
        ensure!(
            segments.iter().any(within),
            "{} ({start} to {end}) is not within a segment",
            word["word"]
        );
    }
    Ok(())
}

async fn bare_name(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, &SENTENCE, &[("timestamp_granularities", "word")]).await?;
    says(&joined(&body)?, &SENTENCE)
}
