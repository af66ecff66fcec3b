//! Forms that stop, never end, or say what they should not.

use actix_web::ResponseError;
use actix_web::http::header::{HeaderMap, HeaderValue};

use super::*;

fn parts(fields: &[(&str, &str)]) -> Parts {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Parts {
        file: Some(AudioSource::file("x")),
        fields: fields.iter().map(own).collect(),
    }
}

fn refused(fields: &[(&str, &str)]) -> (u16, &'static str) {
    let error = check(parts(fields), Task::Translate).expect_err("refused");
    (error.status_code().as_u16(), error.code())
}

#[test]
fn every_field_out_of_range_gets_the_tables_status() {
    for (name, value, status, code) in [
        ("response_format", "xml", 422, "invalid_value"),
        ("response_format", "JSON", 422, "invalid_value"),
        ("temperature", "1.01", 422, "invalid_value"),
        ("temperature", "-0.1", 422, "invalid_value"),
        ("temperature", "NaN", 422, "invalid_value"),
        ("temperature", "warm", 422, "invalid_value"),
        ("stream", "true", 422, "invalid_value"),
        ("stream", "maybe", 422, "invalid_value"),
        ("timestamp_granularities[]", "word", 422, "invalid_value"),
        ("timestamp_granularities", "letter", 422, "invalid_value"),
        ("include[]", "logprobs", 422, "invalid_value"),
        ("language", "klingon", 400, "unsupported_language"),
        ("to_language", "klingon", 400, "unsupported_language"),
    ] {
        assert_eq!(refused(&[(name, value)]), (status, code), "{name}={value}");
    }
}

fn multipart(body: impl Stream<Item = Result<Bytes, PayloadError>> + 'static) -> Multipart {
    let value = HeaderValue::from_static("multipart/form-data; boundary=x");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
    Multipart::new(&headers, body)
}

fn store() -> (tempfile::TempDir, UploadStore) {
    let parent = tempfile::tempdir().expect("a folder");
    let store = UploadStore::open(parent.path(), 1000).expect("opens");
    (parent, store)
}

const PART: &str = "--x\r\nContent-Disposition: form-data; name=\"NAME\"\r\n\r\nvalue\r\n";

#[tokio::test(start_paused = true)]
async fn an_upload_that_stops_is_a_timeout_and_leaves_nothing() {
    let (_parent, store) = store();
    let begin = Bytes::from(PART.replace("NAME", "file"));
    let body = futures::stream::iter([Ok(begin)]).chain(futures::stream::pending());
    let error = read_parts(multipart(body), &store)
        .await
        .expect_err("stops");
    assert_eq!(
        (error.status_code().as_u16(), error.code()),
        (408, "upload_timeout")
    );
    assert_eq!(store.used(), 0);
}

#[tokio::test]
async fn endless_forms_end_at_the_bound_whatever_they_are_made_of() {
    let (_parent, store) = store();
    for name in ["unknown", "prompt"] {
        let part = Bytes::from(PART.replace("NAME", name));
        let endless = futures::stream::repeat_with(move || Ok(part.clone()));
        let body = bounded(endless, store.largest());
        let error = read_parts(multipart(body), &store).await.expect_err("ends");
        let expected = if name == "prompt" {
            "malformed_body"
        } else {
            "upload_too_large"
        };
        assert_eq!(error.code(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_second_file_is_refused_and_both_are_gone() {
    let (_parent, store) = store();
    let twice = Bytes::from(PART.replace("NAME", "file").repeat(2) + "--x--\r\n");
    let body = futures::stream::iter([Ok(twice)]);
    let error = read_parts(multipart(body), &store)
        .await
        .expect_err("refused");
    assert_eq!(error.code(), "malformed_body");
    assert_eq!(store.used(), 0);
}

#[test]
fn a_form_without_a_file_says_so() {
    let error = check(Parts::default(), Task::Transcribe).expect_err("refused");
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
            ("timestamp_granularities[]", "segment"),
            ("language", "en-US"),
            ("prompt", "Hello,"),
            ("to_language", "German"),
        ]),
        Task::Translate,
    )
    .expect("accepted");
    assert_eq!(form.language.as_deref(), Some("en"));
    assert_eq!(form.target.code(), "de");
    assert_eq!(form.prompt.as_deref(), Some("Hello,"));
    assert_eq!(form.format, Format::Json);
}
