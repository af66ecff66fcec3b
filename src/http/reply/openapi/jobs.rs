//! The routes of jobs.

use std::time::Duration;

use stt_actors::SttError;
use utoipa::openapi::content::Content;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathItemBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, ComponentsBuilder, Object, Schema, Type};
use utoipa::openapi::{Required, Response};

use super::audio::with_query;
use super::{
    Path, described, get_and_head, header, json, keyed, operation, reference, text, with_errors,
};
use crate::http::reply::error::ApiError;
use crate::http::reply::schema;
use crate::jobs::JobError;
use crate::jobs::callback::policy::Refused;
use crate::jobs::record::Failure;
use crate::jobs::report;
use crate::jobs::store::StoreError;

/// Adds the schemas of jobs.
pub fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    components
        .schema_from::<schema::JobForm>()
        .schema_from::<schema::JobEvent>()
        .schema_from::<report::JobReport>()
        .schema_from::<report::JobFailure>()
        .schema_from::<report::CallbackReport>()
        .schema_from::<report::JobList>()
        .schema_from::<report::DeletedJob>()
}

pub fn paths(keys_required: bool) -> Vec<Path> {
    let with = |operation: OperationBuilder, mut errors: Vec<ApiError>| {
        errors.push(StoreError::Unavailable(String::new()).into());
        errors.push(ApiError::internal());
        errors.extend(keys_required.then(|| ApiError::too_many_wrong_keys(Duration::ZERO)));
        keyed(with_errors(operation, errors), keys_required)
    };
    let missing = || vec![ApiError::job_not_found(""), ApiError::not_found("", None)];
    let list = with(list(), Vec::new());
    let item = |get: OperationBuilder| {
        let get = get.build();
        PathItemBuilder::new()
            .operation(HttpMethod::Get, get.clone())
            .operation(HttpMethod::Head, get)
    };
    let jobs = item(list).operation(
        HttpMethod::Post,
        with(submit(), errors_of_submission()).build(),
    );
    let one = of_job("A job: its state, progress and place in the queue")
        .response("200", json("The job.", "Job"));
    let delete = of_job("Cancel a job if it is not over, and remove it with its result")
        .response("200", json("It is removed.", "DeletedJob"));
    let one =
        item(with(one, missing())).operation(HttpMethod::Delete, with(delete, missing()).build());
    let events = described("The job at once, and then after each change, until it is over.")
        .content(
            "text/event-stream",
            Content::new(Some(reference("JobEvent"))),
        );
    let events = of_job("The same, after each change").response("200", events.build());
    vec![
        ("/v1/audio/jobs", jobs.build()),
        ("/v1/audio/jobs/{id}", one.build()),
        ("/v1/audio/jobs/{id}/result", result(&with, missing())),
        (
            "/v1/audio/jobs/{id}/events",
            get_and_head(with(events, missing())),
        ),
    ]
}

fn submit() -> OperationBuilder {
    let form = Content::new(Some(reference("JobForm")));
    let fields = Content::new(Some(reference("TranscriptionJson")));
    let body = RequestBodyBuilder::new()
        .content("multipart/form-data", form)
        .content("application/json", fields)
        .required(Some(Required::True));
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "A request with the key of an earlier one returns the jobs of that one.",
        ))
        .schema(Some(Object::with_type(Type::String)));
    let schema = AnyOfBuilder::new()
        .item(reference("Job"))
        .item(reference("JobList"))
        .build();
    let accepted = described("The job; the list of all jobs if the request has several files.")
        .content(
            "application/json",
            Content::new(Some(Schema::AnyOf(schema))),
        )
        .header(
            "Location",
            header("The path of the job, or of the list.", Type::String),
        );
    operation("Submit audio whose text is fetched later", "jobs")
        .parameter(key)
        .request_body(Some(body.build()))
        .response("202", accepted.build())
}

fn errors_of_submission() -> Vec<ApiError> {
    let mut errors = ApiError::all_of_audio_routes();
    // These are found out when the job runs, and a busy node accepts jobs.
    errors.retain(|error| {
        !matches!(
            error.code(),
            "audio_decode_error"
                | "audio_too_long"
                | "poison_audio"
                | "timeout"
                | "overloaded"
                | "loading"
        )
    });
    errors.extend([
        Refused::NoSecret.into(),
        ApiError::invalid_idempotency_key(),
        JobError::TooMany(0, 0).into(),
        SttError::Draining {
            retry_after: Duration::ZERO,
        }
        .into(),
    ]);
    errors
}

fn list() -> OperationBuilder {
    let list = operation("The caller's jobs", "jobs").response("200", json("The jobs.", "JobList"));
    with_query(list, &[("batch", "Only the jobs of one request.", &[])])
}

fn of_job(summary: &str) -> OperationBuilder {
    let id = ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .schema(Some(Object::with_type(Type::String)));
    operation(summary, "jobs").parameter(id)
}

fn result(
    with: &impl Fn(OperationBuilder, Vec<ApiError>) -> OperationBuilder,
    missing: Vec<ApiError>,
) -> PathItem {
    let formats: &[&str] = &["json", "text", "srt", "verbose_json", "vtt"];
    let operation = of_job("The result of a job").response("200", transcript());
    let operation = with_query(
        operation,
        &[
            (
                "response_format",
                "The format; default: what the job was submitted with.",
                formats,
            ),
            (
                "timestamp_granularities",
                "`segment`, `word` or both, with a comma.",
                &[],
            ),
            ("include", "`logprobs`.", &[]),
        ],
    );
    let failure = Failure {
        code: String::new(),
        message: String::new(),
    };
    let mut errors = vec![
        ApiError::malformed_body(""),
        ApiError::invalid_value("", ""),
        ApiError::job_running("", None),
        ApiError::job_failed(&failure),
    ];
    errors.extend(missing);
    get_and_head(with(operation, errors))
}

fn transcript() -> Response {
    let schema = AnyOfBuilder::new()
        .item(reference("Transcript"))
        .item(reference("VerboseTranscript"))
        .build();
    let mut response = described("The transcript.").content(
        "application/json",
        Content::new(Some(Schema::AnyOf(schema))),
    );
    for kind in ["text/plain", "application/x-subrip", "text/vtt"] {
        response = response.content(kind, Content::new(Some(text())));
    }
    response.build()
}
