//! The OpenAPI document: every path with its fields, headers, bodies and statuses. The bodies come from
//! [`super::schema`], the errors from [`super::error`]. Tests compare the paths with the registered
//! routes, and a running server with the whole document.

mod audio;
mod jobs;
mod realtime;
mod status;

use std::time::Duration;

use actix_web::ResponseError;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathItemBuilder,
};
use utoipa::openapi::schema::{ComponentsBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, InfoBuilder, License, Object, OpenApi, OpenApiBuilder, PathsBuilder, Ref, RefOr,
    Required, Response, ResponseBuilder, Schema,
};

use crate::http::reply::error::ApiError;
use crate::http::reply::schema;
use crate::metrics::escalation;

/// The security scheme's name.
const BEARER: &str = "bearer";

/// The document. `keys_required`: whether API keys are configured.
pub fn document(keys_required: bool) -> OpenApi {
    let info = InfoBuilder::new()
        .title("uttera-stt")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Speech to text with the audio part of OpenAI's API. Fields that are not listed are ignored.",
        ))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))))
        .build();
    let mut components = jobs::schemas(status::schemas(schemas()));
    if keys_required {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components = components.security_scheme(BEARER, SecurityScheme::Http(scheme));
    }
    let mut paths = PathsBuilder::new();
    for (path, item) in audio::paths(keys_required)
        .into_iter()
        .chain(jobs::paths(keys_required))
        .chain(realtime::paths(keys_required))
        .chain(models(keys_required))
        .chain(state(keys_required))
        .chain(status::paths(keys_required))
        .chain(admin(keys_required))
        .chain(documentation())
    {
        paths = paths.path(path, item);
    }
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .paths(paths)
        .build()
}

/// All body schemas and their parts.
fn schemas() -> ComponentsBuilder {
    ComponentsBuilder::new()
        .schema_from::<schema::ErrorBody>()
        .schema_from::<schema::ErrorObject>()
        .schema_from::<schema::Health>()
        .schema_from::<schema::TierHealth>()
        .schema_from::<schema::TierTranscript>()
        .schema_from::<schema::TierTimings>()
        .schema_from::<schema::TierForm>()
        .schema_from::<escalation::Report>()
        .schema_from::<escalation::Queue>()
        .schema_from::<escalation::Gpu>()
        .schema_from::<schema::Routing>()
        .schema_from::<schema::SmartRouting>()
        .schema_from::<schema::Model>()
        .schema_from::<schema::ModelList>()
        .schema_from::<schema::Probe>()
        .schema_from::<schema::DrainState>()
        .schema_from::<schema::Transcript>()
        .schema_from::<schema::TokenProbability>()
        .schema_from::<schema::StreamEvent>()
        .schema_from::<schema::Usage>()
        .schema_from::<schema::VerboseTranscript>()
        .schema_from::<schema::Segment>()
        .schema_from::<schema::TimedWord>()
        .schema_from::<schema::Removed>()
        .schema_from::<schema::SpokenLanguage>()
        .schema_from::<schema::TranscriptionForm>()
        .schema_from::<schema::TranslationForm>()
        .schema_from::<schema::InferenceForm>()
        .schema_from::<schema::AsrForm>()
        .schema_from::<schema::TranscriptionJson>()
        .schema_from::<schema::TranslationJson>()
        .schema_from::<schema::InputAudio>()
}

type Path = (&'static str, PathItem);

fn models(keys_required: bool) -> Vec<Path> {
    let list = operation("The model names that requests may use", "models")
        .response("200", json("The list.", "ModelList"));
    let id = ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(Object::with_type(Type::String)));
    let one = operation("One model", "models")
        .parameter(id)
        .response("200", json("The model.", "Model"));
    let of_keys = keys_required.then(|| ApiError::too_many_wrong_keys(Duration::ZERO));
    let list = with_errors(list, Vec::from_iter(of_keys.clone()));
    // An id with a slash matches no route.
    let mut errors = vec![ApiError::model_not_found(""), ApiError::not_found("", None)];
    errors.extend(of_keys);
    let one = with_errors(one, errors);
    vec![
        ("/v1/models", get_and_head(keyed(list, keys_required))),
        ("/v1/models/{id}", get_and_head(keyed(one, keys_required))),
    ]
}

