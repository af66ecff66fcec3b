//! The realtime routes: the WebSocket, and the ephemeral keys for it.

use std::time::Duration;

use stt_actors::LiveError;
use utoipa::openapi::Required;
use utoipa::openapi::content::Content;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{Object, Type};

use super::audio::with_query;
use super::{Path, described, header, keyed, operation, with_errors};
use crate::http::reply::error::ApiError;

pub fn paths(keys_required: bool) -> Vec<Path> {
    let secret = post(
        "Make an ephemeral key for a realtime session",
        "The key as `value`, when it expires, and the configuration of its sessions.",
        keys_required,
    );
    let beta = post(
        "Make an ephemeral key for a realtime session, in the shape of OpenAI's beta",
        "The configuration of the sessions, with the key as `client_secret`.",
        keys_required,
    );
    vec![
        ("/v1/realtime", web_socket(keys_required)),
        ("/v1/realtime/client_secrets", secret),
        ("/v1/realtime/transcription_sessions", beta),
    ]
}

fn web_socket(keys_required: bool) -> PathItem {
    let opened =
        described("The connection is a WebSocket with the events of a transcription session.")
            .header(
                "Sec-WebSocket-Protocol",
                header(
                    "The chosen sub-protocol, if the client offers any.",
                    Type::String,
                ),
            );
    let operation = operation("Realtime transcription over a WebSocket", "realtime")
        .response("101", opened.build());
    let operation = with_query(
        operation,
        &[
            (
                "intent",
                "`transcription`, as clients send it; ignored.",
                &[],
            ),
            ("model", "Any name means the served model.", &[]),
        ],
    );
    let mut errors = vec![
        ApiError::upgrade_required(""),
        ApiError::internal(),
        LiveError::TooMany { limit: 0 }.into(),
        LiveError::Draining.into(),
    ];
    if keys_required {
        errors.push(ApiError::insufficient_quota(Duration::ZERO, Duration::ZERO));
    } else {
        errors.push(ApiError::origin_not_allowed());
    }
    errors.push(ApiError::rate_limited(Duration::ZERO));
    let operation = keyed(with_errors(operation, errors), keys_required);
    PathItem::new(HttpMethod::Get, operation)
}

fn post(summary: &str, description: &str, keys_required: bool) -> PathItem {
    let object = || Content::new(Some(Object::with_type(Type::Object)));
    let body = RequestBodyBuilder::new()
        .description(Some(
            "The session in OpenAI's format, and `expires_after`; docs/api.md lists the fields.",
        ))
        .content("application/json", object())
        .required(Some(Required::False));
    let reply = described(description).content("application/json", object());
    let operation: OperationBuilder = operation(summary, "realtime")
        .request_body(Some(body.build()))
        .response("200", reply.build());
    let none = Duration::ZERO;
    let errors = vec![
        ApiError::malformed_body(""),
        ApiError::invalid_session("invalid_type", "", None),
        ApiError::invalid_session("invalid_value", "", None),
        ApiError::invalid_session("unsupported_language", "", None),
        ApiError::upload_timeout(none),
        ApiError::rate_limited(none),
        ApiError::insufficient_quota(none, none),
        ApiError::internal(),
        ApiError::too_many_client_secrets(),
    ];
    let operation = keyed(with_errors(operation, errors), keys_required);
    PathItem::new(HttpMethod::Post, operation)
}
