//! Jobs in a database in a file of this node.
//!
//! The database is redb: one file, transactions that survive `kill -9` and a full disk, and only Rust, so that every build
//! has it at little cost. SQLite would be a C library to compile for the same few tables of keys and values, and no
//! query here needs SQL.
//!
//! The jobs themselves are also kept in memory, because there are few, and everything but results and finished chunks is
//! read from there. A change is written first; if that fails, memory stays as it is. After a failed write, redb accepts
//! nothing until the database is opened again, which the next write does.

mod index;
mod tables;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};
use stt_actors::Progress;
use stt_actors::domain::finished::FinishedPart;
use stt_actors::domain::transcript::Transcript;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Claimed, Counts, JobStore, Put, PutLimits, Rest, StoreError};
use crate::jobs::record::{Callback, Failure, Job, State};
use index::{Index, turn};
use tables::{
    JOBS, PARTS, RESULTS, decode, encode, failed, finished_work, load, open, put_job, remove_parts,
};

/// The name of the file in the folder of jobs.
const FILE: &str = "jobs.redb";

/// The store.
pub struct EmbeddedStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// How long a job is kept after its end.
    keep: Duration,
    salt: [u8; 16],
    changed: watch::Sender<u64>,
    /// Locked for as long as a change takes, and only on threads that may block. `None`: a write failed, and the
    /// database must be opened again.
    database: Mutex<Option<Database>>,
    /// Locked only to read or change memory. Only who has the database changes it.
    index: Mutex<Index>,
}

impl EmbeddedStore {
    /// Whether a folder has a store.
    pub fn exists(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    /// Opens the store in a folder, or creates it. Jobs that were running are queued again. `keep`: how long a job is
    /// kept after its end.
    ///
    /// # Errors
    /// The file cannot be used: another process has it open, or it is no database.
    pub fn open(folder: &Path, keep: Duration) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        let database = open(&path)?;
        let (salt, jobs) = load(&database)?;
        let mut index = Index::default();
        for mut job in jobs {
            if job.state == State::Running {
                info!(
                    job = job.id,
                    chunks_done = job.progress.chunks_done,
                    "a job of the last run goes on"
                );
                job.state = State::Queued;
            }
            index.adopt(job);
        }
        Ok(Self(Arc::new(Inner {
            path,
            keep,
            salt,
            changed: watch::Sender::new(0),
            database: Mutex::new(Some(database)),
            index: Mutex::new(index),
        })))
    }

    /// Runs work on the database on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut Option<Database>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let database = inner.database.lock();
            work(
                &inner,
                &mut database.unwrap_or_else(PoisonError::into_inner),
            )
        });
        done.await
            .unwrap_or_else(|panic| Err(StoreError::Unavailable(panic.to_string())))
    }

    /// Changes a job in the database, together with whatever `more` writes, and then in memory.
    async fn change<T: Send + 'static>(
        &self,
        id: &str,
        change: impl FnOnce(&mut Job, &Inner) -> Option<T> + Send + 'static,
        more: impl FnOnce(&WriteTransaction, &Job) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Option<(Job, T)>, StoreError> {
        let id = id.to_owned();
        self.blocking(move |inner, database| {
            let Some(mut job) = inner.index().jobs.get(&id).cloned() else {
                return Ok(None);
            };
            let Some(result) = change(&mut job, inner) else {
                return Ok(None);
            };
            inner.write(database, |transaction| {
                put_job(transaction, &job)?;
                more(transaction, &job)
            })?;
            inner.index().adopt(job.clone());
            inner.announce();
            Ok(Some((job, result)))
        })
        .await
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.send_modify(|number| *number += 1);
    }

    /// Opens the database again, if a write failed before.
    fn opened<'a>(&self, database: &'a mut Option<Database>) -> Result<&'a Database, StoreError> {
        if database.is_none() {
            *database = Some(open(&self.path)?);
            info!("the database of jobs is open again");
        }
        (database.as_ref()).ok_or_else(|| StoreError::Unavailable("it is closed".to_owned()))
    }

    /// Commits what `change` writes, or nothing.
    fn write(
        &self,
        database: &mut Option<Database>,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let opened = self.opened(database)?;
        let written = (|| {
            let transaction = opened.begin_write().map_err(failed)?;
            change(&transaction)?;
            transaction.commit().map_err(failed)
        })();
        written.inspect_err(|error| {
            warn!(%error, "a change of a job could not be stored");
            *database = None;
        })
    }
}

