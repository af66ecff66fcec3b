//! What the settings themselves tell. `check-config` reports the same findings.

use std::net::{IpAddr, UdpSocket};

use super::finding::{Finding, size};
use super::tls;
use crate::audio::vad::silero::Weights;
use crate::keys::{self, Keys, SHORTEST_GOOD_KEY, Weaknesses};
use crate::models::configured;
use crate::models::{self, ModelError, ModelStore};
use crate::redis;
use crate::settings::variables::ct2_path;
use crate::settings::{Device, Loaded, Settings, VadModel};

const NO_MODEL: &str = "the server rejects every request until it has a model";

/// Findings about settings that were loaded, for a machine of which nothing else is known. On a build for GPUs, the
/// meaning of `WHISPER_MODEL=auto` depends on the GPU, so that the model is left out.
pub fn examine_alone(loaded: &Loaded) -> Vec<Finding> {
    let settings = &loaded.settings;
    let mut models = wanted(settings, None);
    let may_use_gpu = crate::BUILT_FOR_GPU && settings.device != Device::Cpu;
    if may_use_gpu && settings.whisper_model == "auto" {
        models.remove(0);
    }
    examine(loaded, &models)
}

/// Findings about settings that were loaded, and about the models that they mean. Blocks for milliseconds; changes
/// nothing and asks no other server.
pub(super) fn examine(loaded: &Loaded, models: &[WantedModel]) -> Vec<Finding> {
    let settings = &loaded.settings;
    let mut findings: Vec<Finding> = (loaded.warnings.iter())
        .map(|warning| {
            Finding::warning(
                "settings",
                warning,
                "the server does not do what the setting says",
            )
            .mended_by("correct or remove the setting")
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "the settings are valid"));
    }
    match keys::load(settings) {
        Ok(keys) => findings.extend(of_keys(settings, &keys)),
        Err(error) => findings.push(Finding::error(
            "keys",
            error.to_string(),
            "the server does not start",
        )),
    }
    let store = ModelStore::new(settings.models_dir.clone());
    findings.extend(models.iter().map(|model| of_model(&store, model)));
    findings.extend(of_voice_activity(&store, &settings.vad_model));
    findings.extend(of_node_host(settings));
    findings.extend(tls::examine(settings));
    findings
}

/// A model that the settings name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WantedModel {
    pub(super) variable: &'static str,
    /// A catalogue name, a ggml file or a CTranslate2 folder.
    pub(super) name: String,
}

/// The model of this node, and its fallback model if it has one. `vram`: all memory of the GPU in bytes, if inference
/// runs on one.
pub(super) fn wanted(settings: &Settings, vram: Option<u64>) -> Vec<WantedModel> {
    let named = settings.whisper_model.as_str();
    let variable = match ct2_path(settings) {
        Some((variable, path)) if path == named => variable,
        _ => "WHISPER_MODEL",
    };
    let name = match named {
        "auto" => configured::automatic(vram),
        other => other,
    };
    let own = WantedModel {
        variable,
        name: name.to_owned(),
    };
    let fallback = settings.fallback_model.as_ref();
    let fallback = fallback.filter(|_| settings.fallback_url.is_none());
    let fallback = fallback.map(|name| WantedModel {
        variable: "FALLBACK_MODEL",
        name: name.clone(),
    });
    [own].into_iter().chain(fallback).collect()
}

fn of_model(store: &ModelStore, model: &WantedModel) -> Finding {
    const CHECK: &str = "model";
    let WantedModel { variable, name } = model;
    match store.look_up(name) {
        Ok(found) => {
            let (path, bytes) = (found.path.display(), size(found.size_bytes));
            let later = if found.is_source {
                "; the first start converts it"
            } else {
                ""
            };
            Finding::ok(CHECK, format!("{variable}={name}: {path}, {bytes}{later}"))
        }
        Err(error) => match (error, models::find(name)) {
            (ModelError::NotFound { place, .. }, Some(entry)) => {
                let (place, bytes) = (place.display(), size(entry.size_bytes()));
                let what = format!("{variable}={name} is not in {place} yet ({bytes})");
                Finding::note(CHECK, what)
                    .because("the server downloads it when it starts, and is not ready before")
                    .mended_by(format!("uttera-stt models pull {name}"))
            }
            (error, _) => {
                let error = anyhow::Error::from(error);
                let other = match *variable {
                    "WHISPER_MODEL" | "FALLBACK_MODEL" => "",
                    _ => "remove it and set WHISPER_MODEL ",
                };
                Finding::error(CHECK, format!("{variable}={name}: {error:#}"), NO_MODEL).mended_by(
                    format!(
                        "set {variable} to a file or folder that exists, or {other}to a name of \
                         `uttera-stt models list`"
                    ),
                )
            }
        },
    }
}

