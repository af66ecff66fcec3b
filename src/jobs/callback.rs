//! Callbacks: the end of a job is reported to the URL that its client gave.
//!
//! A client chooses where the server connects, so that a callback could be used to reach what only the server can reach.
//! Therefore a callback goes only to public addresses, or to hosts that the operator lists. The name is resolved once,
//! every address of it is checked, and the connection is made to a checked address, so that a second answer of the name
//! server changes nothing. Redirects are not followed, and the reply is not read.

pub mod policy;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use stt_actors::Stt;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::jobs::Jobs;
use crate::jobs::record::{Callback, CallbackState, Job, now};
use crate::jobs::report::JobReport;
#[cfg(doc)]
use crate::jobs::store::CALLBACK_LEASE;
use crate::metrics::jobs::{CallbackOutcome, record_callback};
use crate::tls::install_crypto;
use policy::{CallbackPolicy, Refused};

/// The header with the signature.
const SIGNATURE: &str = "X-Uttera-Signature";
/// Time limit of an attempt.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);
/// The pause after the first failed attempt; each further pause is four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Callbacks that are taken at the same time.
const AT_ONCE: usize = 64;
/// Callbacks that are taken for one host, so that it leaves room for others. They end within [`CALLBACK_LEASE`].
const MOST_OF_A_HOST: usize = 16;
/// Callbacks that are sent to one host at the same time.
const AT_ONCE_TO_A_HOST: usize = 3;
/// The pause before a callback is looked at again whose host has [`MOST_OF_A_HOST`].
const CROWDED_PAUSE: Duration = Duration::from_secs(5);
/// The least time of a failed attempt that makes a host rest.
const SLOW: Duration = Duration::from_secs(3);
/// How long no callbacks are sent to a host whose failures take long: others would wait for them.
const HOST_REST: Duration = Duration::from_secs(30);
/// Attempts before a callback is given up: the last one is about twelve hours after the first.
const MOST_ATTEMPTS: u32 = 9;
/// How often callbacks are looked for that another node left, and after the store failed.
const LOOK: Duration = Duration::from_secs(30);

/// Sends callbacks until the server shuts down.
pub async fn run(jobs: Jobs, stt: Stt, policy: CallbackPolicy) {
    let mut changes = jobs.changes();
    let mut sender = Sender {
        jobs,
        policy: Arc::new(policy),
        hosts: HashMap::new(),
        sending: JoinSet::new(),
    };
    loop {
        let pause = sender.send_due().await;
        tokio::select! {
            () = stt.until_rejecting() => return,
            _ = changes.changed() => {}
            Some(_) = sender.sending.join_next() => {}
            () = sleep(pause) => {}
        }
    }
}

struct Sender {
    jobs: Jobs,
    policy: Arc<CallbackPolicy>,
    hosts: HashMap<String, Arc<Host>>,
    /// One task for each callback that is taken.
    sending: JoinSet<()>,
}

/// A host that callbacks go to.
struct Host {
    turns: Semaphore,
    /// When callbacks are sent to it again, if failures take long there, in Unix seconds.
    rests_until: Mutex<f64>,
}

impl Host {
    fn new() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE_TO_A_HOST),
            rests_until: Mutex::new(0.0),
        }
    }

    fn rests_until(&self) -> MutexGuard<'_, f64> {
        self.rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// Begins to send the callbacks that are due, and returns the time until the next one.
    async fn send_due(&mut self) -> Duration {
        while self.sending.try_join_next().is_some() {}
        let room = AT_ONCE - self.sending.len().min(AT_ONCE);
        if room == 0 {
            // The end of one of them comes first.
            return LOOK;
        }
        let (due, next) = match self.jobs.store().take_callbacks(now(), room).await {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "the callbacks of jobs cannot be read");
                return LOOK;
            }
        };
        self.hosts
            .retain(|_, host| Arc::strong_count(host) > 1 || *host.rests_until() > now());
        for job in due {
            if let Some(callback) = job.callback.clone() {
                self.begin(job, callback);
            }
        }
        let next = next.map_or(LOOK, |next| {
            Duration::from_secs_f64((next - now()).max(0.0))
        });
        next.min(LOOK)
    }

    fn begin(&mut self, job: Job, callback: Callback) {
        let url = Url::parse(&callback.url).ok();
        let name = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let host = self.hosts.entry(name.to_owned());
        let host = Arc::clone(host.or_insert_with(|| Arc::new(Host::new())));
        // The map has one more.
        let is_crowded = Arc::strong_count(&host) - 1 > MOST_OF_A_HOST;
        let (jobs, policy) = (self.jobs.clone(), Arc::clone(&self.policy));
        self.sending.spawn(async move {
            let sent = if is_crowded {
                Err(now() + CROWDED_PAUSE.as_secs_f64())
            } else {
                in_turn(&job, callback, &host, &policy).await
            };
            let stored = match sent {
                Ok(callback) => jobs.store().set_callback(&job.id, callback).await,
                Err(until) => jobs.store().postpone_callback(&job.id, until).await,
            };
            if let Err(error) = stored {
                warn!(job = job.id, %error, "the state of a callback could not be stored");
            }
        });
    }
}

