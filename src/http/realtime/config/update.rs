//! Changes of the configuration by a client. Only the fields that are present change; `null` clears one.

use serde_json::Value;

use super::{AudioFormat, SessionConfig, SpokenLanguage, Transcription, TurnRules};
use crate::http::realtime::error::{EventError, quoted};
use crate::http::realtime::fields::{Field, Fields};
use crate::language;

/// What `include` may contain.
pub(super) const LOGPROBS: &str = "item.input_audio_transcription.logprobs";
const NOISE_REDUCTIONS: &[&str] = &["near_field", "far_field"];
const DELAYS: &[&str] = &["minimal", "low", "medium", "high", "xhigh"];
const EAGERNESS: &[&str] = &["low", "medium", "high", "auto"];
/// Sample rates of PCM.
const RATES: std::ops::RangeInclusive<u64> = 8000..=48_000;
const G711_RATE: u64 = 8000;
/// The longest prefix and the longest silence of turn detection.
const MOST_MILLIS: u64 = 10_000;
/// Bytes of a name.
const LONGEST_NAME: usize = 256;
/// Bytes of a prompt. Whisper reads the last 224 tokens.
const LONGEST_PROMPT: usize = 16 * 1024;
const MOST_LANGUAGES: usize = 100;
const MOST_KEYWORDS: usize = 256;

impl SessionConfig {
    /// Takes a client's changes. `session`: the object, at the path `root`. Fields of both shapes are known.
    ///
    /// # Errors
    /// A value is not valid; nothing has changed.
    pub fn update(&mut self, session: &Value, root: &str) -> Result<(), EventError> {
        let session = Fields::of(session, root)?;
        let mut changed = self.clone();
        changed.take_all(&session)?;
        *self = changed;
        Ok(())
    }

    fn take_all(&mut self, session: &Fields) -> Result<(), EventError> {
        if let Field::Given(kind) = session.text("type", usize::MAX)?
            && kind != "transcription"
        {
            let path = session.path("type");
            let message = format!(
                "{path} is {}; this server has sessions of the type transcription only",
                quoted(kind)
            );
            return Err(EventError::invalid(path, message));
        }
        if let Field::Given(include) = present(session.texts("include", 16, LONGEST_NAME)?, vec![])
        {
            if let Some(other) = include.iter().find(|value| **value != LOGPROBS) {
                let path = session.path("include");
                let message = format!("{path} has {}; expected {LOGPROBS}", quoted(other));
                return Err(EventError::invalid(path, message));
            }
            self.logprobs = !include.is_empty();
        }
        if let Field::Given(audio) = session.object("audio")?
            && let Field::Given(input) = audio.object("input")?
        {
            self.take_input(&input, "")?;
        }
        self.take_input(session, "input_audio_")?;
        Ok(())
    }

    /// Takes the fields of the input, whose names begin with `prefix` in the beta.
    fn take_input(&mut self, input: &Fields, prefix: &str) -> Result<(), EventError> {
        let name = |name: &str| format!("{prefix}{name}");
        (input.read(&name("format"), format)?).set_or(&mut self.format, AudioFormat::default());
        match input.object(&name("noise_reduction"))? {
            Field::Absent => {}
            Field::Null => self.noise_reduction = None,
            Field::Given(object) => {
                let kind = object.choice("type", NOISE_REDUCTIONS)?;
                kind.set(&mut self.noise_reduction);
            }
        }
        match input.object(&name("transcription"))? {
            Field::Absent => {}
            Field::Null => {
                self.transcription = Transcription {
                    model: self.transcription.model.take(),
                    ..Transcription::default()
                };
            }
            Field::Given(object) => self.transcription.take(&object)?,
        }
        // Its name has no prefix in the beta.
        match input.object("turn_detection")? {
            Field::Absent => {}
            Field::Null => self.turns = None,
            Field::Given(object) => self.turns = Some(turns(self.turns, &object)?),
        }
        Ok(())
    }
}

/// A field for which `null` is a value.
fn present<T>(field: Field<T>, null: T) -> Field<T> {
    match field {
        Field::Null => Field::Given(null),
        other => other,
    }
}

