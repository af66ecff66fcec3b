//! The jobs in memory.

use std::collections::{BTreeMap, HashMap};

use super::super::resting::Resting;
use super::super::{CALLBACK_LEASE, Counts};
use crate::jobs::record::{CallbackState, Job, State};

/// The jobs in memory.
#[derive(Default)]
pub struct Index {
    /// Jobs by id.
    pub jobs: HashMap<String, Job>,
    /// Ids of queued jobs, the longest waiting first.
    pub queue: BTreeMap<Turn, String>,
    /// Until when callbacks that were taken are not due, by the id of their job, in Unix seconds. The end of the process
    /// ends them.
    pub leases: HashMap<String, f64>,
    /// Queued jobs that are not taken now.
    pub resting: Resting,
}

/// A place in the queue: the time of submission in microseconds, the place in the request, and the id.
pub type Turn = (u64, usize, String);

/// The place of a job in the queue.
pub fn turn(job: &Job) -> Turn {
    ((job.created * 1e6) as u64, job.number, job.id.clone())
}

impl Index {
    /// Keeps a job as it is now.
    pub fn adopt(&mut self, job: Job) {
        let turn = turn(&job);
        if job.state == State::Queued {
            self.queue.insert(turn, job.id.clone());
        } else {
            self.queue.remove(&turn);
        }
        self.jobs.insert(job.id.clone(), job);
    }

    /// The queued job that waits longest of those that do not rest.
    pub fn next(&mut self) -> Option<&Job> {
        let resting = self.resting.now();
        let id = self.queue.values().find(|id| !resting.contains_key(*id))?;
        self.jobs.get(id)
    }

    /// The client's jobs with this idempotency key, in the order of their files.
    pub fn known(&self, client: &str, key: &str) -> Vec<Job> {
        let of_key =
            |job: &&Job| job.client == client && job.idempotency_key.as_deref() == Some(key);
        let mut known: Vec<Job> = self.jobs.values().filter(of_key).cloned().collect();
        known.sort_by_key(|job| job.number);
        known
    }

    /// Takes callbacks that are due, those that wait longest first, and says when the next one is due.
    pub fn take_callbacks(&mut self, at: f64, most: usize) -> (Vec<Job>, Option<f64>) {
        self.leases.retain(|_, until| *until > at);
        let time = |job: &Job| {
            let callback = job.callback.as_ref()?;
            let next = (callback.next).filter(|_| callback.state == CallbackState::Pending)?;
            let lease = self.leases.get(&job.id);
            Some(lease.map_or(next, |until| next.max(*until)))
        };
        let mut pending: Vec<(f64, &Job)> = (self.jobs.values())
            .filter_map(|job| Some((time(job)?, job)))
            .collect();
        pending.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let due = pending.partition_point(|(time, _)| *time <= at).min(most);
        let next = pending.get(due).map(|(time, _)| *time);
        let taken: Vec<Job> = pending[..due].iter().map(|&(_, job)| job.clone()).collect();
        let until = at + CALLBACK_LEASE.as_secs_f64();
        self.leases
            .extend(taken.iter().map(|job| (job.id.clone(), until)));
        (taken, next)
    }

    /// Jobs by state and the space of their audio, of all clients and of this one.
    pub fn counts(&self, client: Option<&str>) -> Counts {
        let mut counts = Counts::default();
        self.jobs.values().for_each(|job| counts.add(job, client));
        counts
    }
}
