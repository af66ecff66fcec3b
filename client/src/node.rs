//! One server, and a single attempt of a call.

use std::time::{Duration, SystemTime};

use reqwest::Response;
use reqwest::header::HeaderValue;

use crate::call::{Call, Read};
use crate::error::Error;
use crate::headers::ServerHeaders;
use crate::reply;
use crate::statistics::Recorder;
use crate::status::{Advice, StatusError};
use crate::telemetry::Hook;
use crate::upload;

/// A server, with the connections to it.
pub(crate) struct Node {
    pub http: reqwest::Client,
    /// The address without a trailing slash.
    pub base: String,
    /// The address without user and password.
    pub shown: String,
    /// Whether the server is known by its record in Redis.
    #[cfg(feature = "redis")]
    pub is_listed: bool,
    pub telemetry: Hook,
    pub recorder: Recorder,
}

/// Time limit for reading the body of an error.
const REASON_LIMIT: Duration = Duration::from_secs(5);

/// Status and headers of a reply, known even if the attempt fails later.
#[derive(Default)]
pub(crate) struct Seen {
    pub status: Option<u16>,
    pub headers: ServerHeaders,
}

impl Node {
    /// Makes one attempt.
    pub async fn attempt<T>(
        &self,
        call: &Call,
        read: Read<T>,
        seen: &mut Seen,
    ) -> Result<T, Error> {
        let response = self.send(call).await?;
        let status = response.status();
        let headers = ServerHeaders::of(response.headers());
        seen.status = Some(status.as_u16());
        seen.headers = headers.clone();
        if status.is_success() {
            return read(response, headers).await;
        }
        let advice = Advice::of(response.headers(), SystemTime::now());
        // Status and headers are useful even if the body does not arrive.
        let body = tokio::time::timeout(REASON_LIMIT, reply::whole(response)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let error = StatusError::of(status.as_u16(), headers, advice, &body);
        Err(Error::Status(Box::new(error)))
    }

    async fn send(&self, call: &Call) -> Result<Response, Error> {
        let address = format!("{}{}", self.base, call.path);
        let mut request = self.http.request(call.method.clone(), address);
        if let Some(id) = &call.request_id {
            let value = HeaderValue::from_str(id);
            let value =
                value.map_err(|_| Error::Invalid(format!("the request id {id:?} is invalid")))?;
            request = request.header("x-request-id", value);
        }
        for (name, value) in &call.headers {
            let value = HeaderValue::from_str(value);
            let value =
                value.map_err(|_| Error::Invalid(format!("the header {name:?} is invalid")))?;
            request = request.header(name, value);
        }
        let Some((part, audio)) = &call.audio else {
            return request.send().await.map_err(Error::of_transport);
        };
        let (form, fault) = upload::form(&call.fields, part, audio).await?;
        let sent = request.multipart(form).send().await;
        // If the server replied before the source failed, the reply is still valid.
        sent.map_err(|error| match fault.take() {
            Some(fault) => Error::Source(fault),
            None => Error::of_transport(error),
        })
    }
}