fn of_voice_activity(store: &ModelStore, model: &VadModel) -> Option<Finding> {
    const CHECK: &str = "voice-activity";
    let pull = "uttera-stt models pull silero-vad";
    match model {
        VadModel::Off => None,
        VadModel::File(path) => Some(match Weights::load(path) {
            Ok(_) => Finding::ok(CHECK, format!("VAD_MODEL={}", path.display())),
            Err(error) => Finding::error(
                CHECK,
                format!("VAD_MODEL={}: {error}", path.display()),
                "the server does not start",
            )
            .mended_by(format!("{pull}, and remove VAD_MODEL")),
        }),
        VadModel::Silero => Some(match store.voice_activity() {
            Some(path) => Finding::ok(CHECK, format!("{}, checksum verified", path.display())),
            None => Finding::note(
                CHECK,
                format!("Silero's weights are not in {}", store.dir().display()),
            )
            .because("the server downloads them; until then, all audio counts as speech")
            .mended_by(pull),
        }),
    }
}

fn of_keys(settings: &Settings, keys: &Keys) -> Vec<Finding> {
    const CHECK: &str = "keys";
    let host = settings.host;
    if keys.is_open() && host.is_loopback() {
        let what = format!("none is set, and only this machine reaches HOST={host}");
        return vec![Finding::ok(CHECK, what)];
    }
    if keys.is_open() && settings.admits_chosen_clients_only() {
        let what = "none is set, and ALLOWED_NETWORKS or TLS_CLIENT_CA chooses the clients";
        return vec![Finding::ok(CHECK, what)];
    }
    if keys.is_open() {
        let what = format!("HOST={host} is open to the network, and no key is set");
        return vec![
            Finding::warning(
                CHECK,
                what,
                "anyone who reaches this address can use the server",
            )
            .mended_by("openssl rand -hex 24; set the result as API_KEYS, and in the clients"),
        ];
    }
    let Weaknesses {
        short,
        readable_file,
    } = keys::weaknesses(settings);
    let short = (!short.is_empty()).then(|| {
        let what = format!(
            "shorter than {SHORTEST_GOOD_KEY} characters: {}",
            short.join(", ")
        );
        Finding::warning(CHECK, what, "short keys can be guessed")
            .mended_by("openssl rand -hex 24; replace the keys with such results")
    });
    let readable = readable_file.map(|file| {
        let file = file.display();
        let what = format!("every user of this machine can read {file}");
        Finding::warning(
            CHECK,
            what,
            "each of them can use the server with the keys of other clients",
        )
        .mended_by(format!("chmod o-rwx {file}"))
    });
    let mut findings: Vec<Finding> = short.into_iter().chain(readable).collect();
    if findings.is_empty() {
        let what = format!("{} in force", keys.names().count());
        findings.push(Finding::ok(CHECK, what));
    }
    findings
}

/// A node that registers an address that means every reader's own machine.
fn of_node_host(settings: &Settings) -> Option<Finding> {
    const CHECK: &str = "node-host";
    let url = settings.redis_url.as_deref()?;
    // Without the setting, the address is guessed, and shown with the port.
    let host = settings.node_host.as_ref()?;
    if !names_this_machine(host) {
        return None;
    }
    let redis_is_here = redis::host_in(url).is_none_or(|host| is_on_this_machine(&host));
    if redis_is_here && settings.host.is_loopback() {
        let what = format!("NODE_HOST={host}, for routers on this machine");
        return Some(Finding::ok(CHECK, what));
    }
    let seen = if redis_is_here {
        format!("HOST={} is open to the network", settings.host)
    } else {
        "Redis is on another machine".to_owned()
    };
    let what = format!("NODE_HOST is {host}, and {seen}");
    let why = format!(
        "the node registers {host} in Redis, and a router on another machine that connects to {host} reaches itself"
    );
    let fix = "set NODE_HOST to the name or address by which routers reach this machine: hostname -I shows addresses";
    Some(Finding::warning(CHECK, what, why).mended_by(fix))
}

/// Whether this host means the machine that reads it.
pub(super) fn names_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let is_name = host.eq_ignore_ascii_case("localhost") || host.ends_with(".localhost");
    is_name || host.parse::<IpAddr>().is_ok_and(is_of_reader)
}

/// Loopback, or the unspecified address, which connects to loopback.
fn is_of_reader(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Whether this host is this machine, as far as it shows without asking a name server.
fn is_on_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    names_this_machine(host) || address.is_ok_and(is_own_address)
}

