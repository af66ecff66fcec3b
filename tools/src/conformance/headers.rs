//! Headers of this server, and content types in which other servers differ.

use std::sync::Arc;

use anyhow::{Context, ensure};
use reqwest::header::HeaderMap;

use super::check::Check;
use super::events::Events;
use super::expect::text;
use super::target::{Reply, Target};
use crate::probe::speech::COMMAND;

const ROUTES: [&str; 3] = ["HOT", "COLD-POOL", "COLD-POOL>HOT"];

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("every answer has an X-Request-Id of its own", request_id),
        Check::new("a client's X-Request-Id is echoed", echoed_id),
        Check::new("X-Route names the lanes", route),
        Check::new("X-Queue-Position and X-Queue-Eta-Ms are numbers", queue),
        Check::new("content types of the formats", content_types),
        Check::new(
            "a streamed answer has them all, and done the route",
            streamed,
        ),
    ]
}

async fn request_id(target: Arc<Target>) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for path in ["/health", "/v1/models", "/no/such/path", "/health"] {
        let reply = target.send(target.get(path)).await?;
        let id = reply.header("x-request-id").to_owned();
        ensure!(!id.is_empty(), "the answer of {path} has no X-Request-Id");
        ensure!(!ids.contains(&id), "two answers have the X-Request-Id {id}");
        ids.push(id);
    }
    Ok(())
}

async fn echoed_id(target: Arc<Target>) -> anyhow::Result<()> {
    let own = "conformance-0123456789";
    for path in ["/health", "/no/such/path"] {
        let request = target.get(path).header("x-request-id", own);
        let reply = target.send(request).await?;
        let id = reply.header("x-request-id");
        ensure!(
            id == own,
            "the answer of {path} has the X-Request-Id {id:?}"
        );
    }
    Ok(())
}

fn names_lanes(reply: &Reply) -> anyhow::Result<()> {
    let route = reply.header("x-route");
    ensure!(ROUTES.contains(&route), "X-Route is {route:?}");
    Ok(())
}

async fn route(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target.transcribe(&COMMAND, &[]).await?;
    reply.ensure_status(200)?;
    names_lanes(&reply)
}

fn has_place_in_queue(headers: &HeaderMap) -> anyhow::Result<()> {
    for name in ["x-queue-position", "x-queue-eta-ms"] {
        let value = headers
            .get(name)
            .with_context(|| format!("the answer has no {name}"))?;
        let number = value
            .to_str()
            .ok()
            .and_then(|value| value.parse::<u64>().ok());
        number.with_context(|| format!("{name} is {value:?}"))?;
    }
    Ok(())
}

async fn queue(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target.transcribe(&COMMAND, &[]).await?;
    has_place_in_queue(&reply.headers)
}

async fn content_types(target: Arc<Target>) -> anyhow::Result<()> {
    for (format, expected) in [
        ("json", "application/json"),
        ("text", "text/plain"),
        ("verbose_json", "application/json"),
        ("srt", "application/x-subrip"),
        ("vtt", "text/vtt"),
    ] {
        let fields = [("response_format", format)];
        let reply = target.transcribe(&COMMAND, &fields).await?;
        reply.ensure_status(200)?;
        reply.ensure_type(expected)?;
    }
    Ok(())
}

async fn streamed(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target.transcribe(&COMMAND, &[("stream", "true")]).await?;
    reply.ensure_status(200)?;
    reply.ensure_type("text/event-stream")?;
    names_lanes(&reply)?;
    has_place_in_queue(&reply.headers)?;
    ensure!(
        !reply.header("x-request-id").is_empty(),
        "the answer has no X-Request-Id"
    );
    let done = Events::read(reply.text()?)?.done;
    let route = text(&done, "x_route")?;
    ensure!(ROUTES.contains(&route), "x_route is {route:?}");
    Ok(())
}
