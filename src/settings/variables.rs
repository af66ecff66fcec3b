//! The table of variables: one row each, in the order of the documentation.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::read::{
    MEGABYTE, any, any_count, any_flag, any_probability, any_url, device, flag, libretranslate_url,
    number, origins, positive_seconds, redis_url, seconds, threads,
};
use super::{Device, LogFormat, Origins, Settings, VadModel, default_models_dir};
use crate::language;
use crate::models::ComputeType;

/// One variable.
#[derive(Debug)]
pub struct Variable {
    /// As in the environment.
    pub name: &'static str,
    /// As in the documentation.
    pub default: &'static str,
    /// One line.
    pub meaning: &'static str,
    /// Never shown.
    pub secret: bool,
    /// Whether this version acts on it; else it is read, checked, and warned about when set.
    pub in_effect: bool,
    /// Puts a value into the settings, or says what is allowed.
    pub read: fn(&mut Settings, &str) -> Result<(), String>,
}

/// Known to the Python original, without meaning here.
pub const OF_THE_PYTHON_ORIGINAL: &[&str] = &["VENV_PYTHON", "WHISPER_SCRIPT"];

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: [127, 0, 0, 1].into(),
            port: 9005,
            whisper_model: "auto".to_owned(),
            models_dir: default_models_dir(),
            compute_type: None,
            whisper_fp16: true,
            whisper_threads: None,
            beam_size: 1,
            vad_model: VadModel::Silero,
            default_language: None,
            cold_pool_size: 10,
            cold_idle_timeout: Duration::from_secs(60),
            cold_idle_stagger: Duration::from_secs(10),
            pool_interval: Duration::from_millis(500),
            min_cold_vram_gb: 4.0,
            hot_idle_timeout: None,
            max_concurrency: None,
            worker_max_chunks: Some(1000),
            worker_max_memory: None,
            hot_queue_safety_factor: 0.8,
            cold_start_time: Duration::from_secs(8),
            lane_timeout: Duration::from_secs(300),
            routing_drain_cap: Duration::from_secs(120),
            max_queue: Duration::from_secs(600),
            result_cache: Duration::ZERO,
            max_upload_bytes: 512 * MEGABYTE,
            max_audio: Duration::from_secs(14_400),
            libretranslate_url: None,
            libretranslate_api_key: None,
            libretranslate_timeout: Duration::from_secs(30),
            cors_allow_origins: Origins::None,
            redis_url: None,
            node_id: None,
            node_host: "localhost".to_owned(),
            node_port: None,
            api_keys: Vec::new(),
            device: Device::Auto,
            device_index: 0,
            debug: false,
            log_format: LogFormat::Text,
            set: BTreeSet::new(),
        }
    }
}

/// A row that is in effect and no secret.
const fn row(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    read: fn(&mut Settings, &str) -> Result<(), String>,
) -> Variable {
    Variable {
        name,
        default,
        meaning,
        secret: false,
        in_effect: true,
        read,
    }
}

/// A row that this version reads and checks and nothing more.
const fn later(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    read: fn(&mut Settings, &str) -> Result<(), String>,
) -> Variable {
    Variable {
        name,
        default,
        meaning,
        secret: false,
        in_effect: false,
        read,
    }
}

const fn secret(mut variable: Variable) -> Variable {
    variable.secret = true;
    variable
}