fn state(keys_required: bool) -> Vec<Path> {
    let health = operation("The state of this server", "state").response(
        "200",
        json("The state. The status is always 200.", "Health"),
    );
    let livez = operation("Whether the process responds", "state")
        .response("200", json("The process responds.", "Probe"));
    let readyz = operation("Whether the server can transcribe", "state")
        .response("200", json("The server can transcribe.", "Probe"))
        .response("503", json("The server cannot transcribe.", "Probe"));
    let page = described("Prometheus's text format 0.0.4.")
        .content("text/plain", Content::new(Some(text())));
    let metrics = operation("Metrics", "state").response("200", page.build());
    let tier_health = operation("The state of a primary or a fallback", "state").response(
        "200",
        json("The state. The status is always 200.", "TierHealth"),
    );
    let figures = operation("Metrics of a primary or a fallback", "state")
        .response("200", json("Counts, latencies, queue and GPU.", "Report"));
    vec![
        ("/health", get_and_head(health)),
        ("/livez", get_and_head(livez)),
        ("/readyz", get_and_head(readyz)),
        ("/metrics", get_and_head(metrics)),
        ("/v1/health", get_and_head(tier_health)),
        ("/v1/metrics", get_and_head(keyed(figures, keys_required))),
    ]
}

fn admin(keys_required: bool) -> Vec<Path> {
    let drain = operation("Finish all work, and end", "administration").response(
        "202",
        json("The server drains. What is left to do.", "DrainState"),
    );
    let mut errors = vec![ApiError::rate_limited(Duration::ZERO), ApiError::internal()];
    if keys_required {
        errors.push(ApiError::too_many_wrong_keys(Duration::ZERO));
    } else {
        errors.push(ApiError::drain_not_allowed());
    }
    let drain = keyed(with_errors(drain, errors), keys_required);
    let item = PathItemBuilder::new().operation(HttpMethod::Post, drain.build());
    vec![("/admin/drain", item.build())]
}

fn documentation() -> Vec<Path> {
    let document = described("OpenAPI 3.1.").content(
        "application/json",
        Content::new(Some(Object::with_type(Type::Object))),
    );
    let page = described("A page that shows the document.")
        .content("text/html", Content::new(Some(text())));
    let asset = described("The asset.")
        .content("text/css", Content::new(Some(text())))
        .content("text/javascript", Content::new(Some(text())));
    let name = ParameterBuilder::new()
        .name("asset")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(Object::with_type(Type::String)));
    let asset = operation("An asset of the page", "documentation")
        .parameter(name)
        .response("200", asset.build());
    let document = operation("This document", "documentation").response("200", document.build());
    let page = operation("This document as a page", "documentation").response("200", page.build());
    let asset = with_errors(asset, vec![ApiError::not_found("", None)]);
    vec![
        ("/openapi.json", get_and_head(document)),
        ("/docs", get_and_head(page)),
        ("/docs/{asset}", get_and_head(asset)),
    ]
}

/// GET, and HEAD with the same description.
fn get_and_head(operation: OperationBuilder) -> PathItem {
    let operation = with_errors(operation, Vec::new()).build();
    PathItemBuilder::new()
        .operation(HttpMethod::Get, operation.clone())
        .operation(HttpMethod::Head, operation)
        .build()
}

fn operation(summary: &str, tag: &str) -> OperationBuilder {
    OperationBuilder::new().summary(Some(summary)).tag(tag)
}

/// Adds a response for each status, with its possible codes.
fn with_errors(mut operation: OperationBuilder, mut errors: Vec<ApiError>) -> OperationBuilder {
    errors.push(ApiError::method_not_allowed("POST"));
    let mut statuses: Vec<u16> = (errors.iter())
        .map(|error| error.status_code().as_u16())
        .collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let of_status = errors.iter().filter(|error| error.status_code() == status);
        let mut codes: Vec<&str> = of_status.clone().map(ApiError::code).collect();
        codes.dedup();
        let mut response = described(&format!("`code` is one of: {}.", codes.join(", "))).content(
            "application/json",
            Content::new(Some(reference("ErrorBody"))),
        );
        if of_status.clone().any(ApiError::has_retry_after) {
            response = response.header("Retry-After", header("In seconds.", Type::Integer));
        }
        if status == 503 {
            let meaning =
                "`1`: nothing of the request was processed, so another server may get it.";
            response = response.header("X-Not-Processed", header(meaning, Type::String));
        }
        if status == 401 {
            response = response.header("WWW-Authenticate", header("Bearer.", Type::String));
        }
        operation = operation.response(status.to_string(), response.build());
    }
    operation
}

