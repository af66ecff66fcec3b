//! Keys of a real server: names, rotation under load, and faults of their file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use test_support::keys::{KeysFile, hang_up};
use test_support::{Server, form, model, program, refused, sample, signal};
use uttera_stt::settings::variables::VARIABLES;

const RELOADED: &str = "the keys were reloaded";
const REJECTED: &str = "the keys could not be reloaded";

async fn status(server: &Server, key: &str) -> u16 {
    let request = server.client.get(format!("{}/v1/models", server.url));
    let response = request.bearer_auth(key).send().await.expect("an answer");
    response.status().as_u16()
}

/// Users that send one request after the other, with the most recent key.
#[derive(Clone)]
struct Users {
    key: Arc<Mutex<String>>,
    answered: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
}

impl Users {
    async fn work(self, url: String, file: PathBuf) -> Vec<u16> {
        let client = reqwest::Client::new();
        let mut statuses = Vec::new();
        while !self.enough.load(Ordering::SeqCst) {
            let key = self.key.lock().expect("no panic").clone();
            let request = client
                .post(format!("{url}/v1/audio/transcriptions"))
                .header("cache-control", "no-store")
                .bearer_auth(key)
                .multipart(form(&file, &[]));
            let response = request.send().await.expect("an answer");
            statuses.push(response.status().as_u16());
            let text = response.text().await.expect("a body");
            assert!(text.contains("kitchen"), "{text}");
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
        statuses
    }

    /// Waits until this number of further requests is answered.
    async fn until_more_answers(&self, server: &Server, more: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        let reached = || async { self.answered.load(Ordering::SeqCst) >= goal };
        server.until("answers", reached).await;
    }
}

#[tokio::test]
async fn keys_are_exchanged_under_load_and_no_request_is_lost() {
    const USERS: usize = 3;
    let keys = KeysFile::new("laptop-0 secret-0\n");
    let settings = [("API_KEYS_FILE", keys.name())];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let users = Users {
        key: Arc::new(Mutex::new("secret-0".to_owned())),
        answered: Arc::default(),
        enough: Arc::default(),
    };
    let working: Vec<_> = (0..USERS)
        .map(|_| {
            users
                .clone()
                .work(server.url.clone(), sample("en-command.wav"))
        })
        .map(tokio::spawn)
        .collect();
    for turn in 0..3 {
        let (old, new) = (format!("secret-{turn}"), format!("secret-{}", turn + 1));
        users.until_more_answers(&server, USERS).await;
        let (first, second) = (
            format!("laptop-{turn} {old}\n"),
            format!("laptop-{} {new}\n", turn + 1),
        );
        keys.write(&format!("{first}{second}"));
        hang_up(&server, RELOADED).await;
        // The server does not know yet, and the keys in force are read again and again.
        for _ in 0..20 {
            signal(server.pid(), "HUP");
        }
        users.until_more_answers(&server, USERS).await;
        (*users.key.lock().expect("no panic")).clone_from(&new);
        // Each user had one running request with the old key, and then one with the new key.
        users.until_more_answers(&server, 2 * USERS).await;
        keys.write(&second);
        hang_up(&server, &format!("{RELOADED} keys=\"laptop-{}\"", turn + 1)).await;
        assert_eq!(status(&server, &old).await, 401, "{old}");
        assert_eq!(status(&server, &new).await, 200, "{new}");
    }
    users.until_more_answers(&server, USERS).await;
    users.enough.store(true, Ordering::SeqCst);
    let statuses = join_all(working).await;
    let statuses: Vec<u16> = (statuses.into_iter())
        .flat_map(|of_one| of_one.expect("no panic"))
        .collect();
    assert!(statuses.len() > 12 * USERS, "{}", statuses.len());
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test]
async fn a_request_under_way_outlives_its_key() {
    let keys = KeysFile::new("old secret-old\nnew secret-new\n");
    let settings = [("API_KEYS_FILE", keys.name())];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-long.ogg");
    let running = server.transcribe_with("secret-old", &file);
    let exchanging = async {
        server.until_a_lane_has_work().await;
        keys.write("new secret-new\n");
        hang_up(&server, RELOADED).await;
        let late = server.transcribe_with("secret-old", &file).await;
        refused(late, 401, "invalid_api_key", None).await;
    };
    let (response, ()) = tokio::join!(running, exchanging);
    assert_eq!(response.status(), 200);
    assert!(response.text().await.expect("a body").contains("river"));
}

#[tokio::test]
async fn the_settings_file_is_read_again_and_never_opens_the_server() {
    let file = KeysFile::new("API_KEYS=first-secret\n");
    let settings = [("CONFIG_PATH", file.name())];
    let server = Server::start(&model("tiny.en").await, &settings).await;
    assert_eq!(status(&server, "first-secret").await, 200);
    file.write("API_KEYS=second-secret\nMAX_UPLOAD_MB=16\n");
    hang_up(&server, RELOADED).await;
    server
        .log_line("after a restart settings=\"MAX_UPLOAD_MB\"")
        .await;
    file.write("API_KEYS=second-secret\nMAX_UPLOAD_BM=16\n");
    hang_up(&server, RELOADED).await;
    server.log_line("did you mean MAX_UPLOAD_MB?").await;
    for wrong in [
        "API_KEYS=third-secret\nMAX_UPLOAD_MB=many\n",
        "third-secret\n",
        "API_KEYS=\n",
        "",
    ] {
        file.write(wrong);
        let line = hang_up(&server, REJECTED).await;
        assert!(!line.contains("third-secret"), "{line}");
        assert_eq!(status(&server, "second-secret").await, 200);
        assert_eq!(status(&server, "first-secret").await, 401);
        assert_eq!(server.get("/v1/models").await.status(), 401);
    }
    std::fs::remove_file(&file.path).expect("removes");
    hang_up(&server, REJECTED).await;
    assert_eq!(status(&server, "second-secret").await, 200);
}

/// An invalid key file, and the expected message.
const BROKEN: &[(&str, &str)] = &[
    ("", "contains no key"),
    ("# laptop secret\n", "contains no key"),
    ("laptop\n", "line 1: expected `name key`"),
    ("ok secret-1\nlap/top secret-2\n", "line 2: a name consists"),
    ("a secret-1\na secret-2\n", "the name a occurs twice"),
    ("a secret-1\nb secret-1\n", "the key of b has another name"),
    ("a secret-1 priority=urgent\n", "priority=high"),
];

#[tokio::test]
async fn a_broken_file_keeps_the_keys_in_force_and_says_so_in_one_line() {
    let keys = KeysFile::new("laptop good-secret\n");
    let settings = [("API_KEYS_FILE", keys.name()), ("API_KEYS", "plain-secret")];
    let server = Server::start(&model("tiny.en").await, &settings).await;
    for (text, complaint) in BROKEN {
        keys.write(text);
        let line = hang_up(&server, REJECTED).await;
        assert!(line.contains("ERROR") && line.contains(complaint), "{line}");
        assert!(!line.contains("secret-"), "{line}");
        for key in ["good-secret", "plain-secret"] {
            assert_eq!(status(&server, key).await, 200, "{text:?}");
        }
    }
    std::fs::remove_file(&keys.path).expect("removes");
    let line = hang_up(&server, REJECTED).await;
    assert!(line.contains("cannot be read"), "{line}");
    assert_eq!(status(&server, "good-secret").await, 200);
    let is_ok = async || server.metric("uttera_stt_key_file_ok").await;
    assert!(is_ok().await < 0.5);
    keys.write("phone new-secret\n");
    hang_up(&server, RELOADED).await;
    assert!(is_ok().await > 0.5);
    assert_eq!(status(&server, "good-secret").await, 401);
    assert_eq!(status(&server, "new-secret").await, 200);
}

#[tokio::test]
async fn a_closed_terminal_drains_the_server_however_many_signals_follow() {
    let model = model("tiny.en").await;
    let (mut server, terminal) = Server::start_at_terminal(&model, &[]).await;
    server.until_ready().await;
    // While the terminal is open, SIGHUP reloads the keys.
    signal(server.pid(), "HUP");
    server.log_line("the keys were reloaded").await;
    let running = server.start_long_request().await;
    drop(terminal);
    server.log_line("the terminal was closed").await;
    for _ in 0..3 {
        signal(server.pid(), "HUP");
    }
    let response = running.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(server.exit_code().await, Some(0));
}

fn run(arguments: &[&str], keys: &Path) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let working = folder.path().join("run/here");
    std::fs::create_dir_all(&working).expect("makes");
    let mut command = Command::new(program());
    for variable in VARIABLES {
        command.env_remove(variable.name);
    }
    let command = command.args(arguments).current_dir(working);
    let command = command.env("API_KEYS_FILE", keys).env("PORT", "0");
    command.output().expect("runs")
}

