//! A real Prometheus reads a primary and its fallback; its alerts, and the dashboard's queries.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use test_support::escalation_pair::{COMMANDS, PATH, fallback, primary};
use test_support::prometheus::{Prometheus, Values, promtool, rules, values};
use test_support::redis_server::RedisServer;
use test_support::{Server, form, repository, sample};

/// Beginnings of the names of series that have no data in this test, and why.
const WITHOUT_DATA: &[(&str, &str)] = &[
    ("stt_gpu_", "there is no GPU"),
    ("uttera_stt_vram_", "there is no GPU"),
    ("uttera_stt_tls_", "the servers have no TLS"),
];

/// Names that come from the servers which this one replaces, and which end in an abbreviated unit.
const GIVEN_NAMES: &[&str] = &[
    "stt_gpu_mem_total_mb",
    "stt_gpu_mem_used_mb",
    "uttera_stt_vram_free_gb",
    "uttera_stt_vram_per_cold_worker_gb",
];

/// Beginnings of the names of series that change without a request.
const MOVING: &[&str] = &[
    "process_",
    "uttera_stt_worker_cpu",
    "uttera_stt_worker_open_files",
    "uttera_stt_worker_resident",
    "uttera_stt_worker_threads",
    "uttera_stt_memory_",
    "uttera_stt_node_record_age",
];

/// A primary that escalates commands, its fallback, and what they need.
struct Pair {
    primary: Server,
    fallback: Server,
    _redis: RedisServer,
}

impl Pair {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let fallback = fallback(&[]).await;
        let url = redis.url();
        let mut settings = vec![("REDIS_URL", url.as_str())];
        settings.extend(COMMANDS);
        Self {
            primary: primary(&fallback, &settings).await,
            fallback,
            _redis: redis,
        }
    }

    /// Sends some requests to the primary.
    async fn load(&self) {
        for name in ["en-command.wav", "en-sentence.wav"] {
            for path in [PATH, "/v1/audio/transcriptions"] {
                let response = self.primary.post(path, form(&sample(name), &[])).await;
                assert_eq!(response.status(), 200, "{path}");
            }
        }
        let invalid = [("response_format", "none-such")];
        let file = sample("en-command.wav");
        let refused = self.primary.transcribe(&file, &invalid).await;
        assert_eq!(refused.status(), 422);
    }
}

#[tokio::test]
async fn prometheus_reads_what_the_server_says_and_the_dashboard_shows_it() {
    if promtool().is_none() {
        return;
    }
    let pair = Pair::start().await;
    let servers = [
        ("primary", pair.primary.url.as_str()),
        ("fallback", pair.fallback.url.as_str()),
    ];
    let prometheus = Prometheus::start(&servers).await;
    // A rate needs values before and after.
    let are_read = async || {
        let times = prometheus.query("count_over_time(up[5m]) > 1").await;
        times.len() == 2
    };
    prometheus.until("both are read twice", are_read).await;
    pair.load().await;
    values_are_those_of_the_page(&prometheus, &pair.primary).await;
    every_panel_has_data(&prometheus).await;
    every_alert_can_be_evaluated(&prometheus).await;
}

async fn values_are_those_of_the_page(prometheus: &Prometheus, server: &Server) {
    let (mut page, mut expected, mut seen) = (String::new(), Values::new(), Values::new());
    let expression = r#"{__name__=~"(uttera_)?stt_.+|process_.+", instance="primary"}"#;
    let same = async || {
        // What was counted for a moment when the page was read is not there for ever.
        page = server.metrics().await;
        expected = values(&page);
        seen = prometheus.query(expression).await;
        seen = std::mem::take(&mut seen)
            .into_iter()
            .map(|(mut labels, value)| {
                labels.retain(|name, _| name != "instance" && name != "job");
                (labels, value)
            })
            .collect();
        without_moving(&seen) == without_moving(&expected)
    };
    prometheus.until("all values are there", same).await;
    let names = |values: &Values| -> BTreeSet<_> { values.keys().cloned().collect() };
    assert_eq!(names(&seen), names(&expected));
    expected.retain(|labels, _| labels["__name__"] == "uttera_stt_requests_total");
    assert!(expected.values().sum::<f64>() >= 5.0, "{page}");
}

/// Values that stay the same without requests, as bits: unknown ones are not equal as numbers.
fn without_moving(values: &Values) -> Vec<(Vec<&String>, u64)> {
    let still = values.iter().filter(|(labels, _)| {
        let name = &labels["__name__"];
        // The scrapes themselves are requests.
        let of_scrapes = labels
            .get("endpoint")
            .is_some_and(|path| path == "/metrics");
        !of_scrapes && !MOVING.iter().any(|moving| name.starts_with(moving))
    });
    let unknown = f64::NAN;
    still
        .map(|(labels, &value)| {
            let value = if value.is_nan() { unknown } else { value };
            (labels.values().collect(), value.to_bits())
        })
        .collect()
}

/// The panels of the dashboard that show something, with their queries, whose variables are replaced.
fn panels() -> Vec<(String, Vec<String>)> {
    let file = repository().join("config/grafana/uttera-stt.json");
    let text = std::fs::read_to_string(file).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("a list");
    let with_data = panels.iter().filter(|panel| panel["type"] != "row");
    with_data
        .map(|panel| {
            let targets = panel["targets"].as_array().expect("a list");
            let queries = targets.iter().map(|target| {
                let query = target["expr"].as_str().expect("a text");
                let query = query.replace("$instance", ".*");
                let query = query.replace("$__rate_interval", "5m");
                assert!(!query.contains('$'), "{query}");
                query
            });
            let title = panel["title"].as_str().expect("a text").to_owned();
            (title, queries.collect())
        })
        .collect()
}

