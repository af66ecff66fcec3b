//! Cross-origin requests from browsers: the configured origin (`--origin`) is allowed, all others are not.

use std::sync::Arc;

use anyhow::{bail, ensure};
use reqwest::Method;
use reqwest::header::ORIGIN;

use super::check::{Check, Skip};
use super::target::{Reply, TRANSCRIPTIONS, Target};

/// An origin that no server allows, unless it allows all (`*`).
const STRANGER: &str = "https://stranger.invalid";
const EXPOSED: [&str; 3] = ["x-route", "x-request-id", "x-translation-mode"];

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("no origin is let in unless one is configured", off),
        Check::new("the preflight of a configured origin", preflight),
        Check::new("the answer to a configured origin", answer),
        Check::new("another origin is not let in", stranger),
    ]
}

async fn ask_first(target: &Target, origin: &str) -> anyhow::Result<Reply> {
    // Browsers send preflights without the key.
    let request = target.bare_request(Method::OPTIONS, TRANSCRIPTIONS);
    let request = request
        .header(ORIGIN, origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    target.send(request).await
}

async fn ask(target: &Target, origin: &str) -> anyhow::Result<Reply> {
    target
        .send(target.get("/v1/models").header(ORIGIN, origin))
        .await
}

fn configured(target: &Target) -> anyhow::Result<&str> {
    match &target.origin {
        Some(origin) => Ok(origin),
        None => bail!(Skip("no origin was given (--origin)")),
    }
}

fn allows_no_origin(reply: &Reply) -> anyhow::Result<()> {
    let allowed = reply.header("access-control-allow-origin");
    ensure!(allowed.is_empty(), "{allowed:?} is allowed");
    Ok(())
}

fn allows(reply: &Reply, origin: &str) -> anyhow::Result<()> {
    let allowed = reply.header("access-control-allow-origin");
    ensure!(
        allowed == origin,
        "{allowed:?} is allowed instead of {origin}"
    );
    let credentials = reply.header("access-control-allow-credentials");
    ensure!(
        credentials == "true",
        "Access-Control-Allow-Credentials is {credentials:?}"
    );
    Ok(())
}

async fn off(target: Arc<Target>) -> anyhow::Result<()> {
    if target.origin.is_some() {
        bail!(Skip("an origin was given (--origin)"));
    }
    allows_no_origin(&ask_first(&target, STRANGER).await?)?;
    allows_no_origin(&ask(&target, STRANGER).await?)
}

async fn preflight(target: Arc<Target>) -> anyhow::Result<()> {
    let origin = configured(&target)?;
    let reply = ask_first(&target, origin).await?;
    ensure!(
        (200..300).contains(&reply.status),
        "status {}: {}",
        reply.status,
        reply.beginning()
    );
    allows(&reply, origin)?;
    let methods = reply.header("access-control-allow-methods").to_uppercase();
    for method in ["GET", "POST", "HEAD", "OPTIONS"] {
        ensure!(methods.contains(method), "methods are {methods:?}");
    }
    let headers = reply.header("access-control-allow-headers").to_lowercase();
    ensure!(
        headers.contains("authorization") || headers == "*",
        "headers are {headers:?}"
    );
    Ok(())
}

async fn answer(target: Arc<Target>) -> anyhow::Result<()> {
    let origin = configured(&target)?;
    let reply = ask(&target, origin).await?;
    reply.ensure_status(200)?;
    allows(&reply, origin)?;
    let exposed = reply.header("access-control-expose-headers").to_lowercase();
    for name in EXPOSED {
        ensure!(exposed.contains(name), "{name} is not exposed: {exposed:?}");
    }
    Ok(())
}

async fn stranger(target: Arc<Target>) -> anyhow::Result<()> {
    configured(&target)?;
    let reply = ask(&target, STRANGER).await?;

    if target.origin.as_deref() == Some(STRANGER) {
        bail!(Skip("the server allows all origins"));
    }
    allows_no_origin(&reply)?;
    allows_no_origin(&ask_first(&target, STRANGER).await?)
}
