//! Takes one job after the other, and submits it to the actor tree.
//!
//! The runner only talks to the tree and to the store. It takes a job when a lane can work, stores each finished chunk,
//! and stops after the next chunk when the server shuts down: the job goes on after the restart, or on another node.

use std::sync::Arc;
use std::time::Duration;

use stt_actors::domain::finished::{FinishedPart, FinishedWork};
use stt_actors::domain::transcript::Transcript;
use stt_actors::{
    Client, Event, HotState, Progress, Stt, SttError, Trace, TranscriptStream, Urgency,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::jobs::Jobs;
use crate::jobs::record::{Failure, Job};
use crate::jobs::store::Claimed;
use crate::metrics::jobs::{self as metrics, Outcome};

/// How often a job may be taken without finishing a chunk. A job that ends its node each time would never stop.
const MOST_ATTEMPTS: u32 = 5;
/// How often expired jobs are looked for, and a store that failed is asked again.
const UPKEEP: Duration = Duration::from_secs(10);
/// How often the lease of a running job is renewed.
pub const RENEWAL: Duration = Duration::from_secs(5);
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
    runner.sweep().await;
    let mut running = JoinSet::new();
    let mut changes = runner.jobs.changes();
    let mut hot = runner.stt.hot_states();
    let mut upkeep = interval(UPKEEP);
    let mut poll = interval(runner.jobs.store().poll());
    loop {
        runner.fill(&mut running).await;
        runner.report().await;
        tokio::select! {
            () = runner.stt.until_rejecting() => break,
            _ = changes.changed() => {}
            _ = hot.changed() => {}
            Some(_) = running.join_next() => {}
            _ = poll.tick() => {}
            _ = upkeep.tick() => {
                if let Err(error) = runner.jobs.expire().await {
                    warn!(%error, "expired jobs could not be removed");
                }
            }
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
    Failed(SttError),
    /// It was deleted, after these seconds of audio.
    Cancelled(f64),
    /// Another node has it.
    Lost,
    /// The server is shutting down.
    Draining,
}

impl Runner {
    /// Removes audio that no job needs.
    async fn sweep(&self) {
        match self.jobs.store().audio_in_use().await {
            Ok(in_use) => {
                let audio = self.jobs.audio().clone();
                let swept = tokio::task::spawn_blocking(move || audio.sweep(&in_use)).await;
                if let Ok(Err(error)) = swept {
                    warn!(%error, "the folder of the audio of jobs cannot be read");
                }
            }
            Err(error) => warn!(%error, "the store of jobs cannot be read"),
        }
    }

    /// Takes jobs, as many as may run at the same time.
    async fn fill(&self, running: &mut JoinSet<()>) {
        while running.len() < self.jobs.limits().concurrency {
            if !self.can_work() {
                return;
            }
            match self.jobs.store().claim().await {
                Ok(Some(claimed)) => {
                    running.spawn(self.clone().work(claimed));
                }
                Ok(None) => return,
                Err(error) => {
                    warn!(%error, "no job could be taken");
                    return;
                }
            }
        }
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

    async fn report(&self) {
        if let Ok(counts) = self.jobs.counts().await {
            metrics::set_counts(&counts);
        }
    }

    /// One attempt at a job.
    async fn work(self, claimed: Claimed) {
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
            End::Failed(SttError::Internal(
                "each attempt at the job was interrupted",
            ))
        } else {
            let job = job.clone();
            match self.submit(&job, finished).await {
                Ok(events) => self.follow(&job, events, &cancelled).await,
                Err(SttError::Draining { .. }) => End::Draining,
                Err(error) => End::Failed(error),
            }
        };
        self.end(&job, end).await;
        self.jobs.running().remove(&job.id);
    }

    async fn submit(
        &self,
        job: &Job,
        finished: FinishedWork,
    ) -> Result<TranscriptStream, SttError> {
        let audio = self.jobs.audio().fetch(&job.audio).await.map_err(|error| {
            warn!(job = job.id, %error, "the audio of a job cannot be read");
            SttError::Internal("the audio of the job is lost")
        })?;
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
                    return End::Failed(error);
                }
                None => return End::Failed(SttError::Internal("the events of the job ended")),
            }
        }
    }

    /// Why this node has a job no more.
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
            End::Failed(error) if is_temporary(&error) && job.attempts <= MOST_ATTEMPTS => {
                let blameless = matches!(
                    error,
                    SttError::NotReady { .. } | SttError::Overloaded { .. }
                );
                warn!(job = job.id, %error, "a job is queued again");
                self.release(job, blameless).await;
            }
            End::Failed(error) => {
                let failure = (self.hooks.failure)(error);
                warn!(
                    job = job.id,
                    code = failure.code,
                    message = failure.message,
                    "a job failed"
                );
                if self.finish(job, Err(failure)).await {
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
                self.release(job, true).await;
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
                        self.jobs.audio().remove(&job.audio.key).await;
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

    async fn release(&self, job: &Job, blameless: bool) {
        let give_up = Instant::now() + STORE_PAUSE * 2;
        while let Err(error) = self.jobs.store().release(&job.id, blameless).await {
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
