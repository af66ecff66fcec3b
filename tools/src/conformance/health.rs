//! `/health`, `/livez` and `/readyz`.

use std::sync::Arc;

use anyhow::ensure;
use reqwest::Method;
use serde_json::Value;

use super::check::Check;
use super::expect::{flag, number, text};
use super::target::Target;

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("/health has every field", fields),
        Check::new("/health has what proxies use for routing", routing),
        Check::new("HEAD has GET's status and no body", head),
        Check::new("/livez and /readyz are 200", probes),
        Check::new("no key is needed", without_a_key),
    ]
}

async fn health(target: &Target) -> anyhow::Result<Value> {
    target.send(target.get("/health")).await?.good_json()
}

async fn fields(target: Arc<Target>) -> anyhow::Result<()> {
    let body = health(&target).await?;
    for key in ["version", "model"] {
        ensure!(!text(&body, key)?.is_empty(), "{key} is empty");
    }
    flag(&body, "hot_worker_loaded")?;
    let error = body.get("hot_worker_error");
    ensure!(
        error.is_some_and(|error| error.is_null() || error.is_string()),
        "hot_worker_error is neither text nor null"
    );
    smart_routing(&body["smart_routing"])
}

fn smart_routing(figures: &Value) -> anyhow::Result<()> {
    for key in ["cold_start_calibrated", "vram_sufficient_for_cold"] {
        flag(figures, key)?;
    }
    for key in [
        "queue_depth",
        "queue_audio_seconds",
        "queue_drain_estimate_seconds",
        "pool_workers_active",
        "pool_workers_loading",
        "pool_workers_optimal",
        "pool_size_cap",
        "cold_start_configured_seconds",
        "safety_factor",
        "min_cold_vram_gb",
    ] {
        ensure!(number(figures, key)? >= 0.0, "{key} is negative");
    }
    for key in [
        "ema_sps",
        "cold_ema_start_seconds",
        "vram_free_gb",
        "cold_vram_ema_gb",
        "cold_vram_per_worker_gb",
    ] {
        let value = figures.get(key);
        ensure!(
            value.is_some_and(|value| value.is_null() || value.is_number()),
            "{key} is neither a number nor null"
        );
    }
    Ok(())
}

async fn routing(target: Arc<Target>) -> anyhow::Result<()> {
    let body = health(&target).await?;
    let status = text(&body, "status")?;
    ensure!(
        ["ok", "loading", "degraded", "draining"].contains(&status),
        "status is {status:?}"
    );
    let load = number(&body["routing"], "load_score")?;
    ensure!((0.0..=1.0).contains(&load), "load_score is {load}");
    ensure!(
        ((load * 1000.0).round() / 1000.0 - load).abs() < 1e-9,
        "load_score {load} has more than three decimals"
    );
    let accepts = flag(&body["routing"], "accepts_requests")?;
    ensure!(!accepts || load < 1.0, "a full node accepts requests");
    ensure!(
        !accepts || status == "ok",
        "a node that is {status} accepts requests"
    );
    Ok(())
}

async fn head(target: Arc<Target>) -> anyhow::Result<()> {
    for path in ["/health", "/livez", "/readyz"] {
        let get = target.send(target.get(path)).await?;
        let head = target.send(target.request(Method::HEAD, path)).await?;
        ensure!(
            head.status == get.status && head.body.is_empty(),
            "{path}: {} and {} bytes",
            head.status,
            head.body.len()
        );
    }
    Ok(())
}

async fn probes(target: Arc<Target>) -> anyhow::Result<()> {
    for path in ["/livez", "/readyz"] {
        target.send(target.get(path)).await?.ensure_status(200)?;
    }
    Ok(())
}

async fn without_a_key(target: Arc<Target>) -> anyhow::Result<()> {
    for path in ["/health", "/livez", "/readyz", "/metrics"] {
        let request = target.bare_request(Method::GET, path);
        target.send(request).await?.ensure_status(200)?;
    }
    Ok(())
}
