//! `/metrics`: names, types, help texts, labels and buckets, and whether the values change with requests.

use std::sync::Arc;
// Measures another process, so that the clock must be the real one.
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::Method;

use super::check::Check;
use super::target::Target;
use crate::probe::speech::COMMAND;

/// Scrapers usually give up soon after this time.
const SCRAPE_LIMIT: Duration = Duration::from_secs(3);

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("Prometheus's text format 0.0.4, in under 3 s", format),
        Check::new("every series is there, with HELP and TYPE", families),
        Check::new("every label of a closed set is there", labels),
        Check::new("the buckets of both histograms", buckets),
        Check::new("a transcription is counted", counted),
        Check::new("no label contains text of a client", nothing_of_clients),
        Check::new("HEAD has no body", head),
    ]
}

/// A page of metrics.
pub struct Page(String);

impl Page {
    /// Fetches the page.
    ///
    /// # Errors
    /// The page cannot be fetched.
    pub async fn scrape(target: &Target) -> anyhow::Result<Self> {
        let reply = target.send(target.get("/metrics")).await?;
        reply.ensure_status(200)?;
        Ok(Self(reply.text()?.to_owned()))
    }

    /// The value of a series, by name and labels exactly as on the page.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.samples()
            .find(|(name, _)| *name == series)
            .map(|(_, value)| value)
    }

    fn samples(&self) -> impl Iterator<Item = (&str, f64)> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name, value.parse().ok()?))
        })
    }

    /// Whether a family has a series with all these labels.
    fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let start = format!("{name}{{");
        self.samples().any(|(series, _)| {
            series.starts_with(&start)
                && labels
                    .iter()
                    .all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
        })
    }

    /// The sum over all series of a family that have all these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let start = format!("{name}{{");
        let of_family = self.samples().filter(|(series, _)| {
            series.starts_with(&start)
                && labels
                    .iter()
                    .all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")))
        });
        of_family.map(|(_, value)| value).sum()
    }
}

/// Names without their prefix, and types.
const FAMILIES: [(&str, &str); 23] = [
    ("requests_total", "counter"),
    ("request_duration_seconds", "histogram"),
    ("inflight_requests", "gauge"),
    ("requests_by_route_total", "counter"),
    ("transcriptions_total", "counter"),
    ("translations_total", "counter"),
    ("audio_seconds_total", "counter"),
    ("inference_duration_seconds", "histogram"),
    ("cold_workers_active", "gauge"),
    ("cold_workers_loading", "gauge"),
    ("cold_worker_pool_size_cap", "gauge"),
    ("cold_workers_spawned_total", "counter"),
    ("cold_worker_ema_start_seconds", "gauge"),
    ("work_queue_depth", "gauge"),
    ("work_queue_audio_seconds", "gauge"),
    ("load_score", "gauge"),
    ("hot_ema_sps", "gauge"),
    ("vram_free_gb", "gauge"),
    ("vram_per_cold_worker_gb", "gauge"),
    ("engine_ready", "gauge"),
    ("libretranslate_configured", "gauge"),
    ("errors_total", "counter"),
    ("build_info", "gauge"),
];

const FORMATS: [&str; 5] = ["json", "text", "verbose_json", "srt", "vtt"];
const ENDPOINTS: [(&str, &str); 8] = [
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id}"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
];
const ERROR_TYPES: [&str; 11] = [
    "decode",
    "validation",
    "model",
    "libretranslate",
    "timeout",
    "overloaded",
    "auth",
    "rate_limit",
    "poison",
    "fallback",
    "internal",
];
const REQUEST_BUCKETS: [f64; 11] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

async fn format(target: Arc<Target>) -> anyhow::Result<()> {
    // Wall-clock time of another program's answer.
    let begin = Instant::now();
    let reply = target.send(target.get("/metrics")).await?;
    let took = begin.elapsed();
    reply.ensure_status(200)?;
    ensure!(took < SCRAPE_LIMIT, "it took {:.1} s", took.as_secs_f64());
    reply.ensure_type("text/plain")?;
    let content_type = reply.header("content-type");
    ensure!(
        content_type.contains("version=0.0.4"),
        "content type is {content_type:?}"
    );
    for line in reply.text()?.lines() {
        let fit = line.is_empty()
            || line.starts_with("# ")
            || (line.rsplit_once(' ')).is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        ensure!(fit, "{line:?} is not a line of the format");
    }
    Ok(())
}

async fn families(target: Arc<Target>) -> anyhow::Result<()> {
    let page = Page::scrape(&target).await?;
    for (name, kind) in FAMILIES {
        let name = format!("uttera_stt_{name}");
        let has = |line: &str| page.0.lines().any(|found| found.starts_with(line));
        ensure!(has(&format!("# HELP {name} ")), "{name} has no HELP");
        let types = format!("# TYPE {name} {kind}");
        ensure!(
            page.0.lines().any(|line| line == types),
            "{name} has no TYPE {kind}"
        );
        let samples = ["", "_bucket"]
            .iter()
            .any(|end| has(&format!("{name}{end} ")) || has(&format!("{name}{end}{{")));
        ensure!(samples, "{name} has no series");
    }
    Ok(())
}

