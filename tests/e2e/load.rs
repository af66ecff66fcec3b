//! `uttera-stt load` from outside: against this server, against servers that reject requests, and ended by a signal.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::escalation_pair::{COMMANDS, fallback, primary};
use test_support::{PATIENCE, Server, model, program, sample, signal, until};
use tokio::process::Command;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

/// A run that writes `load.json` and `load.svg` to a folder.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .arg("load")
        .args(arguments)
        .args(["--json", "load.json", "--plot", "load.svg"])
        .env_remove("UTTERA_API_KEY")
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

struct Run {
    output: Output,
    table: String,
    json: Value,
    svg: String,
}

fn results(folder: &Path, output: Output) -> Run {
    let read = |name: &str| {
        let kept = std::fs::read_to_string(folder.join(name));
        kept.unwrap_or_else(|_| panic!("{name}: {output:?}"))
    };
    Run {
        table: String::from_utf8_lossy(&output.stdout).into_owned(),
        json: serde_json::from_str(&read("load.json")).expect("JSON"),
        svg: read("load.svg"),
        output,
    }
}

async fn run(arguments: &[&str], key: Option<&str>) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = command(folder.path(), arguments);
    command.envs(key.map(|key| ("UTTERA_API_KEY", key)));
    let output = command.output().await.expect("runs");
    results(folder.path(), output)
}

/// A server that answers POST requests with these answers, each this many times, and then with the last.
async fn answers(first: &[(u64, ResponseTemplate)], then: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    for (times, response) in first {
        Mock::given(method("POST"))
            .respond_with(response.clone())
            .up_to_n_times(*times)
            .mount(&server)
            .await;
    }
    let always = Mock::given(method("POST")).respond_with(then);
    always.mount(&server).await;
    server
}

fn good() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"text": "words", "duration": 2.5}))
}

/// A single file, so that the warm-up has two requests: one for the file, one for the client.
fn one_client<'a>(url: &'a str, file: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let file = file.to_str().expect("UTF-8");
    let arguments = [url, "--concurrency", "1", "--file", file];
    [&arguments[..], more].concat()
}

#[tokio::test]
async fn this_server_is_measured_step_by_step() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    let arguments = [&server.url, "--concurrency", "4,1,2,2", "--requests", "4"];
    let run = run(&arguments, Some("secret")).await;
    assert_eq!(run.output.status.code(), Some(0), "{:?}", run.output);
    assert_eq!(
        (&run.json["ended"], &run.json["model"]),
        (&json!("finished"), &json!("tiny.en"))
    );
    let steps = run.json["steps"].as_array().expect("steps");
    let clients: Vec<&Value> = steps.iter().map(|step| &step["clients"]).collect();
    assert_eq!(clients, [&json!(1), &json!(2), &json!(4)]);
    for step in steps {
        assert_eq!(
            (&step["requests"], &step["failed"]),
            (&json!(4), &json!(0)),
            "{step}"
        );
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{step}"));
        let times = &step["end_to_end_ms"];
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(|name| number(&times[name]));
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{step}");
        let seconds = number(&step["seconds"]);
        assert!(p99 <= seconds * 1000.0, "{step}");
        let throughput = number(&step["requests_per_second"]) * seconds;
        assert!((throughput - 4.0).abs() < 1e-6, "{step}");
        // Two requests for each English sample.
        let audio = number(&step["audio_seconds_per_second"]) * seconds;
        assert!((audio - 2.0 * (1.784 + 7.534)).abs() < 1e-6, "{step}");
        assert_eq!(step["routes"]["HOT"], 4, "{step}");
        // The timings: four requests had a lane, none used a fallback.
        let [waited, worked] = ["queue_wait_ms", "primary_infer_ms"].map(|name| &step[name]);
        assert_eq!((&waited["count"], &worked["count"]), (&json!(4), &json!(4)));
        assert!(number(&worked["p50"]) > 0.0, "{step}");
        assert!(number(&waited["p99"]) <= p99, "{step}");
        assert_eq!(step["fallback_infer_ms"], Value::Null);
        let cells = row(&run.table, &step["clients"]);
        for cell in &cells[5..8] {
            let numbers: Vec<_> = cell.split('/').map(str::parse::<u64>).collect();
            assert!(
                numbers.len() == 3 && numbers.iter().all(Result::is_ok),
                "{cells:?}"
            );
        }
        assert_eq!(cells[8..10], ["-", "0 %"], "{cells:?}");
    }
    let knee = run.json["knee"]["clients"].as_u64().expect("a knee");
    assert!(run.table.contains("<- knee"), "{}", run.table);
    assert!(
        run.table.contains(&format!("the knee is at {knee} client")),
        "{}",
        run.table
    );
    assert!(run.svg.starts_with("<svg") && run.svg.contains("knee"));
    // The server did the work of each request, although they are equal: two files, and a warm-up for each step.
    let asked = 2 + (1 + 4) + (2 + 4) + (4 + 4);
    assert!(
        server.chunks_handed_out() >= asked,
        "{}",
        server.chunks_handed_out()
    );
    assert!(!run.table.contains("secret"));
}

