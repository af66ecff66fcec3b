//! Traces (cargo feature `otel`), read by a stand-in for a collector.

use std::net::TcpListener;
use std::time::Instant;

use serde_json::Value;
use test_support::escalation_pair::{ALWAYS, PATH};
use test_support::{Server, form, model, sample, until};
use wiremock::matchers::{header, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const SENTENCE: &str = "en-sentence.wav";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENTS_SPAN: &str = "b7ad6b7169203331";

/// A collector, and a fallback at the same address.
async fn collector() -> MockServer {
    let server = MockServer::start().await;
    let taken = ResponseTemplate::new(200).set_body_raw("{}", "application/json");
    Mock::given(path("/v1/traces"))
        .and(header("x-tenant", "ours"))
        .respond_with(taken)
        .mount(&server)
        .await;
    let text = r#"{"text": "Better", "language": "en", "model": "larger"}"#;
    let text = ResponseTemplate::new(200).set_body_raw(text, "application/json");
    Mock::given(path(PATH))
        .respond_with(text)
        .mount(&server)
        .await;
    server
}

/// The spans that a collector has, with the name of their service.
async fn spans(collector: &MockServer) -> Vec<(String, Value)> {
    let requests = collector.received_requests().await.expect("recorded");
    let mut spans = Vec::new();
    for request in requests
        .iter()
        .filter(|request| request.url.path() == "/v1/traces")
    {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        for resource in body["resourceSpans"].as_array().expect("resources") {
            let service = attribute(&resource["resource"], "service.name");
            for scope in resource["scopeSpans"].as_array().expect("scopes") {
                let of_scope = scope["spans"].as_array().expect("spans");
                spans.extend(of_scope.iter().map(|span| (service.clone(), span.clone())));
            }
        }
    }
    spans
}

/// An attribute as text.
fn attribute(of: &Value, key: &str) -> String {
    let attributes = of["attributes"].as_array().expect("attributes");
    let found = attributes.iter().find(|pair| pair["key"] == key);
    let value = found.map_or(&Value::Null, |pair| &pair["value"]);
    let value = value.as_object().and_then(|value| value.values().next());
    value.map_or_else(String::new, |value| {
        value.as_str().map_or(value.to_string(), str::to_owned)
    })
}

#[tokio::test]
async fn a_request_is_one_trace_that_continues_the_clients() {
    let collector = collector().await;
    let url = collector.uri();
    let settings = [
        ("FALLBACK_URL", url.as_str()),
        ALWAYS,
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours"),
        ("OTEL_SERVICE_NAME", "kitchen"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        // The filter of the log does not affect traces.
        ("RUST_LOG", "uttera_stt=info"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let request = server
        .client
        .post(format!("{}/v1/audio/transcriptions", server.url))
        .header("traceparent", format!("00-{TRACE}-{CLIENTS_SPAN}-01"))
        .header("x-request-id", "traced")
        .multipart(form(&sample(SENTENCE), &[]));
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    let named = |spans: &[(String, Value)], name: &str| -> Vec<Value> {
        let of_name = spans.iter().filter(|(_, span)| span["name"] == name);
        of_name.map(|(_, span)| span.clone()).collect()
    };
    let root = "POST /v1/audio/transcriptions";
    let is_there = async || !named(&spans(&collector).await, root).is_empty();
    until("the trace is sent", is_there).await;
    let spans = spans(&collector).await;
    let [root] = &named(&spans, root)[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(
        (root["traceId"].as_str(), root["parentSpanId"].as_str()),
        (Some(TRACE), Some(CLIENTS_SPAN))
    );
    for (key, expected) in [
        ("request_id", "traced"),
        ("http.response.status_code", "200"),
        ("language", "en"),
        ("model", "larger"),
    ] {
        assert_eq!(attribute(root, key), expected, "{key}");
    }
    let time = |span: &Value, edge: &str| -> u64 {
        (span[edge].as_str().expect("a time").parse()).expect("a number")
    };
    let mut steps = Vec::new();
    for step in ["decode", "queue wait", "lane", "escalation"] {
        let [span] = &named(&spans, step)[..] else {
            panic!("{step}: {spans:?}")
        };
        assert_eq!(span["parentSpanId"], root["spanId"], "{step}");
        assert_eq!(span["traceId"], root["traceId"], "{step}");
        assert!(time(span, "startTimeUnixNano") >= time(root, "startTimeUnixNano"));
        assert!(time(span, "endTimeUnixNano") <= time(root, "endTimeUnixNano"));
        steps.push(span.clone());
    }
    assert!(time(&steps[1], "endTimeUnixNano") <= time(&steps[2], "startTimeUnixNano"));
    assert!(time(&steps[2], "endTimeUnixNano") <= time(&steps[3], "startTimeUnixNano"));
    assert!(spans.iter().all(|(service, _)| service == "kitchen"));
    // The fallback continues the trace below the span of its call.
    let requests = collector.received_requests().await.expect("recorded");
    let asked = requests.iter().find(|request| request.url.path() == PATH);
    let parent = &asked.expect("the fallback was asked").headers["traceparent"];
    let span = steps[3]["spanId"].as_str().expect("an id");
    assert_eq!(
        parent.to_str().ok(),
        Some(&*format!("00-{TRACE}-{span}-01"))
    );
}

#[tokio::test]
async fn a_collector_that_is_away_costs_one_warning_and_delays_nothing() {
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    for _ in 0..3 {
        let response = server.transcribe(&sample("en-command.wav"), &[]).await;
        assert_eq!(response.status(), 200);
    }
    server.log_line("traces cannot be sent").await;
    let response = server.transcribe(&sample("en-command.wav"), &[]).await;
    assert_eq!(response.status(), 200);
    let begun = Instant::now();
    assert_eq!(server.terminate().await, Some(0));
    // The limit is two seconds; this is for slow machines.
    assert!(begun.elapsed().as_secs() < 20);
    assert_eq!(server.log_lines("traces cannot be sent").len(), 1);
}