/// Whether an interface of this machine has this address: only then can a socket be bound to it.
pub(super) fn is_own_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;
    use crate::settings::Sources;

    fn loaded(pairs: &[(&str, &str)]) -> Loaded {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            command_line: pairs.iter().map(pair).collect(),
            ..Sources::default()
        };
        Settings::load(&sources).expect("loads")
    }

    fn found(check: &str, pairs: &[(&str, &str)]) -> Vec<Finding> {
        let all = examine_alone(&loaded(pairs));
        all.into_iter().filter(|f| f.check == check).collect()
    }

    fn severity(check: &str, pairs: &[(&str, &str)]) -> Severity {
        let found = found(check, pairs);
        found.iter().map(|f| f.severity).max().expect("a finding")
    }

    #[test]
    fn a_path_that_does_not_exist_is_an_error_and_a_model_that_is_not_downloaded_is_a_note() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().to_str().expect("UTF-8");
        let cache = ("XDG_CACHE_HOME", folder);
        for pair in [
            ("CT2_SMALL_PATH", "/nowhere/whisper-small-ct2"),
            ("WHISPER_MODEL", "/nowhere/ggml-base.bin"),
            ("WHISPER_MODEL", "medum"),
            ("FALLBACK_MODEL", "/nowhere/medium"),
            // A folder without a model.
            ("CT2_MEDIUM_PATH", folder),
        ] {
            let found = found("model", &[cache, pair]);
            let errors: Vec<_> = (found.iter())
                .filter(|f| f.severity == Severity::Error)
                .collect();
            let [only] = errors[..] else {
                panic!("{pair:?}: {found:?}");
            };
            let named = format!("{}={}", pair.0, pair.1);
            assert!(only.what.starts_with(&named), "{}", only.what);
        }
        for name in ["auto", "base", "turbo"] {
            let pairs = [cache, ("WHISPER_MODEL", name)];
            assert_eq!(severity("model", &pairs), Severity::Note, "{name}");
        }
        // Looking for a model creates nothing.
        assert_eq!(std::fs::read_dir(folder).expect("reads").count(), 0);
    }

    #[test]
    fn weights_that_are_missing_are_an_error_only_if_the_settings_name_their_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = ("XDG_CACHE_HOME", folder.path().to_str().expect("UTF-8"));
        let check = "voice-activity";
        assert_eq!(severity(check, &[cache]), Severity::Note);
        let file = ("VAD_MODEL", "/nowhere/silero.safetensors");
        assert_eq!(severity(check, &[cache, file]), Severity::Error);
        assert_eq!(found(check, &[cache, ("VAD_MODEL", "off")]), []);
    }

    #[test]
    fn an_open_server_without_keys_is_a_warning_and_no_finding_shows_a_key() {
        let open = ("HOST", "0.0.0.0");
        assert_eq!(severity("keys", &[]), Severity::Ok);
        assert_eq!(severity("keys", &[open]), Severity::Warning);
        let good = ("API_KEYS", "3b1f0c9d5e8a7b6c4d2e1f00");
        assert_eq!(severity("keys", &[open, good]), Severity::Ok);
        let short = ("API_KEYS", "sesame");
        assert_eq!(severity("keys", &[open, short]), Severity::Warning);
        let shown = format!("{:?}", examine_alone(&loaded(&[open, short])));
        assert!(!shown.contains("sesame"), "{shown}");
        let nowhere = ("API_KEYS_FILE", "/nowhere/keys");
        assert_eq!(severity("keys", &[nowhere]), Severity::Error);
    }

    #[test]
    fn a_node_that_registers_localhost_for_routers_elsewhere_is_a_warning() {
        let local = ("REDIS_URL", "redis://:hunter2@127.0.0.1:6379");
        let socket = ("REDIS_URL", "unix:///run/redis.sock");
        // An address of the documentation, which no machine has.
        let remote = ("REDIS_URL", "redis://:hunter2@192.0.2.7:6379/1");
        let named = ("REDIS_URL", "rediss://cache.example");
        let open = ("HOST", "0.0.0.0");
        let check = "node-host";
        let here = ("NODE_HOST", "localhost");
        assert_eq!(severity(check, &[local, here]), Severity::Ok);
        assert_eq!(severity(check, &[socket, here]), Severity::Ok);
        for pairs in [
            &[remote, here][..],
            &[named, here],
            &[local, here, open],
            &[socket, here, open],
            &[remote, ("NODE_HOST", "127.0.0.1")],
            &[remote, ("NODE_HOST", "::1")],
            &[remote, ("NODE_HOST", "LOCALHOST")],
            &[remote, ("NODE_HOST", "0.0.0.0")],
        ] {
            let found = found(check, pairs);
            assert_eq!(found.len(), 1, "{pairs:?}");
            assert_eq!(found[0].severity, Severity::Warning, "{pairs:?}");
            assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        }
        assert_eq!(found(check, &[remote, ("NODE_HOST", "stt.example")]), []);
        // Without NODE_HOST, the address is guessed.
        assert_eq!(found(check, &[remote]), []);
        assert_eq!(found(check, &[open]), []);
    }
}
