//! Jobs: `/v1/audio/jobs`.

use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};
use futures::Stream;
use stt_actors::domain::transcript::Task;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::only;
use crate::http::body::form;
use crate::http::body::{self, BodyFormat, OPENAI_BODY, Parts};
use crate::http::caller::Caller;
use crate::http::reply::error::ApiError;
use crate::http::reply::sse;
use crate::http::request_log::StreamedLogLine;
use crate::http::{AppState, auth, pipeline};
use crate::jobs::record::{Callback, Job, JobForm, State, Submitter, now};
use crate::jobs::report::{DeletedJob, JobList, JobReport, OBJECT};
use crate::jobs::store::StoreError;
use crate::jobs::{JobError, Jobs};
use crate::metrics::Endpoint;

const JOBS_SHARED: HeaderName = HeaderName::from_static("x-jobs-shared");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;
/// The most files of one request.
const MAX_FILES: usize = 20;
/// The form of a transcription, with several files.
const JOB_BODY: BodyFormat = BodyFormat {
    max_files: MAX_FILES,
    ..OPENAI_BODY
};
/// How often a job is looked at whose changes this process may not hear of.
const LOOK: Duration = Duration::from_secs(2);

pub fn configure(config: &mut web::ServiceConfig) {
    let path = Endpoint::Jobs.path();
    let under = |rest: &str| {
        web::resource(format!("{path}/{{id}}{rest}"))
            .wrap(from_fn(auth::require_key))
            .wrap(from_fn(say_if_shared))
    };
    config
        .service(
            web::resource(path)
                .wrap(from_fn(auth::require_key))
                .wrap(from_fn(say_if_shared))
                .route(web::post().to(submit))
                .route(web::get().to(list))
                .route(web::head().to(list))
                .default_service(only("GET, HEAD, POST")),
        )
        .service(
            under("")
                .route(web::get().to(one))
                .route(web::head().to(one))
                .route(web::delete().to(delete))
                .default_service(only("GET, HEAD, DELETE")),
        )
        .service(
            under("/result")
                .route(web::get().to(result))
                .route(web::head().to(result))
                .default_service(only("GET, HEAD")),
        )
        .service(
            under("/events")
                .route(web::get().to(events))
                .route(web::head().to(events))
                .default_service(only("GET, HEAD")),
        );
}

/// Adds the header from which a router learns that other nodes know the same jobs.
async fn say_if_shared<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let state = request.app_data::<web::Data<AppState>>();
    let are_shared = state.is_some_and(|state| state.jobs.are_shared());
    let mut response = next.call(request).await?;
    if are_shared {
        let value = HeaderValue::from_static("1");
        response.headers_mut().insert(JOBS_SHARED, value);
    }
    Ok(response)
}

/// Submits one job for each file.
async fn submit(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let key = idempotency_key(&request)?;
    // The body is unread, so another node may get the request.
    let unread = |error: StoreError| ApiError::from(error).before_work();
    let jobs = state.jobs.get().await.map_err(unread)?;
    // Before the check, so that a drain that begins after it waits for the upload.
    let _upload = state.stt.expect_upload();
    if !jobs.is_accepting() || state.stt.snapshot().draining {
        return Err(ApiError::jobs_closed());
    }
    let caller = Caller::of(&request);
    let salt = jobs.store().salt();
    let (owner, client) = (caller.owner_of_jobs(&salt), caller.client_of_jobs(&salt));
    if let Some(key) = &key {
        let known = jobs.store().known(&client, key).await;
        let known = known.map_err(unread)?;
        if !known.is_empty() {
            return Ok(accepted(&state, jobs, &known).await);
        }
    }
    let room = jobs.check_room(&client, least_bytes(&request)).await;
    room.map_err(|error| match error {
        JobError::Store(error) => unread(error),
        error => error.into(),
    })?;
    let uploads = state.jobs.uploads().await.map_err(unread)?;
    let mut parts = pipeline::read(&state, &request, body, uploads, JOB_BODY).await?;
    let callback = parts
        .field("callback_url")
        .map(|url| state.jobs.callbacks().check(url.trim()));
    let callback = callback.transpose()?.map(|url| Callback::to(url.into()));
    let (names, further) = (
        std::mem::take(&mut parts.file_names),
        std::mem::take(&mut parts.further_files),
    );
    let form = pipeline::check(&state, parts, Task::Transcribe)?;
    let created = now();
    let ids = || uuid::Uuid::new_v4().simple().to_string();
    let batch = ids();
    let mut new = Vec::new();
    let files = 1 + further.len();
    for (number, upload) in std::iter::once(form.audio).chain(further).enumerate() {
        let audio = match jobs.store_audio(upload.source.path()).await {
            Ok(audio) => audio,
            Err(error) => {
                let stored = new.into_iter().map(|job: Job| job.audio.key);
                jobs.remove_audio(stored.collect()).await;
                return Err(error.into());
            }
        };
        new.push(Job {
            id: if number == 0 { batch.clone() } else { ids() },
            batch: batch.clone(),
            number,
            files,
            owner: owner.to_string(),
            client: client.clone(),
            submitter: Submitter {
                key: caller.key_of_jobs(&salt),
                salt,
                address: caller.address,
                priority: caller.priority(),
            },
            idempotency_key: key.clone(),
            file_name: names.get(number).cloned().flatten(),
            audio,
            form: JobForm {
                options: form.options.clone(),
                format: form.format,
                details: form.details,
            },
            callback: callback.clone(),
            created,
            started: None,
            finished: None,
            expires: None,
            state: State::Queued,
            progress: stt_actors::Progress::default(),
            attempts: 0,
            error: None,
        });
    }
    let stored = jobs.submit(new).await?;
    Ok(accepted(&state, jobs, &stored).await)
}

