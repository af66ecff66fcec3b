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
        ("response_format", "verbose json", 422, "invalid_value"),
        ("temperature", "1.01", 422, "invalid_value"),
        ("temperature", "-0.1", 422, "invalid_value"),
        ("temperature", "NaN", 422, "invalid_value"),
        ("temperature", "warm", 422, "invalid_value"),
        ("stream", "maybe", 422, "invalid_value"),
        ("timestamp_granularities[]", "letter", 422, "invalid_value"),
        ("timestamp_granularities", "letter", 422, "invalid_value"),
        (
            "timestamp_granularities",
            "word,letter",
            422,
            "invalid_value",
        ),
        (
            "timestamp_granularities[0]",
            "[\"letter\"]",
            422,
            "invalid_value",
        ),
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
        ("languages[]", "en,klingon", 400, "unsupported_language"),
        ("to_language", "klingon", 400, "unsupported_language"),
    ] {
        let found = rejected(&[(name, value)]);
        let param = name.split('[').next().expect("a name").to_owned();
        assert_eq!(found, (status, code, param), "{name}={value}");
    }
}

#[test]
fn formats_with_a_structure_around_the_text_are_not_streamed() {
    for format in ["verbose_json", "srt", "vtt"] {
        let form = accepted(&[("stream", "true"), ("response_format", format)]);
        assert!(!form.stream && form.format.name() == format);
        let found = rejected(&[("stream", "maybe"), ("response_format", format)]);
        assert_eq!(found, (422, "invalid_value", "stream".to_owned()));
    }
    for format in ["json", "text"] {
        assert!(accepted(&[("stream", "True"), ("response_format", format)]).stream);
    }
}

#[test]
fn a_format_is_known_in_capital_letters_and_with_a_hyphen() {
    for (written, name) in [
        ("JSON", "json"),
        ("Verbose_JSON", "verbose_json"),
        ("verbose-json", "verbose_json"),
        (" SRT ", "srt"),
        ("Vtt", "vtt"),
        ("TEXT", "text"),
    ] {
        let form = accepted(&[("response_format", written)]);
        assert_eq!(form.format.name(), name, "{written}");
    }
}

#[test]
fn languages_restrict_the_detection_and_one_of_them_is_the_language() {
    for (fields, language, languages, detects) in [
        (
            vec![("languages[]", "en"), ("languages[]", "German")],
            None,
            vec!["en", "de"],
            true,
        ),
        (
            vec![("languages", "[\"es\", \"es\"]")],
            Some("es"),
            vec![],
            false,
        ),
        (
            vec![
                ("languages[0]", "en"),
                ("languages[1]", "de"),
                ("language", "fr"),
            ],
            Some("fr"),
            vec![],
            false,
        ),
        (vec![("languages[]", "null")], None, vec![], false),
    ] {
        let form = accepted(&fields);
        assert_eq!(form.options.language.as_deref(), language, "{fields:?}");
        assert_eq!(form.options.languages, languages, "{fields:?}");
        assert_eq!(form.detects_language, detects, "{fields:?}");
    }
}

#[test]
fn lists_are_accepted_with_and_without_brackets_and_words_alone_omit_segments() {
    for (fields, words, segments) in [
        (vec![], false, true),
        (vec![("timestamp_granularities[]", "segment")], false, true),
        (vec![("timestamp_granularities[]", "word")], true, false),
        (vec![("timestamp_granularities", "word")], true, false),
        (vec![("timestamp_granularities[0]", "word")], true, false),
        (
            vec![
                ("timestamp_granularities[0]", "segment"),
                ("timestamp_granularities[1]", "word"),
            ],
            true,
            true,
        ),
        (
            vec![("timestamp_granularities", "word, segment")],
            true,
            true,
        ),
        (
            vec![("timestamp_granularities[]", "[\"Word\", \"SEGMENT\"]")],
            true,
            true,
        ),
        (vec![("timestamp_granularities", "\"word\"")], true, false),
        (vec![("timestamp_granularities", "[]")], false, true),
        (vec![("timestamp_granularities[]", "null")], false, true),
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
    assert!(accepted(&[("include", "[\"logprobs\"]")]).details.logprobs);
    assert!(!accepted(&[("include[]", "")]).details.logprobs);
    let both = accepted(&[("include[]", "segments"), ("include[]", "logprobs")]).details;
    assert!(both.logprobs && both.streamed_segments);
}

#[test]
fn an_instruction_is_dropped() {
    let form = accepted(&[("prompt", "Transcribe the audio.")]);
    assert_eq!(form.options.prompt, None);
}

#[test]
fn a_language_may_be_undetermined_and_is_known_in_many_notations() {
    for text in ["auto", "AUTO", "und", "mul", "C.UTF-8"] {
        let form = accepted(&[("language", text)]);
        assert!(
            form.options.language.is_none() && form.detects_language,
            "{text}"
        );
    }
    for (text, code) in [
        ("deu", "de"),
        ("ger", "de"),
        ("en_US.UTF-8", "en"),
        ("de_DE@euro", "de"),
        ("en-u-ca-gregory", "en"),
        ("in", "id"),
        ("iw-IL", "he"),
    ] {
        let form = accepted(&[("language", text)]);
        assert_eq!(form.options.language.as_deref(), Some(code), "{text}");
        assert!(!form.detects_language);
    }
}

#[test]
fn an_unknown_language_is_named_with_the_one_that_is_probably_meant() {
    for (name, text, meant) in [
        ("language", "jp", "the code of japanese is \"ja\""),
        ("language", "cn", "the code of chinese is \"zh\""),
        ("language", "Portugese", "the code of portuguese is \"pt\""),
        ("language", "klingon", "expected a code such as \"en\""),
        ("to_language", "jp", "the code of japanese is \"ja\""),
    ] {
        let error = check(parts(&[(name, text)]), Task::Translate).expect_err("rejected");
        let message = error.to_string();
        assert!(
            message.contains(meant) && message.contains(text),
            "{message}"
        );
    }
}

#[test]
fn what_a_program_makes_of_a_missing_value_counts_as_absent() {
    for absent in ["", " ", "null", "undefined", "None", "NULL"] {
        let names = [
            "language",
            "prompt",
            "response_format",
            "temperature",
            "stream",
            "timestamp_granularities[]",
            "include[]",
            "chunking_strategy",
            "to_language",
            "vad_filter",
        ];
        let fields: Vec<_> = names.iter().map(|name| (*name, absent)).collect();
        let form = check(parts(&fields), Task::Translate).expect("accepted");
        assert_eq!(form.options.language, None, "{absent}");
        assert_eq!(form.options.prompt, None, "{absent}");
        assert_eq!(
            (form.format, form.stream),
            (Format::Json, false),
            "{absent}"
        );
        assert_eq!(form.details, Details::default(), "{absent}");
        assert_eq!(form.target, TargetLanguage::default(), "{absent}");
        assert!(!form.detects_language && form.options.voice_activity);
    }
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
