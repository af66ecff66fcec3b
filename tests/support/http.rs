//! Forms, and the shape of errors.

use std::path::Path;

use reqwest::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, ClientBuilder, Response};
use serde_json::Value;

/// A client whose requests do not share work, even if they are identical.
pub fn client() -> Client {
    client_builder().build().expect("a client")
}

/// A builder of such a client.
pub fn client_builder() -> ClientBuilder {
    // The client library requires a provider even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
    Client::builder().default_headers(headers)
}

/// A form with a file and fields.
pub fn form(file: &Path, fields: &[(&str, &str)]) -> Form {
    let bytes = std::fs::read(file).expect("the file is there");
    let name = file
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let mut form = Form::new().part("file", Part::bytes(bytes).file_name(name));
    for (name, value) in fields {
        form = form.text((*name).to_owned(), (*value).to_owned());
    }
    form
}

/// Checks the shape of an error and returns its message.
pub async fn refused(response: Response, status: u16, code: &str, param: Option<&str>) -> String {
    let got = response.status().as_u16();
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(
        (got, body["error"]["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    let error = body["error"].as_object().expect("an object");
    let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    assert_eq!(error["param"].as_str(), param, "{body}");
    let kind = match code {
        "rate_limit_exceeded" => "rate_limit_error",
        "insufficient_quota" => "insufficient_quota",
        _ if status >= 500 => "server_error",
        _ => "invalid_request_error",
    };
    assert_eq!(error["type"], kind);
    assert_eq!(body["detail"], error["message"]);
    error["message"].as_str().expect("a message").to_owned()
}