/// All of them.
pub static VARIABLES: &[Variable] = &[
    row("HOST", "127.0.0.1", "Address to bind.", |s, v| {
        let parsed = if v == "localhost" { "127.0.0.1" } else { v }.parse();
        s.host = parsed.map_err(|_| "an IP address is expected".to_owned())?;
        Ok(())
    }),
    row("PORT", "9005", "Port to bind.", |s, v| {
        s.port = number(v, 0, u16::MAX, "a port from 0 to 65535")?;
        Ok(())
    }),
    row(
        "WHISPER_MODEL",
        "auto",
        "A catalogue name, a ggml file or a CTranslate2 folder.",
        |s, v| {
            v.clone_into(&mut s.whisper_model);
            Ok(())
        },
    ),
    row(
        "XDG_CACHE_HOME",
        "",
        "Models live in its folder `whisper`.",
        |s, v| {
            s.models_dir = PathBuf::from(v).join("whisper");
            Ok(())
        },
    ),
    row("WHISPER_FP16", "1", "0: weights of 32 bits.", |s, v| {
        s.whisper_fp16 = flag(v)?;
        Ok(())
    }),
    row(
        "VAD_MODEL",
        "silero",
        "What tells speech from silence: silero, off, or a file with Silero's weights.",
        |s, v| {
            s.vad_model = match v {
                "silero" => VadModel::Silero,
                "off" => VadModel::Off,
                file => VadModel::File(PathBuf::from(file)),
            };
            Ok(())
        },
    ),
    // The alias first: the variable's own name wins.
    row(
        "CPU_THREADS",
        "",
        "Another name of WHISPER_THREADS.",
        threads,
    ),
    row(
        "WHISPER_THREADS",
        "",
        "Threads of the CPU per worker; never more than there are cores.",
        threads,
    ),
    row(
        "WHISPER_BEAM_SIZE",
        "1",
        "Texts that are followed at once, 1 to 8; 1: greedy.",
        |s, v| {
            s.beam_size = number(v, 1, 8, "a number from 1 to 8")?;
            Ok(())
        },
    ),
    row(
        "DEFAULT_LANGUAGE",
        "",
        "Language of requests that name none; empty: detect.",
        |s, v| {
            let language = language::parse(v).ok_or("a language code such as en is expected")?;
            s.default_language = Some(language.code().to_owned());
            Ok(())
        },
    ),
    row("COLD_POOL_SIZE", "10", "Most cold workers.", |s, v| {
        s.cold_pool_size = number(v, 0, 1000, "a whole number from 0 to 1000")?;
        Ok(())
    }),
    row(
        "COLD_WORKER_IDLE_TIMEOUT",
        "60",
        "Idle seconds before a cold worker ends.",
        |s, v| {
            s.cold_idle_timeout = seconds(v)?;
            Ok(())
        },
    ),
    row(
        "COLD_WORKER_IDLE_STAGGER",
        "10",
        "Seconds added per free slot at spawn.",
        |s, v| {
            s.cold_idle_stagger = seconds(v)?;
            Ok(())
        },
    ),
    row(
        "COLD_POOL_MANAGER_INTERVAL",
        "0.5",
        "Seconds between sizing ticks, and between records in Redis.",
        |s, v| {
            let what = "a number of seconds from 0.05 to 3600";
            s.pool_interval = Duration::from_secs_f64(number(v, 0.05, 3600.0, what)?);
            Ok(())
        },
    ),
    row(
        "MIN_COLD_VRAM_GB",
        "4.0",
        "Free VRAM, in GB, that a cold worker needs until measured; 0: no check.",
        |s, v| {
            s.min_cold_vram_gb = number(v, 0.0, 10_000.0, "a number of GB from 0")?;
            Ok(())
        },
    ),
    row(
        "HOT_QUEUE_SAFETY_FACTOR",
        "0.8",
        "Shown in /health; without effect.",
        |s, v| {
            s.hot_queue_safety_factor = number(v, 0.0, 100.0, "a number from 0 to 100")?;
            Ok(())
        },
    ),
    row(
        "COLD_START_TIME_SECONDS",
        "8.0",
        "A worker's start, until measured.",
        |s, v| {
            s.cold_start_time = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "COLD_LANE_TIMEOUT_SECONDS",
        "300",
        "A worker silent for longer on one chunk is killed.",
        |s, v| {
            s.lane_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "HOT_IDLE_TIMEOUT",
        "0",
        "Idle seconds after which even the hot model is freed; 0: never.",
        |s, v| {
            s.hot_idle_timeout = Some(seconds(v)?).filter(|limit| !limit.is_zero());
            Ok(())
        },
    ),
    row(
        "WORKER_MAX_CHUNKS",
        "1000",
        "Pieces of audio after which a worker is replaced by a fresh one; 0: never.",
        |s, v| {
            let chunks = number(v, 0, 1_000_000_000, "a whole number from 0")?;
            s.worker_max_chunks = Some(chunks).filter(|chunks| *chunks > 0);
            Ok(())
        },
    ),
    row(
        "WORKER_MAX_MEMORY_MB",
        "0",
        "Resident memory, in MB, above which a worker is replaced; 0: any amount.",
        |s, v| {
            let megabytes: u64 = number(v, 0, 100_000_000, "a whole number of MB from 0")?;
            s.worker_max_memory = Some(megabytes * MEGABYTE).filter(|bytes| *bytes > 0);
            Ok(())
        },
    ),
    row(
        "ROUTING_DRAIN_CAP_SECONDS",
        "120",
        "Drain time that counts as load 1.0.",
        |s, v| {
            s.routing_drain_cap = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "MAX_QUEUE_SECONDS",
        "600",
        "More estimated waiting is refused with 503.",
        |s, v| {
            s.max_queue = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "RESULT_CACHE_SECONDS",
        "0",
        "How long a transcript is kept for the same upload to come again; 0: it is not.",
        |s, v| {
            s.result_cache = seconds(v)?;
            Ok(())
        },
    ),
    row("MAX_UPLOAD_MB", "512", "Largest upload.", |s, v| {
        let megabytes: f64 = number(v, 0.001, 1_000_000.0, "a number of MB from 0.001")?;
        s.max_upload_bytes = (megabytes * MEGABYTE as f64) as u64;
        Ok(())
    }),
    row("MAX_AUDIO_SECONDS", "14400", "Longest audio.", |s, v| {
        s.max_audio = positive_seconds(v)?;
        Ok(())
    }),
    // May carry a password.
    secret(row(
        "LIBRETRANSLATE_URL",
        "",
        "Translation through this LibreTranslate server.",
        libretranslate_url,
    )),
    secret(row("LIBRETRANSLATE_API_KEY", "", "Its key.", |s, v| {
        s.libretranslate_api_key = Some(v.to_owned());
        Ok(())
    })),
    row(
        "LIBRETRANSLATE_TIMEOUT_S",
        "30",
        "Seconds that it may take for one transcript.",
        |s, v| {
            s.libretranslate_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    // May carry a password.
    secret(row(
        "REDIS_URL",
        "",
        "Where the node registers itself.",
        redis_url,
    )),
    row(
        "NODE_ID",
        "",
        "The node's name; empty: host:port.",
        |s, v| {
            s.node_id = Some(v.to_owned());
            Ok(())
        },
    ),
    row("NODE_HOST", "localhost", "The advertised host.", |s, v| {
        v.clone_into(&mut s.node_host);
        Ok(())
    }),
    row(
        "NODE_PORT",
        "",
        "The advertised port; empty: PORT.",
        |s, v| {
            let port = number(v, 1, u16::MAX, "a port from 1 to 65535")?;
            s.node_port = Some(port);
            Ok(())
        },
    ),
    row(
        "CORS_ALLOW_ORIGINS",
        "",
        "Origins whose pages may use the server, by comma, or *; empty: none.",
        origins,
    ),
    secret(row(
        "API_KEYS",
        "",
        "Bearer keys, by comma; empty: open.",
        |s, v| {
            s.api_keys = v
                .split(',')
                .map(|key| key.trim().to_owned())
                .filter(|key| !key.is_empty())
                .collect();
            if s.api_keys.is_empty() {
                return Err("at least one key is expected".to_owned());
            }
            Ok(())
        },
    )),
    secret(later(
        "API_KEYS_FILE",
        "",
        "A file with `name key` a line.",
        // Ignoring it would leave the server open where its owner thinks it is closed.
        |_, _| Err("this version takes keys from API_KEYS only".to_owned()),
    )),
    later(
        "RATE_LIMIT_RPS",
        "",
        "Requests per second and client.",
        |_, v| number(v, 0.0, 1_000_000.0, "a number from 0").map(drop),
    ),
    later(
        "RATE_LIMIT_BURST",
        "",
        "Requests at once and client.",
        any_count,
    ),
    row("DEVICE", "auto", "cpu, cuda, vulkan or auto.", device),
    row("DEVICE_INDEX", "0", "Which GPU.", |s, v| {
        s.device_index = number(v, 0, 255, "a whole number from 0 to 255")?;
        Ok(())
    }),
    row(
        "COMPUTE_TYPE",
        "",
        "How weights are stored: float32, float16, int8, q5_1 ….",
        |s, v| {
            s.compute_type = Some(
                v.parse::<ComputeType>()
                    .map_err(|error| error.to_string())?,
            );
            Ok(())
        },
    ),
    row(
        "MAX_CONCURRENCY",
        "",
        "Most pieces of audio in inference at once; empty: one for each worker.",
        |s, v| {
            let most = number(v, 1, 1001, "a whole number from 1 to 1001")?;
            s.max_concurrency = Some(most);
            Ok(())
        },
    ),
    later("CT2_SMALL_PATH", "", "Another name of WHISPER_MODEL.", any),
    later("CT2_MEDIUM_PATH", "", "Another name of WHISPER_MODEL.", any),
    later(
        "CONF_LOGPROB_THRESHOLD",
        "0.55",
        "Confidence below which a request escalates.",
        any_probability,
    ),
    later(
        "CONF_LANGPROB_THRESHOLD",
        "0.70",
        "The same for a detected language.",
        any_probability,
    ),
    later(
        "MIN_WORDS_FOR_CONF",
        "3",
        "Fewer words escalate.",
        any_count,
    ),
    later("FALLBACK_URL", "", "The larger node.", any_url),
    secret(later("FALLBACK_API_KEY", "", "Its key.", any)),
    later(
        "METRICS_KEYED",
        "0",
        "Whether /metrics needs a key.",
        any_flag,
    ),
    later("SERVER_COMMIT", "", "Shown by /v1/metrics.", any),
    row("DEBUG", "false", "Trace routing and workers.", |s, v| {
        s.debug = flag(v)?;
        Ok(())
    }),
    // Read by the log itself.
    row("RUST_LOG", "", "The log's filter.", any),
    row("LOG_FORMAT", "text", "text or json.", |s, v| {
        s.log_format = match v {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err("text or json is expected".to_owned()),
        };
        Ok(())
    }),
    later("LOG_DIR", "", "Folder of rotating log files.", any),
    // Read before anything else.
    row("CONFIG_PATH", "", "The settings' file.", any),
];
