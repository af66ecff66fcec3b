//! A real Prometheus for one test, if it is installed, and its tool.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::client;
use crate::port::on_free_port;
use crate::processes::{Process, log_in, start_server};
use crate::repository;
use crate::waiting::until_or_show;

/// Labels of a series, `__name__` included.
pub type Labels = BTreeMap<String, String>;

/// The values of some series.
pub type Values = BTreeMap<Labels, f64>;

/// Prometheus's tool; says so if it is not installed.
pub fn promtool() -> Option<Command> {
    let found = Command::new("promtool")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no Prometheus (scripts/test installs it where it can)");
        return None;
    }
    Some(Command::new("promtool"))
}

/// A Prometheus that reads servers four times a second and checks the repository's alerts. It ends when it is dropped.
pub struct Prometheus {
    _process: Process,
    url: String,
    client: Client,
    folder: TempDir,
}

impl Prometheus {
    /// Starts one that reads these servers (an instance's name and a URL each) as the job `uttera-stt`.
    pub async fn start(servers: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        fs::write(&config, configuration(servers)).expect("writes");
        let client = client();
        let (process, url) = on_free_port(async |port| {
            let (address, url) = (
                format!("127.0.0.1:{port}"),
                format!("http://127.0.0.1:{port}"),
            );
            let mut command = Command::new("prometheus");
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--web.listen-address={address}"))
                .arg("--storage.tsdb.path=data")
                .arg("--log.level=warn")
                .current_dir(folder.path());
            let is_ready = async |_: &Process| {
                let reply = client.get(format!("{url}/-/ready")).send().await;
                reply.is_ok_and(|reply| reply.status() == 200)
            };
            let started = start_server(&mut command, &folder.path().join("log"), is_ready).await;
            started.map(|process| (process, url.clone()))
        })
        .await;
        Self {
            _process: process,
            url,
            client,
            folder,
        }
    }

    /// The answer of the API to a GET request with these parameters.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.url), parameters);
        let request = self.client.get(url.expect("a URL"));
        let reply = request.send().await.expect("an answer");
        let answer: Value = reply.json().await.expect("JSON");
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].clone()
    }

    /// The values that an expression has now.
    pub async fn query(&self, expression: &str) -> Values {
        let data = self.ask("/api/v1/query", &[("query", expression)]).await;
        let series = data["result"].as_array().expect("a vector");
        let values = series.iter().map(|series| {
            let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
            let value = series["value"][1].as_str().expect("a value");
            (labels, value.parse().expect("a number"))
        });
        values.collect()
    }

    /// Waits until a condition holds; a panic shows the log.
    pub async fn until(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        until_or_show(what, condition, || log_in(&self.folder.path().join("log"))).await;
    }
}

fn configuration(servers: &[(&str, &str)]) -> String {
    let targets: Vec<_> = servers
        .iter()
        .map(|(instance, url)| {
            let address = url.trim_start_matches("http://");
            format!("      - {{targets: ['{address}'], labels: {{instance: {instance}}}}}\n")
        })
        .collect();
    let targets = targets.concat();
    format!(
        "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n  - job_name: uttera-stt\n    static_configs:\n{targets}",
        rules().display()
    )
}

/// The repository's alerts.
pub fn rules() -> PathBuf {
    repository().join("config/prometheus/rules.yml")
}

/// The values on a page of metrics in the text format. For pages whose label values have neither quotes nor commas.
pub fn values(page: &str) -> Values {
    let lines = page
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let values = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut all = Labels::from([("__name__".to_owned(), name.to_owned())]);
        let labels = labels.trim_end_matches('}').split(',');
        for label in labels.filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').expect("a label");
            all.insert(name.to_owned(), value.trim_matches('"').to_owned());
        }
        (all, value.parse().expect("a number"))
    });
    values.collect()
}
