//! `/v1/transcribe`, `/v1/health`, `/v1/metrics` and the `stt_` series, as clients of a primary and a
//! fallback use them. The checks hold with and without a configured fallback.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use reqwest::multipart::Form;
use serde_json::Value;

use super::check::Check;
use super::expect::{Refusal, equal, flag, list, number, says, text};
use super::metrics::Page;
use super::target::{Reply, Target, file};
use crate::probe::speech::{COMMAND, SENTENCE};

const PATH: &str = "/v1/transcribe";

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("/v1/transcribe has the text and its confidence", replied),
        Check::new("/v1/transcribe has every header", headers),
        Check::new("a forced language is not tested", forced),
        Check::new("a request without audio is 400 with X-Error-Type", no_audio),
        Check::new(
            "bytes that are not audio are 400 with X-Error-Type",
            no_sound,
        ),
        Check::new("/v1/health says ok", health),
        Check::new(
            "/v1/metrics has counters, latencies, queue and GPU",
            figures,
        ),
        Check::new("the stt_ series are there, and count", series),
    ]
}

async fn ask(target: &Target, audio: Bytes, language: Option<&str>) -> anyhow::Result<Reply> {
    let mut form = Form::new().part("audio", file(audio, "audio.wav"));
    if let Some(language) = language {
        form = form.text("language", language.to_owned());
    }
    target.post_form(PATH, form).await
}

async fn replied(target: Arc<Target>) -> anyhow::Result<()> {
    let body = ask(&target, SENTENCE.bytes(), Some("en"))
        .await?
        .good_json()?;
    says(text(&body, "text")?, &SENTENCE)?;
    equal(&body, "language", "en")?;
    let confidence = number(&body, "confidence")?;
    ensure!(
        (0.0..=1.0).contains(&confidence),
        "confidence is {confidence}"
    );
    ensure!(number(&body, "duration")? > 0.0, "duration is not positive");
    ensure!(!text(&body, "model")?.is_empty(), "model is empty");
    ensure!(
        !text(&body, "request_id")?.is_empty(),
        "request_id is empty"
    );
    flag(&body, "fallback_used")?;
    ensure!(
        body.get("language_probability").is_some(),
        "language_probability is missing"
    );
    let segments = list(&body, "segments")?;
    let first = segments.first().context("`segments` is empty")?;
    number(first, "avg_logprob")?;
    for key in [
        "queue_wait_ms",
        "primary_infer_ms",
        "fallback_infer_ms",
        "total_ms",
    ] {
        let millis = &body["timings"][key];
        ensure!(
            millis.is_u64(),
            "timings.{key} is {millis}, not a whole number"
        );
    }
    Ok(())
}

/// Parses a header of whole milliseconds.
fn millis(reply: &Reply, name: &str) -> anyhow::Result<u64> {
    let value = reply.header(name);
    value
        .parse()
        .with_context(|| format!("{name} is {value:?}, not a whole number"))
}

fn is_flag(reply: &Reply, name: &str) -> anyhow::Result<bool> {
    let value = reply.header(name);
    value
        .parse()
        .with_context(|| format!("{name} is {value:?}, not a boolean"))
}

async fn headers(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = ask(&target, SENTENCE.bytes(), None).await?;
    let body = reply.good_json()?;
    let parts = millis(&reply, "X-Queue-Wait-ms")? + millis(&reply, "X-Primary-Infer-ms")?;
    millis(&reply, "X-Fallback-Infer-ms")?;
    ensure!(
        parts <= millis(&reply, "X-Total-ms")? + 5,
        "X-Total-ms is less than the sum of its parts"
    );
    equal(&body, "request_id", reply.header("X-Req-Id"))?;
    equal(&body, "model", reply.header("X-Final-Model"))?;
    equal(&body, "fallback_used", is_flag(&reply, "X-Fallback-Used")?)?;
    is_flag(&reply, "X-Lang-Check-Applicable")?;
    let below = reply.header("X-Conf-Below");
    for name in below.split(',').filter(|name| !name.is_empty()) {
        ensure!(
            ["logprob", "langprob", "min_words"].contains(&name),
            "X-Conf-Below has {name:?}"
        );
    }
    Ok(())
}

async fn forced(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = ask(&target, COMMAND.bytes(), Some("en")).await?;
    reply.ensure_status(200)?;
    let applicable = is_flag(&reply, "X-Lang-Check-Applicable")?;
    ensure!(!applicable, "X-Lang-Check-Applicable is true");
    Ok(())
}

fn explained(reply: &Reply) -> anyhow::Result<()> {
    for name in ["X-Req-Id", "X-Error-Type", "X-Error-Message"] {
        ensure!(!reply.header(name).is_empty(), "{name} is missing");
    }
    Ok(())
}

async fn no_audio(target: Arc<Target>) -> anyhow::Result<()> {
    let form = Form::new().text("language", "en");
    let reply = target.post_form(PATH, form).await?;
    explained(&reply)?;
    Refusal::new(400, "missing_file", Some("audio")).ensure(&reply)
}

async fn no_sound(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = ask(&target, Bytes::from_static(b"no sound at all"), None).await?;
    explained(&reply)?;
    Refusal::new(400, "audio_decode_error", None).ensure(&reply)
}

async fn health(target: Arc<Target>) -> anyhow::Result<()> {
    let body = target.send(target.get("/v1/health")).await?.good_json()?;
    equal(&body, "ok", true)
}

async fn figures(target: Arc<Target>) -> anyhow::Result<()> {
    let body = target.send(target.get("/v1/metrics")).await?.good_json()?;
    ensure!(
        body.get("server_commit").is_some(),
        "server_commit is missing"
    );
    for key in ["counters", "latency_ms", "queue", "gpu"] {
        ensure!(body[key].is_object(), "{key} is not an object");
    }
    for result in ["used", "skipped", "failed"] {
        number(&body["counters"]["fallback_total"], result)?;
    }
    let latency = &body["latency_ms"]["request_total"];
    for percentile in ["p50", "p95", "p99"] {
        let value = latency.get(percentile);
        ensure!(
            value.is_some_and(|value| value.is_null() || value.is_number()),
            "{percentile} is neither a number nor null"
        );
    }
    Ok(())
}

async fn series(target: Arc<Target>) -> anyhow::Result<()> {
    let page = Page::scrape(&target).await?;
    let requests = format!("stt_requests_total{{endpoint=\"{PATH}\"}}");
    let counted = |page: &Page, name: &str| page.value(name).with_context(|| format!("no {name}"));
    for name in [
        "stt_queue_depth",
        "stt_in_flight",
        "stt_gpu_utilization_pct",
        "stt_gpu_mem_used_mb",
        "stt_gpu_mem_total_mb",
    ] {
        counted(&page, name)?;
    }
    for result in ["used", "skipped", "failed"] {
        counted(&page, &format!("stt_fallback_total{{result=\"{result}\"}}"))?;
    }
    for stage in [
        "request_total",
        "primary_infer",
        "fallback_infer",
        "queue_wait",
    ] {
        // The bucket of one second, which dashboards use.
        counted(&page, &format!("stt_{stage}_seconds_bucket{{le=\"1\"}}"))?;
    }
    let before = counted(&page, &requests)?;
    let body: Value = ask(&target, COMMAND.bytes(), Some("en"))
        .await?
        .good_json()?;
    text(&body, "text")?;
    let after = counted(&Page::scrape(&target).await?, &requests)?;
    ensure!(after > before, "{requests} did not grow");
    Ok(())
}
