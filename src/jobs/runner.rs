//! Takes one job after the other, and submits it to the actor tree.
//!
//! The runner only talks to the tree and to the store. It takes a job when a lane can work, stores each finished chunk,
//! and stops after the next chunk when the server shuts down: the job goes on after the restart, or on another node.

mod reading;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use stt_actors::domain::chunk::AudioSource;
use stt_actors::domain::finished::{FinishedPart, FinishedWork};
use stt_actors::domain::transcript::Transcript;
use stt_actors::{
    Client, Event, HotState, Progress, Stt, SttError, Trace, TranscriptStream, Urgency,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::jobs::Jobs;
use crate::jobs::courtesy::Courtesy;
use crate::jobs::record::{Failure, Job, State};
use crate::jobs::store::{Claimed, Rest};
use crate::metrics::jobs::{self as metrics, Outcome};

/// How often a job may be taken without finishing a chunk. A job that ends its node each time would never stop.
const MOST_ATTEMPTS: u32 = 5;
/// How often the lease of a running job is renewed.
pub const RENEWAL: Duration = Duration::from_secs(5);
/// How often the runner asks for jobs of which this process hears nothing.
const POLL: Duration = Duration::from_secs(1);
/// The pause before the next job is taken after an attempt that may succeed later, whatever the job.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(3);
/// The pause after the result of a job could not be stored.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Called with a job and its result.
pub type DoneHook = Arc<dyn Fn(&Job, &Transcript) + Send + Sync>;

/// Called with a job and seconds of audio.
pub type ChargeHook = Arc<dyn Fn(&Job, f64) + Send + Sync>;

/// What the runner needs from the rest of the server.
#[derive(Clone)]
pub struct Hooks {
    /// The error of a failed job, as other replies report it.
    pub failure: fn(SttError) -> Failure,
    /// Called with the result of each job.
    pub done: DoneHook,
    /// Charges the submitter for seconds of audio.
    pub charge: ChargeHook,
}

/// Runs jobs until the server shuts down. Ends when no job runs any more.
pub async fn run(jobs: Jobs, stt: Stt, hooks: Hooks) {
    let runner = Runner { jobs, stt, hooks };
    let mut running = JoinSet::new();
    let mut changes = runner.jobs.changes();
    let mut hot = runner.stt.hot_states();
    let mut poll = interval(POLL);
    // A store that hangs makes each round long.
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut courtesy = Courtesy::default();
    loop {
        if let Some(waiting) = runner.report().await {
            runner.fill(&mut running, waiting, &mut courtesy).await;
        }
        tokio::select! {
            () = runner.stt.until_rejecting() => break,
            _ = changes.changed() => {}
            _ = hot.changed() => {}
            Some(_) = running.join_next() => {}
            _ = poll.tick() => {}
        }
    }
    runner.jobs.close();
    while running.join_next().await.is_some() {}
}

#[derive(Clone)]
struct Runner {
    jobs: Jobs,
    stt: Stt,
    hooks: Hooks,
}

/// How an attempt ended.
enum End {
    Done(Box<Transcript>),
    /// It has no result, after these seconds of audio.
    Failed(SttError, f64),
    /// Another attempt may succeed. With `blameless`, this attempt does not count. The job is the reason if it rests.
    Again {
        reason: String,
        blameless: bool,
        rest: Option<Rest>,
    },
    /// It was deleted, after these seconds of audio.
    Cancelled(f64),
    /// Another node has it.
    Lost,
    /// The server is shutting down.
    Draining,
}

impl Runner {
    /// Takes jobs, as many as may run at the same time. `waiting`: the number of queued jobs.
    async fn fill(&self, running: &mut JoinSet<()>, waiting: usize, courtesy: &mut Courtesy) {
        let is_shared = self.jobs.store().is_shared();
        while running.len() < self.jobs.limits().concurrency {
            if !self.can_work() || (is_shared && self.is_busy() && !courtesy.is_over(waiting)) {
                return;
            }
            match self.jobs.store().claim().await {
                Ok(Some(claimed)) => {
                    courtesy.took();
                    running.spawn(self.clone().work(claimed));
                }
                Ok(None) => return courtesy.found_none(waiting),
                Err(error) => {
                    warn!(%error, "no job could be taken");
                    return;
                }
            }
        }
    }

    /// Whether requests use all lanes.
    fn is_busy(&self) -> bool {
        let snapshot = self.stt.snapshot();
        snapshot.requests > 0 && snapshot.idle_lanes == 0
    }

    /// Whether a lane can work on a job soon. A job that cannot run now stays in the queue. An unloaded model is loaded
    /// again for a job, but not before there is one.
    fn can_work(&self) -> bool {
        let snapshot = self.stt.snapshot();
        !self.stt.is_draining()
            && match snapshot.hot {
                HotState::Ready(_) | HotState::Asleep(_) | HotState::Restarting { .. } => true,
                HotState::Starting => false,
                HotState::Failed { .. } => snapshot.lanes() > 0,
            }
    }

    /// Shows the numbers of jobs in the metrics. Returns how many wait; `None`: the store cannot say.
    async fn report(&self) -> Option<usize> {
        let counts = self.jobs.counts().await.ok()?;
        metrics::set_counts(&counts);
        Some(counts.of(State::Queued))
    }

    /// One attempt at a job. If it panics, the job is queued again.
    async fn work(self, claimed: Claimed) {
        let job = claimed.job.clone();
        let done = AssertUnwindSafe(self.work_on(claimed)).catch_unwind().await;
        if done.is_err() {
            self.jobs.running().remove(&job.id);
            self.release(&job, false, None).await;
        }
    }

    async fn work_on(&self, claimed: Claimed) {
        let Claimed { job, finished } = claimed;
        let cancelled = CancellationToken::new();
        self.jobs
            .running()
            .insert(job.id.clone(), cancelled.clone());
        info!(
            job = job.id,
            attempt = job.attempts,
            chunks_done = finished.len(),
            "a job starts"
        );
        let end = if job.attempts > MOST_ATTEMPTS {
            let error = SttError::Internal("each attempt at the job was interrupted");
            End::Failed(error, job.progress.seconds_done)
        } else {
            self.attempt(&job, finished, &cancelled).await
        };
        let pauses = matches!(end, End::Again { rest: None, .. });
        self.end(&job, end).await;
        self.jobs.running().remove(&job.id);
        if pauses {
            // Others may take it meanwhile.
            tokio::select! {
                () = self.stt.until_draining() => {}
                () = sleep(PAUSE_AFTER_FAILURE) => {}
            }
        }
    }

    async fn attempt(
        &self,
        job: &Job,
        finished: FinishedWork,
        cancelled: &CancellationToken,
    ) -> End {
        let audio = match self.fetch(job, cancelled).await {
            Ok(audio) => audio,
            Err(end) => return end,
        };
        let end = match self.submit(job, audio, finished).await {
            Ok(events) => self.follow(job, events, cancelled).await,
            Err(SttError::Draining { .. }) => End::Draining,
            Err(error) => End::Failed(error, job.progress.seconds_done),
        };
        match end {
            End::Failed(error, _) if is_temporary(&error) => End::Again {
                reason: error.to_string(),
                blameless: matches!(
                    error,
                    SttError::NotReady { .. } | SttError::Overloaded { .. }
                ),
                rest: None,
            },
            end => end,
        }
    }

    async fn submit(
        &self,
        job: &Job,
        audio: AudioSource,
        finished: FinishedWork,
    ) -> Result<TranscriptStream, SttError> {
        let admission = (self.stt).admit_job(Client::new(&*job.client), job.submitter.priority)?;
        let work = stt_actors::Job {
            request_id: job.id.as_str().into(),
            audio: audio.into(),
            options: job.form.options.clone(),
            identity: None,
            escalates: true,
            streamed: false,
            urgency: Urgency::Background,
            finished: Some(finished),
            trace: Trace::default(),
        };
        self.stt.submit(admission, work).await
    }

    /// Stores the progress of a job until it ends, is lost, or the server shuts down.
    async fn follow(
        &self,
        job: &Job,
        mut events: TranscriptStream,
        cancelled: &CancellationToken,
    ) -> End {
        let mut renewal = interval(RENEWAL);
        let mut progress = job.progress;
        let mut unsaved = Vec::new();
        let mut draining = false;
        loop {
            let event = tokio::select! {
                () = cancelled.cancelled() => return End::Cancelled(progress.seconds_done),
                () = self.stt.until_draining(), if !draining => {
                    draining = true;
                    continue;
                }
                _ = renewal.tick() => {
                    if matches!(self.jobs.store().renew(&job.id).await, Ok(false)) {
                        return self.lost(job, progress).await;
                    }
                    continue;
                }
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Done(transcript))) => {
                    info!(
                        job = job.id,
                        chunks = progress.chunks_done,
                        "all chunks of a job are done"
                    );
                    return End::Done(Box::new(transcript));
                }
                Some(Ok(Event::Progress(now))) => {
                    progress = now;
                    if !self.save(job, progress, &mut unsaved).await {
                        return self.lost(job, progress).await;
                    }
                    if draining {
                        return End::Draining;
                    }
                }
                // Saved with the next progress, which the same chunk causes.
                Some(Ok(Event::Finished(part))) => unsaved.push(part),
                Some(Ok(Event::Language { .. } | Event::Route(_) | Event::Segment(_))) => {}
                Some(Err(SttError::Draining { .. })) => {
                    self.save(job, progress, &mut unsaved).await;
                    return End::Draining;
                }
                Some(Err(error)) => {
                    self.save(job, progress, &mut unsaved).await;
                    return End::Failed(error, progress.seconds_done);
                }
                None => {
                    let error = SttError::Internal("the events of the job ended");
                    return End::Failed(error, progress.seconds_done);
                }
            }
        }
    }

    /// Why this node no longer has a job.
    async fn lost(&self, job: &Job, progress: Progress) -> End {
        match self.jobs.store().get(&job.id).await {
            Ok(None) => End::Cancelled(progress.seconds_done),
            Ok(Some(_)) | Err(_) => End::Lost,
        }
    }

    /// Stores progress. What cannot be stored now is stored with the next progress. Returns whether this node still has
    /// the job.
    async fn save(&self, job: &Job, progress: Progress, unsaved: &mut Vec<FinishedPart>) -> bool {
        match self
            .jobs
            .store()
            .save(&job.id, progress, unsaved.clone())
            .await
        {
            Ok(has_it) => {
                unsaved.clear();
                has_it
            }
            Err(error) => {
                warn!(job = job.id, %error, "the progress of a job could not be stored; the job goes on");
                true
            }
        }
    }

    async fn end(&self, job: &Job, end: End) {
        match end {
            End::Done(transcript) => {
                if self.finish(job, Ok(&transcript)).await {
                    (self.hooks.done)(job, &transcript);
                    (self.hooks.charge)(job, transcript.duration);
                    metrics::record_end(Outcome::Done);
                    info!(
                        job = job.id,
                        audio_seconds = transcript.duration,
                        "a job is done"
                    );
                }
            }
            End::Again {
                reason,
                blameless,
                rest,
            } => {
                warn!(job = job.id, reason, "a job is queued again");
                self.release(job, blameless, rest).await;
            }
            End::Failed(error, seconds) => {
                let failure = (self.hooks.failure)(error);
                warn!(
                    job = job.id,
                    code = failure.code,
                    message = failure.message,
                    "a job failed"
                );
                if self.finish(job, Err(failure)).await {
                    (self.hooks.charge)(job, seconds);
                    metrics::record_end(Outcome::Failed);
                }
            }
            End::Cancelled(seconds) => {
                info!(job = job.id, "a job was deleted while it ran");
                (self.hooks.charge)(job, seconds);
            }
            End::Lost => info!(job = job.id, "another node has a job"),
            End::Draining => {
                info!(
                    job = job.id,
                    "a job is interrupted by the end of the server and goes on later"
                );
                self.release(job, true, None).await;
            }
        }
    }

    /// Ends a job in the store; if that fails, tries again until the server shuts down. Returns whether it was still
    /// this node's job.
    async fn finish(&self, job: &Job, end: Result<&Transcript, Failure>) -> bool {
        loop {
            let outcome = match &end {
                Ok(transcript) => Ok((*transcript).clone()),
                Err(failure) => Err(failure.clone()),
            };
            match self.jobs.store().finish(&job.id, outcome).await {
                Ok(ended) => {
                    if ended.is_some() {
                        self.jobs.remove_audio(vec![job.audio.key.clone()]).await;
                    }
                    return ended.is_some();
                }
                Err(error) => warn!(job = job.id, %error, "the end of a job could not be stored"),
            }
            tokio::select! {
                () = self.stt.until_rejecting() => return false,
                () = sleep(STORE_PAUSE) => {}
            }
        }
    }

    async fn release(&self, job: &Job, blameless: bool, rest: Option<Rest>) {
        let give_up = Instant::now() + STORE_PAUSE * 2;
        let rest = rest.unwrap_or_default();
        while let Err(error) = (self.jobs.store().release(&job.id, blameless, rest)).await {
            warn!(job = job.id, %error, "a job could not be put back into the queue");
            if self.stt.snapshot().draining && Instant::now() > give_up {
                // The next start finds it running, and queues it.
                return;
            }
            sleep(STORE_PAUSE).await;
        }
    }
}

/// Whether another attempt at the job may succeed.
fn is_temporary(error: &SttError) -> bool {
    matches!(
        error,
        SttError::NotReady { .. }
            | SttError::Overloaded { .. }
            | SttError::Draining { .. }
            | SttError::WorkerLost { .. }
            | SttError::Internal(
                "the transcription failed"
                    | "the request was lost in a restart"
                    | "the tree gave no answer in time"
            )
    )
}
