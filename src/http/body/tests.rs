//! Tests of bodies that stall, never end, or are malformed.

use actix_web::ResponseError;
use actix_web::http::header::{HeaderMap, HeaderValue};

use super::*;

async fn read_form(
    body: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    store: &UploadStore,
) -> Result<Parts, ApiError> {
    let value = HeaderValue::from_static("multipart/form-data; boundary=x");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
    multipart::read(&headers, body, store, OPENAI_BODY).await
}

fn store() -> (tempfile::TempDir, UploadStore) {
    let parent = tempfile::tempdir().expect("a folder");
    let store = UploadStore::open(parent.path(), 1000).expect("opens");
    (parent, store)
}

const PART: &str = "--x\r\nContent-Disposition: form-data; name=\"NAME\"\r\n\r\nvalue\r\n";

#[tokio::test(start_paused = true)]
async fn an_upload_that_stalls_times_out_and_leaves_no_file() {
    let (_parent, store) = store();
    let begin = Bytes::from(PART.replace("NAME", "file"));
    let body = futures::stream::iter([Ok(begin)]).chain(futures::stream::pending());
    let error = read_form(body, &store).await.expect_err("stops");
    assert_eq!(
        (error.status_code().as_u16(), error.code()),
        (408, "upload_timeout")
    );
    assert_eq!(store.used(), 0);
}

/// A body that continues with 100 bytes per second.
fn trickle(begin: &str) -> impl Stream<Item = Result<Bytes, PayloadError>> + 'static {
    let begin = Bytes::from(begin.to_owned());
    let rest = futures::stream::repeat(Bytes::from_static(&[b'A'; 100])).then(async |bytes| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(bytes)
    });
    bounded(
        futures::stream::iter([Ok(begin)]).chain(Box::pin(rest)),
        u64::MAX,
    )
}

const JSON: &str = "{\"input_audio\": {\"data\": \"";

#[tokio::test(start_paused = true)]
async fn stalled_json_and_trickling_bodies_time_out() {
    let parent = tempfile::tempdir().expect("a folder");
    let store = UploadStore::open(parent.path(), 1_000_000).expect("opens");
    let begin = Ok(Bytes::from_static(JSON.as_bytes()));
    let stopped = futures::stream::iter([begin]).chain(futures::stream::pending());
    let form = PART.replace("NAME", "file").replace("value\r\n", "");
    let results = [
        json::read(stopped, &store, 1_000_000).await,
        json::read(trickle(JSON), &store, 1_000_000).await,
        read_form(trickle(&form), &store).await,
    ];
    for result in results {
        let error = result.expect_err("times out");
        assert_eq!(error.code(), "upload_timeout", "{error}");
    }
    assert_eq!(store.used(), 0);
}

#[tokio::test]
async fn endless_forms_are_cut_off_at_the_limit() {
    let (_parent, store) = store();
    for name in ["unknown", "prompt"] {
        let part = Bytes::from(PART.replace("NAME", name));
        let endless = futures::stream::repeat_with(move || Ok(part.clone()));
        let body = bounded(endless, store.largest() + OVERHEAD_BYTES);
        let error = read_form(body, &store).await.expect_err("ends");
        let expected = if name == "prompt" {
            "malformed_body"
        } else {
            "upload_too_large"
        };
        assert_eq!(error.code(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_second_file_is_rejected_and_both_are_removed() {
    let (_parent, store) = store();
    let twice = Bytes::from(PART.replace("NAME", "file").repeat(2) + "--x--\r\n");
    let body = futures::stream::iter([Ok(twice)]);
    let error = read_form(body, &store).await.expect_err("rejected");
    assert_eq!(error.code(), "malformed_body");
    assert_eq!(store.used(), 0);
}
