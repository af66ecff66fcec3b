//! The configuration as the server reports it.

use serde_json::{Value, json};

use super::update::LOGPROBS;
use super::{AudioFormat, SessionConfig, Shape, SpokenLanguage, TurnRules};

impl SessionConfig {
    /// The session object. `expires_at`: in seconds since 1970.
    pub fn report(&self, shape: Shape, id: &str, expires_at: u64) -> Value {
        let mut session = json!({
            "id": id,
            "object": "realtime.transcription_session",
            "expires_at": expires_at,
        });
        let fields = match shape {
            Shape::Current => json!({
                "type": "transcription",
                "audio": {"input": {
                    "format": self.format(),
                    "noise_reduction": self.noise_reduction(),
                    "transcription": self.transcription(),
                    "turn_detection": self.turns(),
                }},
                "include": self.include(),
            }),
            Shape::Beta => json!({
                "modalities": ["text"],
                "input_audio_format": match self.format {
                    AudioFormat::Pcm { .. } => "pcm16",
                    AudioFormat::MuLaw => "g711_ulaw",
                    AudioFormat::ALaw => "g711_alaw",
                },
                "input_audio_noise_reduction": self.noise_reduction(),
                "input_audio_transcription": self.transcription(),
                "turn_detection": self.turns(),
                "include": self.include(),
            }),
        };
        if let (Value::Object(session), Value::Object(fields)) = (&mut session, fields) {
            session.extend(fields);
        }
        session
    }

    fn format(&self) -> Value {
        match self.format {
            AudioFormat::Pcm { rate } => json!({"type": "audio/pcm", "rate": rate}),
            AudioFormat::MuLaw => json!({"type": "audio/pcmu"}),
            AudioFormat::ALaw => json!({"type": "audio/pcma"}),
        }
    }

    fn noise_reduction(&self) -> Value {
        self.noise_reduction
            .map_or(Value::Null, |kind| json!({"type": kind}))
    }

    fn include(&self) -> Value {
        if self.logprobs {
            json!([LOGPROBS])
        } else {
            Value::Null
        }
    }

    fn transcription(&self) -> Value {
        let transcription = &self.transcription;
        let mut value = json!({"model": transcription.model});
        match &transcription.language {
            SpokenLanguage::NotGiven => {}
            SpokenLanguage::Detected => value["language"] = "auto".into(),
            SpokenLanguage::Given(code) => value["language"] = code.as_str().into(),
        }
        if !transcription.languages.is_empty() {
            value["languages"] = json!(transcription.languages);
        }
        if let Some(prompt) = &transcription.prompt {
            value["prompt"] = prompt.as_str().into();
        }
        if !transcription.keywords.is_empty() {
            value["keywords"] = json!(transcription.keywords);
        }
        if let Some(delay) = transcription.delay {
            value["delay"] = delay.into();
        }
        value
    }

    fn turns(&self) -> Value {
        match self.turns {
            None => Value::Null,
            Some(TurnRules::Server {
                threshold,
                prefix_padding_ms,
                silence_duration_ms,
            }) => json!({
                "type": "server_vad",
                "threshold": threshold,
                "prefix_padding_ms": prefix_padding_ms,
                "silence_duration_ms": silence_duration_ms,
            }),
            Some(TurnRules::Semantic { eagerness }) => {
                json!({"type": "semantic_vad", "eagerness": eagerness})
            }
        }
    }
}
