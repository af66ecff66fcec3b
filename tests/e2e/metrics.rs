//! `/metrics` and `/health` against the contract: names, types, labels and values.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;
use test_support::{Server, model, sample, signal};

/// The series of a page: name with labels, and value.
fn series(page: &str) -> BTreeMap<&str, f64> {
    let lines = page
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name, value.parse().expect("a number"))
        })
        .collect()
}

/// Names and labels of all series, without buckets and without parts that depend on the machine.
fn names(page: &str) -> Vec<String> {
    let mut names: Vec<_> = series(page)
        .into_keys()
        .filter(|name| !name.contains("_bucket") && !name.contains("_sum"))
        .map(|name| name.replace(env!("CARGO_PKG_VERSION"), "VERSION"))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn every_series_of_the_contract_is_there_at_the_first_scrape() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let response = server.get("/metrics").await;
    let kind = response.headers()["content-type"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let page = response.text().await.expect("a body");
    // The 503s of /readyz while the test waited for readiness are not part of the contract.
    let names: Vec<_> = names(&page)
        .into_iter()
        .filter(|name| !name.contains("status=\"503\""))
        .collect();
    insta::assert_snapshot!("series", names.join("\n"));
    for name in &names {
        let family = name
            .split('{')
            .next()
            .expect("a name")
            .trim_end_matches("_count");
        for kind in ["HELP", "TYPE"] {
            assert!(
                page.contains(&format!("# {kind} {family} ")),
                "{kind} of {family}"
            );
        }
    }
    let buckets = |family: &str| {
        let first = format!("{family}_bucket{{");
        let mut bounds: Vec<f64> = (page.lines())
            .filter(|line| line.starts_with(&first))
            .filter_map(|line| line.split("le=\"").nth(1)?.split('"').next())
            .filter(|bound| *bound != "+Inf")
            .map(|bound| bound.parse().expect("a number"))
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        bounds
    };
    assert_eq!(
        buckets("uttera_stt_request_duration_seconds"),
        [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]
    );
    assert_eq!(
        buckets("uttera_stt_inference_duration_seconds"),
        [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
    );
}

#[tokio::test]
async fn requests_are_counted_where_they_belong_and_no_label_carries_what_a_client_sent() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-command.wav");
    for format in ["json", "srt"] {
        let fields = [("response_format", format)];
        assert_eq!(server.transcribe(&file, &fields).await.status(), 200);
    }
    let bad = server
        .transcribe(&file, &[("response_format", "evil-value")])
        .await;
    assert_eq!(bad.status(), 422);
    assert_eq!(server.get("/evil-path").await.status(), 404);
    assert_eq!(server.get("/v1/models/evil-id").await.status(), 404);
    let brew = Method::from_bytes(b"EVILMETHOD").expect("a method");
    let url = format!("{}/health", server.url);
    let response = server
        .client
        .request(brew, url)
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), 405);

    let page = server.metrics().await;
    assert!(!page.contains("evil") && !page.contains("EVIL"), "{page}");
    let series = series(&page);
    let value = |name: &str| {
        *series
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    let requests = |endpoint: &str, method: &str, status: u16| {
        value(&format!(
            "uttera_stt_requests_total{{endpoint=\"{endpoint}\",method=\"{method}\",status=\"{status}\"}}"
        ))
    };
    let is = |got: f64, wanted: f64| assert!((got - wanted).abs() < 1e-9, "{got} {wanted}\n{page}");
    is(requests("/v1/audio/transcriptions", "POST", 200), 2.0);
    is(requests("/v1/audio/transcriptions", "POST", 422), 1.0);
    is(requests("/v1/models/{id}", "GET", 404), 1.0);
    is(requests("other", "GET", 404), 1.0);
    is(requests("/health", "OTHER", 405), 1.0);
    is(
        value("uttera_stt_requests_by_route_total{route=\"HOT\"}"),
        2.0,
    );
    is(
        value("uttera_stt_transcriptions_total{response_format=\"srt\"}"),
        1.0,
    );
    is(value("uttera_stt_errors_total{type=\"validation\"}"), 4.0);
    let audio =
        "uttera_stt_audio_seconds_total{endpoint=\"/v1/audio/transcriptions\",route=\"HOT\"}";
    // Twice about 1.7 s: the rounded sum, not the sum of rounded values.
    assert!(value(audio) >= 3.0, "{}", value(audio));
    let inference = "uttera_stt_inference_duration_seconds_count{op=\"whisper_transcribe_hot\"}";
    is(value(inference), 2.0);
    is(value("uttera_stt_engine_ready"), 1.0);
    is(value("uttera_stt_inflight_requests"), 0.0);
    is(value("uttera_stt_work_queue_audio_seconds"), 0.0);
    assert!(value("uttera_stt_vram_free_gb").is_nan(), "there is no GPU");
    assert!(value("uttera_stt_cold_worker_ema_start_seconds") > 0.0);
    let speed = value("uttera_stt_hot_ema_sps");
    let health = server.health().await;
    let factor = health["smart_routing"]["ema_sps"]
        .as_f64()
        .expect("measured");
    assert!(
        (speed * factor - 1.0).abs() < 1e-6,
        "{speed} is not 1/{factor}"
    );
}