impl Transcription {
    fn take(&mut self, fields: &Fields) -> Result<(), EventError> {
        let owned = |field| match field {
            Field::Absent => Field::Absent,
            Field::Null => Field::Null,
            Field::Given(text) => Field::Given(str::to_owned(text)),
        };
        match owned(fields.text("model", LONGEST_NAME)?) {
            Field::Given(name) if !name.is_empty() => self.model = Some(name),
            Field::Given(_) | Field::Null | Field::Absent => {}
        }
        fields
            .read("language", spoken)?
            .set_or(&mut self.language, SpokenLanguage::NotGiven);
        let languages = fields.texts("languages", MOST_LANGUAGES, LONGEST_NAME)?;
        if let Field::Given(languages) = present(languages, vec![]) {
            let path = fields.path("languages");
            let codes = languages.iter().map(|text| code_of(text, path.clone()));
            self.languages = codes.collect::<Result<_, _>>()?;
        }
        owned(fields.text("prompt", LONGEST_PROMPT)?).set(&mut self.prompt);
        if let Field::Given(keywords) = present(
            fields.texts("keywords", MOST_KEYWORDS, LONGEST_NAME)?,
            vec![],
        ) {
            self.keywords = (keywords.iter().map(|word| word.trim()))
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect();
        }
        fields.choice("delay", DELAYS)?.set(&mut self.delay);
        Ok(())
    }
}

/// A language that is named, or to be detected.
fn spoken(value: &Value, path: String) -> Result<SpokenLanguage, EventError> {
    let Some(text) = value.as_str() else {
        return Err(EventError::new("invalid_type", format!("{path} is not a text")).at(path));
    };
    if text.trim().is_empty() {
        return Ok(SpokenLanguage::NotGiven);
    }
    if language::is_undetermined(text) {
        return Ok(SpokenLanguage::Detected);
    }
    code_of(text, path).map(SpokenLanguage::Given)
}

/// The code of a language.
fn code_of(text: &str, path: String) -> Result<String, EventError> {
    let known = language::parse(text);
    known.map(|known| known.code().to_owned()).ok_or_else(|| {
        let hint = match language::suggestion(text) {
            Some(meant) => format!("the code of {} is {:?}", meant.name(), meant.code()),
            None => "expected a code such as \"en\"".to_owned(),
        };
        let message = format!(
            "{path} is {}, which is not one of the 99 languages that Whisper knows; {hint}",
            quoted(text)
        );
        EventError::new("unsupported_language", message).at(path)
    })
}

/// An object in the current shape, a name in the beta's.
fn format(value: &Value, path: String) -> Result<AudioFormat, EventError> {
    if let Some(name) = value.as_str() {
        return match name {
            "pcm16" => Ok(AudioFormat::default()),
            "g711_ulaw" => Ok(AudioFormat::MuLaw),
            "g711_alaw" => Ok(AudioFormat::ALaw),
            _ => {
                let message = format!(
                    "{path} is {}; expected one of pcm16, g711_ulaw, g711_alaw",
                    quoted(name)
                );
                Err(EventError::invalid(path, message))
            }
        };
    }
    let fields = Fields::of(value, path)?;
    let kinds = &["audio/pcm", "audio/pcmu", "audio/pcma"];
    let kind = fields.choice("type", kinds)?.or("audio/pcm", "audio/pcm");
    let g711 = |format| {
        fields.integer("rate", G711_RATE..=G711_RATE)?;
        Ok(format)
    };
    match kind {
        "audio/pcmu" => g711(AudioFormat::MuLaw),
        "audio/pcma" => g711(AudioFormat::ALaw),
        _ => {
            let rate = fields.integer("rate", RATES)?.or(24_000, 24_000);
            Ok(AudioFormat::Pcm { rate: rate as u32 })
        }
    }
}

/// Rules for turns. Fields that are absent keep their value, if the type stays.
fn turns(so_far: Option<TurnRules>, fields: &Fields) -> Result<TurnRules, EventError> {
    let known = match so_far {
        Some(TurnRules::Semantic { .. }) => "semantic_vad",
        Some(TurnRules::Server { .. }) | None => "server_vad",
    };
    let kind = fields.choice("type", &["server_vad", "semantic_vad"])?;
    let kind = kind.or(known, "server_vad");
    if kind == "semantic_vad" {
        let eagerness = match so_far {
            Some(TurnRules::Semantic { eagerness }) => eagerness,
            Some(TurnRules::Server { .. }) | None => "auto",
        };
        let eagerness = fields.choice("eagerness", EAGERNESS)?.or(eagerness, "auto");
        return Ok(TurnRules::Semantic { eagerness });
    }
    let (threshold, prefix, silence) = match so_far {
        Some(TurnRules::Server {
            threshold,
            prefix_padding_ms,
            silence_duration_ms,
        }) => (threshold, prefix_padding_ms, silence_duration_ms),
        Some(TurnRules::Semantic { .. }) | None => (0.5, 300, 500),
    };
    let millis = |name| fields.integer(name, 0..=MOST_MILLIS);
    Ok(TurnRules::Server {
        threshold: (fields.number("threshold", 0.0..=1.0)?).or(threshold, 0.5),
        prefix_padding_ms: millis("prefix_padding_ms")?.or(prefix, 300),
        silence_duration_ms: millis("silence_duration_ms")?.or(silence, 500),
    })
}
