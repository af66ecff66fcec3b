//! `uttera-stt conformance` from outside: against this server, one with a few wrong replies, one with the worst
//! replies, and none.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Output, Stdio};

use actix_web::http::Method;
use actix_web::http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use actix_web::web::{self, Bytes};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use reqwest::Client;
use serde_json::Value;
use test_support::{Server, model, program};
use tokio::process::Command;

async fn conformance(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program());
    command
        .arg("conformance")
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null());
    command.output().await.expect("runs")
}

/// The results file of a run, and the exit status.
async fn results(arguments: &[&str]) -> (Value, Option<i32>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("results.json");
    let path = file.to_str().expect("UTF-8");
    let output = conformance(&[&["--json", path], arguments].concat()).await;
    let json = std::fs::read(&file).unwrap_or_else(|_| panic!("{output:?}"));
    let json = serde_json::from_slice(&json).expect("JSON");
    (json, output.status.code())
}

/// The checks with this outcome, and the reasons.
fn with_outcome(results: &Value, outcome: &str) -> BTreeSet<(String, String)> {
    let checks = results["checks"].as_array().expect("checks").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    checks
        .filter(|check| check["outcome"] == outcome)
        .map(|check| (text(&check["check"]), text(&check["why"])))
        .collect()
}

#[tokio::test]
async fn this_server_with_an_english_model_and_keys_keeps_all_promises() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "old,secret")]).await;
    let (results, code) = results(&[&server.url, "--key", "secret"]).await;
    assert_eq!(with_outcome(&results, "fail"), BTreeSet::new());
    assert_eq!(code, Some(0));
    for (check, why) in with_outcome(&results, "skip") {
        let expected = [
            "the model supports English only",
            "the server requires a key",
            "no origin was given (--origin)",
        ];
        assert!(expected.contains(&why.as_str()), "{check}: {why}");
    }
}

#[tokio::test]
async fn this_server_with_a_model_of_many_languages_keeps_all_promises() {
    let origin = "https://page.example";
    let server = Server::ready(&model("base").await, &[("CORS_ALLOW_ORIGINS", origin)]).await;
    let only = "translations,languages,streaming,bazarr,cors";
    let (results, code) = results(&[&server.url, "--only", only, "--origin", origin]).await;
    assert_eq!(with_outcome(&results, "fail"), BTreeSet::new());
    let skipped = with_outcome(&results, "skip");
    let expected = "no origin is let in unless one is configured";
    assert!(
        skipped.iter().map(|(check, _)| check).eq([expected]),
        "{skipped:?}"
    );
    assert_eq!(code, Some(0));
}

/// Serves the handler on a free port until the test ends.
fn serve<H, R>(handler: H) -> String
where
    H: Fn(HttpRequest, Bytes) -> R + Clone + Send + 'static,
    R: Future<Output = HttpResponse> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::PayloadConfig::new(16 << 20))
            .default_service(web::to(handler.clone()))
    });
    let server = server.workers(1).disable_signals();
    tokio::spawn(server.listen(listener).expect("listens").run());
    format!("http://{address}")
}

/// Forwards the request to the real server and returns its answer.
async fn forward(url: &str, request: &HttpRequest, body: Bytes) -> (HttpResponse, Bytes) {
    let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes());
    let method = method.expect("a method");
    let mut forwarded = Client::new()
        .request(method, format!("{url}{}", request.uri()))
        .body(body);
    for (name, value) in request.headers() {
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name) {
            forwarded = forwarded.header(name.as_str(), value.as_bytes());
        }
    }
    let answer = forwarded.send().await.expect("an answer");
    let status = answer.status().as_u16().try_into().expect("a status");
    let mut response = HttpResponse::build(status);
    for (name, value) in answer.headers() {
        if !["content-length", "transfer-encoding"].contains(&name.as_str()) {
            response.insert_header((name.as_str(), value.as_bytes()));
        }
    }
    let body = answer.bytes().await.expect("a body");
    (response.finish(), body)
}