/// The least size of the audio in a request, as far as the client says how long its body is.
fn least_bytes(request: &HttpRequest) -> u64 {
    // In JSON, it is base64, which may have line breaks.
    let is_form = request.content_type().starts_with("multipart/");
    let length = body::length(request)
        .filter(|_| is_form)
        .unwrap_or_default();
    length.saturating_sub(body::OVERHEAD_BYTES).max(1)
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let Some(value) = request.headers().get(&IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let is_valid =
        (1..=MAX_KEY_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    let key = value.to_str().ok().filter(|_| is_valid);
    Ok(Some(
        key.ok_or_else(ApiError::invalid_idempotency_key)?
            .to_owned(),
    ))
}

/// The reply to a submission: the job, or the list of the jobs of all files.
async fn accepted(state: &AppState, jobs: &Jobs, stored: &[Job]) -> HttpResponse {
    // Without their places if the store cannot say: an error would make the client submit them again.
    let places = jobs.places(stored).await;
    let reports = reports(state, stored, places.unwrap_or_default());
    let mut reply = HttpResponse::Accepted();
    let path = Endpoint::Jobs.path();
    if let [job] = stored
        && job.files == 1
    {
        let location = format!("{path}/{}", job.id);
        return reply.insert_header((LOCATION, location)).json(&reports[0]);
    }
    let batch = stored.first().map_or("", |job| &job.batch);
    let location = format!("{path}?batch={batch}");
    reply
        .insert_header((LOCATION, location))
        .json(list_of(reports))
}

/// Jobs as replies show them. `places`: of each, how many queued jobs come before it, as far as it is known.
fn reports(state: &AppState, jobs: &[Job], places: Vec<Option<usize>>) -> Vec<JobReport> {
    let snapshot = state.stt.snapshot();
    let places = places.into_iter().chain(std::iter::repeat(None));
    let jobs = jobs.iter().zip(places);
    jobs.map(|(job, place)| JobReport::of(job, place, &snapshot))
        .collect()
}

fn list_of(data: Vec<JobReport>) -> JobList {
    JobList {
        object: "list",
        data,
    }
}

async fn report(state: &AppState, jobs: &Jobs, job: &Job) -> Result<JobReport, ApiError> {
    let place = jobs.places(std::slice::from_ref(job)).await?.pop();
    Ok(JobReport::of(job, place.flatten(), &state.stt.snapshot()))
}

/// The caller's jobs.
async fn list(state: web::Data<AppState>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let jobs = state.jobs.get().await?;
    let owner = Caller::of(&request).owner_of_jobs(&jobs.store().salt());
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    let query = query.map(web::Query::into_inner).unwrap_or_default();
    let batch = query.iter().find(|(name, _)| name == "batch");
    let own = jobs
        .list(&owner, batch.map(|(_, batch)| batch.as_str()))
        .await?;
    let places = jobs.places(&own).await?;
    Ok(HttpResponse::Ok().json(list_of(reports(&state, &own, places))))
}

/// The caller's job with this id.
async fn find(jobs: &Jobs, request: &HttpRequest, id: &str) -> Result<Job, ApiError> {
    let owner = Caller::of(request).owner_of_jobs(&jobs.store().salt());
    let job = jobs.get(&owner, id).await?;
    job.ok_or_else(|| ApiError::job_not_found(id))
}

/// One job.
async fn one(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let jobs = state.jobs.get().await?;
    let job = find(jobs, &request, &id).await?;
    Ok(HttpResponse::Ok().json(report(&state, jobs, &job).await?))
}

/// The result of a job, in the format that the query or else the job's form asks for.
async fn result(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let jobs = state.jobs.get().await?;
    let job = find(jobs, &request, &id).await?;
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    let query = query.map_err(|error| {
        ApiError::malformed_body(format!("the query cannot be parsed: {error}"))
    })?;
    let mut parts = Parts::default();
    for (name, value) in query.into_inner() {
        parts.add(name, value)?;
    }
    let (format, details) = form::result_format(&parts, (job.form.format, job.form.details))?;
    if let Some(failure) = &job.error {
        return Err(ApiError::job_failed(failure));
    }
    if job.state != State::Done {
        let eta = report(&state, jobs, &job).await?.eta_seconds;
        return Err(ApiError::job_running(
            job.state.as_str(),
            eta.map(Duration::from_secs_f64),
        ));
    }
    let transcript = jobs
        .result(&job.id)
        .await?
        .ok_or_else(|| ApiError::job_not_found(&id))?;
    let body = format.render(&transcript, job.form.options.task, details);
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, format.content_type()))
        .body(body))
}

