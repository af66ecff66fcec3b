//! `uttera-stt doctor` and `check-config` on made-up and on broken setups.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use test_support::command_line::{err, out, run_with};
use test_support::port::free_port;
use test_support::redis_server::RedisServer;
use test_support::{Server, model, voice_activity};

/// Part of every secret in these tests, which no output may show.
const SECRET: &str = "hunter2";

/// A working folder, and settings with which the server would work there.
struct Setup {
    folder: tempfile::TempDir,
    settings: Vec<(String, String)>,
}

/// The findings of a run, and its exit status.
struct Findings {
    all: Vec<Value>,
    status: i32,
}

impl Setup {
    async fn healthy() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let settings = [
            ("WHISPER_MODEL", text(&model("tiny.en").await)),
            ("VAD_MODEL", text(&voice_activity().await)),
            ("XDG_CACHE_HOME", text(folder.path())),
            ("TMPDIR", text(folder.path())),
            ("PORT", "0".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        Self {
            folder,
            settings: settings.into(),
        }
    }

    /// Sets a variable, or replaces its value.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a variable.
    fn without(mut self, name: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let settings = self.settings.iter();
        let settings: Vec<(&str, &str)> = settings
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let output = run_with(self.folder.path(), arguments, &settings);
        let all = out(&output) + &err(&output);
        assert!(!all.contains(SECRET), "{all}");
        output
    }

    fn examine(&self, arguments: &[&str]) -> Findings {
        let output = self.run(&[&["doctor", "--json"], arguments].concat());
        let parsed = serde_json::from_slice(&output.stdout);
        let parsed = parsed.unwrap_or_else(|error| {
            panic!("{error}: {}{}", out(&output), err(&output));
        });
        let Value::Array(all) = parsed else {
            panic!("{parsed}");
        };
        Findings {
            all,
            status: output.status.code().expect("it exits"),
        }
    }
}

impl Findings {
    /// The worst severity of a check.
    fn of(&self, check: &str) -> &str {
        let of_check = self.all.iter().filter(|finding| finding["check"] == check);
        let severities = of_check.map(|finding| finding["severity"].as_str().expect("a word"));
        let rank = |severity: &&str| {
            let known = ["ok", "note", "warning", "error"];
            known.iter().position(|known| known == severity)
        };
        severities.max_by_key(rank).unwrap_or("not checked")
    }

    /// The first finding of a check at this severity.
    fn first(&self, check: &str, severity: &str) -> &Value {
        let mut all = self.all.iter();
        let found = all.find(|f| f["check"] == check && f["severity"] == severity);
        found.unwrap_or_else(|| panic!("no {severity} of {check}: {:#?}", self.all))
    }

