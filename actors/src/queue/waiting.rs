//! The order of waiting work: short requests first, with ageing.
//!
//! Every waiting request has a *turn*: the time since which it waits, plus a handicap that grows with its
//! remaining audio. The earliest turn is next. So a command overtakes a long file, and since the handicap is
//! bounded, a long file progresses however many commands arrive.
//!
//! The requests of one client form two classes: those of a single chunk, and longer ones. Within a class the
//! order is first in, first out: a client's second long file begins when its first one has no chunk waiting.
//! When a request of a class is served, all requests of that class start waiting anew: a long file gets one
//! chunk at a time, and a client that sends a hundred requests at once takes turns with one that sends one.
//!
//! Chunks that a lane failed on come first: they had their turn.
//!
//! All that holds among requests of the same [`Urgency`], which decides first. Only a chunk of a job that has waited
//! for [`BACKGROUND_PATIENCE`] comes before queued work.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::{ChunkIndex, ChunkKey, JobId};
use crate::domain::job::{Priority, SchedulingKey, Urgency};
use crate::queue::work_queue::Work;
use crate::status::lanes::WaitingChunks;

/// The largest handicap for a request's length. A second of remaining audio counts as a second of waiting.
pub const LONGEST_HANDICAP: Duration = Duration::from_secs(60);

/// One step of priority, in waiting time.
pub const PRIORITY_STEP: Duration = LONGEST_HANDICAP;

/// A chunk of a job that has waited for so long comes before queued work, so that a job goes on however busy the node
/// is: with at least one chunk in this time.
pub const BACKGROUND_PATIENCE: Duration = Duration::from_secs(120);

/// Seconds between the arrival of a request and its turn.
fn handicap(key: &SchedulingKey) -> f64 {
    let longest = LONGEST_HANDICAP.as_secs_f64();
    let priority = match key.priority {
        Priority::Low => PRIORITY_STEP.as_secs_f64(),
        Priority::Normal => 0.0,
        Priority::High => -PRIORITY_STEP.as_secs_f64(),
    };
    key.remaining_seconds.clamp(0.0, longest) + priority
}

#[derive(Debug)]
struct WaitingJob {
    scheduling: SchedulingKey,
    since: Instant,
    chunks: BTreeMap<ChunkIndex, Work>,
}