async fn labels(target: Arc<Target>) -> anyhow::Result<()> {
    let page = Page::scrape(&target).await?;
    let series = |name: &str, labels: &[(&str, &str)]| {
        let name = format!("uttera_stt_{name}");
        ensure!(page.has(&name, labels), "{name} has no {labels:?}");
        Ok(())
    };
    for (method, path) in ENDPOINTS {
        let labels = [("endpoint", path), ("method", method), ("status", "200")];
        series("requests_total", &labels)?;
    }
    for format in FORMATS {
        series("transcriptions_total", &[("response_format", format)])?;
        for mode in ["libretranslate", "native"] {
            let labels = [("mode", mode), ("response_format", format)];
            series("translations_total", &labels)?;
        }
    }
    for route in ["HOT", "COLD-POOL", "COLD-POOL>HOT"] {
        series("requests_by_route_total", &[("route", route)])?;
        series("audio_seconds_total", &[("route", route)])?;
    }
    for kind in ERROR_TYPES {
        series("errors_total", &[("type", kind)])?;
    }
    for op in [
        "whisper_transcribe_hot",
        "whisper_transcribe_cold",
        "libretranslate",
    ] {
        series("inference_duration_seconds_bucket", &[("op", op)])?;
    }
    series("build_info", &[("engine", "whisper-hotcold")])
}

async fn buckets(target: Arc<Target>) -> anyhow::Result<()> {
    let page = Page::scrape(&target).await?;
    let inference = &REQUEST_BUCKETS[..REQUEST_BUCKETS.len() - 1];
    for (name, expected) in [
        ("request_duration_seconds", &REQUEST_BUCKETS[..]),
        ("inference_duration_seconds", inference),
    ] {
        let start = format!("uttera_stt_{name}_bucket{{");
        let series = page.samples().filter(|(name, _)| name.starts_with(&start));
        let bounds = series.filter_map(|(name, _)| name.split("le=\"").nth(1)?.split('"').next());
        let mut bounds: Vec<f64> = bounds
            .filter_map(|bound| bound.parse().ok())
            .filter(|bound: &f64| bound.is_finite())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        ensure!(bounds == expected, "{name} has {bounds:?}");
    }
    Ok(())
}

async fn counted(target: Arc<Target>) -> anyhow::Result<()> {
    let before = Page::scrape(&target).await?;
    let reply = target
        .transcribe(&COMMAND, &[("response_format", "vtt")])
        .await?;
    reply.ensure_status(200)?;
    let after = Page::scrape(&target).await?;
    let endpoint = ("endpoint", "/v1/audio/transcriptions");
    for (name, labels) in [
        ("requests_total", &[endpoint, ("status", "200")][..]),
        ("transcriptions_total", &[("response_format", "vtt")][..]),
        ("requests_by_route_total", &[][..]),
        ("audio_seconds_total", &[endpoint][..]),
        ("request_duration_seconds_count", &[endpoint][..]),
        ("inference_duration_seconds_count", &[][..]),
    ] {
        let name = format!("uttera_stt_{name}");
        let (before, after) = (before.sum(&name, labels), after.sum(&name, labels));
        ensure!(
            after > before,
            "{name} {labels:?} did not grow from {before}"
        );
    }
    Ok(())
}

async fn nothing_of_clients(target: Arc<Target>) -> anyhow::Result<()> {
    let mark = "conformancemark";
    let method =
        Method::from_bytes(mark.to_uppercase().as_bytes()).context("cannot build the method")?;
    target.send(target.get(&format!("/{mark}"))).await?;
    target.send(target.request(method, "/health")).await?;
    let models = target.get(&format!("/v1/models/{mark}"));
    target.send(models).await?;
    let fields = [("response_format", mark), ("model", mark)];
    target.transcribe(&COMMAND, &fields).await?;
    let page = Page::scrape(&target).await?;
    ensure!(
        !page.0.to_lowercase().contains(mark),
        "the page contains text of a client"
    );
    ensure!(
        page.has("uttera_stt_requests_total", &[("endpoint", "other")]),
        "unknown paths are not counted as other"
    );
    ensure!(
        page.has("uttera_stt_requests_total", &[("method", "OTHER")]),
        "unknown methods are not counted as OTHER"
    );
    Ok(())
}

async fn head(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .send(target.request(Method::HEAD, "/metrics"))
        .await?;
    reply.ensure_status(200)?;
    ensure!(reply.body.is_empty(), "the answer has a body");
    Ok(())
}
