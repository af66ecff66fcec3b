//! Checks the fields of a request with audio.

use stt_actors::domain::transcript::Task;
use stt_actors::{Options, TargetLanguage};

use crate::http::body::Parts;
use crate::http::body::prompt;
use crate::http::body::upload::StoredUpload;
use crate::http::reply::error::ApiError;
use crate::language;
use crate::libretranslate;
use crate::render::{Details, Format};

/// A request with audio, read and checked.
#[derive(Debug)]
pub struct AudioForm {
    pub audio: StoredUpload,
    /// How to transcribe the audio.
    pub options: Options,
    /// The language is detected, even if the server has a default.
    pub detects_language: bool,
    /// The language of a translation.
    pub target: TargetLanguage,
    /// The format of the reply.
    pub format: Format,
    /// What the reply contains besides the text.
    pub details: Details,
    /// Whether the reply is streamed.
    pub stream: bool,
}

/// Checks a request's fields.
///
/// # Errors
/// A value is out of range, or there is no audio.
pub fn check(parts: Parts, task: Task) -> Result<AudioForm, ApiError> {
    let format = match parts.field("response_format") {
        Some(value) => response_format(value.trim())?,
        None => Format::Json,
    };
    let details = details(&parts)?;
    let options = options(&parts, task)?;
    let detects_language = is_auto(&parts) || options.multilingual || !options.languages.is_empty();
    check_chunking_strategy(&parts)?;
    let target = match parts.field("to_language") {
        Some(value) if task == Task::Translate => parse_target(value)?,
        Some(_) | None => TargetLanguage::default(),
    };
    Ok(AudioForm {
        options,
        target,
        format,
        details,
        stream: stream(&parts, format)?,
        detects_language,
        audio: (parts.file).ok_or_else(|| ApiError::missing_file(parts.file_param))?,
    })
}

/// The format and the details of a result, from the query of a request for it. What the query does not name is as
/// `default`.
///
/// # Errors
/// A value is out of range.
pub fn result_format(
    parts: &Parts,
    default: (Format, Details),
) -> Result<(Format, Details), ApiError> {
    let (mut format, mut wanted) = default;
    if let Some(value) = parts.field("response_format") {
        format = response_format(value.trim())?;
    }
    if parts.field("timestamp_granularities").is_some() || parts.field("include").is_some() {
        wanted = details(parts)?;
    }
    Ok((format, wanted))
}

fn options(parts: &Parts, task: Task) -> Result<Options, ApiError> {
    let temperature = match parts.field("temperature") {
        Some(value) => temperature(value.trim())?,
        None => 0.0,
    };
    let prompt = parts.field("prompt");
    let prompt = prompt.filter(|text| !prompt::is_instruction(text));
    let (language, languages) = languages(parts)?;
    Ok(Options {
        task,
        language,
        languages,
        prompt: prompt.map(str::to_owned),
        temperature,
        voice_activity: switch(parts, "vad_filter", true)?,
        hallucination_guard: switch(parts, "hallucination_guard", true)?,
        multilingual: switch(parts, "multilingual", false)?,
    })
}

/// The spoken language, and the languages among which it is detected. One of the latter is the spoken language.
fn languages(parts: &Parts) -> Result<(Option<String>, Vec<String>), ApiError> {
    let mut languages = Vec::new();
    for value in parts.values("languages") {
        let code = parse_language("languages", &value)?;
        if !languages.contains(&code) {
            languages.push(code);
        }
    }
    Ok(match language(parts)? {
        Some(language) => (Some(language), Vec::new()),
        None if languages.len() == 1 => (languages.pop(), languages),
        None => (None, languages),
    })
}

/// The spoken language according to the client; `None` if it has to be detected.
fn language(parts: &Parts) -> Result<Option<String>, ApiError> {
    match parts.field("language") {
        Some(_) if is_auto(parts) => Ok(None),
        Some(value) => parse_language("language", value).map(Some),
        None => Ok(None),
    }
}

fn is_auto(parts: &Parts) -> bool {
    parts
        .field("language")
        .is_some_and(language::is_undetermined)
}

/// A value as error messages quote it: shortened to 100 characters.
fn quoted(value: &str) -> String {
    const MAX_CHARS: usize = 100;
    let mut text: String = value.chars().take(MAX_CHARS).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("{text:?}")
}

