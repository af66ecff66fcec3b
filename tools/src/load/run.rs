//! A run: a warm-up, then one step after the other. In a step, each client sends its next request as soon as
//! the previous one is answered (a closed loop).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::step::{Sample, Step};
use crate::probe::counted;
use crate::probe::progress::Progress;
use crate::probe::recording::Recording;
use crate::probe::server::Server;
use crate::probe::transcript::{Endpoint, Failure, Transcript, ask};

/// Pause of a client after a failed request. Without it, a server that rejects requests immediately would be
/// kept busy with rejecting.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Minimum number of requests for judging the failure rate. A step with fewer is judged as if it had so many,
/// so that one failure out of two is not yet 50 %.
const MIN_JUDGED_REQUESTS: usize = 10;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Numbers of concurrent clients, one step each.
    pub steps: Vec<usize>,
    /// A step sends no more requests after this time.
    pub length: Option<Duration>,
    /// Maximum number of requests of a step.
    pub requests: Option<usize>,
    /// The run ends if more than this percentage of a step's requests fail.
    pub most_failed_percent: usize,
    /// Time limit of a request.
    pub limit: Duration,
}

/// A server, the recordings to send, and the results so far.
pub struct Run {
    /// The server under test.
    pub server: Server,
    /// The tested endpoint.
    pub endpoint: Endpoint,
    /// The recordings; requests alternate between them.
    pub recordings: Vec<Recording>,
    /// How much to measure.
    pub extent: Extent,
    /// Finished steps.
    pub steps: Vec<Step>,
    /// Display of the progress.
    pub progress: Progress,
}

impl Run {
    /// Executes all steps, or the steps until too many requests fail.
    pub async fn measure(&mut self) {
        self.warm_up().await;
        for clients in self.extent.steps.clone() {
            let step = self.step(clients).await;
            let enough = step.stopped;
            self.steps.push(step);
            if enough {
                break;
            }
        }
        self.progress.end();
    }

    /// Sends each recording once. Recordings of unknown length take the length that the server reports.
    async fn warm_up(&mut self) {
        self.progress.begin("warming up", self.recordings.len());
        let whole = match self.endpoint {
            Endpoint::Transcriptions => Some(("response_format", "verbose_json")),
            Endpoint::Transcribe => None,
        };
        for index in 0..self.recordings.len() {
            let recording = &self.recordings[index];
            match self.client().ask_with(recording, whole).await {
                Ok(transcript) if recording.seconds <= 0.0 => {
                    let told = transcript.duration.filter(|seconds| seconds.is_finite());
                    self.recordings[index].seconds = told.unwrap_or(0.0);
                }
                Ok(_) => {}
                Err(failure) => {
                    let line = format!("{}: {failure}", recording.name);
                    self.progress.say(&line);
                }
            }
            self.progress.step();
        }
    }

    fn client(&self) -> Client {
        Client {
            server: self.server.clone(),
            endpoint: self.endpoint,
            limit: self.extent.limit,
        }
    }

    async fn step(&mut self, clients: usize) -> Step {
        self.all_at_once(clients).await;
        let name = counted(clients, "client");
        let extent = &self.extent;
        let length = extent.length.map(|length| length.as_secs() as usize);
        let bar = extent.requests.or(length).unwrap_or_default();
        self.progress.begin(&name, bar);
        let (mut samples, mut stopped) = (Vec::new(), false);
        let begin = Instant::now();
        let (tasks, mut answers) = self.start(clients, begin);
        while let Some(sample) = answers.recv().await {
            samples.push(sample);
            let done = match self.extent.requests {
                Some(_) => samples.len(),
                None => begin.elapsed().as_secs() as usize,
            };
            self.progress.at(done);
            if self.too_many_failed(&samples, MIN_JUDGED_REQUESTS) {
                stopped = true;
                break;
            }
        }
        // Dropping the tasks cancels the requests in progress.
        drop(tasks);
        let seconds = begin.elapsed().as_secs_f64();
        let stopped = stopped || self.too_many_failed(&samples, 1);
        Step::of(clients, &samples, seconds, stopped)
    }

    /// Sends one uncounted request per client, so that connections exist and a server that starts workers on
    /// demand has begun to do so.
    async fn all_at_once(&mut self, clients: usize) {
        let name = format!("{}, warming up", counted(clients, "client"));
        self.progress.begin(&name, clients);
        let mut requests = JoinSet::new();
        for recording in self.recordings.iter().cycle().take(clients) {
            let (client, recording) = (self.client(), recording.clone());
            requests.spawn(async move { client.ask(&recording).await.is_ok() });
        }
        while requests.join_next().await.is_some() {
            self.progress.step();
        }
    }

    /// Starts all clients of a step; the receiver gets the results of their requests.
    fn start(&self, clients: usize, begin: Instant) -> (JoinSet<()>, mpsc::Receiver<Sample>) {
        let (sender, receiver) = mpsc::channel(clients);
        let work = Arc::new(Work {
            client: self.client(),
            recordings: self.recordings.clone(),
            taken: AtomicUsize::new(0),
            most: self.extent.requests,
            until: self.extent.length.map(|length| begin + length),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(Arc::clone(&work).until_done(sender.clone()));
        }
        (tasks, receiver)
    }

    fn too_many_failed(&self, samples: &[Sample], fewest: usize) -> bool {
        let failed = samples.iter().filter(|sample| sample.answer.is_err());
        failed.count() * 100 > self.extent.most_failed_percent * samples.len().max(fewest)
    }
}

/// State that all clients of a step share.
struct Work {
    client: Client,
    recordings: Vec<Recording>,
    taken: AtomicUsize,
    most: Option<usize>,
    until: Option<Instant>,
}

impl Work {
    /// The next recording; `None` once the step is over.
    fn next(&self) -> Option<&Recording> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return None;
        }
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        if self.most.is_some_and(|most| taken >= most) {
            return None;
        }
        self.recordings.get(taken % self.recordings.len().max(1))
    }

    async fn until_done(self: Arc<Self>, answers: mpsc::Sender<Sample>) {
        while let Some(recording) = self.next() {
            let begin = Instant::now();
            let answer = self.client.ask(recording).await;
            let sample = Sample {
                seconds: begin.elapsed().as_secs_f64(),
                answer: answer.map(|transcript| transcript.work),
                audio_seconds: Some(recording.seconds).filter(|seconds| *seconds > 0.0),
            };
            let failed = sample.answer.is_err();
            if answers.send(sample).await.is_err() {
                return;
            }
            if failed {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// One of the concurrent clients.
struct Client {
    server: Server,
    endpoint: Endpoint,
    limit: Duration,
}

impl Client {
    /// Requests only the text, as most clients do.
    async fn ask(&self, recording: &Recording) -> Result<Transcript, Failure> {
        let plain = match self.endpoint {
            Endpoint::Transcriptions => Some(("response_format", "json")),
            Endpoint::Transcribe => None,
        };
        self.ask_with(recording, plain).await
    }

    async fn ask_with(
        &self,
        recording: &Recording,
        field: Option<(&str, &str)>,
    ) -> Result<Transcript, Failure> {
        let language = recording.language.as_deref().map(|code| ("language", code));
        let fields: Vec<(&str, &str)> = language.into_iter().chain(field).collect();
        ask(&self.server, self.endpoint, recording, &fields, self.limit).await
    }
}