/// The cells of a step's row.
fn row(table: &str, clients: &Value) -> Vec<String> {
    let begin = format!("{clients} ");
    let mut rows = table.lines().map(str::trim_start);
    let row = rows.find(|line| line.starts_with(&begin));
    let row = row.unwrap_or_else(|| panic!("{clients} in {table}"));
    let cells = row.split("  ").map(str::trim);
    let cells = cells.filter(|cell| !cell.is_empty());
    cells.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_primary_and_its_fallback_are_both_measured() {
    let fallback_node = fallback(&[]).await;
    let primary_node = primary(&fallback_node, &COMMANDS).await;
    let sentence = sample("en-sentence.wav");
    let more = ["--endpoint", "transcribe", "--requests", "4", "--file"];
    let more = [&more[..], &[sentence.to_str().expect("UTF-8")]].concat();
    let command = sample("en-command.wav");
    let run = run(&one_client(&primary_node.url, &command, &more), None).await;
    assert_eq!(run.output.status.code(), Some(0), "{:?}", run.output);
    let step = &run.json["steps"][0];
    // Commands are short, and they are every second request.
    assert_eq!(step["fallback"], json!({"told": 4, "used": 2, "failed": 0}));
    for (name, count) in [
        ("queue_wait_ms", 4),
        ("primary_infer_ms", 4),
        ("fallback_infer_ms", 2),
        ("server_total_ms", 4),
    ] {
        assert_eq!(step[name]["count"], count, "{name}: {step}");
    }
    let p50 = |name: &str| step[name]["p50"].as_f64();
    assert!(p50("fallback_infer_ms") > Some(0.0) && p50("primary_infer_ms") > Some(0.0));
    let cells = row(&run.table, &step["clients"]);
    assert!(!cells.contains(&"-".to_owned()), "{cells:?}");
    assert_eq!(cells[9], "50 %", "{cells:?}");
    // The warm-up requests were passed on too: a command, a sentence, and the client's own one.
    assert!(primary_node.log_lines("the text is doubtful").len() >= 3);
}

#[tokio::test]
async fn the_figures_in_a_primarys_headers_are_shown() {
    let answer = good()
        .insert_header("X-Queue-Wait-ms", "7")
        .insert_header("X-Primary-Infer-ms", "80")
        .insert_header("X-Fallback-Infer-ms", "600")
        .insert_header("X-Total-ms", "690")
        .insert_header("X-Fallback-Used", "true");
    let server = MockServer::start().await;
    Mock::given(path("/v1/transcribe"))
        .respond_with(answer)
        .mount(&server)
        .await;
    let (url, file) = (server.uri(), sample("en-command.wav"));
    let more = [
        "--endpoint",
        "transcribe",
        "--requests",
        "3",
        "--language",
        "en",
    ];
    let run = run(&one_client(&url, &file, &more), None).await;
    assert_eq!(run.output.status.code(), Some(0), "{:?}", run.output);
    let step = &run.json["steps"][0];
    for (name, milliseconds) in [
        ("queue_wait_ms", 7.0),
        ("primary_infer_ms", 80.0),
        ("fallback_infer_ms", 600.0),
        ("server_total_ms", 690.0),
    ] {
        let times = &step[name];
        assert_eq!(
            (&times["p95"], &times["count"]),
            (&json!(milliseconds), &json!(3))
        );
    }
    assert_eq!(step["fallback"], json!({"told": 3, "used": 3, "failed": 0}));
    let cells = row(&run.table, &json!(1));
    for cell in ["7/7/7", "80/80/80", "600/600/600", "100 %"] {
        assert!(cells.contains(&cell.to_owned()), "{cells:?}");
    }
    // The file's length comes from the server's answer in the warm-up.
    assert_eq!(run.json["recordings"][0]["seconds"], 2.5);
    let requests = server.received_requests().await.expect("recorded");
    for request in requests
        .iter()
        .filter(|request| request.method.as_str() == "POST")
    {
        let body = String::from_utf8_lossy(&request.body);
        assert!(body.contains("name=\"audio\"; filename=\"en-command.wav\""));
        assert!(body.contains("name=\"language\"\r\n\r\nen\r\n"));
        assert_eq!(request.headers["cache-control"], "no-store");
    }
}

#[tokio::test]
async fn failures_are_counted_by_kind() {
    let first = [
        (4, ResponseTemplate::new(503).set_body_string("busy")),
        (3, ResponseTemplate::new(429).set_body_string("slow down")),
        (1, ResponseTemplate::new(200).set_body_string("<html>")),
    ];
    let server = answers(&first, good()).await;
    let (url, file) = (server.uri(), sample("en-command.wav"));
    let more = ["--requests", "10", "--most-failed", "100"];
    let run = run(&one_client(&url, &file, &more), None).await;
    assert_eq!(run.output.status.code(), Some(0), "{:?}", run.output);
    let step = &run.json["steps"][0];
    assert_eq!(
        (&step["requests"], &step["failed"]),
        (&json!(10), &json!(6))
    );
    let failures = &step["failures"];
    assert_eq!(failures["503"]["count"], 2, "two more were the warm-up's");
    assert_eq!(failures["429"]["count"], 3);
    assert_eq!(failures["429"]["first"], "429 Too Many Requests: slow down");
    assert_eq!(failures["no transcript"]["count"], 1);
    assert_eq!(step["end_to_end_ms"]["count"], 4, "only of transcripts");
    assert!(
        run.table.contains("3 failed (429): 429 Too Many"),
        "{}",
        run.table
    );
}

#[tokio::test]
async fn a_server_that_rejects_everything_ends_the_run() {
    let server = answers(&[], ResponseTemplate::new(429).set_body_string("no")).await;
    let url = server.uri();
    let run = run(&[&url, "--concurrency", "1,2", "--requests", "500"], None).await;
    assert_eq!(run.output.status.code(), Some(1), "{:?}", run.output);
    assert_eq!(run.json["ended"], "too_many_failures");
    let steps = run.json["steps"].as_array().expect("steps");
    assert_eq!((steps.len(), &steps[0]["requests"]), (1, &json!(2)));
    assert_eq!(
        (&run.json["knee"], &steps[0]["end_to_end_ms"]),
        (&Value::Null, &Value::Null)
    );
    assert!(
        run.table.contains("ended early: too many requests failed"),
        "{}",
        run.table
    );
    assert!(run.svg.starts_with("<svg"));
}

#[tokio::test]
async fn a_request_without_a_reply_times_out() {
    let stalled = good().set_delay(Duration::from_secs(3600));
    let server = answers(&[(2, good())], stalled).await;
    let (url, file) = (server.uri(), sample("en-command.wav"));
    let more = ["--requests", "2", "--limit-seconds", "1"];
    let run = run(&one_client(&url, &file, &more), None).await;
    assert_eq!(run.output.status.code(), Some(1), "{:?}", run.output);
    assert_eq!(run.json["steps"][0]["failures"]["timed out"]["count"], 2);
}

#[tokio::test]
async fn a_signal_ends_the_run_and_the_finished_steps_are_shown() {
    // The warm-up of one file and one client, a step of three requests, and none after that.
    let stalled = good().set_delay(Duration::from_secs(3600));
    let server = answers(&[(5, good())], stalled).await;
    let (url, file) = (server.uri(), sample("en-command.wav"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = file.to_str().expect("UTF-8");
    let arguments = [
        &url,
        "--concurrency",
        "1,2",
        "--requests",
        "3",
        "--file",
        file,
    ];
    let mut command = command(folder.path(), &arguments);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let posts = async || {
        let requests = server.received_requests().await.expect("recorded");
        requests
            .iter()
            .filter(|request| request.method.as_str() == "POST")
            .count()
    };
    until("the second step begins", async || posts().await >= 6).await;
    signal(child.id().expect("it runs"), "INT");
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = ended.await.expect("in time").expect("ends");
    let run = results(folder.path(), output);
    assert_eq!(run.output.status.code(), Some(1), "{:?}", run.output);
    let told = String::from_utf8_lossy(&run.output.stderr);
    assert!(told.contains("ended by SIGINT"), "{told}");
    assert_eq!(
        (&run.json["ended"], &run.json["steps"][0]["requests"]),
        (&json!("signal"), &json!(3))
    );
    assert_eq!(run.json["steps"].as_array().map(Vec::len), Some(1));
    assert!(
        run.table.contains("ended early by a signal"),
        "{}",
        run.table
    );
}

#[tokio::test]
async fn impossible_arguments_are_rejected_before_any_request() {
    let server = answers(&[], good()).await;
    let url = server.uri();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let unreachable = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let cases: [(&[&str], i32, &str); 5] = [
        (&[&unreachable], 2, "cannot be reached"),
        (&["nonsense"], 2, "http://HOST:PORT"),
        (&[&url, "--concurrency", "1,0"], 2, "--concurrency"),
        (&[&url, "--file", "/nowhere/a.wav"], 1, "/nowhere/a.wav"),
        (&[&url, "--language", "en"], 2, "--file"),
    ];
    for (arguments, status, words) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let output = command(folder.path(), arguments)
            .output()
            .await
            .expect("runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{told}");
        assert!(told.contains(words), "{told}");
        assert!(output.stdout.is_empty());
    }
    let unwritable = Command::new(program())
        .args(["load", &url, "--json", "/nowhere/load.json"])
        .output()
        .await
        .expect("runs");
    assert_eq!(unwritable.status.code(), Some(1), "{unwritable:?}");
    let requests = server.received_requests().await.expect("recorded");
    assert!(
        requests
            .iter()
            .all(|request| request.method.as_str() == "GET")
    );
}

#[tokio::test]
async fn a_canary_that_is_slower_than_its_baseline_fails() {
    let server = answers(&[], good()).await;
    let (url, file) = (server.uri(), sample("en-command.wav"));
    let folder = tempfile::tempdir().expect("a folder");
    let baseline = folder.path().join("baseline.json");
    let measured = run(&one_client(&url, &file, &["--requests", "4"]), None).await;
    assert_eq!(measured.output.status.code(), Some(0));
    let path = baseline.to_str().expect("UTF-8");
    // The true times times a factor, in place of a server that is slower.
    for (factor, more, code, verdict) in [
        (1e6, &[][..], 0, "ok"),
        (1e-6, &[], 1, "too slow"),
        (1e-6, &["--max-p95-ratio", "1e15"], 0, "ok"),
    ] {
        let mut known = measured.json.clone();
        let p95 = &mut known["steps"][0]["end_to_end_ms"]["p95"];
        *p95 = json!(p95.as_f64().expect("a number") * factor);
        std::fs::write(&baseline, known.to_string()).expect("writes");
        let options = [&["--requests", "4", "--baseline", path], more].concat();
        let canary = run(&one_client(&url, &file, &options), None).await;
        assert_eq!(canary.output.status.code(), Some(code), "{}", canary.table);
        assert!(canary.table.contains(verdict), "{}", canary.table);
    }
    // A baseline that cannot be compared is an error, before any load.
    std::fs::write(&baseline, "{}").expect("writes");
    let other = ["--baseline", path];
    let mut command = command(folder.path(), &one_client(&url, &file, &other));
    let output = command.output().await.expect("runs");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("load --json"), "{error}");
}
