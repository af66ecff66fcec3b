//! The answer to `describe`.

use serde_json::json;
use stt_actors::ports::EngineInfo;

use super::event::reply;
use super::frame::Event;
use crate::language::{self, Language};

const PROGRAM: &str = "uttera-stt";
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The configured model, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Whether it knows English only.
    pub english_only: bool,
}

impl Model {
    /// The loaded model, or the configured one while none was loaded.
    pub fn of(engine: Option<&EngineInfo>, configured: &Self) -> Self {
        engine.map_or_else(
            || configured.clone(),
            |engine| Self {
                name: engine.model.clone(),
                english_only: !engine.multilingual,
            },
        )
    }
}

/// The event `info`. `languages`: the codes to list; empty: all that the model knows. A model for
/// English lists English.
pub fn info(model: &Model, languages: &[String]) -> Event {
    let languages = match languages {
        _ if model.english_only => vec!["en".to_owned()],
        [] => language::all()
            .map(Language::code)
            .map(str::to_owned)
            .collect(),
        chosen => chosen.to_vec(),
    };
    let program = json!({
        "name": PROGRAM,
        "attribution": {"name": "The uttera-stt authors", "url": REPOSITORY},
        "installed": true,
        "description": "Speech-to-text on Whisper",
        "version": VERSION,
        "models": [{
            "name": model.name,
            "attribution": {"name": "OpenAI", "url": "https://github.com/openai/whisper"},
            "installed": true,
            "description": format!("Whisper {}", model.name),
            "version": VERSION,
            "languages": languages,
        }],
        "supports_transcript_streaming": true,
        // The client decides where an utterance ends.
        "requires_external_vad": true,
        "prefers_auto_gain_enabled": true,
        "prefers_noise_reduction_enabled": true,
    });
    let info = json!({
        "asr": [program],
        "tts": [],
        "handle": [],
        "intent": [],
        "wake": [],
        "mic": [],
        "snd": [],
    });
    reply("info", info)
}