/// Sends a callback when it is its turn among those to the same host.
///
/// # Errors
/// The host rests, until this time in Unix seconds.
async fn in_turn(
    job: &Job,
    mut callback: Callback,
    host: &Host,
    policy: &CallbackPolicy,
) -> Result<Callback, f64> {
    // It is never closed.
    let _turn = host.turns.acquire().await.ok();
    let until = *host.rests_until();
    if until > now() {
        return Err(until);
    }
    let begun = Instant::now();
    attempt(job, &mut callback, policy).await;
    if callback.state == CallbackState::Pending && begun.elapsed() > SLOW {
        *host.rests_until() = now() + HOST_REST.as_secs_f64();
    }
    Ok(callback)
}

/// Sends a callback, and records what became of it.
async fn attempt(job: &Job, callback: &mut Callback, policy: &CallbackPolicy) {
    callback.attempts += 1;
    let sent = timeout(ATTEMPT_LIMIT, send(job, &callback.url, policy)).await;
    let reason = match sent {
        Ok(Ok(())) => {
            info!(
                job = job.id,
                attempt = callback.attempts,
                "a callback was delivered"
            );
            (callback.state, callback.next) = (CallbackState::Delivered, None);
            return record_callback(CallbackOutcome::Delivered);
        }
        Ok(Err(Unsent::Refused(refused))) => {
            warn!(job = job.id, reason = %refused, "a callback is refused");
            (callback.state, callback.next) = (CallbackState::Refused, None);
            return record_callback(CallbackOutcome::Refused);
        }
        Ok(Err(Unsent::Failed(reason))) => reason,
        Err(_elapsed) => format!("no answer within {} s", ATTEMPT_LIMIT.as_secs()),
    };
    if callback.attempts >= MOST_ATTEMPTS {
        warn!(
            job = job.id,
            reason,
            attempts = callback.attempts,
            "a callback is given up"
        );
        (callback.state, callback.next) = (CallbackState::Failed, None);
        return record_callback(CallbackOutcome::Failed);
    }
    let pause = FIRST_PAUSE * 4_u32.saturating_pow(callback.attempts - 1);
    info!(
        job = job.id,
        reason,
        attempt = callback.attempts,
        pause_seconds = pause.as_secs(),
        "a callback failed and is repeated"
    );
    callback.next = Some(now() + pause.as_secs_f64());
    record_callback(CallbackOutcome::Retried);
}

enum Unsent {
    Refused(Refused),
    Failed(String),
}

async fn send(job: &Job, url: &str, policy: &CallbackPolicy) -> Result<(), Unsent> {
    let url = policy.check(url).map_err(Unsent::Refused)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let address = resolve(&host, &url, policy).await?;
    let failed = |error: reqwest::Error| Unsent::Failed(error.without_url().to_string());
    install_crypto();
    let client = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(ATTEMPT_LIMIT)
        .resolve(&host, address)
        .user_agent(concat!("uttera-stt/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(failed)?;
    let body = serde_json::to_string(&JobReport::of_ended(job))
        .map_err(|error| Unsent::Failed(error.to_string()))?;
    let signature = policy
        .signature(now() as u64, &body)
        .ok_or(Unsent::Refused(Refused::NoSecret))?;
    let request = client
        .post(url)
        .header("Content-Type", "application/json")
        .header(SIGNATURE, signature);
    let status = request.body(body).send().await.map_err(failed)?.status();
    if status.is_success() || status == StatusCode::GONE {
        // Gone: the receiver wants no more.
        return Ok(());
    }
    Err(Unsent::Failed(format!("the answer was {status}")))
}

/// The address of a host, if all its addresses may be called.
async fn resolve(host: &str, url: &Url, policy: &CallbackPolicy) -> Result<SocketAddr, Unsent> {
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses = lookup_host((host.trim_matches(['[', ']']), port)).await;
    let addresses =
        addresses.map_err(|error| Unsent::Failed(format!("the host is not found: {error}")))?;
    let mut first = None;
    for address in addresses {
        policy
            .check_address(host, address.ip())
            .map_err(Unsent::Refused)?;
        first.get_or_insert(address);
    }
    first.ok_or_else(|| Unsent::Failed("the host has no address".to_owned()))
}
