//! Tests of forms as clients write them, and of forms that are none.

use actix_web::ResponseError;
use actix_web::http::header::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::http::body::OPENAI_BODY;

/// Reads a body with the boundary `b` that arrives in blocks of this many bytes.
async fn read_in_blocks(body: &[u8], block: usize) -> Result<(Option<Vec<u8>>, Parts), ApiError> {
    let parent = tempfile::tempdir().expect("a folder");
    let store = UploadStore::open(parent.path(), 1_000_000).expect("opens");
    let value = HeaderValue::from_static("multipart/form-data; boundary=b");
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
    let blocks: Vec<_> = body
        .chunks(block)
        .map(|block| Ok(Bytes::copy_from_slice(block)))
        .collect();
    let parts = read(&headers, futures::stream::iter(blocks), &store, OPENAI_BODY).await?;
    let file = parts.file.as_ref();
    let file = file.map(|file| std::fs::read(file.source.path()).expect("is there"));
    Ok((file, parts))
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, content) in parts {
        body.extend_from_slice(b"--b\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"";
const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";

#[tokio::test]
async fn a_form_is_the_same_in_blocks_of_every_size() {
    let content = b"\r\n--\r\n--bc\r\n-b--b\r\n\r\n--b x\r\n\r\r\n";
    let body = form(&[
        (
            "Content-Disposition: form-data; name=\"unknown\"",
            b"skipped\r\n--bb",
        ),
        (FILE, content),
        ("X-Nothing: here", b"no name"),
        (MODEL, b"whisper-1"),
    ]);
    let with_preamble = [b"to be ignored\r\n", body.as_slice(), b"ignored, too"].concat();
    let padded = String::from_utf8_lossy(&body).replace("--b\r\nContent", "--b \t\r\nContent");
    for body in [body.clone(), with_preamble, padded.into_bytes()] {
        for block in (1..12).chain([1000]) {
            let (file, parts) = read_in_blocks(&body, block).await.expect("is read");
            assert_eq!(file.as_deref(), Some(&content[..]), "in blocks of {block}");
            assert_eq!(parts.field("model"), Some("whisper-1"));
        }
    }
}

#[tokio::test]
async fn parts_without_headers_or_content_and_forms_without_parts_are_read() {
    let (file, _) = read_in_blocks(&form(&[(FILE, b"")]), 7)
        .await
        .expect("is read");
    assert_eq!(file, Some(Vec::new()));
    let (file, parts) = read_in_blocks(b"--b\r\n\r\nnameless\r\n--b--", 3)
        .await
        .expect("is read");
    assert!(file.is_none() && parts.fields.is_empty());
    let (file, _) = read_in_blocks(b"--b--", 2).await.expect("is read");
    assert!(file.is_none());
}

#[tokio::test]
async fn lists_and_files_with_an_index_in_their_name_are_known() {
    let body = form(&[
        (&FILE.replace("file\"", "file[0]\""), b"x"),
        (
            &MODEL.replace("model", "timestamp_granularities[0]"),
            b"word",
        ),
        (
            &MODEL.replace("model", "timestamp_granularities[1]"),
            b"segment",
        ),
    ]);
    let (file, parts) = read_in_blocks(&body, 9).await.expect("is read");
    assert_eq!(file.as_deref(), Some(&b"x"[..]));
    let values: Vec<String> = parts.values("timestamp_granularities").collect();
    assert_eq!(values, ["word", "segment"]);
}

#[tokio::test]
async fn a_head_of_any_length_is_read_and_its_file_name_ignored() {
    for name in ["x".repeat(300_000), "\0\u{7f}\t".to_owned(), String::new()] {
        let head = format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"");
        for block in [5_000, 70_000] {
            let (file, _) = read_in_blocks(&form(&[(&head, b"audio")]), block)
                .await
                .expect("is read");
            assert_eq!(file.as_deref(), Some(&b"audio"[..]));
        }
    }
}

#[tokio::test]
async fn broken_forms_are_rejected_with_a_clear_reason() {
    let whole = form(&[(MODEL, b"m"), (FILE, b"audio")]);
    let line_feeds = String::from_utf8_lossy(&whole).replace("\r\n", "\n");
    let encoded = format!("{FILE}\r\nContent-Transfer-Encoding: base64");
    for (body, reason) in [
        (whole[..whole.len() - 6].to_vec(), "breaks off"),
        (whole[..whole.len() / 2].to_vec(), "breaks off"),
        (b"--b\r\nContent-Dispo".to_vec(), "breaks off"),
        (Vec::new(), "does not contain the boundary"),
        (
            b"--other\r\n\r\nx\r\n--other--\r\n".to_vec(),
            "does not contain the boundary",
        ),
        (line_feeds.into_bytes(), "CR LF"),
        (
            form(&[(FILE, b"a"), (FILE, b"b")]),
            "two parts named `file`",
        ),
        (form(&[(MODEL, b"\xff")]), "not UTF-8"),
        (form(&[(&encoded, b"UklGRg==")]), "base64"),
    ] {
        for block in [3, 1000] {
            let error = read_in_blocks(&body, block).await.expect_err("rejected");
            let found = (error.status_code().as_u16(), error.code());
            assert_eq!(found, (400, "malformed_body"));
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}

#[test]
fn a_content_type_without_a_usable_boundary_is_rejected() {
    let long = format!("multipart/form-data; boundary={}", "x".repeat(300));
    for value in [
        "multipart/form-data",
        "multipart/form-data; boundary=\"\"",
        &long,
    ] {
        let value = HeaderValue::from_str(value).expect("a value");
        let error = boundary(&HeaderMap::from_iter([(CONTENT_TYPE, value)])).expect_err("rejected");
        assert!(error.to_string().contains("no boundary"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_arrives_unchanged(content in prop::collection::vec(prop::sample::select(&b"\r\n-b x"[..]), 0..60), block in 1_usize..20) {
        // The content must not contain the delimiter itself, which a client prevents by its choice of a boundary.
        let lines = [b"\r\n".as_slice(), &content, b"\r\n"].concat();
        prop_assume!(memchr::memmem::find(&lines, b"\r\n--b").is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (file, _) = runtime.block_on(read_in_blocks(&form(&[(FILE, &content)]), block)).expect("is read");
        prop_assert_eq!(file, Some(content));
    }
}