/// Cancels a job and removes it with its result.
async fn delete(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let jobs = state.jobs.get().await?;
    let job = find(jobs, &request, &id).await?;
    // For a running one, its node charges.
    let removed = jobs.remove(&job).await?;
    if let Some(removed) = removed.filter(|removed| removed.state == State::Queued) {
        state.jobs.charge_deleted(&removed);
    }
    Ok(HttpResponse::Ok().json(DeletedJob {
        id: job.id,
        object: OBJECT,
        deleted: true,
    }))
}

/// The job now, and after each change, until it is over.
async fn events(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let jobs = state.jobs.get().await?;
    let job = find(jobs, &request, &id).await?;
    if request.method() == Method::HEAD {
        return Ok(sse::head().finish());
    }
    let log_line = StreamedLogLine::default();
    let feed = Feed {
        changes: jobs.changes(),
        jobs: jobs.clone(),
        last: None,
        id: job.id,
        state: state.get_ref().clone(),
        ended: false,
        log_line: log_line.clone(),
    };
    let mut response = sse::head().streaming(feed.stream());
    response.extensions_mut().insert(log_line);
    Ok(response)
}

/// The events of a job.
struct Feed {
    state: AppState,
    jobs: Jobs,
    id: String,
    changes: watch::Receiver<u64>,
    last: Option<JobReport>,
    ended: bool,
    log_line: StreamedLogLine,
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> {
        futures::stream::unfold(self, |mut feed| async {
            let event = feed.next().await?;
            Some((Ok(event), feed))
        })
    }

    /// The next event, or a ping after a silent interval; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let ping_at = Instant::now() + sse::PING_INTERVAL;
        while !self.ended {
            self.changes.mark_unchanged();
            let now = self.look().await;
            if now.is_some() && now != self.last {
                self.last.clone_from(&now);
                return now.map(|report| sse::data(&serde_json::json!(report)).into());
            }
            let look_at = (Instant::now() + LOOK).min(ping_at);
            tokio::select! {
                _ = timeout_at(look_at, self.changes.changed()) => {}
                // The server would wait for the stream.
                () = self.jobs.closed() => return None,
            }
            if Instant::now() >= ping_at {
                return Some(Bytes::from_static(sse::PING));
            }
        }
        None
    }

    /// The job as it is now; `None` if the store cannot say.
    async fn look(&mut self) -> Option<JobReport> {
        match self.jobs.store().get(&self.id).await {
            Ok(Some(job)) => {
                self.ended = job.state.is_over();
                report(&self.state, &self.jobs, &job).await.ok()
            }
            // The last event says so.
            Ok(None) => {
                self.ended = true;
                self.last.clone().map(JobReport::cancelled)
            }
            Err(_) => None,
        }
    }
}

impl Drop for Feed {
    /// A client that leaves is not a warning.
    fn drop(&mut self) {
        self.log_line.end(None, None);
    }
}
