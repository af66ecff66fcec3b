//! The roles of a primary and a fallback, started from settings files like those of their users.

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::multipart::{Form, Part};
use serde_json::Value;
use test_support::command_line::{err, out, run};
use test_support::models::ct2_folder;
use test_support::wer::assert_alike;
use test_support::{Server, repository, sample, sample_text};

/// Settings of users of the Python pair, including a GPU. `@` stands for values that differ here.
const PRIMARY: &str = "\
# Model & device
CT2_SMALL_PATH=@MODEL
DEVICE=cuda
DEVICE_INDEX=0
COMPUTE_TYPE=float16
CPU_THREADS=2

# Concurrency & versioning
MAX_CONCURRENCY=2
SERVER_COMMIT=prod-YYYY-MM-DD

# Routing thresholds
CONF_LOGPROB_THRESHOLD=0.55
CONF_LANGPROB_THRESHOLD=0.70
MIN_WORDS_FOR_CONF=3

# Fallback target
FALLBACK_URL=@FALLBACK
FALLBACK_API_KEY=fb_key_123

# Security / limits
API_KEYS=primary_key_abc
RATE_LIMIT_RPS=15
RATE_LIMIT_BURST=30
MAX_UPLOAD_MB=16
";

const FALLBACK: &str = "\
CT2_MEDIUM_PATH=@MODEL
DEVICE=cuda
DEVICE_INDEX=0
COMPUTE_TYPE=int8
CPU_THREADS=2
API_KEYS=fb_key_123
RATE_LIMIT_RPS=60
RATE_LIMIT_BURST=120
MAX_UPLOAD_MB=16
";

async fn start(role: &str, file: &str, models: &Path) -> Server {
    let name = format!("stt_{role}.env");
    let models = models.to_str().expect("UTF-8");
    let settings = BTreeMap::from([("XDG_CACHE_HOME", models)]);
    let arguments = ["serve", "--role", role];
    let server = Server::start_as(&arguments, &[(&name, file)], &settings).await;
    server.until_ready().await;
    server
}

async fn json(server: &Server, path: &str, key: &str) -> Value {
    let request = server.client.get(format!("{}{path}", server.url));
    let response = request.bearer_auth(key).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

#[tokio::test]
async fn the_pair_runs_from_its_users_own_files_and_folders() {
    let models = tempfile::tempdir().expect("a folder");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let small = text(&ct2_folder("float16"));
    let medium = text(&ct2_folder("int8"));
    let fallback = start(
        "fallback",
        &FALLBACK.replace("@MODEL", &medium),
        models.path(),
    )
    .await;
    let file = PRIMARY
        .replace("@MODEL", &small)
        .replace("@FALLBACK", &fallback.url);
    let primary = start("primary", &file, models.path()).await;
    assert!(primary.log_line("address=").await.contains("0.0.0.0"));
    primary.log_line("this build supports only the CPU").await;
    for (server, role) in [(&primary, "primary"), (&fallback, "fallback")] {
        let health: Value = server.get("/v1/health").await.json().await.expect("JSON");
        assert_eq!(
            (&health["ok"], &health["role"]),
            (&true.into(), &role.into())
        );
    }
    let figures = json(&primary, "/v1/metrics", "primary_key_abc").await;
    assert_eq!(figures["server_commit"], "prod-YYYY-MM-DD");
    let transcribe = async |name: &str| {
        let bytes = std::fs::read(sample(name)).expect("the file is there");
        let form = Form::new().part("audio", Part::bytes(bytes).file_name("AUDIO.wav"));
        let request = primary
            .client
            .post(format!("{}/v1/transcribe", primary.url));
        let request = request
            .bearer_auth("primary_key_abc")
            .multipart(form.text("language", "en"));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.json::<Value>().await.expect("JSON")
    };
    let reply = transcribe("en-sentence.wav").await;
    let heard = reply["text"].as_str().expect("text");
    assert_alike(heard, &sample_text("en-sentence.wav"));
    let imported = |server: &Server| server.log_lines("importing a CTranslate2 model").len();
    for server in [&primary, &fallback] {
        assert_eq!(imported(server), 1, "{}", server.log().join("\n"));
    }
    // The key of one node is invalid at the other.
    let figures = json(&fallback, "/v1/metrics", "primary_key_abc").await;
    assert_eq!(figures["error"]["code"], "invalid_api_key");
    // The folders were converted once, and the files are kept.
    drop(primary);
    let again = start("primary", &file, models.path()).await;
    assert_eq!(imported(&again), 0, "{}", again.log().join("\n"));
}

#[test]
fn the_examples_of_settings_can_be_used() {
    let nowhere = tempfile::tempdir().expect("a folder");
    for (role, port) in [("primary", 8081), ("fallback", 8082)] {
        let path = repository().join(format!("config/{role}.env"));
        let path = path.to_str().expect("UTF-8");
        let arguments = ["--config", path, "check-config"];
        let checked = run(nowhere.path(), &arguments);
        let said = out(&checked);
        assert!(checked.status.success(), "{role}: {said}{}", err(&checked));
        assert!(!said.contains("not known"), "{said}");
        let arguments = ["serve", "--role", role, "--config", path, "--print-config"];
        let printed = run(nowhere.path(), &arguments);
        let said = out(&printed);
        assert!(printed.status.success(), "{role}: {}", err(&printed));
        // The default of the role, and the value of the file.
        let port = format!("PORT={port}");
        let limit = match role {
            "primary" => "RATE_LIMIT_RPS=15",
            _ => "RATE_LIMIT_RPS=60",
        };
        for expected in [port.as_str(), "HOST=0.0.0.0", limit] {
            assert!(said.lines().any(|line| line == expected), "{role}: {said}");
        }
    }
}
