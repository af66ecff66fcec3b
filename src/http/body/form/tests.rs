//! Tests of field values, valid and invalid.

use actix_web::ResponseError;
use stt_actors::domain::chunk::AudioSource;

use super::*;

fn parts(fields: &[(&str, &str)]) -> Parts {
    let mut parts = Parts {
        file: Some(StoredUpload {
            source: AudioSource::file("x"),
            digest: [0; 32],
        }),
        ..Parts::default()
    };
    for (name, value) in fields {
        let (name, value) = ((*name).to_owned(), (*value).to_owned());
        parts.add(name, value).expect("fits");
    }
    parts
}

fn accepted(fields: &[(&str, &str)]) -> AudioForm {
    check(parts(fields), Task::Transcribe).expect("accepted")
}

/// The status, the code and the named field of an error.
fn rejected(fields: &[(&str, &str)]) -> (u16, &'static str, String) {
    let error = check(parts(fields), Task::Translate).expect_err("rejected");
    let param = error.body()["error"]["param"].as_str().map(str::to_owned);
    let status = error.status_code().as_u16();
    (status, error.code(), param.expect("names the field"))
}

#[test]
fn every_field_out_of_range_is_named_with_the_status_of_the_error_table() {
    for (name, value, status, code) in [
        ("response_format", "xml", 422, "invalid_value"),
        ("response_format", "JSON", 422, "invalid_value"),
        ("temperature", "1.01", 422, "invalid_value"),
        ("temperature", "-0.1", 422, "invalid_value"),
        ("temperature", "NaN", 422, "invalid_value"),
        ("temperature", "warm", 422, "invalid_value"),
        ("stream", "maybe", 422, "invalid_value"),
        ("timestamp_granularities[]", "letter", 422, "invalid_value"),
        ("timestamp_granularities", "letter", 422, "invalid_value"),
        ("include[]", "everything", 422, "invalid_value"),
        ("chunking_strategy", "never", 422, "invalid_value"),
        (
            "chunking_strategy",
            "{\"type\":\"x\"}",
            422,
            "invalid_value",
        ),
        ("vad_filter", "perhaps", 422, "invalid_value"),
        ("hallucination_guard", "2", 422, "invalid_value"),
        ("multilingual", "de", 422, "invalid_value"),
        ("language", "klingon", 400, "unsupported_language"),
        ("to_language", "klingon", 400, "unsupported_language"),
    ] {
        let found = rejected(&[(name, value)]);
        let param = name.trim_end_matches("[]").to_owned();
        assert_eq!(found, (status, code, param), "{name}={value}");
    }
}

#[test]
fn formats_with_a_structure_around_the_text_cannot_be_streamed() {
    for format in ["verbose_json", "srt", "vtt"] {
        let found = rejected(&[("stream", "true"), ("response_format", format)]);
        assert_eq!(
            found,
            (422, "invalid_value", "stream".to_owned()),
            "{format}"
        );
    }
    for format in ["json", "text"] {
        assert!(accepted(&[("stream", "True"), ("response_format", format)]).stream);
    }
}

#[test]
fn lists_are_accepted_with_and_without_brackets_and_words_alone_omit_segments() {
    for (fields, words, segments) in [
        (vec![], false, true),
        (vec![("timestamp_granularities[]", "segment")], false, true),
        (vec![("timestamp_granularities[]", "word")], true, false),
        (vec![("timestamp_granularities", "word")], true, false),
        (
            vec![
                ("timestamp_granularities[]", "word"),
                ("timestamp_granularities[]", "segment"),
            ],
            true,
            true,
        ),
    ] {
        let details = accepted(&fields).details;
        let found = (details.words, details.segments);
        assert_eq!(found, (words, segments), "{fields:?}");
    }
    assert!(accepted(&[("include[]", "logprobs")]).details.logprobs);
    assert!(!accepted(&[("include[]", "")]).details.logprobs);
}

#[test]
fn an_instruction_is_dropped_and_auto_means_no_language() {
    let form = accepted(&[("prompt", "Transcribe the audio."), ("language", "auto")]);
    assert_eq!((form.options.prompt, form.options.language), (None, None));
}

#[test]
fn a_form_without_a_file_is_rejected() {
    let error = check(Parts::default(), Task::Transcribe).expect_err("rejected");
    assert_eq!(
        (error.status_code().as_u16(), error.code()),
        (400, "missing_file")
    );
}

#[test]
fn unknown_and_empty_fields_are_ignored() {
    let form = check(
        parts(&[
            ("model", "anything"),
            ("colour", "blue"),
            ("language", ""),
            ("temperature", " "),
            ("stream", "false"),
            ("chunking_strategy", "auto"),
            ("timestamp_granularities[]", "segment"),
            ("language", "en-US"),
            ("prompt", "Hello,"),
            ("to_language", "German"),
        ]),
        Task::Translate,
    )
    .expect("accepted");
    assert_eq!(form.options.language.as_deref(), Some("en"));
    assert_eq!(form.target.code, "de");
    assert_eq!(form.options.prompt.as_deref(), Some("Hello,"));
    assert_eq!(form.format, Format::Json);
}
