//! Jobs in Redis, which several nodes share.
//!
//! Queued jobs are entries of a stream with a consumer group. A node takes the next entry (XREADGROUP), or one whose node
//! has not renewed it for 15 s (XPENDING, XCLAIM). Redis itself knows which consumer has an entry; every change of a job
//! that runs is a script that checks this first, so that a node that was cut off cannot overwrite the work of its
//! successor. Scripts also keep a job, its state and the counts consistent.
//!
//! All keys have the same hash tag, so that they are in one slot of a cluster.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_redis::redis::{FromRedisValue, cmd};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stt_actors::Progress;
use stt_actors::domain::finished::{FinishedPart, FinishedWork};
use stt_actors::domain::transcript::Transcript;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::resting::Resting;
use super::{
    CALLBACK_LEASE, Claimed, Counts, Exceeded, JobStore, Put, PutLimits, Rest, StoreError,
};
use crate::jobs::record::{Callback, CallbackState, Failure, Job, State};
use crate::redis::{RedisCommands, RedisPem};

/// A job that was not renewed for this time is taken by another node: several renewals.
const LEASE: Duration = Duration::from_secs(15);
/// After this time without a job, the consumer of a node that does not ask any more is removed.
const SILENCE: Duration = Duration::from_secs(86_400);
/// How long a node leaves a job alone that it cannot read: another version wrote it.
const UNREADABLE_REST: Duration = Duration::from_secs(600);

/// The beginning of every script.
const COMMON: &str = include_str!("shared/common.lua");

/// The store.
pub struct SharedStore {
    redis: RedisCommands,
    /// This process, among the consumers of the group.
    consumer: String,
    keep: Duration,
    salt: Mutex<[u8; 16]>,
    changed: watch::Sender<u64>,
    /// The jobs that this node has, as they are stored.
    held: Mutex<HashMap<String, Job>>,
    /// Jobs that this node does not take now.
    resting: Mutex<Resting>,
    /// When Redis was last found to be away, or this node came: before that, nodes may not have been able to renew.
    last_outage: Mutex<Instant>,
}

/// What a script does, and its text after [`COMMON`].
macro_rules! script {
    ($name:literal) => {
        include_str!(concat!("shared/", $name, ".lua"))
    };
}

impl SharedStore {
    /// Connects to the store, and creates it if it is not there. `pem`: certificates for `rediss://`. `node`: the name of
    /// this node. `keep`: how long a job is kept after its end.
    ///
    /// # Errors
    /// Redis cannot be used.
    pub async fn open(
        url: &str,
        pem: &RedisPem,
        node: &str,
        keep: Duration,
    ) -> Result<Self, StoreError> {
        let unusable =
            |error: crate::redis::RedisUrlError| StoreError::Unavailable(error.to_string());
        let redis = RedisCommands::new(url, pem).map_err(unusable)?;
        let store = Self {
            redis,
            consumer: format!("{node}/{}", uuid::Uuid::new_v4().simple()),
            keep,
            salt: Mutex::new(*uuid::Uuid::new_v4().as_bytes()),
            changed: watch::Sender::new(0),
            held: Mutex::default(),
            resting: Mutex::default(),
            last_outage: Mutex::new(Instant::now()),
        };
        store.maintain().await?;
        Ok(store)
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &str,
        arguments: &[&str],
    ) -> Result<T, StoreError> {
        let mut command = cmd("EVAL");
        command
            .arg(format!("{COMMON}\n{script}"))
            .arg(1)
            .arg("{stt:jobs}:stream");
        for argument in arguments {
            command.arg(*argument);
        }
        let answer = self.redis.run(&command).await;
        answer.map_err(|error| {
            if error.is_outage {
                *locked(&self.last_outage) = Instant::now();
            }
            StoreError::Unavailable(error.to_string())
        })
    }