#[tokio::test]
async fn many_refusals_do_not_hide_a_slow_request() {
    let settings = [("RATE_LIMIT_RPS", "0.001"), ("RATE_LIMIT_BURST", "3")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    let mut fastest = f64::INFINITY;
    for _ in 0..3 {
        let response = server.transcribe(&file, &[]).await;
        assert_eq!(response.status(), 200);
        let total = response.headers()["x-total-ms"].to_str().expect("ASCII");
        fastest = fastest.min(total.parse().expect("milliseconds"));
    }
    for _ in 0..60 {
        assert_eq!(server.transcribe(&file, &[]).await.status(), 429);
    }
    let body: Value = (server.get("/v1/metrics").await.json().await).expect("JSON");
    let total = &body["latency_ms"]["request_total"];
    assert_eq!(total["count"], 3, "{body}");
    for percentile in ["p50", "p95", "p99"] {
        // The header has whole milliseconds.
        let millis = total[percentile].as_f64().expect("a number");
        assert!(millis >= fastest - 1.0, "{percentile}: {millis} {fastest}");
    }
    assert_eq!(
        body["counters"]["requests_total"]["/v1/audio/transcriptions"],
        63
    );
    let page = server.metrics().await;
    let series = series(&page);
    let of_path = "endpoint=\"/v1/audio/transcriptions\",method=\"POST\"";
    for (name, expected) in [
        (
            format!("uttera_stt_request_duration_seconds_count{{{of_path}}}"),
            3.0,
        ),
        ("stt_request_total_seconds_count".to_owned(), 3.0),
        (
            format!("uttera_stt_requests_total{{{of_path},status=\"429\"}}"),
            60.0,
        ),
        (
            "uttera_stt_errors_total{type=\"rate_limit\"}".to_owned(),
            60.0,
        ),
        ("uttera_stt_upload_seconds_count".to_owned(), 3.0),
        ("uttera_stt_decode_seconds_count".to_owned(), 3.0),
        ("uttera_stt_queue_wait_seconds_count".to_owned(), 3.0),
    ] {
        let value = series[name.as_str()];
        assert!((value - expected).abs() < 1e-9, "{name}: {value}");
    }
}

#[tokio::test]
async fn workers_are_measured_and_what_an_ended_one_used_stays_in_the_counters() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let of_hot = async |name: &str| {
        let series = format!("uttera_stt_worker_{name}{{role=\"hot\"}}");
        server.metric(&series).await
    };
    let file = sample("en-sentence.wav");
    let has_worked = || async {
        assert_eq!(server.transcribe(&file, &[]).await.status(), 200);
        of_hot("cpu_seconds_total").await >= 1.0
    };
    server.until("the worker is sampled", has_worked).await;
    for name in ["resident_bytes", "open_files", "threads"] {
        assert!(of_hot(name).await > 0.0, "{name}");
    }
    let before = of_hot("cpu_seconds_total").await;
    let chunks = async |outcome: &str| {
        let series = format!("uttera_stt_chunks_total{{outcome=\"{outcome}\"}}");
        server.metric(&series).await
    };
    assert!(chunks("done").await >= 1.0);
    // It stands still, so that it cannot finish before it is killed.
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let request = server.start_long_request().await;
    signal(worker, "KILL");
    let is_retried = || async { chunks("retried").await >= 1.0 };
    server.until("the chunk is retried", is_retried).await;
    request.abort();
    let is_cancelled = || async { chunks("cancelled").await >= 1.0 };
    server.until("the rest is cancelled", is_cancelled).await;
    let is_back = || async { of_hot("starts_total").await >= 2.0 };
    server.until("the worker is replaced", is_back).await;
    assert!(of_hot("crashes_total").await >= 1.0);
    assert!(of_hot("cpu_seconds_total").await >= before);
    assert!(server.metric("process_start_time_seconds").await > 1.7e9);
    assert!(server.metric("process_open_fds").await > 3.0);
    assert!(server.metric("process_max_fds").await > 3.0);
    let lanes = server.metrics().await;
    let lanes = series(&lanes);
    let hot = lanes
        .iter()
        .filter(|(name, _)| name.starts_with("uttera_stt_lanes{kind=\"hot\""));
    let hot: f64 = hot.map(|(_, value)| value).sum();
    assert!((hot - 1.0).abs() < 1e-9, "{lanes:?}");
}

#[tokio::test]
async fn both_rates_are_known_when_the_node_first_says_that_it_is_ready() {
    let server = Server::ready(&model("tiny.en").await, &[("COLD_POOL_SIZE", "7")]).await;
    let health = server.health().await;
    let routing = &health["smart_routing"];
    assert_eq!(routing["cold_start_calibrated"], true);
    assert!(routing["cold_ema_start_seconds"].as_f64() > Some(0.0));
    assert!(routing["ema_sps"].as_f64() > Some(0.0));
    assert_eq!(routing["pool_size_cap"], 7);
    for unknown in [
        "vram_free_gb",
        "cold_vram_ema_gb",
        "cold_vram_per_worker_gb",
    ] {
        assert_eq!(routing[unknown], Value::Null, "{unknown}");
    }
    assert_eq!(routing["vram_sufficient_for_cold"], true);
    assert_eq!(health["routing"]["load_score"], 0.0);
    assert_eq!(server.workers().len(), 1, "no second process for that");
}