/// Documents that the operation requires a key, if keys are configured.
fn keyed(operation: OperationBuilder, keys_required: bool) -> OperationBuilder {
    if !keys_required {
        return operation;
    }
    let response = described("`code` is invalid_api_key.")
        .content(
            "application/json",
            Content::new(Some(reference("ErrorBody"))),
        )
        .header("WWW-Authenticate", header("Bearer.", Type::String));
    operation
        .security(SecurityRequirement::new(BEARER, Vec::<String>::new()))
        .response("401", response.build())
}

/// A response with the request id, as all have.
fn described(description: &str) -> ResponseBuilder {
    let id = header(
        "The id of the request, as in the log. A client may send its own.",
        Type::String,
    );
    ResponseBuilder::new()
        .description(description)
        .header("X-Request-Id", id)
}

fn json(description: &str, name: &str) -> Response {
    described(description)
        .content("application/json", Content::new(Some(reference(name))))
        .build()
}

fn header(description: &str, kind: Type) -> utoipa::openapi::header::Header {
    let schema = Object::with_type(kind);
    HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(description))
        .build()
}

fn text() -> Schema {
    Schema::Object(Object::with_type(Type::String))
}

fn reference(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::{App, HttpRequest, test as service, web};

    use super::*;

    /// The patterns of all routes, from the framework's resource map.
    async fn routes() -> BTreeSet<String> {
        async fn map(request: HttpRequest) -> String {
            format!("{:?}", request.resource_map())
        }
        let app = App::new()
            .configure(|config| crate::http::routes::configure(config, true))
            .default_service(web::to(map));
        let app = service::init_service(app).await;
        let request = service::TestRequest::with_uri("/not/there").to_request();
        let body = service::call_and_read_body(&app, request).await;
        let body = String::from_utf8(body.to_vec()).unwrap();
        body.split('"')
            // The map also contains prefixes of patterns; they end where a parameter follows.
            .filter(|text| text.starts_with('/') && !text.ends_with('/'))
            // It also contains what follows a parameter.
            .filter(|text| !["/events", "/result"].contains(text))
            // The page and the board are for people.
            .filter(|text| !text.starts_with("/page/") && *text != "/board")
            .map(str::to_owned)
            .collect()
    }

    #[actix_web::test]
    async fn the_document_contains_exactly_the_registered_routes() {
        let document = document(false);
        let documented: BTreeSet<String> = document.paths.paths.keys().cloned().collect();
        assert_eq!(documented, routes().await);
    }

    #[test]
    fn every_reference_has_a_schema() {
        let document = serde_json::to_value(document(true)).unwrap();
        let text = document.to_string();
        let names = text.split("#/components/schemas/").skip(1);
        let names: BTreeSet<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.contains("ErrorObject"));
        for name in names {
            assert!(
                document["components"]["schemas"][name].is_object(),
                "{name}"
            );
        }
    }

    #[test]
    fn keys_are_documented_where_they_are_required() {
        let open = serde_json::to_value(document(false)).unwrap();
        assert!(!open.to_string().contains("bearer"));
        let keyed = serde_json::to_value(document(true)).unwrap();
        for (path, item) in keyed["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let is_keyed = operation.get("security").is_some();
                let is_open = path == "/v1/health";
                let expected = (path.starts_with("/v1/") && !is_open) || method == "post";
                assert_eq!(is_keyed, expected, "{method} {path}");
                assert_eq!(operation["responses"].get("401").is_some(), is_keyed);
            }
        }
    }

    #[test]
    fn the_document_is_as_it_was() {
        let mut document = serde_json::to_value(document(true)).unwrap();
        document["info"]["version"] = "VERSION".into();
        insta::assert_json_snapshot!(document);
    }
}