    /// The time after which a lease that was not renewed has ended. While Redis is away, no node can renew one: for the
    /// time of a lease after this node noticed that, or came, it takes no job of another one.
    fn lease(&self) -> Duration {
        if locked(&self.last_outage).elapsed() < LEASE {
            SILENCE
        } else {
            LEASE
        }
    }

    fn announce(&self) {
        self.changed.send_modify(|number| *number += 1);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        locked(&self.held)
    }

    /// Changes a job that this node has. Returns the changed job; `None`: this node does not have it (any more).
    async fn update(
        &self,
        id: &str,
        change: impl FnOnce(&mut Job) + Send,
        parts: &[FinishedPart],
        result: Option<&Transcript>,
    ) -> Result<Option<Job>, StoreError> {
        let Some(mut job) = self.held().get(id).cloned() else {
            return Ok(None);
        };
        change(&mut job);
        let json = encode(&job)?;
        let result = result.map(encode).transpose()?.unwrap_or_default();
        let expires = job.expires.map(|at| at.to_string()).unwrap_or_default();
        let callback = job.callback.as_ref().and_then(|callback| callback.next);
        let callback = callback.map(|at| at.to_string()).unwrap_or_default();
        let parts = parts
            .iter()
            .map(encode)
            .collect::<Result<Vec<String>, _>>()?;
        let mut arguments = vec![
            &*self.consumer,
            id,
            &json,
            job.state.as_str(),
            &result,
            &expires,
            &callback,
        ];
        arguments.extend(parts.iter().map(String::as_str));
        let is_done: bool = self.run(script!("update"), &arguments).await?;
        if !is_done || job.state != State::Running {
            self.held().remove(id);
        } else {
            self.held().insert(id.to_owned(), job.clone());
        }
        self.announce();
        Ok(is_done.then_some(job))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl JobStore for SharedStore {
    fn salt(&self) -> [u8; 16] {
        *locked(&self.salt)
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn maintain(&self) -> Result<(), StoreError> {
        let own = uuid::Uuid::from_bytes(self.salt()).simple().to_string();
        let silence = SILENCE.as_millis().to_string();
        let arguments = [&*own, &self.consumer, &silence];
        let kept: String = self.run(script!("maintain"), &arguments).await?;
        let kept = uuid::Uuid::parse_str(&kept)
            .map_err(|error| StoreError::Unreadable(error.to_string()))?;
        *locked(&self.salt) = *kept.as_bytes();
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    async fn put(&self, jobs: Vec<Job>, limits: PutLimits) -> Result<Put, StoreError> {
        let Some(first) = jobs.first() else {
            return Ok(Put::Added(jobs));
        };
        let known = first
            .idempotency_key
            .as_ref()
            .map(|key| known_as(&first.client, key))
            .unwrap_or_default();
        let mut arguments = vec![
            known,
            first.client.clone(),
            limits.jobs.to_string(),
            limits.bytes.to_string(),
            limits.client_jobs.to_string(),
            limits.client_bytes.to_string(),
        ];
        for job in &jobs {
            let (bytes, created) = (job.audio.bytes.to_string(), place(job).to_string());
            let (id, owner) = (job.id.clone(), job.owner.clone());
            arguments.extend([id, encode(job)?, owner, bytes, created]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer: Vec<String> = self.run(script!("put"), &arguments).await?;
        let Some((what, rest)) = answer.split_first() else {
            self.announce();
            return Ok(Put::Added(jobs));
        };
        if what == "known" {
            return Ok(Put::Known(in_order(rest)));
        }
        let counts = rest.iter().map(|count| count.parse().unwrap_or(u64::MAX));
        let counts = counts_of(&counts.collect::<Vec<u64>>())?;
        let exceeded = limits.exceeded(&counts, &jobs);
        Ok(Put::Exceeded(exceeded.unwrap_or(Exceeded::Jobs)))
    }

    async fn known(&self, client: &str, idempotency_key: &str) -> Result<Vec<Job>, StoreError> {
        let known: Vec<String> = self
            .run(script!("known"), &[&known_as(client, idempotency_key)])
            .await?;
        Ok(in_order(&known))
    }

    async fn get(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let json: Option<String> = self.run(script!("get"), &["job", id]).await?;
        json.map(|json| decode(&json)).transpose()
    }

    async fn list(&self, owner: &str) -> Result<Vec<Job>, StoreError> {
        let jobs: Vec<String> = self.run(script!("list"), &[owner]).await?;
        Ok(in_order(&jobs))
    }

    async fn places(&self, ids: &[&str]) -> Result<Vec<Option<usize>>, StoreError> {
        let places: Vec<i64> = self.run(script!("places"), ids).await?;
        let place = |place: i64| usize::try_from(place).ok();
        Ok(places.into_iter().map(place).collect())
    }

    async fn counts(&self, client: Option<&str>) -> Result<Counts, StoreError> {
        let counts: Vec<u64> = self
            .run(script!("counts"), &[client.unwrap_or_default()])
            .await?;
        let counts = counts_of(&counts)?;
        Ok(match client {
            Some(_) => counts,
            None => Counts {
                of_client: 0,
                client_bytes: 0,
                ..counts
            },
        })
    }

    async fn claim(&self) -> Result<Option<Claimed>, StoreError> {
        let lease = self.lease().as_millis().to_string();
        let mut left_alone: Vec<String> = self.held().keys().cloned().collect();
        left_alone.extend(locked(&self.resting).now().keys().cloned());
        let mut arguments = vec![&*self.consumer, &lease];
        arguments.extend(left_alone.iter().map(String::as_str));
        let taken: Vec<String> = self.run(script!("claim"), &arguments).await?;
        let [id, json, parts @ ..] = taken.as_slice() else {
            return Ok(None);
        };
        let (id, job) = (id.clone(), decode::<Job>(json));
        // It is left to a node of another version, when its lease has ended.
        let job = job.inspect_err(|_| locked(&self.resting).add(&id, UNREADABLE_REST))?;
        self.held().insert(id.clone(), job);
        let mut finished = FinishedWork::default();
        for part in parts {
            match decode(part) {
                Ok(part) => finished.apply(part),
                Err(error) => {
                    warn!(job = id, %error, "finished chunks of a job are done again");
                    break;
                }
            }
        }
        let taken = self.update(&id, Job::take, &[], None).await;
        let job = taken.inspect_err(|_| {
            // Its lease ends.
            self.held().remove(&id);
        })?;
        Ok(job.map(|job| Claimed { job, finished }))
    }

    async fn renew(&self, id: &str) -> Result<bool, StoreError> {
        let has_it: bool = self.run(script!("renew"), &[&self.consumer, id]).await?;
        if !has_it {
            self.held().remove(id);
        }
        Ok(has_it)
    }

    async fn save(
        &self,
        id: &str,
        progress: Progress,
        parts: Vec<FinishedPart>,
    ) -> Result<bool, StoreError> {
        let change = |job: &mut Job| job.advance(progress, &parts);
        Ok(self.update(id, change, &parts, None).await?.is_some())
    }

    async fn finish(
        &self,
        id: &str,
        end: Result<Transcript, Failure>,
    ) -> Result<Option<Job>, StoreError> {
        let (result, error) = match end {
            Ok(transcript) => (Some(transcript), None),
            Err(error) => (None, Some(error)),
        };
        let keep = self.keep;
        self.update(id, |job| job.end(error, keep), &[], result.as_ref())
            .await
    }

    async fn release(&self, id: &str, blameless: bool, rest: Rest) -> Result<(), StoreError> {
        locked(&self.resting).add(id, rest.here);
        if !rest.everywhere.is_zero() {
            let seconds = rest.everywhere.as_secs_f64().to_string();
            let arguments = [&*self.consumer, id, &seconds];
            self.run::<()>(script!("rest"), &arguments).await?;
        }
        let change = |job: &mut Job| {
            job.state = State::Queued;
            job.attempts -= u32::from(blameless && job.attempts > 0);
        };
        self.update(id, change, &[], None).await?;
        Ok(())
    }

    async fn result(&self, id: &str) -> Result<Option<Transcript>, StoreError> {
        let json: Option<String> = self.run(script!("get"), &["result", id]).await?;
        json.map(|json| decode(&json)).transpose()
    }

    async fn remove(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let json: Option<String> = self.run(script!("remove"), &[id]).await?;
        self.held().remove(id);
        self.announce();
        json.map(|json| decode(&json)).transpose()
    }

    async fn expired(&self, at: f64) -> Result<Vec<Job>, StoreError> {
        let jobs: Vec<String> = self.run(script!("expired"), &[&at.to_string()]).await?;
        Ok(in_order(&jobs))
    }

    async fn take_callbacks(
        &self,
        at: f64,
        most: usize,
    ) -> Result<(Vec<Job>, Option<f64>), StoreError> {
        let until = (at + CALLBACK_LEASE.as_secs_f64()).to_string();
        let (at, most) = (at.to_string(), most.to_string());
        let found: Vec<String> = self
            .run(script!("callbacks"), &[&at, &until, &most])
            .await?;
        let Some((next, due)) = found.split_first() else {
            return Ok((Vec::new(), None));
        };
        Ok((in_order(due), next.parse().ok()))
    }

    async fn postpone_callback(&self, id: &str, until: f64) -> Result<(), StoreError> {
        self.run(script!("postpone"), &[id, &until.to_string()])
            .await
    }

    async fn set_callback(&self, id: &str, callback: Callback) -> Result<(), StoreError> {
        let Some(mut job) = self.get(id).await? else {
            return Ok(());
        };
        let next = callback
            .next
            .filter(|_| callback.state == CallbackState::Pending);
        let next = next.map(|at| at.to_string()).unwrap_or_default();
        job.callback = Some(callback);
        let _: bool = self
            .run(script!("callback"), &[id, &encode(&job)?, &next])
            .await?;
        self.announce();
        Ok(())
    }

    async fn audio_in_use(&self) -> Result<Vec<String>, StoreError> {
        let open: Vec<String> = self.run(script!("open"), &[]).await?;
        // All of them: audio of a job that cannot be read is still needed.
        let open = open.iter().map(|json| decode(json));
        open.map(|job| job.map(|job: Job| job.audio.key)).collect()
    }
}

/// The place of a job in the queue: its time of submission, and its place in the request in microseconds.
fn place(job: &Job) -> f64 {
    job.created + job.number as f64 * 1e-6
}

/// The name under which the jobs of an idempotency key are found.
fn known_as(client: &str, key: &str) -> String {
    // The name of a client has no line break.
    format!("{client}\n{key}")
}

/// The counts that a script returns.
fn counts_of(counts: &[u64]) -> Result<Counts, StoreError> {
    let &[
        queued,
        running,
        done,
        failed,
        of_client,
        audio_bytes,
        client_bytes,
    ] = counts
    else {
        return Err(StoreError::Unreadable("the counts of jobs".to_owned()));
    };
    let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Counts {
        by_state: [queued, running, done, failed].map(number),
        of_client: number(of_client),
        audio_bytes,
        client_bytes,
    })
}

/// Jobs in the order of their submission, without those that cannot be read: another version of the program may have
/// written them.
fn in_order(jobs: &[String]) -> Vec<Job> {
    let readable = |json: &String| {
        let job = decode(json);
        job.inspect_err(|error| warn!(%error, "a stored job is ignored"))
            .ok()
    };
    let mut jobs: Vec<Job> = jobs.iter().filter_map(readable).collect();
    jobs.sort_by(|a, b| {
        a.created
            .total_cmp(&b.created)
            .then(a.number.cmp(&b.number))
    });
    jobs
}

fn encode(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unreadable(error.to_string()))
}

fn decode<T: DeserializeOwned>(json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|error| StoreError::Unreadable(error.to_string()))
}
