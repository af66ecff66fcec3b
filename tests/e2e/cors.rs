//! Access for pages of other origins (CORS), over HTTP and with a real browser.

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, Response};
use serde_json::Value;
use test_support::browser::{Browser, Page};
use test_support::{Server, form, model, sample, sample_text, words};

const PATH: &str = "/v1/audio/transcriptions";
const PAGE: &str = "https://chat.example";
const STRANGER: &str = "https://chat.example.evil.example";

/// A request as a page of this origin sends it.
async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = server
        .client
        .request(method, format!("{}{path}", server.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

async fn preflight(server: &Server, origin: &str, method: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", method),
        (
            "access-control-request-headers",
            "authorization,x-stainless-os",
        ),
    ];
    ask(server, Method::OPTIONS, PATH, &headers).await
}

/// A transcription with a key, from a page of this origin.
async fn transcribe(server: &Server, origin: &str, fields: &[(&str, &str)]) -> Response {
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.bearer_auth("sesame").header("origin", origin);
    let form = form(&sample("en-command.wav"), fields);
    request.multipart(form).send().await.expect("an answer")
}

fn cors_headers(headers: &HeaderMap) -> Vec<&str> {
    let names = headers.keys().map(HeaderName::as_str);
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

/// Checks that a page of this origin may read the answer.
fn readable(response: &Response, origin: &str) {
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], origin);
    assert_eq!(headers["access-control-allow-credentials"], "true");
    let exposed = headers["access-control-expose-headers"]
        .to_str()
        .expect("ASCII");
    let exposed: Vec<String> = exposed
        .split(',')
        .map(|name| name.trim().to_lowercase())
        .collect();
    for expected in [
        "x-queue-eta-ms",
        "x-queue-position",
        "x-request-id",
        "x-route",
        "x-translation-mode",
        "x-fallback-used",
        "x-fallback-error",
        "x-final-model",
    ] {
        assert!(exposed.iter().any(|name| name == expected), "{expected}");
    }
    varies(headers);
}

/// Checks that caches keep the answers to different origins apart.
fn varies(headers: &HeaderMap) {
    let vary = headers["vary"].to_str().expect("ASCII").to_lowercase();
    assert!(vary.split(", ").any(|name| name == "origin"), "{vary}");
}

#[tokio::test]
async fn without_the_setting_there_is_no_header_at_all() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "sesame")]).await;
    let response = preflight(&server, PAGE, "POST").await;
    assert_eq!(response.status(), 405);
    assert_eq!(cors_headers(response.headers()), Vec::<&str>::new());
    let response = transcribe(&server, PAGE, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(cors_headers(response.headers()), Vec::<&str>::new());
}