fn endless() -> HttpResponse {
    let again = || std::future::ready(Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 8192])));
    let stream = futures::stream::unfold((), move |()| async move { Some((again().await, ())) });
    HttpResponse::Ok().streaming(Box::pin(stream))
}

/// The server at `url`, with a few modified answers.
async fn almost(url: String, request: HttpRequest, body: Bytes) -> HttpResponse {
    let path = request.path().to_owned();
    if path == "/livez" {
        return endless();
    }
    let (mut head, body) = forward(&url, &request, body).await;
    if path.starts_with("/v1/models/no-such") {
        return HttpResponse::Ok()
            .content_type("text/html")
            .body("<html>no such model</html>");
    }
    let kind = head.headers().get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let body = match kind {
        _ if kind.starts_with("application/x-subrip") => text.replace(',', "."),
        _ if path == "/metrics" => text.replace("# HELP uttera_stt_load_score", "# HLEP it"),
        _ => text.into_owned(),
    };
    if let Some(route) = head.headers_mut().get_mut("x-route") {
        *route = "WARM".parse().expect("a value");
    }
    head.set_body(body).map_into_boxed_body()
}

#[tokio::test]
async fn a_server_with_a_few_wrong_answers_fails_exactly_those_checks() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let url = server.url.clone();
    let broken = serve(move |request, body| almost(url.clone(), request, body));
    let only = "models,formats,headers,health,metrics";
    let (results, code) = results(&[&broken, "--only", only]).await;
    let failed = with_outcome(&results, "fail");
    let names: BTreeSet<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "an unknown model is 404 with an error object",
            "srt has numbers, times and the words",
            "srt of a long file runs to its end",
            "every series is there, with HELP and TYPE",
            "HEAD has GET's status and no body",
            "/livez and /readyz are 200",
            "no key is needed",
            "X-Route names the lanes",
            "a streamed answer has them all, and done the route",
        ]),
        "{failed:#?}"
    );
    let why = |name: &str| {
        let found = failed.iter().find(|(found, _)| found == name);
        found.map_or("", |(_, why)| why.as_str())
    };
    assert!(why("an unknown model is 404 with an error object").contains("<html>"));
    assert!(why("/livez and /readyz are 200").contains("does not end"));
    assert!(why("X-Route names the lanes").contains("WARM"));
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn a_server_with_the_worst_replies_does_not_end_a_run() {
    // POST requests get no answer; GET requests get HTML, an endless body, or a broken one.
    let worst = serve(|request: HttpRequest, _body| async move {
        if request.method() == Method::POST {
            std::future::pending::<()>().await;
        }
        match request.path() {
            "/v1/models" => HttpResponse::Ok().body("<html>error</html>"),
            "/health" => endless(),
            _ => {
                let broken = futures::stream::once(async { Err(std::io::Error::other("broken")) });
                HttpResponse::Ok().streaming::<_, std::io::Error>(Box::pin(broken))
            }
        }
    });
    let (all, code) = results(&[&worst, "--limit-seconds", "1"]).await;
    assert_eq!(with_outcome(&all, "pass"), BTreeSet::new());
    assert_eq!(code, Some(1));
    let failed = with_outcome(&all, "fail");
    let whys = |part: &str| failed.iter().filter(|(_, why)| why.contains(part)).count();
    assert_eq!(
        (whys("within 1 s"), whys("itself panicked")),
        (3, 0),
        "{failed:#?}"
    );
    assert!(whys("not tried: 3 checks") > 80, "{failed:#?}");

    let asked_for = ["--only", "models,health,metrics"];
    let (some, _) = results(&[&[worst.as_str()], &asked_for[..]].concat()).await;
    assert_eq!(with_outcome(&some, "pass"), BTreeSet::new());
    assert_eq!(some["skipped"], 0);
}

#[tokio::test]
async fn an_unreachable_server_is_exit_status_2() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    for url in [format!("http://{address}"), "nonsense".to_owned()] {
        let output = conformance(&[&url]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}