    fn what(&self, check: &str, severity: &str) -> &str {
        let finding = self.first(check, severity);
        finding["what"].as_str().expect("a text")
    }
}

/// A server that accepts connections and never answers. (The system accepts them; the program does nothing.)
fn hung() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

#[tokio::test]
async fn a_healthy_setup_has_no_errors_and_the_json_has_all_fields() {
    let setup = Setup::healthy().await;
    let findings = setup.examine(&[]);
    for check in [
        "settings",
        "cpu",
        "open-files",
        "ffmpeg",
        "model",
        "checksum",
        "voice-activity",
        "keys",
        "port",
        "models-disk",
    ] {
        assert_eq!(findings.of(check), "ok", "{check}: {:#?}", findings.all);
    }
    for check in ["cores", "clock", "memory", "gpu", "uploads-disk", "service"] {
        assert_ne!(findings.of(check), "not checked", "{check}");
    }
    for finding in &findings.all {
        let fields = finding.as_object().expect("an object").keys();
        let fields: Vec<&str> = fields.map(String::as_str).collect();
        assert_eq!(fields, ["check", "severity", "what", "why", "fix"]);
        let is_bad = ["warning", "error"].contains(&finding["severity"].as_str().expect("a word"));
        assert!(!is_bad || finding["why"].is_string(), "{finding}");
    }
    // Memory and disk are those of this machine, so that a warning is possible.
    let has = |severity: &str| findings.all.iter().any(|f| f["severity"] == severity);
    let expected = if has("error") {
        2
    } else {
        i32::from(has("warning"))
    };
    assert_eq!(findings.status, expected, "{:#?}", findings.all);

    let text = setup.run(&["doctor"]);
    assert_eq!(text.status.code(), Some(expected), "{}", out(&text));
    let text = out(&text);
    let last = text.lines().last().expect("a line");
    assert!(last.contains(" warning") && last.ends_with(" ok"), "{last}");
    assert!(text.contains("\nok       port: PORT=0"), "{text}");
}

#[tokio::test]
async fn a_missing_ffmpeg_is_an_error_with_the_command_that_installs_it() {
    let empty = tempfile::tempdir().expect("a folder");
    let path = empty.path().to_str().expect("UTF-8");
    let findings = Setup::healthy().await.with("PATH", path).examine(&[]);
    assert_eq!(findings.status, 2);
    let finding = findings.first("ffmpeg", "error");
    assert_eq!(finding["what"], "ffmpeg is not in PATH");
    assert_eq!(finding["fix"], "sudo apt-get install ffmpeg");
}

#[tokio::test]
async fn a_port_of_another_program_is_an_error_even_if_that_program_hangs() {
    let (_listener, port) = hung();
    let setup = Setup::healthy().await.with("PORT", &port.to_string());
    let findings = setup.examine(&[]);
    assert_eq!(findings.status, 2);
    let expected = format!("another program listens on 127.0.0.1:{port}");
    assert_eq!(findings.what("port", "error"), expected);
}

#[tokio::test]
async fn a_running_server_is_recognised_and_a_fallback_must_accept_the_key() {
    let key = format!("{SECRET}-0123456789abcdef");
    let settings = [("API_KEYS", key.as_str())];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let (_, port) = server.url.rsplit_once(':').expect("a port");

    let findings = Setup::healthy().await.with("PORT", port).examine(&[]);
    let what = findings.what("port", "ok");
    assert!(
        what.starts_with("uttera-stt ") && what.contains("tiny.en"),
        "{what}"
    );

    let asking = async |key: &str| {
        let setup = Setup::healthy().await.with("FALLBACK_URL", &server.url);
        setup.with("FALLBACK_API_KEY", key).examine(&[])
    };
    let findings = asking(&key).await;
    assert_eq!(findings.of("fallback"), "ok", "{:#?}", findings.all);
    assert_eq!(findings.of("clock"), "ok");
    let findings = asking(&format!("{SECRET}-wrong")).await;
    assert_eq!(findings.status, 2);
    let what = findings.what("fallback", "error");
    assert!(what.ends_with("it rejects the key"), "{what}");
}

#[tokio::test]
async fn redis_is_asked_and_a_node_that_registers_localhost_is_told() {
    let redis = RedisServer::start_with_password(SECRET).await;
    let setup = Setup::healthy().await.with("REDIS_URL", &redis.url());
    let findings = setup.examine(&[]);
    assert_eq!(findings.of("redis"), "ok", "{:#?}", findings.all);
    assert_eq!(findings.of("node-host"), "ok");
    assert_eq!(findings.of("clock"), "ok");

    // Redis on this machine, and a server that others reach.
    let setup = setup.with("HOST", "0.0.0.0");
    let findings = setup.examine(&[]);
    let finding = findings.first("node-host", "warning");
    let why = finding["why"].as_str().expect("a text");
    assert!(why.contains("registers localhost in Redis"), "{why}");
    let findings = setup.with("NODE_HOST", "127.0.0.1").examine(&[]);
    assert_eq!(findings.of("node-host"), "warning");
}

#[tokio::test]
async fn a_redis_on_another_machine_that_is_away_gives_both_findings() {
    let url = format!("redis://:{SECRET}@redis.invalid:6379/1");
    let setup = Setup::healthy().await.with("REDIS_URL", &url);
    let setup = setup.with("NODE_HOST", "localhost");
    let findings = setup.examine(&[]);
    assert_eq!(findings.status, 2);
    let what = findings.what("node-host", "warning");
    assert!(what.contains("Redis is on another machine"), "{what}");
    assert_eq!(findings.of("redis"), "error");
    let checked = setup.run(&["check-config"]);
    assert!(checked.status.success(), "{}", err(&checked));
    assert!(out(&checked).contains("warning: NODE_HOST is localhost"));

    let unused = format!("redis://:{SECRET}@127.0.0.1:{}", free_port());
    let findings = setup.with("REDIS_URL", &unused).examine(&[]);
    let what = findings.what("redis", "error");
    assert!(what.contains("refused"), "{what}");
}

#[tokio::test]
async fn neighbours_that_accept_and_never_answer_are_errors_not_a_hang() {
    let (_redis, redis) = hung();
    let (_translator, translator) = hung();
    let (_fallback, fallback) = hung();
    let setup = Setup::healthy()
        .await
        .with("REDIS_URL", &format!("redis://:{SECRET}@127.0.0.1:{redis}"))
        .with(
            "LIBRETRANSLATE_URL",
            &format!("http://user:{SECRET}@127.0.0.1:{translator}"),
        )
        .with(
            "FALLBACK_URL",
            &format!("http://user:{SECRET}@127.0.0.1:{fallback}"),
        );
    let findings = setup.examine(&[]);
    assert_eq!(findings.status, 2);
    for check in ["redis", "libretranslate", "fallback"] {
        assert_eq!(findings.of(check), "error", "{:#?}", findings.all);
    }
    let what = findings.what("fallback", "error");
    assert!(
        what.starts_with(&format!("the fallback at 127.0.0.1:{fallback}: ")),
        "{what}"
    );
    let text = setup.run(&["doctor"]);
    assert_eq!(text.status.code(), Some(2));
}

#[tokio::test]
async fn a_models_folder_that_cannot_be_written_is_found() {
    // A folder below a file: the administrator may write everywhere else.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let setup = Setup::healthy().await.with("XDG_CACHE_HOME", path);
    let findings = setup.examine(&[]);
    let what = findings.what("models-disk", "warning");
    assert!(what.contains("is not a folder"), "{what}");
    // Without the model, it cannot be downloaded.
    let findings = setup.with("WHISPER_MODEL", "base").examine(&[]);
    assert_eq!(findings.status, 2);
    assert_eq!(findings.of("models-disk"), "error");
}

#[tokio::test]
async fn a_path_without_a_model_is_an_error_for_both_commands() {
    let missing = "/nowhere/whisper-small-ct2";
    for variable in ["CT2_SMALL_PATH", "CT2_MEDIUM_PATH", "WHISPER_MODEL"] {
        let setup = Setup::healthy().await.with(variable, missing);
        let findings = setup.examine(&[]);
        assert_eq!(findings.status, 2);
        let what = findings.what("model", "error");
        assert!(
            what.starts_with(&format!("{variable}={missing}: ")),
            "{what}"
        );
        let checked = setup.run(&["check-config"]);
        assert_eq!(checked.status.code(), Some(1), "{}", out(&checked));
        let said = err(&checked);
        let error = format!("error: {variable}={missing}: ");
        assert!(said.starts_with(&error), "{said}");
        assert!(!out(&checked).contains("are valid"));
    }
}

#[tokio::test]
async fn a_model_that_is_not_downloaded_yet_is_a_note_for_both_commands() {
    let setup = Setup::healthy().await.with("WHISPER_MODEL", "base");
    let findings = setup.examine(&[]);
    let fix = &findings.first("model", "note")["fix"];
    assert_eq!(fix, "uttera-stt models pull base");
    let checked = setup.run(&["check-config"]);
    assert!(checked.status.success(), "{}", err(&checked));
    let said = out(&checked);
    assert!(
        said.contains("note: WHISPER_MODEL=base is not in "),
        "{said}"
    );
    assert!(said.ends_with("the settings are valid\n"), "{said}");
    // Neither command has created anything.
    let folder = setup.folder.path().join("whisper");
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_server_that_is_open_to_the_network_should_have_keys() {
    let setup = Setup::healthy().await.with("HOST", "0.0.0.0");
    let findings = setup.examine(&[]);
    assert_ne!(findings.status, 0);
    assert_eq!(findings.of("keys"), "warning");
    let checked = setup.run(&["check-config"]);
    assert!(out(&checked).contains("warning: HOST=0.0.0.0 is open"));
    let key = format!("{SECRET}-0123456789abcdef");
    assert_eq!(setup.with("API_KEYS", &key).examine(&[]).of("keys"), "ok");

    // The role of a primary is open to the network by default.
    let setup = Setup::healthy().await.without("PORT");
    let findings = setup.examine(&["--role", "primary"]);
    assert_eq!(findings.of("keys"), "warning");
    let port = findings.all.iter().find(|f| f["check"] == "port");
    let port = port.expect("a finding")["what"].as_str().expect("a text");
    assert!(port.contains("0.0.0.0:8081"), "{port}");
}

#[tokio::test]
async fn a_settings_file_that_does_not_load_is_a_finding_among_others() {
    let setup = Setup::healthy().await.without("PORT");
    let file = setup.folder.path().join(".env");
    for (text, told) in [
        (
            format!("API_KEYS={SECRET}\nPORT=many\n"),
            "PORT=many (.env) is invalid",
        ),
        (format!("{SECRET}\n"), ".env, line 1: expected NAME=value"),
    ] {
        std::fs::write(&file, text).expect("writes");
        let findings = setup.examine(&[]);
        assert_eq!(findings.status, 2);
        let what = findings.what("settings", "error");
        assert!(what.starts_with(told), "{what}");
        assert_eq!(findings.of("ffmpeg"), "ok");
        assert_eq!(findings.of("cpu"), "ok");
        let text = setup.run(&["doctor"]);
        assert_eq!(text.status.code(), Some(2));
    }
    let findings = setup.examine(&["--config", "missing.env"]);
    let what = findings.what("settings", "error");
    assert!(what.starts_with("missing.env cannot be read"), "{what}");

    std::fs::write(&file, "WISPER_MODEL=base\nPORT=0\n").expect("writes");
    let findings = setup.examine(&[]);
    let what = findings.what("settings", "warning");
    assert!(what.contains("did you mean WHISPER_MODEL?"), "{what}");
}