#[tokio::test]
async fn only_pages_of_configured_origins_get_cors_headers() {
    let settings = [
        (
            "CORS_ALLOW_ORIGINS",
            "https://Chat.example:443/, http://localhost:3000",
        ),
        ("API_KEYS", "sesame"),
        ("MAX_UPLOAD_MB", "0.5"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for origin in [PAGE, "http://localhost:3000"] {
        // Without a key, because browsers send none with preflights.
        for method in ["GET", "POST", "HEAD", "OPTIONS"] {
            let response = preflight(&server, origin, method).await;
            assert_eq!(response.status(), 200, "{method}");
            let headers = response.headers();
            assert_eq!(headers["access-control-allow-origin"], origin);
            assert_eq!(headers["access-control-allow-credentials"], "true");
            assert_eq!(
                headers["access-control-allow-headers"],
                "authorization,x-stainless-os"
            );
            let methods = headers["access-control-allow-methods"]
                .to_str()
                .expect("ASCII");
            for allowed in ["GET", "POST", "HEAD", "OPTIONS"] {
                assert!(methods.split(", ").any(|name| name == allowed), "{methods}");
            }
            assert!(headers.contains_key("x-request-id"));
            varies(headers);
        }
        let response = transcribe(&server, origin, &[]).await;
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("x-route"));
        readable(&response, origin);
    }
    refusals_are_readable(&server).await;
    strangers_get_nothing(&server).await;
}

async fn refusals_are_readable(server: &Server) {
    let with_key = [("origin", PAGE), ("authorization", "Bearer sesame")];
    for (status, response) in [
        (
            401,
            ask(server, Method::GET, "/v1/models", &with_key[..1]).await,
        ),
        (404, ask(server, Method::GET, "/nothing", &with_key).await),
        (405, ask(server, Method::PUT, PATH, &with_key).await),
        (
            405,
            ask(server, Method::OPTIONS, PATH, &with_key[..1]).await,
        ),
        (415, ask(server, Method::POST, PATH, &with_key).await),
        (
            400,
            transcribe(server, PAGE, &[("language", "klingon")]).await,
        ),
        (
            422,
            transcribe(server, PAGE, &[("response_format", "xml")]).await,
        ),
        (413, upload(server, 3 * 1024 * 1024).await),
    ] {
        assert_eq!(response.status().as_u16(), status);
        readable(&response, PAGE);
        let body: Value = response.json().await.expect("JSON");
        assert!(body["error"]["message"].is_string(), "{body}");
    }
}

async fn upload(server: &Server, bytes: usize) -> Response {
    let part = reqwest::multipart::Part::bytes(vec![0; bytes]).file_name("a.wav");
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.bearer_auth("sesame").header("origin", PAGE);
    let form = reqwest::multipart::Form::new().part("file", part);
    request.multipart(form).send().await.expect("an answer")
}

async fn strangers_get_nothing(server: &Server) {
    for stranger in [
        STRANGER,
        "http://chat.example",
        "null",
        "https://chat.example:8443",
    ] {
        let response = preflight(server, stranger, "POST").await;
        assert_eq!(response.status(), 400);
        assert_eq!(cors_headers(response.headers()), Vec::<&str>::new());
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["error"]["code"], "cors_refused");
        // A client that sends an origin but is no browser is served.
        let response = transcribe(server, stranger, &[]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(cors_headers(response.headers()), Vec::<&str>::new());
        varies(response.headers());
    }
    let response = preflight(server, PAGE, "PUT").await;
    assert_eq!(response.status(), 400);
    // Without an origin, there are no CORS headers.
    let response = server.get("/health").await;
    assert_eq!(cors_headers(response.headers()), Vec::<&str>::new());
}

#[tokio::test]
async fn a_star_means_every_origin_by_its_name() {
    let settings = [("CORS_ALLOW_ORIGINS", "*"), ("API_KEYS", "sesame")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for origin in [PAGE, STRANGER, "null"] {
        let response = preflight(&server, origin, "POST").await;
        assert_eq!(response.headers()["access-control-allow-origin"], origin);
        assert_eq!(
            response.headers()["access-control-allow-credentials"],
            "true"
        );
        readable(&transcribe(&server, origin, &[]).await, origin);
    }
}

#[tokio::test]
async fn a_real_browser_lets_the_page_of_a_configured_origin_read_the_answer_and_no_other() {
    let Some(browser) = Browser::find() else {
        return;
    };
    let page = Page::serve(&sample("en-command.wav"));
    let origin = page.origin();
    let settings = [
        ("CORS_ALLOW_ORIGINS", origin.as_str()),
        ("API_KEYS", "sesame"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let seen = browser.visit(&page, &origin, &server.url, "sesame").await;
    assert_eq!(
        (&seen["status"], &seen["route"]),
        (&200.into(), &"HOT".into()),
        "{seen}"
    );
    assert!(seen["request_id"].is_string(), "{seen}");
    let text = seen["body"]["text"].as_str().expect("text");
    assert_eq!(words(text), words(&sample_text("en-command.wav")));
    // The page can read an error as well.
    let seen = browser.visit(&page, &origin, &server.url, "wrong").await;
    assert_eq!(seen["status"], 401, "{seen}");
    assert_eq!(seen["body"]["error"]["code"], "invalid_api_key");
    // The same page under another host name has another origin.
    let seen = browser
        .visit(&page, &page.other_origin(), &server.url, "sesame")
        .await;
    server.log_line("cors_refused").await;
    assert!(
        seen["failure"].is_string() && seen.get("status").is_none(),
        "{seen}"
    );
}
