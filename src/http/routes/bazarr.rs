//! `/asr` and `/detect-language`, as Bazarr and other clients of whisper-asr-webservice use them: the
//! options in the query, the audio as `audio_file`, which may be bare samples.

use std::fmt::Write;

use actix_web::http::header::{CONTENT_TYPE, HeaderName};
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use stt_actors::transcript::{Task, Transcript};
use stt_actors::{Event, Job};

use crate::http::body::form::{self, AudioForm};
use crate::http::body::{self, Parts, Wanted};
use crate::http::caller::Visitor;
use crate::http::pipeline::{AudioRequest, admit, check, check_can_translate, job, work};
use crate::http::reply::error::ApiError;
use crate::http::translation::Translation;
use crate::http::usage::Metered;
use crate::http::{AppState, auth, only};
use crate::language;
use crate::metrics::Endpoint;
use crate::render::{Details, Format};

/// Which engine did it: clients log it.
const ASR_ENGINE: HeaderName = HeaderName::from_static("asr-engine");
const ENGINE: &str = "whisper.cpp";
/// What whisper hears of audio to find its language.
const WINDOW_SECONDS: f64 = 30.0;

const FILE_NAMES: &[&str] = &["audio_file", "file"];

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/asr")
                .wrap(from_fn(auth::require_key))
                .route(web::post().to(asr))
                .default_service(only("POST")),
        )
        .service(
            web::resource("/detect-language")
                .wrap(from_fn(auth::require_key))
                .route(web::post().to(detect_language))
                .default_service(only("POST")),
        );
}

/// How the text is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// As on the other paths.
    Format(Format),
    /// Lines of start and end in milliseconds and the text, with tabs between.
    Tsv,
}

impl Output {
    fn parse(name: &str) -> Result<Self, ApiError> {
        match name {
            "txt" => Ok(Self::Format(Format::Text)),
            "json" => Ok(Self::Format(Format::VerboseJson)),
            "srt" => Ok(Self::Format(Format::Srt)),
            "vtt" => Ok(Self::Format(Format::Vtt)),
            "tsv" => Ok(Self::Tsv),
            _ => {
                let message =
                    format!("output is {name:?}; one of txt, json, srt, vtt, tsv is expected");
                Err(ApiError::invalid_value("output", message))
            }
        }
    }

    /// What it counts as.
    fn format(self) -> Format {
        match self {
            Self::Format(format) => format,
            Self::Tsv => Format::Text,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            // Clients read the text whatever it is called, as the original does.
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

/// The options of the query: they are known before the body is read.
struct Query(Parts);

impl Query {
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        let query = query.map_err(|error| {
            ApiError::malformed_body(format!("the query cannot be read: {error}"))
        })?;
        let mut parts = Parts::default();
        for (name, value) in query.into_inner() {
            let name = match name.as_str() {
                "initial_prompt" => "prompt".to_owned(),
                // Another meaning, and other values, than on OpenAI's paths.
                "response_format" | "stream" => continue,
                _ => name,
            };
            parts.add(name, value)?;
        }
        Ok(Self(parts))
    }

    fn task(&self) -> Result<Task, ApiError> {
        match self.0.field("task").map(str::trim) {
            None | Some("transcribe") => Ok(Task::Transcribe),
            Some("translate") => Ok(Task::Translate),
            Some(other) => {
                let message = format!("task is {other:?}; transcribe or translate is expected");
                Err(ApiError::invalid_value("task", message))
            }
        }
    }

    /// The audio may be samples without any header: 16 kHz, mono, signed 16 bit. `encode=true` asks the
    /// server to find out what it is.
    fn wanted(&self) -> Result<Wanted, ApiError> {
        Ok(Wanted {
            names: FILE_NAMES,
            raw: !form::switch(&self.0, "encode", true)?,
            json: false,
        })
    }
}

async fn asr(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let query = Query::of(&request)?;
    let task = query.task()?;
    let output = Output::parse(query.0.field("output").unwrap_or("txt").trim())?;
    let wanted = query.wanted()?;
    if task == Task::Translate {
        check_can_translate(&state)?;
    }
    let admission = admit(&state, &request)?;
    let read = body::read(&request, body, &state.uploads, wanted).await?;
    let details = Details {
        words: form::switch(&query.0, "word_timestamps", false)?,
        ..Details::default()
    };
    let checked = check(&state, with_query(read, query), task)?;
    let asked = AudioRequest {
        admission,
        form: AudioForm {
            format: output.format(),
            ..checked
        },
        endpoint: Endpoint::Asr,
    };
    let written = work(&state, &request, asked).await?;
    let body = output.render(&written.transcript, task, details);
    let mut response = written.reply(output.content_type(), body);
    let engine = actix_web::http::header::HeaderValue::from_static(ENGINE);
    response.headers_mut().insert(ASR_ENGINE, engine);
    Ok(response)
}

/// The file of the form with the options of the query.
fn with_query(read: Parts, query: Query) -> Parts {
    Parts {
        file: read.file,
        file_name: Some(FILE_NAMES[0]),
        ..query.0
    }
}

/// What is spoken, found by the pass that would begin the text, which is not made.
async fn detect_language(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let query = Query::of(&request)?;
    let wanted = query.wanted()?;
    let admission = admit(&state, &request)?;
    let read = body::read(&request, body, &state.uploads, wanted).await?;
    let mut parts = with_query(read, query);
    // The audio decides, whatever is said about it.
    parts.fields.retain(|(name, _)| name != "language");
    let mut checked = form::check(parts, Task::Transcribe)?;
    // A short first chunk is enough.
    checked.stream = true;
    let asked = Job {
        // Nobody who wants the text shall wait for one who does not.
        identity: None,
        // The language is this node's own guess.
        escalates: false,
        ..job(&request, checked, &Translation::None)
    };
    let events = state.stt.submit(admission, asked).await?;
    let events = Metered::new(events, &state, Visitor::of(&request)).at_most(WINDOW_SECONDS);
    let (code, probability) = spoken_in(events).await?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((ASR_ENGINE, ENGINE))
        .json(json!({
            "detected_language": language::name_of(&code),
            "language_code": code,
            "confidence": probability,
        })))
}

/// The language, as soon as it is known what it has cost to find it.
async fn spoken_in(mut events: Metered) -> Result<(String, Option<f32>), ApiError> {
    let mut found = None;
    loop {
        match (events.next().await, &found) {
            (Some(Ok(Event::Language { code, probability })), _) => {
                found = Some((code, probability));
            }
            // What was heard is told right after the language.
            (Some(Ok(Event::Progress(_)) | Err(_)), Some(_)) | (None, _) => break,
            (Some(Ok(Event::Done(transcript))), _) => {
                return Ok((transcript.language, transcript.language_probability));
            }
            (Some(Ok(Event::Route(_) | Event::Segment(_) | Event::Progress(_))), _) => {}
            (Some(Err(error)), None) => return Err(error.into()),
        }
    }
    found.ok_or_else(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_is_known_and_nothing_else() {
        for name in ["txt", "json", "srt", "vtt", "tsv"] {
            assert!(Output::parse(name).is_ok(), "{name}");
        }
        let error = Output::parse("docx").expect_err("unknown");
        assert_eq!(error.code(), "invalid_value");
    }
}
