//! `response_format=verbose_json`: the transcript with all details.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::check::Check;
use super::expect::{equal, list, number, says, text, usage};
use super::target::Target;
use crate::probe::speech::{LONG, SENTENCE, Speech};
use crate::probe::word_error_rate::normalise;

/// Maximum effect of rounding to the millisecond.
const ROUNDING_SECONDS: f64 = 0.002;
/// All fields of a segment.
const SEGMENT_FIELDS: [&str; 10] = [
    "id",
    "seek",
    "start",
    "end",
    "text",
    "tokens",
    "temperature",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
];

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("task, language, duration, text, segments and usage", whole),
        Check::new(
            "a segment has OpenAI's ten fields, of the right kind",
            fields,
        ),
        Check::new("segments run on in time, within the audio", times),
        Check::new("the segments' texts are the text", joined),
        Check::new("words are absent unless they are requested", no_words),
        Check::new("the temperature is reported", temperature),
    ]
}

async fn verbose(target: &Target, speech: &Speech, more: &[(&str, &str)]) -> anyhow::Result<Value> {
    let fields = [&[("response_format", "verbose_json")], more].concat();
    target.transcribe(speech, &fields).await?.good_json()
}

async fn whole(target: Arc<Target>) -> anyhow::Result<()> {
    let body = verbose(&target, &SENTENCE, &[]).await?;
    equal(&body, "task", "transcribe")?;
    equal(&body, "language", "english")?;
    let duration = number(&body, "duration")?;
    ensure!(
        (duration - SENTENCE.seconds).abs() < 0.01,
        "duration is {duration} and the audio has {} s",
        SENTENCE.seconds
    );
    says(text(&body, "text")?, &SENTENCE)?;
    ensure!(!list(&body, "segments")?.is_empty(), "`segments` is empty");
    usage(&body, SENTENCE.seconds)
}

async fn fields(target: Arc<Target>) -> anyhow::Result<()> {
    let body = verbose(&target, &SENTENCE, &[]).await?;
    for (place, segment) in list(&body, "segments")?.iter().enumerate() {
        has_ten_fields(segment, place).with_context(|| format!("segment {place}"))?;
    }
    Ok(())
}

fn has_ten_fields(segment: &Value, place: usize) -> anyhow::Result<()> {
    let keys = segment
        .as_object()
        .context("the segment is not an object")?;
    for field in SEGMENT_FIELDS {
        ensure!(keys.contains_key(field), "{field:?} is missing");
    }
    equal(segment, "id", place)?;
    ensure!(segment["seek"].is_u64(), "seek is not a whole number");
    ensure!(
        !text(segment, "text")?.trim().is_empty(),
        "the text is empty"
    );
    let tokens = list(segment, "tokens")?;
    ensure!(
        !tokens.is_empty() && tokens.iter().all(Value::is_u64),
        "tokens is empty or contains other values than whole numbers"
    );
    let temperature = number(segment, "temperature")?;
    ensure!(
        (0.0..=1.0).contains(&temperature),
        "temperature is {temperature}"
    );
    let logprob = number(segment, "avg_logprob")?;
    ensure!(logprob < 0.0 && logprob > -5.0, "avg_logprob is {logprob}");
    let ratio = number(segment, "compression_ratio")?;
    ensure!(ratio > 0.1 && ratio < 10.0, "compression_ratio is {ratio}");
    let silence = number(segment, "no_speech_prob")?;
    ensure!(
        (0.0..=1.0).contains(&silence),
        "no_speech_prob is {silence}"
    );
    Ok(())
}

async fn times(target: Arc<Target>) -> anyhow::Result<()> {
    let body = verbose(&target, &LONG, &[]).await?;
    let last = last_end(list(&body, "segments")?, number(&body, "duration")?)?;
    ensure!(last > 30.0, "the transcript ends at {last} s");
    Ok(())
}

/// Returns the end of the last segment or word, in seconds. Times must be in order and within the audio.
pub fn last_end(spans: &[Value], duration: f64) -> anyhow::Result<f64> {
    let mut last = 0.0;
    for span in spans {
        let (start, end) = (number(span, "start")?, number(span, "end")?);
        ensure!(
            last <= start + ROUNDING_SECONDS && start <= end,
            "times run backwards: {start} to {end} after {last}"
        );
        ensure!(
            end <= duration + ROUNDING_SECONDS,
            "{end} is beyond the audio's {duration} s"
        );
        last = end;
    }
    Ok(last)
}

async fn joined(target: Arc<Target>) -> anyhow::Result<()> {
    let body = verbose(&target, &SENTENCE, &[]).await?;
    let segments = list(&body, "segments")?;
    let texts: Vec<&str> = (segments.iter())
        .map(|segment| text(segment, "text"))
        .collect::<Result<_, _>>()?;
    let joined = normalise(&texts.join(" "));
    ensure!(
        joined == normalise(text(&body, "text")?),
        "the segments' texts differ from the text: {texts:?}"
    );
    Ok(())
}

async fn no_words(target: Arc<Target>) -> anyhow::Result<()> {
    for more in [&[][..], &[("timestamp_granularities[]", "segment")]] {
        let body = verbose(&target, &SENTENCE, more).await?;
        ensure!(body["words"].is_null(), "the body has `words`");
        ensure!(!list(&body, "segments")?.is_empty(), "`segments` is empty");
    }
    Ok(())
}

async fn temperature(target: Arc<Target>) -> anyhow::Result<()> {
    let body = verbose(&target, &SENTENCE, &[("temperature", "0.4")]).await?;
    for segment in list(&body, "segments")? {
        let told = number(segment, "temperature")?;
        // Segments that were decoded again have a higher temperature.
        ensure!(told >= 0.399, "0.4 was requested and {told} is reported");
    }
    Ok(())
}