/// The chunks that wait for a lane.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Turns are counted in seconds since this moment.
    epoch: Instant,
    /// Chunks that lanes failed on, the latest first.
    retries: VecDeque<Work>,
    jobs: BTreeMap<JobId, WaitingJob>,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            retries: VecDeque::new(),
            jobs: BTreeMap::new(),
        }
    }

    /// Adds a chunk, with what is known of its request now.
    pub(crate) fn push(&mut self, work: Work, scheduling: SchedulingKey, now: Instant) {
        let job = self.jobs.entry(work.key.job).or_insert_with(|| WaitingJob {
            scheduling: scheduling.clone(),
            since: now,
            chunks: BTreeMap::new(),
        });
        job.scheduling = scheduling;
        job.chunks.insert(work.key.index, work);
    }

    /// Adds a chunk that a lane failed on.
    pub(crate) fn push_retry(&mut self, work: Work) {
        self.retries.push_front(work);
    }

    /// Sets the urgency of a request's chunks.
    pub(crate) fn set_urgency(&mut self, job: JobId, urgency: Urgency) {
        let retries = self.retries.iter_mut().filter(|work| work.key.job == job);
        retries.for_each(|work| work.urgency = urgency);
        if let Some(waiting) = self.jobs.get_mut(&job) {
            waiting.scheduling.urgency = urgency;
            (waiting.chunks.values_mut()).for_each(|work| work.urgency = urgency);
        }
    }

    /// Removes and returns the next chunk that `fits` accepts.
    pub(crate) fn take(&mut self, fits: impl Fn(&Work) -> bool, now: Instant) -> Option<Work> {
        let of = |urgency| {
            let fits = &fits;
            move |work: &Work| work.urgency == urgency && fits(work)
        };
        (Urgency::ALL.into_iter()).find_map(|urgency| {
            let aged = (urgency == Urgency::Queued).then(|| self.take_aged(&fits, now));
            aged.flatten().or_else(|| self.take_next(&of(urgency), now))
        })
    }

    /// Removes and returns the next chunk of a job that has waited for long.
    fn take_aged(&mut self, fits: &impl Fn(&Work) -> bool, now: Instant) -> Option<Work> {
        let is_aged = |job: &WaitingJob| {
            job.scheduling.urgency == Urgency::Background
                && now.saturating_duration_since(job.since) >= BACKGROUND_PATIENCE
        };
        let jobs = self.jobs.iter();
        let aged: BTreeSet<JobId> = jobs
            .filter(|(_, job)| is_aged(job))
            .map(|(&id, _)| id)
            .collect();
        if aged.is_empty() {
            return None;
        }
        self.take_next(&|work| aged.contains(&work.key.job) && fits(work), now)
    }

    fn take_next(&mut self, fits: &impl Fn(&Work) -> bool, now: Instant) -> Option<Work> {
        if let Some(place) = self.retries.iter().position(fits) {
            return self.retries.remove(place);
        }
        let id = self.next_job(fits)?;
        let job = self.jobs.get_mut(&id)?;
        let index = first_fitting(job, fits)?;
        let work = job.chunks.remove(&index);
        let (client, is_long) = (job.scheduling.client.clone(), job.scheduling.is_long());
        let urgency = job.scheduling.urgency;
        if job.chunks.is_empty() {
            self.jobs.remove(&id);
        }
        for other in self.jobs.values_mut() {
            // A client's requests do not keep its jobs waiting.
            if other.scheduling.client == client
                && other.scheduling.is_long() == is_long
                && other.scheduling.urgency == urgency
            {
                other.since = now;
            }
        }
        work
    }

    /// The request whose turn it is. Ids of requests grow, so that the first request found of a client's class is
    /// the oldest.
    fn next_job(&self, fits: &impl Fn(&Work) -> bool) -> Option<JobId> {
        let mut met = BTreeSet::new();
        let oldest_of_class = self.jobs.iter().filter(|(_, job)| {
            first_fitting(job, fits).is_some()
                && met.insert((&job.scheduling.client, job.scheduling.is_long()))
        });
        oldest_of_class
            .map(|(&id, job)| (self.turn(job), id))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, id)| id)
    }

    fn turn(&self, job: &WaitingJob) -> f64 {
        let since = job.since.saturating_duration_since(self.epoch);
        since.as_secs_f64() + handicap(&job.scheduling)
    }

    /// Removes the chunks of a request, and returns them.
    pub(crate) fn remove(&mut self, job: JobId) -> Vec<ChunkKey> {
        let chunks = self.jobs.remove(&job).map(|waiting| waiting.chunks);
        let chunks = chunks.into_iter().flat_map(BTreeMap::into_values);
        let removed: Vec<_> = (self.retries.iter().map(|work| work.key))
            .filter(|key| key.job == job)
            .chain(chunks.map(|work| work.key))
            .collect();
        self.retries.retain(|work| work.key.job != job);
        removed
    }

    /// Removes and returns everything.
    pub(crate) fn take_all(&mut self) -> Vec<ChunkKey> {
        let jobs = std::mem::take(&mut self.jobs).into_values();
        let chunks = jobs.flat_map(|job| job.chunks.into_values());
        let all = self.retries.drain(..).chain(chunks);
        all.map(|work| work.key).collect()
    }

    /// Number of waiting chunks that `fits` accepts.
    pub(crate) fn count(&self, fits: impl Fn(&Work) -> bool) -> usize {
        self.all().filter(|work| fits(work)).count()
    }

    /// Number of waiting chunks of each kind.
    pub(crate) fn by_kind(&self) -> WaitingChunks {
        let mut by_kind = WaitingChunks::default();
        self.all().for_each(|work| by_kind.add(work.kind()));
        by_kind
    }

    fn all(&self) -> impl Iterator<Item = &Work> {
        let chunks = self.jobs.values().flat_map(|job| job.chunks.values());
        self.retries.iter().chain(chunks)
    }
}