#[async_trait]
impl JobStore for EmbeddedStore {
    fn salt(&self) -> [u8; 16] {
        self.0.salt
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    async fn put(&self, jobs: Vec<Job>, limits: PutLimits) -> Result<Put, StoreError> {
        self.blocking(move |inner, database| {
            let Some(first) = jobs.first() else {
                return Ok(Put::Added(jobs));
            };
            {
                let index = inner.index();
                let known = first.idempotency_key.as_deref();
                let known = known.map(|key| index.known(&first.client, key));
                if let Some(known) = known.filter(|known| !known.is_empty()) {
                    return Ok(Put::Known(known));
                }
                if let Some(exceeded) = limits.exceeded(&index.counts(Some(&first.client)), &jobs) {
                    return Ok(Put::Exceeded(exceeded));
                }
            }
            inner.write(database, |transaction| {
                jobs.iter().try_for_each(|job| put_job(transaction, job))
            })?;
            let mut index = inner.index();
            jobs.iter().cloned().for_each(|job| index.adopt(job));
            inner.announce();
            Ok(Put::Added(jobs))
        })
        .await
    }

    async fn known(&self, client: &str, idempotency_key: &str) -> Result<Vec<Job>, StoreError> {
        Ok(self.0.index().known(client, idempotency_key))
    }

    async fn get(&self, id: &str) -> Result<Option<Job>, StoreError> {
        Ok(self.0.index().jobs.get(id).cloned())
    }

    async fn list(&self, owner: &str) -> Result<Vec<Job>, StoreError> {
        let index = self.0.index();
        let own = index.jobs.values().filter(|job| job.owner == owner);
        Ok(own.cloned().collect())
    }

    async fn places(&self, ids: &[&str]) -> Result<Vec<Option<usize>>, StoreError> {
        let index = self.0.index();
        let places: HashMap<&str, usize> = (index.queue.values())
            .enumerate()
            .map(|(place, id)| (id.as_str(), place))
            .collect();
        Ok(ids.iter().map(|id| places.get(id).copied()).collect())
    }

    async fn counts(&self, client: Option<&str>) -> Result<Counts, StoreError> {
        Ok(self.0.index().counts(client))
    }

    async fn claim(&self) -> Result<Option<Claimed>, StoreError> {
        self.blocking(|inner, database| {
            let mut job = {
                let mut index = inner.index();
                match index.next() {
                    Some(job) => job.clone(),
                    None => return Ok(None),
                }
            };
            // First: if it fails, the job stays queued.
            let finished = finished_work(inner.opened(database)?, &job.id)?;
            job.take();
            inner.write(database, |transaction| put_job(transaction, &job))?;
            inner.index().adopt(job.clone());
            inner.announce();
            Ok(Some(Claimed { job, finished }))
        })
        .await
    }

    async fn renew(&self, id: &str) -> Result<bool, StoreError> {
        let index = self.0.index();
        let job = index.jobs.get(id);
        Ok(job.is_some_and(|job| job.state == State::Running))
    }

    async fn save(
        &self,
        id: &str,
        progress: Progress,
        parts: Vec<FinishedPart>,
    ) -> Result<bool, StoreError> {
        let parts = Arc::new(parts);
        let advanced = Arc::clone(&parts);
        let change = move |job: &mut Job, _: &Inner| {
            job.advance(progress, &advanced);
            (job.state == State::Running).then_some(())
        };
        let append = move |transaction: &WriteTransaction, job: &Job| {
            let mut table = transaction.open_table(PARTS).map_err(failed)?;
            let of_job = (&*job.id, 0)..=(&*job.id, u64::MAX);
            let last = table.range(of_job).map_err(failed)?.next_back();
            let last = last
                .transpose()
                .map_err(failed)?
                .map(|(key, _)| key.value().1);
            let next = last.map_or(0, |last| last + 1);
            for (number, part) in (next..).zip(&*parts) {
                let json = encode(part)?;
                table.insert((&*job.id, number), &*json).map_err(failed)?;
            }
            Ok(())
        };
        Ok(self.change(id, change, append).await?.is_some())
    }

    async fn finish(
        &self,
        id: &str,
        end: Result<Transcript, Failure>,
    ) -> Result<Option<Job>, StoreError> {
        let (result, error) = match end {
            Ok(transcript) => (Some(encode(&transcript)?), None),
            Err(error) => (None, Some(error)),
        };
        let change = move |job: &mut Job, inner: &Inner| {
            let has_it = job.state == State::Running;
            job.end(error, inner.keep);
            has_it.then_some(())
        };
        let ended = self.change(id, change, move |transaction, job| {
            remove_parts(transaction, &job.id)?;
            if let Some(result) = result {
                let mut table = transaction.open_table(RESULTS).map_err(failed)?;
                table.insert(&*job.id, &*result).map_err(failed)?;
            }
            Ok(())
        });
        Ok(ended.await?.map(|(job, ())| job))
    }

    async fn release(&self, id: &str, blameless: bool, rest: Rest) -> Result<(), StoreError> {
        let change = move |job: &mut Job, inner: &Inner| {
            let has_it = job.state == State::Running;
            job.state = State::Queued;
            job.attempts -= u32::from(blameless && job.attempts > 0);
            inner.index().resting.add(&job.id, rest.here);
            has_it.then_some(())
        };
        self.change(id, change, |_, _| Ok(())).await?;
        Ok(())
    }

    async fn result(&self, id: &str) -> Result<Option<Transcript>, StoreError> {
        let id = id.to_owned();
        self.blocking(move |inner, database| {
            let transaction = inner.opened(database)?.begin_read().map_err(failed)?;
            let table = transaction.open_table(RESULTS).map_err(failed)?;
            let result = table.get(&*id).map_err(failed)?;
            result.map(|json| decode(json.value())).transpose()
        })
        .await
    }

    async fn remove(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let id = id.to_owned();
        self.blocking(move |inner, database| {
            let Some(job) = inner.index().jobs.get(&id).cloned() else {
                return Ok(None);
            };
            inner.write(database, |transaction| {
                remove_parts(transaction, &id)?;
                for table in [JOBS, RESULTS] {
                    let mut table = transaction.open_table(table).map_err(failed)?;
                    table.remove(&*id).map_err(failed)?;
                }
                Ok(())
            })?;
            let mut index = inner.index();
            index.queue.remove(&turn(&job));
            index.jobs.remove(&id);
            inner.announce();
            Ok(Some(job))
        })
        .await
    }

    async fn expired(&self, at: f64) -> Result<Vec<Job>, StoreError> {
        let index = self.0.index();
        let expired = index
            .jobs
            .values()
            .filter(|job| job.expires.is_some_and(|expires| expires <= at));
        Ok(expired.cloned().collect())
    }

    async fn take_callbacks(
        &self,
        at: f64,
        most: usize,
    ) -> Result<(Vec<Job>, Option<f64>), StoreError> {
        Ok(self.0.index().take_callbacks(at, most))
    }

    async fn postpone_callback(&self, id: &str, until: f64) -> Result<(), StoreError> {
        self.0.index().leases.insert(id.to_owned(), until);
        Ok(())
    }

    async fn set_callback(&self, id: &str, callback: Callback) -> Result<(), StoreError> {
        let change = move |job: &mut Job, _: &Inner| {
            job.callback = Some(callback);
            Some(())
        };
        self.change(id, change, |_, _| Ok(())).await?;
        self.0.index().leases.remove(id);
        Ok(())
    }

    async fn audio_in_use(&self) -> Result<Vec<String>, StoreError> {
        let index = self.0.index();
        let open = index.jobs.values().filter(|job| !job.state.is_over());
        Ok(open.map(|job| job.audio.key.clone()).collect())
    }
}