async fn every_panel_has_data(prometheus: &Prometheus) {
    let panels = panels();
    let queries = panels.iter().flat_map(|(title, queries)| {
        let title = title.as_str();
        queries.iter().map(move |query| (title, query))
    });
    let mut without = 0;
    for (title, query) in queries {
        if WITHOUT_DATA.iter().any(|(name, _)| query.contains(name)) {
            without += 1;
            prometheus.query(query).await;
            continue;
        }
        let has_data = async || {
            let answer = prometheus.query(query).await;
            answer.values().any(|value| !value.is_nan())
        };
        prometheus
            .until(&format!("{title:?} has data: {query}"), has_data)
            .await;
    }
    assert_eq!(without, 7, "queries about a GPU or certificates");
}

async fn every_alert_can_be_evaluated(prometheus: &Prometheus) {
    // On the slow machine of a test, two of three requests may take longer than a second, and half of them escalate.
    let may_be = [
        "SttSlowAnswers",
        "SttEverythingEscalates",
        "SttMemoryNearLimit",
    ];
    let are_as_they_should_be = async || {
        let rules = prometheus.ask("/api/v1/rules", &[]).await;
        let rules = rules["groups"][0]["rules"].as_array().expect("rules");
        let is_quiet = |rule: &Value| {
            let name = rule["name"].as_str().expect("a name");
            rule["state"] == "inactive" || may_be.contains(&name)
        };
        // An alert is pending for a moment when a scrape of the slow machine takes too long.
        (rules.iter()).all(|rule| rule["health"] == "ok" && is_quiet(rule))
    };
    prometheus
        .until("all rules work, and no alert", are_as_they_should_be)
        .await;
}

#[tokio::test]
async fn promtool_has_no_complaint_about_the_page_the_examples_and_the_alerts() {
    let Some(mut check) = promtool() else {
        return;
    };
    let server = Server::ready(&test_support::model("tiny.en").await, &[]).await;
    let mut child = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let page = server.metrics().await;
    let mut input = child.stdin.take().expect("piped");
    input.write_all(page.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    let complaints = said.lines().filter(|line| !line.is_empty());
    let of_others = complaints.filter(|line| {
        let (name, complaint) = line.split_once(' ').unwrap_or_default();
        !(GIVEN_NAMES.contains(&name) && complaint.contains("abbreviated units"))
    });
    assert_eq!(of_others.collect::<Vec<_>>(), [""; 0], "{said}");

    let folder = rules().parent().expect("a folder").to_path_buf();
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "--lint-fatal", "rules.yml"],
        &["test", "rules", "rules.test.yml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(&folder)
            .output()
            .expect("it is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn every_alert_says_what_it_is_where_help_is_and_is_tested_both_ways() {
    let rules_text = std::fs::read_to_string(rules()).expect("rules");
    let tests = rules().with_file_name("rules.test.yml");
    let tests = std::fs::read_to_string(tests).expect("tests");
    let page = repository().join("docs/operations/runbooks.md");
    let page = std::fs::read_to_string(page).expect("runbooks");
    let anchors: BTreeSet<_> = (page.lines())
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| heading.to_lowercase().replace(' ', "-"))
        .collect();
    let mut names = BTreeSet::new();
    for alert in rules_text.split("- alert: ").skip(1) {
        let name = alert.lines().next().expect("a name");
        assert!(names.insert(name), "{name} is there twice");
        for part in ["labels: {severity: ", "summary: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        let mut runbook = alert.split("runbook_url: docs/operations/runbooks.md#");
        let anchor = runbook.nth(1).and_then(|rest| rest.lines().next());
        assert!(
            anchor.is_some_and(|anchor| anchors.contains(anchor)),
            "{name}: {anchor:?}"
        );
        for case in ["fires", "does not fire"] {
            assert!(
                tests.contains(&format!("name: {name} {case}\n")),
                "{name} {case}"
            );
        }
    }
    assert!(names.len() >= 11, "{names:?}");
    for section in page.split("\n## ").skip(1) {
        let (heading, text) = section.split_once("\n\n").expect("a heading");
        let first = text.lines().next().expect("a line");
        let alerts = first.strip_prefix("Alert: ").expect("the alerts first");
        for alert in alerts.split('`').skip(1).step_by(2) {
            assert!(names.contains(alert), "{heading}: {alert}");
        }
        let end = section.trim_end();
        assert!(end.ends_with("\n```"), "{heading} ends with a command");
    }
}

/// Telegraf is not packaged for Debian. Its input `prometheus` reads the same format, so another parser stands in for it.
#[tokio::test]
async fn another_parser_of_the_text_format_reads_the_page() {
    const PARSE: &str = "\
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    assert family.documentation and family.type != 'unknown', family
    for sample in family.samples:
        print(sample.name, float(sample.value))
";
    let python = test_support::python::prometheus_client();
    let server = Server::ready(&test_support::model("tiny.en").await, &[]).await;
    let page = server.metrics().await;
    let mut child = Command::new(python)
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(page.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let read = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(read.lines().count(), values(&page).len());
}
