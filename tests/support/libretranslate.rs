//! A stand-in for a LibreTranslate server after its documented API: `POST /translate` with `q`, `source`,
//! `target`, `format` and `api_key`. It translates by putting the target's code before each text, and fails on
//! demand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

/// The supported languages.
const LANGUAGES: &[&str] = &["de", "en", "es", "fr", "ja", "nb", "zh-Hans", "zh-Hant"];

/// Its reaction to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Behaves as documented.
    Works,
    /// Requires this key.
    WantsKey(&'static str),
    /// It takes far longer than any timeout.
    Slow,
    /// It fails with an HTML page.
    BreaksDown,
    /// It replies with this status and a documented error.
    SaysNo(u16),
    /// It replies with status 200 and an error.
    ErrorWithSuccess,
    /// It replies with something else than JSON.
    NoJson,
    /// It leaves out the texts.
    NoTexts,
    /// It leaves out one text.
    OneTextLess,
    /// It redirects to a path of its own that works.
    Redirects,
}

/// The server, which ends when this is dropped.
pub struct StandIn {
    server: MockServer,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl StandIn {
    /// Starts a server that behaves as documented.
    pub async fn start() -> Self {
        let server = MockServer::start().await;
        let behaviour = Arc::new(Mutex::new(Behaviour::Works));
        for at in ["/translate", "/elsewhere"] {
            let responder = Responder(Arc::clone(&behaviour));
            Mock::given(method("POST"))
                .and(path(at))
                .and(header("content-type", "application/json"))
                .respond_with(responder)
                .mount(&server)
                .await;
        }
        Self { server, behaviour }
    }

    /// The value for `LIBRETRANSLATE_URL`.
    pub fn url(&self) -> String {
        self.server.uri()
    }

    /// Changes the reaction to later calls.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("no thread panicked") = behaviour;
    }

    /// The bodies of all calls so far.
    pub async fn calls(&self) -> Vec<Value> {
        let requests = self.server.received_requests().await.expect("recorded");
        let body = |request: &Request| request.body_json().expect("JSON");
        requests.iter().map(body).collect()
    }
}

/// The stand-in's translation of a text.
pub fn translated(text: &str, target: &str) -> String {
    format!("[{target}] {text}")
}

struct Responder(Arc<Mutex<Behaviour>>);

impl Respond for Responder {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let behaviour = *self.0.lock().expect("no thread panicked");
        let question: Value = request.body_json().expect("JSON");
        let fine = match translate(&question) {
            Ok(texts) => texts,
            Err(error) => return no(400, &error),
        };
        match behaviour {
            Behaviour::WantsKey(key) if question["api_key"] == key => yes(&fine),
            Behaviour::WantsKey(_) => no(403, "Invalid API key"),
            Behaviour::Slow => yes(&fine).set_delay(Duration::from_secs(3600)),
            Behaviour::BreaksDown => ResponseTemplate::new(500).set_body_string("<h1>Oh</h1>"),
            Behaviour::SaysNo(status) => no(status, "Slowdown"),
            Behaviour::ErrorWithSuccess => no(200, "Cannot translate text"),
            Behaviour::NoJson => ResponseTemplate::new(200).set_body_string("<h1>Hello</h1>"),
            Behaviour::NoTexts => ResponseTemplate::new(200).set_body_json(json!({})),
            Behaviour::OneTextLess => {
                let mut less = fine;
                less.as_array_mut().expect("a list").pop();
                yes(&less)
            }
            Behaviour::Redirects if request.url.path() == "/translate" => {
                ResponseTemplate::new(307).insert_header("location", "/elsewhere")
            }
            Behaviour::Works | Behaviour::Redirects => yes(&fine),
        }
    }
}

fn yes(texts: &Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"translatedText": texts}))
}

fn no(status: u16, error: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({"error": error}))
}

/// Returns a text for a text and a list for a list.
fn translate(question: &Value) -> Result<Value, String> {
    let field = |name: &str| {
        let value = question[name].as_str().filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("Invalid request: missing {name} parameter"))
    };
    let (source, target) = (field("source")?, field("target")?);
    assert_eq!(question["format"], "text");
    for code in [source, target] {
        if code != "auto" && !LANGUAGES.contains(&code) {
            return Err(format!("{code} is not supported"));
        }
    }
    let one = |text: &Value| Value::from(translated(text.as_str().expect("a text"), target));
    match &question["q"] {
        Value::Array(texts) => Ok(texts.iter().map(one).collect()),
        text @ Value::String(_) => Ok(one(text)),
        _ => Err("Invalid request: missing q parameter".to_owned()),
    }
}
