//! Jobs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;

use super::check::Check;
use super::expect::{Refusal, says, text};
use super::target::Target;
use crate::probe::speech::COMMAND;

const JOBS: &str = "/v1/audio/jobs";
/// The pause between two looks at a job.
const PAUSE: Duration = Duration::from_millis(200);

pub fn checks() -> Vec<Check> {
    vec![
        Check::new(
            "a job is accepted, done, and its result is there until it is deleted",
            job,
        ),
        Check::new(
            "a repeated request with an idempotency key is the same job",
            idempotency,
        ),
        Check::new("jobs that do not exist", unknown),
    ]
}

/// Submits a job, and returns it.
async fn submit(target: &Target, key: &str) -> anyhow::Result<Value> {
    let form = target.form(&COMMAND, &[("response_format", "srt")]);
    let request = target
        .post(JOBS)
        .header("idempotency-key", key)
        .multipart(form);
    let reply = target.send(request).await?;
    reply.ensure_status(202)?;
    let job = reply.json()?;
    let path = format!("{JOBS}/{}", text(&job, "id")?);
    let location = reply.header("location");
    ensure!(location.ends_with(&path), "Location is {location:?}");
    Ok(job)
}

async fn delete(target: &Target, path: &str) -> anyhow::Result<()> {
    let reply = target.send(target.request(Method::DELETE, path)).await?;
    reply.ensure_status(200)
}

async fn job(target: Arc<Target>) -> anyhow::Result<()> {
    let key = format!("conformance-{:032x}", fastrand::u128(..));
    let path = format!("{JOBS}/{}", text(&submit(&target, &key).await?, "id")?);
    loop {
        let reply = target.send(target.get(&path)).await?;
        reply.ensure_status(200)?;
        let job = reply.json()?;
        match text(&job, "status")? {
            "done" => break,
            "queued" | "running" => tokio::time::sleep(PAUSE).await,
            other => anyhow::bail!("the status is {other:?}: {}", job["error"]),
        }
    }
    let result = target.send(target.get(&format!("{path}/result"))).await?;
    result.ensure_status(200)?;
    ensure!(result.text()?.contains("-->"), "the result is no SRT");
    let result = target.get(&format!("{path}/result?response_format=text"));
    let result = target.send(result).await?;
    says(result.text()?, &COMMAND)?;
    let events = target.send(target.get(&format!("{path}/events"))).await?;
    events.ensure_status(200)?;
    ensure!(
        events.text()?.contains("\"done\""),
        "the events do not end with the job"
    );
    delete(&target, &path).await?;
    let gone = target.send(target.get(&path)).await?;
    Refusal::new(404, "job_not_found", None).ensure(&gone)
}

async fn idempotency(target: Arc<Target>) -> anyhow::Result<()> {
    let key = format!("conformance-{:032x}", fastrand::u128(..));
    let first = submit(&target, &key).await?;
    let second = submit(&target, &key).await?;
    let id = text(&first, "id")?;
    let same = text(&second, "id").context("the second reply")? == id;
    delete(&target, &format!("{JOBS}/{id}")).await?;
    ensure!(same, "the second request made another job");
    Ok(())
}

async fn unknown(target: Arc<Target>) -> anyhow::Result<()> {
    for rest in ["", "/result", "/events"] {
        let reply = target
            .send(target.get(&format!("{JOBS}/none{rest}")))
            .await?;
        Refusal::new(404, "job_not_found", None).ensure(&reply)?;
    }
    Ok(())
}
