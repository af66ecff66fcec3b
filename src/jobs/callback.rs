//! Callbacks: the end of a job is reported to the URL that its client gave.
//!
//! A client chooses where the server connects, so that a callback could be used to reach what only the server can reach.
//! Therefore a callback goes only to public addresses, or to hosts that the operator lists. The name is resolved once,
//! every address of it is checked, and the connection is made to a checked address, so that a second answer of the name
//! server changes nothing. Redirects are not followed, and the reply is not read.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use sha2::Sha256;
use stt_actors::Stt;
use thiserror::Error;
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
use crate::settings::Secret;
use crate::tls::install_crypto;

/// The header with the signature.
const SIGNATURE: &str = "X-Uttera-Signature";
/// The longest URL.
const MAX_URL_BYTES: usize = 2048;
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

/// Why a callback is not accepted, or not sent.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// No secret is configured.
    #[error("this server sends no callbacks: JOB_CALLBACK_SECRET is not set")]
    NoSecret,
    /// It is no URL for a callback.
    #[error(
        "callback_url must be an http or https URL with a host, without a user name, of at most 2048 bytes"
    )]
    Url,
    /// Its host has an address that is not public.
    #[error("callbacks do not go to {0}, which is no public address (JOB_CALLBACK_HOSTS)")]
    Address(String),
}

/// Which callbacks are sent, and how they are signed.
#[derive(Clone, Debug)]
pub struct CallbackPolicy {
    /// Signs the callbacks.
    pub secret: Option<Secret>,
    /// Hosts that callbacks may go to whatever their address is, in lower case.
    pub hosts: Vec<String>,
}

impl CallbackPolicy {
    /// Checks a URL when a job is submitted. The address of a name is checked when the callback is sent.
    ///
    /// # Errors
    /// The reason, for the client.
    pub fn check(&self, text: &str) -> Result<Url, Refused> {
        if self.secret.is_none() {
            return Err(Refused::NoSecret);
        }
        let url = Url::parse(text).map_err(|_| Refused::Url)?;
        let is_http = matches!(url.scheme(), "http" | "https");
        let has_user = !url.username().is_empty() || url.password().is_some();
        let host = url
            .host_str()
            .filter(|_| is_http && !has_user && text.len() <= MAX_URL_BYTES);
        let host = host.ok_or(Refused::Url)?;
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            self.check_address(host, address)?;
        }
        Ok(url)
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let listed = self.hosts.iter().any(|listed| listed == host);
        if listed || is_public(address) {
            Ok(())
        } else {
            Err(Refused::Address(host.to_owned()))
        }
    }

    /// The signature of a body at a time in Unix seconds, as the header has it.
    fn signature(&self, at: u64, body: &str) -> Option<String> {
        let secret = self.secret.as_ref()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        mac.update(format!("{at}.{body}").as_bytes());
        let digest = mac.finalize().into_bytes();
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Some(format!("t={at},v1={hex}"))
    }
}

/// Whether an address belongs to a host in the public internet.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        // "This network", addresses of providers' translators, protocol assignments, benchmarks, reserved.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, third, ..] = address.segments();
    // Global unicast is 2000::/3. Of that, these lead to IPv4 addresses or to nowhere.
    (0x2000..0x4000).contains(&first)
        && first != 0x2002
        && !(first == 0x2001 && (second == 0 || second == 0xdb8 || (second == 2 && third == 0)))
        && !(first == 0x3fff && second < 0x1000)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hosts: &[&str]) -> CallbackPolicy {
        CallbackPolicy {
            secret: Some(Secret::from("0123456789abcdef")),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        }
    }

    #[test]
    fn only_public_addresses_may_be_called() {
        for public in ["9.9.9.9", "172.32.0.1", "2620:fe::fe", "64.233.160.1"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "ff02::1",
        ] {
            assert!(
                !is_public(private.parse().expect("an address")),
                "{private}"
            );
        }
    }

    #[test]
    fn a_url_is_checked_and_listed_hosts_may_have_any_address() {
        let open = policy(&[]);
        assert!(open.check("https://example.com/hook?job=1").is_ok());
        for wrong in [
            "ftp://example.com",
            "example.com",
            "http://user@example.com/",
            "http://user:pass@example.com/",
            "file:///etc/passwd",
        ] {
            assert_eq!(open.check(wrong), Err(Refused::Url), "{wrong}");
        }
        for private in [
            "http://127.0.0.1/",
            "http://[::1]:80/",
            "http://2130706433/",
            "http://0x7f.1/",
        ] {
            assert!(
                matches!(open.check(private), Err(Refused::Address(_))),
                "{private}"
            );
        }
        assert!(
            policy(&["127.0.0.1"])
                .check("http://127.0.0.1:8080/")
                .is_ok()
        );
        let without = CallbackPolicy {
            secret: None,
            hosts: Vec::new(),
        };
        assert_eq!(
            without.check("https://example.com/"),
            Err(Refused::NoSecret)
        );
    }

    #[test]
    fn a_signature_is_an_hmac_of_time_and_body() {
        // As `printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef` prints it.
        let signature = policy(&[])
            .signature(1_700_000_000, "{}")
            .expect("a secret");
        let hmac = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
        assert_eq!(signature, format!("t=1700000000,v1={hmac}"));
    }
}
