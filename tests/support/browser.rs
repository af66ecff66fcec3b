//! A real browser, if one is installed, and a page that uses the server from another origin.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Notify;

use crate::PATIENCE;

/// Names under which Chromium is installed.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

/// Sends the clip as a page with a microphone would, and posts the result to the page's own server. The picture
/// is served last: until then the page is not loaded.
const PAGE: &str = r#"<!doctype html>
<title>A page of another origin</title>
<script>
  const given = new URLSearchParams(location.search);
  const ask = async () => {
    const form = new FormData();
    form.append("file", await (await fetch("/clip.wav")).blob(), "clip.wav");
    const answer = await fetch(given.get("server") + "/v1/audio/transcriptions", {
      method: "POST",
      body: form,
      credentials: "include",
      headers: {Authorization: "Bearer " + given.get("key")},
    });
    return {
      status: answer.status,
      route: answer.headers.get("x-route"),
      request_id: answer.headers.get("x-request-id"),
      body: await answer.json(),
    };
  };
  ask()
    .catch(failure => ({failure: String(failure)}))
    .then(seen => fetch("/seen", {method: "POST", body: JSON.stringify(seen)}));
</script>
<img src="/last">
"#;

/// An installed browser.
pub struct Browser(PathBuf);

impl Browser {
    /// An installed Chromium. Says so if there is none.
    pub fn find() -> Option<Self> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&folders)
            .flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)))
            .find(|path| path.is_file());
        if found.is_none() {
            eprintln!("skipped: there is no Chromium (scripts/test installs it where it can)");
        }
        found.map(Self)
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.0
    }

    /// Opens the page under this origin and returns what its script saw of the server.
    pub async fn visit(&self, page: &Page, origin: &str, server: &str, key: &str) -> Value {
        let profile = tempfile::tempdir().expect("a folder");
        let browser = Command::new(&self.0)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args(["--no-first-run", "--disable-background-networking"])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--no-proxy-server",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            // The command ends when the page is loaded.
            .arg("--dump-dom")
            .arg(format!("{origin}/page?server={server}&key={key}"))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, browser).await;
        let output = output.expect("the browser ends").expect("it starts");
        let seen = page
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        seen.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// The page's own server.
pub struct Page {
    port: u16,
    seen: Arc<Mutex<Option<Value>>>,
}

#[derive(Clone)]
struct State {
    clip: Vec<u8>,
    seen: Arc<Mutex<Option<Value>>>,
    was_seen: Arc<Notify>,
}

impl Page {
    /// Serves the page on a free port; its script sends this clip. Needs a runtime.
    pub fn serve(clip: &Path) -> Self {
        let state = State {
            clip: std::fs::read(clip).expect("the clip is there"),
            seen: Arc::default(),
            was_seen: Arc::default(),
        };
        let seen = Arc::clone(&state.seen);
        let app = move || {
            App::new()
                .app_data(web::Data::new(state.clone()))
                .route("/page", web::get().to(page))
                .route("/clip.wav", web::get().to(clip_file))
                .route("/seen", web::post().to(take))
                .route("/last", web::get().to(last))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .bind(("127.0.0.1", 0))
            .expect("binds");
        let port = server.addrs()[0].port();
        tokio::spawn(server.run());
        Self { port, seen }
    }

    /// Its origin.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same server by another name, which is another origin to a browser.
    pub fn other_origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }
}

async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .body(PAGE)
}

async fn clip_file(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("audio/wav")
        .body(state.clip.clone())
}

async fn take(state: web::Data<State>, body: web::Bytes) -> HttpResponse {
    let seen = serde_json::from_slice(&body).expect("JSON");
    *state.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    state.was_seen.notify_one();
    HttpResponse::NoContent().finish()
}

async fn last(state: web::Data<State>) -> HttpResponse {
    state.was_seen.notified().await;
    HttpResponse::NoContent().finish()
}
