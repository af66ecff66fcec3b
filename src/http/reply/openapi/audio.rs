//! The routes with audio: OpenAI's, Bazarr's, whisper.cpp's, and that of a primary and a fallback.

use stt_actors::TranslationError;
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
use crate::metrics::Endpoint;

pub fn paths(keys_required: bool) -> Vec<Path> {
    let post = |operation: OperationBuilder, more: Vec<ApiError>| {
        let mut errors = ApiError::all_of_audio_routes();
        errors.extend(more);
        let operation = keyed(with_errors(operation, errors), keys_required);
        PathItem::new(HttpMethod::Post, operation)
    };
    let translates = || {
        vec![
            ApiError::translation_unsupported(""),
            TranslationError::Panicked.into(),
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
            post(primary(), ApiError::all_of_fallback()),
        ),
    ]
}

/// An operation that takes a form, or the same fields as JSON.
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
    operation(
        "Speech to text with the API of whisper.cpp's server",
        "audio",
    )
    .request_body(Some(form("InferenceForm")))
    .response(
        "200",
        transcript("text/event-stream", reference("StreamEvent")),
    )
}

fn primary() -> OperationBuilder {
    let mut reply = described("The transcript.").content(
        "application/json",
        Content::new(Some(reference("TierTranscript"))),
    );
    for name in escalation_headers::NAMES {
        let header = header("See docs/escalation.md.", Type::String);
        reply = reply.header(name.as_str(), header);
    }
    operation("Speech to text with escalation to a fallback", "audio")
        .request_body(Some(form("TierForm")))
        .response("200", reply.build())
}

fn asr() -> OperationBuilder {
    let operation = operation("Speech to subtitles with the API that Bazarr uses", "audio")
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
            ("language", "The spoken language; detected by default.", &[]),
            (
                "output",
                "Default `txt`.",
                &["txt", "json", "srt", "vtt", "tsv"],
            ),
            ("encode", ENCODE, &["true", "false"]),
            ("initial_prompt", "Words and names to expect.", &[]),
            (
                "vad_filter",
                "Skip audio without speech.",
                &["true", "false"],
            ),
            (
                "word_timestamps",
                "Add the times of words to `json`.",
                &["true", "false"],
            ),
            (
                "to_language",
                "The language of a translation; default `en`.",
                &[],
            ),
        ],
    )
}

const ENCODE: &str =
    "`false`: the audio consists of samples without a header: 16 kHz, mono, signed 16 bit.";

fn detect_language() -> OperationBuilder {
    let operation = operation("Detect the spoken language", "audio")
        .request_body(Some(form("AsrForm")))
        .response("200", json("The language.", "SpokenLanguage"));
    with_query(operation, &[("encode", ENCODE, &["true", "false"])])
}

/// Adds query options: name, description, and the allowed values (empty: any).
pub(super) fn with_query(
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

/// The response with a transcript, in all formats.
fn transcript(one_more: &str, its_schema: RefOr<Schema>) -> Response {
    let json = AnyOfBuilder::new()
        .item(reference("Transcript"))
        .item(reference("VerboseTranscript"));
    let json = Content::new(Some(Schema::AnyOf(json.build())));
    let mut response =
        described("The transcript in the requested format.").content("application/json", json);
    for kind in ["text/plain", "application/x-subrip", "text/vtt"] {
        response = response.content(kind, Content::new(Some(text())));
    }
    response = response.content(one_more, Content::new(Some(its_schema)));
    for (name, description, kind) in [
        (
            "X-Route",
            "The lanes that transcribed the audio: HOT, COLD-POOL or COLD-POOL>HOT.",
            Type::String,
        ),
        (
            "X-Queue-Position",
            "The number of requests ahead of this one in the queue at admission.",
            Type::Integer,
        ),
        (
            "X-Queue-Eta-Ms",
            "The estimated wait for a lane at admission, in milliseconds.",
            Type::Integer,
        ),
        (
            "X-Translation-Mode",
            "`libretranslate` if LibreTranslate translated the text.",
            Type::String,
        ),
        (
            "endpoint-load-metrics",
            "The load of the node for Envoy, in the text format of ORCA.",
            Type::String,
        ),
    ] {
        response = response.header(name, header(description, kind));
    }
    response.build()
}