#[test]
fn a_broken_file_stops_the_start_with_one_line() {
    for (text, complaint) in BROKEN {
        let keys = KeysFile::new(text);
        for command in ["serve", "check-config"] {
            let ended = run(&[command], &keys.path);
            assert_eq!(ended.status.code(), Some(1), "{text:?}");
            let said = String::from_utf8(ended.stderr).expect("UTF-8");
            let errors: Vec<&str> = (said.lines())
                .filter(|line| line.starts_with("error: API_KEYS_FILE: "))
                .collect();
            assert_eq!(errors.len(), 1, "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(errors[0].contains(complaint), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
    let nowhere = run(&["serve"], Path::new("nowhere/keys"));
    let said = String::from_utf8(nowhere.stderr).expect("UTF-8");
    assert!(said.contains("nowhere/keys cannot be read"), "{said}");
}

#[tokio::test]
async fn logs_and_metrics_have_names_and_nothing_has_a_key() {
    let keys = KeysFile::new("laptop topsecret-1\nphone topsecret-2\n");
    let settings = [
        ("API_KEYS_FILE", keys.name()),
        ("API_KEYS", "topsecret-3"),
        ("METRICS_KEYED", "1"),
        ("RUST_LOG", "trace"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    for (key, name) in [("topsecret-1", "laptop"), ("topsecret-3", "key-1")] {
        assert_eq!(server.transcribe_with(key, &file).await.status(), 200);
        server
            .log_line(&format!("client=\"{name}\" address=127.0.0.1"))
            .await;
    }
    let wrong = server.transcribe_with("topsecret-4", &file).await;
    let told = refused(wrong, 401, "invalid_api_key", None).await;
    assert!(!told.contains("topsecret"), "{told}");
    server
        .log_line("client=\"anonymous\" address=127.0.0.1")
        .await;
    let metrics = server.client.get(format!("{}/metrics", server.url));
    let unkeyed = metrics.try_clone().expect("a copy").send().await;
    refused(unkeyed.expect("an answer"), 401, "invalid_api_key", None).await;
    let page = metrics.bearer_auth("topsecret-2").send().await;
    let page = page.expect("an answer").text().await.expect("a body");
    for series in [
        "uttera_stt_key_requests_total{key=\"laptop\",status_class=\"2xx\"} 1",
        "uttera_stt_key_requests_total{key=\"key-1\",status_class=\"2xx\"} 1",
        "uttera_stt_key_requests_total{key=\"phone\",status_class=\"5xx\"} 0",
        "uttera_stt_key_requests_total{key=\"anonymous\",status_class=\"4xx\"} 2",
        "uttera_stt_key_audio_seconds_total{key=\"laptop\"} 1",
        "uttera_stt_key_audio_seconds_total{key=\"phone\"} 0",
    ] {
        assert!(page.lines().any(|line| line == series), "{series}\n{page}");
    }
    hang_up(&server, RELOADED).await;
    let log = server.log().join("\n");
    assert!(!page.contains("topsecret") && !log.contains("topsecret"));
}

#[tokio::test]
async fn a_keys_priority_decides_which_request_is_first() {
    let keys = KeysFile::new("usual s-1\nbatch s-2 priority=low\nvoice s-3 priority=high\n");
    let settings = [("API_KEYS_FILE", keys.name())];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let send = |key: &'static str, id: &'static str, file: &str| {
        let request = server
            .client
            .post(format!("{}/v1/audio/transcriptions", server.url))
            .header("x-request-id", id)
            .bearer_auth(key)
            .multipart(form(&sample(file), &[]));
        async { request.send().await.expect("an answer").status() }
    };
    // The only worker is stopped during the first request, so that the others wait together.
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let second = async {
        server.until_a_lane_has_work().await;
        send("s-2", "from-batch", "en-sentence.wav").await
    };
    let third = async {
        until_queued(&server, 1).await;
        send("s-3", "from-voice", "en-sentence.wav").await
    };
    let release = async {
        until_queued(&server, 2).await;
        signal(worker, "CONT");
    };
    let first = send("s-1", "from-usual", "en-command.wav");
    let (first, second, third, ()) = tokio::join!(first, second, third, release);
    assert_eq!(
        [first, second, third].map(|status| status.as_u16()),
        [200; 3]
    );
    let handed_out = server.log_lines("chunk assigned");
    let place = |id: &str| handed_out.iter().position(|line| line.contains(id));
    assert!(place("from-voice") < place("from-batch"), "{handed_out:#?}");
}

/// Waits until this many chunks wait for the lane.
async fn until_queued(server: &Server, chunks: u64) {
    let waiting = || async {
        let health = server.health().await;
        health["smart_routing"]["queue_depth"].as_u64() >= Some(chunks)
    };
    server.until("audio waits", waiting).await;
}
