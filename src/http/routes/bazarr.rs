//! `/asr` and `/detect-language`, for Bazarr and other clients of whisper-asr-webservice: the options
//! are in the query, and the audio is `audio_file`, which may consist of samples without a header.

use std::fmt::Write;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use stt_actors::domain::transcript::{Task, Transcript};
use stt_actors::{Event, Job};

use super::keyed_post;
use crate::http::body::{BodyFormat, Parts, base_name, form};
use crate::http::reply::accept;
use crate::http::reply::error::ApiError;
use crate::http::translation::Translation;
use crate::http::usage::MeteredEvents;
use crate::http::{AppState, pipeline};
use crate::language;
use crate::metrics::Endpoint;
use crate::render::{Details, Format};

/// Names the engine; clients log it.
const ASR_ENGINE: HeaderName = HeaderName::from_static("asr-engine");
const ENGINE: HeaderValue = HeaderValue::from_static("whisper.cpp");
/// The most audio that language detection listens to: one window of the model.
const WINDOW_SECONDS: f64 = 30.0;

const FILE_NAMES: &[&str] = &["audio_file", "file"];

pub fn configure(config: &mut web::ServiceConfig) {
    keyed_post(config, Endpoint::Asr.path(), asr);
    keyed_post(config, "/detect-language", detect_language);
}

async fn asr(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let query = Query::of(&request)?;
    let task = query.task()?;
    let output = Output::parse(query.0.field("output").unwrap_or("txt").trim())?;
    let body_format = query.body_format()?;
    let admitted = pipeline::admit(&state, &request)?;
    let uploaded = admitted.read(body, body_format).await?;
    let details = Details {
        words: form::switch(&query.0, "word_timestamps", false)?,
        ..Details::default()
    };
    let mut form = admitted.check(query.with_file(uploaded), task)?;
    form.format = output.format();
    let finished = admitted.work(Endpoint::Asr, form).await?;
    let body = output.render(&finished.transcript, task, details);
    let mut response = finished.reply(accept::content_type(&request, output.content_type()), body);
    response.headers_mut().insert(ASR_ENGINE, ENGINE);
    Ok(response)
}

/// Detects the spoken language with the first chunk's decoding, and stops there.
async fn detect_language(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let query = Query::of(&request)?;
    let body_format = query.body_format()?;
    let admitted = pipeline::admit(&state, &request)?;
    let mut parts = query.with_file(admitted.read(body, body_format).await?);
    // A language in the request must not decide the result.
    parts
        .fields
        .retain(|(name, _)| base_name(name) != "language");
    let mut form = form::check(parts, Task::Transcribe)?;
    // Streaming makes the first chunk short.
    form.stream = true;
    let job = Job {
        // Another request for the text must not share a job that stops early.
        identity: None,
        // The reply is this node's own detection.
        escalates: false,
        ..admitted.job(form, &Translation::None)
    };
    let events = admitted.submit(job).await?.at_most(WINDOW_SECONDS);
    let (code, probability) = detected_language(events).await?;
    Ok(HttpResponse::Ok()
        .insert_header((ASR_ENGINE, ENGINE))
        .json(json!({
            "detected_language": language::name_of(&code),
            "language_code": code,
            "confidence": probability,
        })))
}

/// Waits for the language and for the progress event after it, which says how much audio to charge for.
async fn detected_language(mut events: MeteredEvents) -> Result<(String, Option<f32>), ApiError> {
    let mut found = None;
    loop {
        match (events.next().await, &found) {
            (Some(Ok(Event::Language { code, probability })), _) => {
                found = Some((code, probability));
            }
            (Some(Ok(Event::Progress(_)) | Err(_)), Some(_)) | (None, _) => break,
            (Some(Ok(Event::Done(transcript))), _) => {
                return Ok((transcript.language, transcript.language_probability));
            }
            (
                Some(Ok(
                    Event::Route(_) | Event::Segment(_) | Event::Progress(_) | Event::Finished(_),
                )),
                _,
            ) => {}
            (Some(Err(error)), None) => return Err(error.into()),
        }
    }
    found.ok_or_else(ApiError::internal)
}