fn first_fitting(job: &WaitingJob, fits: &impl Fn(&Work) -> bool) -> Option<ChunkIndex> {
    let mut chunks = job.chunks.iter();
    chunks.find(|(_, work)| fits(work)).map(|(&index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::chunk::AudioChunk;
    use crate::domain::job::{Client, is_long};
    use crate::domain::transcript::Task;
    use crate::ports::ChunkRequest;

    /// A queue with its own clock.
    struct Queue {
        waiting: Waiting,
        begin: Instant,
        now: f64,
    }

    impl Queue {
        fn new() -> Self {
            let waiting = Waiting::new();
            Self {
                begin: waiting.epoch,
                waiting,
                now: 0.0,
            }
        }

        fn instant(&self) -> Instant {
            self.begin + Duration::from_secs_f64(self.now)
        }

        fn put(&mut self, job: JobId, number: usize, scheduling: SchedulingKey) {
            self.put_at(job, ChunkIndex::Whole(number), scheduling);
        }

        fn put_at(&mut self, job: JobId, index: ChunkIndex, scheduling: SchedulingKey) {
            let request = ChunkRequest {
                request_id: Arc::from("test"),
                audio: AudioChunk {
                    index,
                    ..AudioChunk::contiguous(0, 0, Arc::from(vec![0_i16; 16]))
                },
                task: Task::Transcribe,
                language: None,
                languages: Vec::new(),
                likely_language: None,
                prompt: None,
                temperature: 0.0,
            };
            let now = self.instant();
            let work = Work::new(job, request, &scheduling);
            self.waiting.push(work, scheduling, now);
        }

        /// Adds a request of this length and returns its id.
        fn request(&mut self, client: &str, seconds: f64) -> JobId {
            let job = JobId::next();
            self.put(job, 0, scheduling_key(client, seconds));
            job
        }

        fn take(&mut self) -> Option<ChunkKey> {
            let now = self.instant();
            self.waiting.take(|_| true, now).map(|work| work.key)
        }

        fn next(&mut self) -> JobId {
            self.take().expect("a chunk waits").job
        }
    }

    fn scheduling_key(client: &str, seconds: f64) -> SchedulingKey {
        SchedulingKey {
            client: Client::new(client),
            priority: Priority::Normal,
            urgency: Urgency::default(),
            total_seconds: seconds,
            remaining_seconds: seconds,
        }
    }

    #[test]
    fn a_command_passes_a_long_file_and_equals_come_in_order() {
        let mut queue = Queue::new();
        let file = queue.request("a", 1800.0);
        queue.now = 5.0;
        let first = queue.request("a", 8.0);
        let second = queue.request("a", 2.0);
        let of_another = queue.request("b", 2.0);
        // Both commands of one client are of one class; the other client's is shorter than the first of them.
        let order = [queue.next(), queue.next(), queue.next(), queue.next()];
        assert_eq!(order, [of_another, first, second, file]);
    }

    #[test]
    fn a_long_file_gets_a_chunk_at_a_time_however_many_commands_follow_one_another() {
        let mut queue = Queue::new();
        let file = JobId::next();
        for index in 0..3 {
            queue.put(file, index, scheduling_key("a", 1800.0));
        }
        let mut served_at = Vec::new();
        // At least one command waits all the time.
        queue.request("b", 2.0);
        for second in 0..200 {
            queue.now = f64::from(second);
            queue.request("b", 2.0);
            if queue.next() == file {
                served_at.push(second);
            }
        }
        assert_eq!(served_at.len(), 3, "{served_at:?}");
        let apart = served_at.windows(2).map(|two| two[1] - two[0]);
        assert!(apart.min() > Some(50), "{served_at:?}");
    }

    #[test]
    fn long_files_of_two_clients_take_turns_and_those_of_one_come_one_after_the_other() {
        let mut queue = Queue::new();
        let [first, second, other] = [0; 3].map(|_| JobId::next());
        for index in 0..2 {
            queue.put(first, index, scheduling_key("a", 900.0));
            queue.put(second, index, scheduling_key("a", 600.0));
            queue.put(other, index, scheduling_key("b", 700.0));
        }
        let mut order = Vec::new();
        queue.now = 4.0;
        while let Some(key) = queue.take() {
            queue.now += 4.0;
            order.push((key.job, key.index.number()));
        }
        assert_eq!(
            order,
            [
                (first, 0),
                (other, 0),
                (first, 1),
                (other, 1),
                (second, 0),
                (second, 1)
            ]
        );
    }

    #[test]
    fn a_client_that_sends_many_requests_takes_turns_with_one_that_sends_few() {
        let mut queue = Queue::new();
        for _ in 0..50 {
            queue.request("greedy", 5.0);
        }
        queue.now = 1.0;
        queue.next();
        queue.now = 2.0;
        let modest = [queue.request("modest", 5.0), queue.request("modest", 5.0)];
        let mut served = Vec::new();
        for _ in 0..5 {
            queue.now += 1.0;
            served.push(queue.next());
        }
        assert_eq!([served[1], served[3]], modest, "{served:?}");
    }

    #[test]
    fn what_is_transcribed_again_comes_before_the_rest_of_its_file() {
        let mut queue = Queue::new();
        let file = JobId::next();
        let (part, whole) = (ChunkIndex::Part(3), ChunkIndex::Whole);
        for index in [whole(6), whole(7), part, whole(8)] {
            queue.put_at(file, index, scheduling_key("a", 1800.0));
        }
        let order: Vec<ChunkIndex> = std::iter::from_fn(|| queue.take())
            .map(|key| key.index)
            .collect();
        assert_eq!(order, [part, whole(6), whole(7), whole(8)]);
    }

    #[test]
    fn priority_shifts_a_turn_and_does_not_keep_others_out() {
        let mut queue = Queue::new();
        let mut put = |priority, client: &str| {
            let job = JobId::next();
            let scheduling = SchedulingKey {
                priority,
                ..scheduling_key(client, 2.0)
            };
            queue.put(job, 0, scheduling);
            job
        };
        let low = put(Priority::Low, "a");
        let normal = put(Priority::Normal, "b");
        let high = put(Priority::High, "c");
        assert_eq!(
            [queue.next(), queue.next(), queue.next()],
            [high, normal, low]
        );
        let low = JobId::next();
        let patient = SchedulingKey {
            priority: Priority::Low,
            urgency: Urgency::default(),
            ..scheduling_key("a", 2.0)
        };
        queue.put(low, 0, patient);
        queue.now += 61.0;
        queue.request("b", 2.0);
        assert_eq!(queue.next(), low);
    }

    proptest! {
        /// Every waiting chunk is served: chunks of a request in order, requests of a client's class in the order
        /// of arrival.
        #[test]
        fn nothing_starves_and_equals_keep_their_order(
            requests in prop::collection::vec((0_usize..3, 1.0_f64..300.0, 1_usize..4, 0.0_f64..5.0), 1..25),
        ) {
            let mut queue = Queue::new();
            let mut expected = 0;
            let mut kinds = BTreeMap::new();
            for (client, seconds, chunks, pause) in requests {
                queue.now += pause;
                let job = JobId::next();
                let client = client.to_string();
                kinds.insert(job, (client.clone(), is_long(seconds)));
                for index in 0..chunks {
                    queue.put(job, index, scheduling_key(&client, seconds));
                    expected += 1;
                }
            }
            prop_assert_eq!(queue.waiting.count(|_| true), expected);
            let mut newest: BTreeMap<_, ChunkKey> = BTreeMap::new();
            for _ in 0..expected {
                queue.now += 1.0;
                let key = queue.take().expect("a chunk waits");
                let before = newest.insert(kinds[&key.job].clone(), key);
                prop_assert!(before < Some(key), "{:?} after {:?}", key, before);
            }
            prop_assert!(queue.take().is_none());
        }
    }
}
