//! The paths with audio: OpenAI's, Bazarr's and whisper.cpp's.

use utoipa::openapi::content::Content;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, Required, Response};

use super::{Path, described, header, json, keyed, operation, reference, text, with_errors};
use crate::http::reply::error::ApiError;
use crate::http::reply::escalation_headers;
use crate::libretranslate::TranslationError;
use crate::metrics::Endpoint;

pub fn paths(wants_key: bool) -> Vec<Path> {
    let post = |operation: OperationBuilder, more: Vec<ApiError>| {
        let mut errors = ApiError::of_any_audio_request();
        errors.extend(more);
        let operation = keyed(with_errors(operation, errors), wants_key);
        PathItem::new(HttpMethod::Post, operation)
    };
    let translates = || {
        vec![
            ApiError::translation_unsupported(""),
            TranslationError::Malformed("").into(),
        ]
    };
    vec![
        (
            "/v1/audio/transcriptions",
            post(openai("Speech to text", "Transcription"), Vec::new()),
        ),
        (
            "/v1/audio/translations",
            post(
                openai(
                    "Speech to text in English or another language",
                    "Translation",
                ),
                translates(),
            ),
        ),
        ("/asr", post(asr(), translates())),
        ("/detect-language", post(detect_language(), Vec::new())),
        ("/inference", post(inference(), translates())),
        (
            Endpoint::Transcribe.path(),
            post(tier(), ApiError::of_any_fallback()),
        ),
    ]
}

/// A form, or the same fields in JSON.
fn openai(summary: &str, what: &str) -> OperationBuilder {
    let form = Content::new(Some(reference(&format!("{what}Form"))));
    let json = Content::new(Some(reference(&format!("{what}Json"))));
    let body = RequestBodyBuilder::new()
        .content("multipart/form-data", form)
        .content("application/json", json)
        .required(Some(Required::True));
    operation(summary, "audio")
        .request_body(Some(body.build()))
        .response(
            "200",
            transcript("text/event-stream", reference("StreamEvent")),
        )
}

fn inference() -> OperationBuilder {
    operation("Speech to text, as whisper.cpp's server has it", "audio")
        .request_body(Some(form("InferenceForm")))
        .response(
            "200",
            transcript("text/event-stream", reference("StreamEvent")),
        )
}

fn tier() -> OperationBuilder {
    let mut reply = described("The transcript.").content(
        "application/json",
        Content::new(Some(reference("TierTranscript"))),
    );
    for name in escalation_headers::NAMES {
        let header = header("As in docs/escalation.md.", Type::String);
        reply = reply.header(name.as_str(), header);
    }
    operation("Speech to text, with escalation to a larger model", "audio")
        .request_body(Some(form("TierForm")))
        .response("200", reply.build())
}

fn asr() -> OperationBuilder {
    let operation = operation("Speech to subtitles, as Bazarr asks for them", "audio")
        .request_body(Some(form("AsrForm")))
        .response(
            "200",
            transcript("text/tab-separated-values", text().into()),
        );
    with_query(
        operation,
        &[
            (
                "task",
                "`transcribe` (default) or `translate`.",
                &["transcribe", "translate"],
            ),
            (
                "language",
                "The language spoken; detected if not given.",
                &[],
            ),
            (
                "output",
                "`txt` if not given.",
                &["txt", "json", "srt", "vtt", "tsv"],
            ),
            ("encode", ENCODE, &["true", "false"]),
            ("initial_prompt", "Words and names to expect.", &[]),
            (
                "vad_filter",
                "Leave out what does not sound like speech.",
                &["true", "false"],
            ),
            (
                "word_timestamps",
                "`json` has the times of words.",
                &["true", "false"],
            ),
            ("to_language", "Of translations: `en` if not given.", &[]),
        ],
    )
}

const ENCODE: &str =
    "`false`: the audio is samples without a header, of 16 kHz, mono, signed 16 bit.";

fn detect_language() -> OperationBuilder {
    let operation = operation("What language is spoken", "audio")
        .request_body(Some(form("AsrForm")))
        .response("200", json("The language.", "SpokenLanguage"));
    with_query(operation, &[("encode", ENCODE, &["true", "false"])])
}

/// Options of the query: name, meaning, and the values that there are (none: any).
fn with_query(
    mut operation: OperationBuilder,
    options: &[(&str, &str, &[&str])],
) -> OperationBuilder {
    for (name, description, values) in options {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let schema = if values.is_empty() {
            schema
        } else {
            schema.enum_values(Some(values.iter().copied()))
        };
        let parameter = ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(*description))
            .schema(Some(schema));
        operation = operation.parameter(parameter);
    }
    operation
}

fn form(name: &str) -> RequestBody {
    RequestBodyBuilder::new()
        .content("multipart/form-data", Content::new(Some(reference(name))))
        .required(Some(Required::True))
        .build()
}

/// The reply, in whatever format was asked for.
fn transcript(one_more: &str, its_schema: RefOr<Schema>) -> Response {
    let json = AnyOfBuilder::new()
        .item(reference("Transcript"))
        .item(reference("VerboseTranscript"));
    let json = Content::new(Some(Schema::AnyOf(json.build())));
    let mut response = described("The transcript, in the format that was asked for.")
        .content("application/json", json);
    for kind in ["text/plain", "application/x-subrip", "text/vtt"] {
        response = response.content(kind, Content::new(Some(text())));
    }
    response = response.content(one_more, Content::new(Some(its_schema)));
    for (name, description, kind) in [
        (
            "X-Route",
            "The lanes that did the work: HOT, COLD-POOL or COLD-POOL>HOT.",
            Type::String,
        ),
        (
            "X-Queue-Position",
            "Requests that waited before this one when it was admitted.",
            Type::Integer,
        ),
        (
            "X-Queue-Eta-Ms",
            "How long it would wait for a lane, in milliseconds.",
            Type::Integer,
        ),
        (
            "X-Translation-Mode",
            "`libretranslate` where that is who translated.",
            Type::String,
        ),
    ] {
        response = response.header(name, header(description, kind));
    }
    response.build()
}