/// The value of a boolean field.
pub fn switch(parts: &Parts, name: &'static str, default: bool) -> Result<bool, ApiError> {
    match parts.field(name) {
        Some(value) => flag(name, value.trim()),
        None => Ok(default),
    }
}

/// Whether the reply is streamed. For a format with a structure around the text, `stream` has no effect: OpenAI
/// ignores it for whisper-1 as well, and some programs send it without their user's knowledge.
fn stream(parts: &Parts, format: Format) -> Result<bool, ApiError> {
    let is_streamable = matches!(format, Format::Json | Format::Text);
    Ok(switch(parts, "stream", false)? && is_streamable)
}

/// `timestamp_granularities[]` and `include[]`.
fn details(parts: &Parts) -> Result<Details, ApiError> {
    let mut details = Details {
        segments: false,
        words: false,
        logprobs: false,
        streamed_segments: false,
    };
    for value in parts.values("timestamp_granularities") {
        match value.to_ascii_lowercase().as_str() {
            "word" => details.words = true,
            "segment" => details.segments = true,
            _ => {
                let message = format!(
                    "timestamp_granularities is {}; expected word or segment",
                    quoted(&value)
                );
                return Err(ApiError::invalid_value("timestamp_granularities", message));
            }
        }
    }
    details.segments |= !details.words;
    for value in parts.values("include") {
        match value.to_ascii_lowercase().as_str() {
            "logprobs" => details.logprobs = true,
            "segments" => details.streamed_segments = true,
            _ => {
                let message = format!(
                    "include is {}; expected logprobs or segments",
                    quoted(&value)
                );
                return Err(ApiError::invalid_value("include", message));
            }
        }
    }
    Ok(details)
}

/// Checks `chunking_strategy`. It has no effect: the audio is always cut at pauses.
fn check_chunking_strategy(parts: &Parts) -> Result<(), ApiError> {
    let Some(value) = parts.field("chunking_strategy") else {
        return Ok(());
    };
    let json = serde_json::from_str::<serde_json::Value>(value).ok();
    let is_known = json.is_some_and(|json| json == "auto" || json["type"] == "server_vad");
    if value.trim().eq_ignore_ascii_case("auto") || is_known {
        return Ok(());
    }
    let message = format!(
        "chunking_strategy is {}; expected auto or {{\"type\":\"server_vad\"}}",
        quoted(value)
    );
    Err(ApiError::invalid_value("chunking_strategy", message))
}

fn response_format(value: &str) -> Result<Format, ApiError> {
    let name = value.to_ascii_lowercase().replace('-', "_");
    Format::parse(&name).ok_or_else(|| {
        let message = format!(
            "response_format is {}; expected one of json, text, srt, verbose_json, vtt",
            quoted(value)
        );
        ApiError::invalid_value("response_format", message)
    })
}

fn temperature(value: &str) -> Result<f32, ApiError> {
    let parsed = value.parse::<f32>().ok();
    parsed.filter(|t| (0.0..=1.0).contains(t)).ok_or_else(|| {
        let message = format!(
            "temperature is {}; expected a number from 0 to 1",
            quoted(value)
        );
        ApiError::invalid_value("temperature", message)
    })
}

fn flag(param: &'static str, value: &str) -> Result<bool, ApiError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => {
            let message = format!("{param} is {}; expected true or false", quoted(value));
            Err(ApiError::invalid_value(param, message))
        }
    }
}

fn parse_language(param: &'static str, value: &str) -> Result<String, ApiError> {
    let known = language::parse(value);
    known.map(|known| known.code().to_owned()).ok_or_else(|| {
        let message = format!(
            "the language {} is not one of the 99 that Whisper knows; {}",
            quoted(value),
            hint(value)
        );
        ApiError::unsupported_language(param, message)
    })
}

/// What to send instead of an unknown language.
fn hint(value: &str) -> String {
    match language::suggestion(value) {
        Some(meant) => format!("the code of {} is {:?}", meant.name(), meant.code()),
        None => "expected a code such as \"en\"".to_owned(),
    }
}

fn parse_target(value: &str) -> Result<TargetLanguage, ApiError> {
    libretranslate::parse_target(value).ok_or_else(|| {
        let message = format!("the language {} is unknown; {}", quoted(value), hint(value));
        ApiError::unsupported_language("to_language", message)
    })
}

#[cfg(test)]
mod tests;
