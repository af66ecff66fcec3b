//! Errors of jobs.

use std::time::Duration;

use actix_web::http::StatusCode;
use stt_actors::SttError;

use super::{ApiError, STORAGE_RETRY};
use crate::jobs::JobError;
use crate::jobs::callback::policy::Refused;
use crate::jobs::record::Failure;
use crate::jobs::store::StoreError;
use crate::metrics::ErrorType;

/// Retry-After when jobs are not accepted.
const RETRY: Duration = Duration::from_secs(10);
/// Retry-After when a client has too many jobs.
const TOO_MANY_RETRY: Duration = Duration::from_secs(60);

impl ApiError {
    /// There is no such job of this caller.
    pub fn job_not_found(id: &str) -> Self {
        let id = super::shortened(id);
        let message = format!(
            "there is no job {id:?}: it never was, was deleted, has expired, or belongs to another key"
        );
        Self::client(StatusCode::NOT_FOUND, "job_not_found", message)
    }

    /// The job has no result yet. `eta`: when it may have one.
    pub fn job_running(status: &str, eta: Option<Duration>) -> Self {
        let message = format!("the job is {status} and has no result yet");
        Self::client(StatusCode::CONFLICT, "job_running", message)
            .with_retry_after(eta.unwrap_or(RETRY))
    }

    /// The job ended without a result.
    pub fn job_failed(failure: &Failure) -> Self {
        let message = format!("the job failed ({}): {}", failure.code, failure.message);
        Self::client(StatusCode::UNPROCESSABLE_ENTITY, "job_failed", message).deterministic()
    }

    /// The server is shutting down and takes no jobs.
    pub fn jobs_closed() -> Self {
        Self::from(SttError::Draining { retry_after: RETRY }).before_work()
    }

    /// An idempotency key that cannot be one.
    pub fn invalid_idempotency_key() -> Self {
        let message = "the header Idempotency-Key must have 1 to 255 visible ASCII characters";
        Self::client(StatusCode::BAD_REQUEST, "invalid_idempotency_key", message)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::client(
            StatusCode::BAD_REQUEST,
            "callback_refused",
            refused.to_string(),
        )
        .with_param("callback_url")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Full => Self::server(
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient_storage",
                message,
            )
            .with_retry_after(STORAGE_RETRY)
            .counted_as(ErrorType::Overloaded),
            StoreError::Unavailable(_) => Self::server(
                StatusCode::SERVICE_UNAVAILABLE,
                "jobs_unavailable",
                "the store of jobs cannot be used at the moment; the server's log has the details",
            )
            .with_reason_for_log(message)
            .with_retry_after(RETRY),
            StoreError::Unreadable(_) => Self::internal().with_reason_for_log(message),
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let message = error.to_string();
        match error {
            JobError::Store(error) => error.into(),
            JobError::TooLarge(_) => {
                Self::client(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large", message)
            }
            JobError::TooMany(..) | JobError::ClientFull => {
                Self::too_many("too_many_jobs", message, TOO_MANY_RETRY)
            }
            JobError::StorageFull | JobError::Full => Self::server(
                StatusCode::INSUFFICIENT_STORAGE,
                "insufficient_storage",
                message,
            )
            .with_retry_after(STORAGE_RETRY)
            .counted_as(ErrorType::Overloaded),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self {
            code: error.code.to_owned(),
            message: error.message.into(),
        }
    }
}