/// The options in the query. They are known before the body is read.
struct Query(Parts);

impl Query {
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        let query = query.map_err(|error| {
            ApiError::malformed_body(format!("the query cannot be parsed: {error}"))
        })?;
        let mut parts = Parts::default();
        for (name, value) in query.into_inner() {
            let name = match base_name(&name) {
                "initial_prompt" => "prompt".to_owned(),
                // These have another meaning and other values than in OpenAI's API.
                "response_format" | "stream" => continue,
                _ => name,
            };
            parts.add(name, value)?;
        }
        Ok(Self(parts))
    }

    fn task(&self) -> Result<Task, ApiError> {
        let task = self.0.field("task").unwrap_or("transcribe").trim();
        match task.to_ascii_lowercase().as_str() {
            "transcribe" => Ok(Task::Transcribe),
            "translate" => Ok(Task::Translate),
            _ => {
                let message = format!("task is {task:?}; expected transcribe or translate");
                Err(ApiError::invalid_value("task", message))
            }
        }
    }

    /// With `encode=false` the audio consists of samples without a header; else ffmpeg detects its format.
    fn body_format(&self) -> Result<BodyFormat, ApiError> {
        Ok(BodyFormat {
            file_names: FILE_NAMES,
            raw_samples: !form::switch(&self.0, "encode", true)?,
            json: false,
            max_files: 1,
        })
    }

    /// These options with the file of a body. Other fields of the body are ignored.
    fn with_file(self, body: Parts) -> Parts {
        Parts {
            file: body.file,
            file_param: FILE_NAMES[0],
            ..self.0
        }
    }
}

/// The `output` option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// One of the formats of the other routes.
    Format(Format),
    /// Lines with start and end in milliseconds and the text, separated by tabs.
    Tsv,
}

impl Output {
    fn parse(name: &str) -> Result<Self, ApiError> {
        match name.to_ascii_lowercase().as_str() {
            "txt" => Ok(Self::Format(Format::Text)),
            "json" => Ok(Self::Format(Format::VerboseJson)),
            "srt" => Ok(Self::Format(Format::Srt)),
            "vtt" => Ok(Self::Format(Format::Vtt)),
            "tsv" => Ok(Self::Tsv),
            _ => {
                let message =
                    format!("output is {name:?}; expected one of txt, json, srt, vtt, tsv");
                Err(ApiError::invalid_value("output", message))
            }
        }
    }

    /// The format under which metrics count it.
    fn format(self) -> Format {
        match self {
            Self::Format(format) => format,
            Self::Tsv => Format::Text,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Tsv => "text/tab-separated-values; charset=utf-8",
            Self::Format(format) => format.content_type(),
        }
    }

    fn render(self, transcript: &Transcript, task: Task, details: Details) -> String {
        match self {
            Self::Format(format) => format.render(transcript, task, details),
            Self::Tsv => tsv(transcript),
        }
    }
}

fn tsv(transcript: &Transcript) -> String {
    let mut out = String::from("start\tend\ttext\n");
    let millis = |seconds: f64| (seconds * 1000.0).round() as u64;
    for segment in &transcript.segments {
        let words: Vec<&str> = segment.text.split_whitespace().collect();
        let (start, end) = (millis(segment.start), millis(segment.end));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{start}\t{end}\t{}", words.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_outputs_are_accepted_and_others_rejected() {
        for name in ["txt", "json", "srt", "vtt", "tsv", "SRT"] {
            assert!(Output::parse(name).is_ok(), "{name}");
        }
        let error = Output::parse("docx").expect_err("unknown");
        assert_eq!(error.code(), "invalid_value");
    }
}
