//! The configuration of a session: what a client sets, and what the server reports of it.

mod report;
#[cfg(test)]
mod tests;
mod update;

use std::time::Duration;

use stt_actors::Options;
use stt_actors::domain::live::{LiveOptions, PcmEncoding, PcmFormat, TurnDetection};

use crate::http::body::prompt;

/// The shape of the protocol that a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// The current one.
    #[default]
    Current,
    /// That of the beta (`OpenAI-Beta: realtime=v1`).
    Beta,
}

/// The configuration of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionConfig {
    format: AudioFormat,
    /// Reported only: Whisper needs none.
    noise_reduction: Option<&'static str>,
    transcription: Transcription,
    /// `None`: the client ends turns.
    turns: Option<TurnRules>,
    /// Whether events have the log-probabilities of tokens.
    pub logprobs: bool,
}

/// The format of the audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AudioFormat {
    /// Signed 16 bit, little-endian, mono.
    Pcm {
        /// Samples per second.
        rate: u32,
    },
    /// G.711 at 8 kHz.
    MuLaw,
    /// G.711 at 8 kHz.
    ALaw,
}

impl Default for AudioFormat {
    fn default() -> Self {
        Self::Pcm { rate: 24_000 }
    }
}

/// How to transcribe.
#[derive(Clone, Debug, Default, PartialEq)]
struct Transcription {
    /// Any name means the served model.
    model: Option<String>,
    language: SpokenLanguage,
    /// The languages among which it is detected; empty: all.
    languages: Vec<String>,
    keywords: Vec<String>,
    prompt: Option<String>,
    /// Reported only: the server always sends text as soon as it is certain.
    delay: Option<&'static str>,
}

/// The language according to the client.
#[derive(Clone, Debug, Default, PartialEq)]
enum SpokenLanguage {
    /// The server's default, or detected.
    #[default]
    NotGiven,
    /// Detected, even if the server has a default.
    Detected,
    /// ISO 639-1.
    Given(String),
}

/// Where turns end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TurnRules {
    /// At a silence.
    Server {
        threshold: f64,
        prefix_padding_ms: u64,
        silence_duration_ms: u64,
    },
    /// At the end of a sentence.
    Semantic { eagerness: &'static str },
}

impl TurnRules {
    const SERVER: Self = Self::Server {
        threshold: 0.5,
        prefix_padding_ms: 300,
        silence_duration_ms: 500,
    };
}

impl SessionConfig {
    /// The configuration of a new session. `model`: the name to report.
    pub fn new(model: Option<String>) -> Self {
        Self {
            transcription: Transcription {
                model,
                ..Transcription::default()
            },
            turns: Some(TurnRules::SERVER),
            ..Self::default()
        }
    }

    /// Names the model, unless the client has named one.
    pub fn name_model(&mut self, name: impl FnOnce() -> Option<String>) {
        if self.transcription.model.is_none() {
            self.transcription.model = name();
        }
    }

    /// The language that the client gave.
    pub fn language(&self) -> Option<&str> {
        match &self.transcription.language {
            SpokenLanguage::Given(code) => Some(code),
            SpokenLanguage::NotGiven | SpokenLanguage::Detected => None,
        }
    }

    /// The format of the audio for the tree.
    pub fn pcm_format(&self) -> PcmFormat {
        let g711 = |encoding| PcmFormat {
            encoding,
            width: 1,
            rate: 8000,
            channels: 1,
        };
        match self.format {
            AudioFormat::Pcm { rate } => PcmFormat::mono16(rate),
            AudioFormat::MuLaw => g711(PcmEncoding::MuLaw),
            AudioFormat::ALaw => g711(PcmEncoding::ALaw),
        }
    }

    /// The options for the tree. `default_language`: that of the server.
    pub fn live_options(&self, default_language: Option<&str>) -> LiveOptions {
        let Transcription {
            language,
            languages,
            ..
        } = &self.transcription;
        let language = match (language, languages.as_slice()) {
            (SpokenLanguage::Given(code), _) => Some(code.clone()),
            (_, [only]) => Some(only.clone()),
            (SpokenLanguage::NotGiven, []) => default_language.map(str::to_owned),
            (SpokenLanguage::NotGiven | SpokenLanguage::Detected, _) => None,
        };
        LiveOptions {
            format: self.pcm_format(),
            options: Options {
                languages: languages.clone(),
                language,
                prompt: self.prompt(),
                ..Options::default()
            },
            turns: self.turn_detection(),
            partials: true,
        }
    }

    /// The prompt and the keywords: Whisper continues in the style of both.
    fn prompt(&self) -> Option<String> {
        let Transcription {
            prompt, keywords, ..
        } = &self.transcription;
        let prompt = prompt.as_deref().map(str::trim);
        let prompt = prompt.filter(|text| !text.is_empty() && !prompt::is_instruction(text));
        let keywords = (!keywords.is_empty()).then(|| keywords.join(", "));
        let parts: Vec<&str> = prompt.into_iter().chain(keywords.as_deref()).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }

    fn turn_detection(&self) -> TurnDetection {
        match self.turns {
            None => TurnDetection::Manual,
            Some(TurnRules::Server {
                threshold,
                prefix_padding_ms,
                silence_duration_ms,
            }) => TurnDetection::Silence {
                threshold: threshold as f32,
                prefix: Duration::from_millis(prefix_padding_ms),
                silence: Duration::from_millis(silence_duration_ms),
            },
            Some(TurnRules::Semantic { eagerness }) => TurnDetection::Sentence {
                longest: Duration::from_secs(match eagerness {
                    "low" => 8,
                    "high" => 2,
                    _ => 4,
                }),
            },
        }
    }
}
