//! A run: a warm-up, then one step after the other. In a step, each client sends its next request as soon
//! as the last is answered (a closed loop).

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

/// A client that failed waits so long before it asks again, lest a server that refuses at once is only
/// kept busy refusing.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);
/// Fewer answers than this are judged as if they were so many: one failure of two is not yet a half.
const FEWEST_JUDGED: usize = 10;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Clients at once, step by step.
    pub steps: Vec<usize>,
    /// A step sends no request after so long.
    pub length: Option<Duration>,
    /// Nor more requests than this.
    pub requests: Option<usize>,
    /// The whole run ends where more than so many percent of a step's requests fail.
    pub most_failed_percent: usize,
    /// Nothing is waited for longer than this.
    pub limit: Duration,
}

/// A server, what it is asked, and what came of it so far.
pub struct Run {
    /// Who is asked.
    pub server: Server,
    /// Where.
    pub endpoint: Endpoint,
    /// What; requests take turns with them.
    pub recordings: Vec<Recording>,
    /// How much.
    pub extent: Extent,
    /// Steps that came to an end.
    pub steps: Vec<Step>,
    /// Where people see how far it is.
    pub progress: Progress,
}

impl Run {
    /// Takes all steps, or those until too many requests fail.
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

    /// Each recording once. What the server says of their lengths is taken for those that nobody told.
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
            if self.too_many_failed(&samples, FEWEST_JUDGED) {
                stopped = true;
                break;
            }
        }
        // Those that are under way end with their tasks.
        drop(tasks);
        let seconds = begin.elapsed().as_secs_f64();
        let stopped = stopped || self.too_many_failed(&samples, 1);
        Step::of(clients, &samples, seconds, stopped)
    }

    /// One request of each client that is not counted: connections are made, and a server that brings
    /// up workers as work piles up has begun to.
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

    /// All clients of a step; what comes of their requests arrives at the receiver.
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

/// What all clients of a step share.
struct Work {
    client: Client,
    recordings: Vec<Recording>,
    taken: AtomicUsize,
    most: Option<usize>,
    until: Option<Instant>,
}

impl Work {
    /// The next recording, unless the step is over.
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

/// One of those that ask.
struct Client {
    server: Server,
    endpoint: Endpoint,
    limit: Duration,
}

impl Client {
    /// As most clients do: for the text alone.
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
