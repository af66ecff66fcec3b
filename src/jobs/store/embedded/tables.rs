//! The database: its tables, and what is read and written together.

use std::io;
use std::path::Path;

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stt_actors::domain::finished::FinishedWork;
use tracing::warn;

use super::super::StoreError;
use crate::jobs::record::Job;

/// Pages that the database keeps in memory, in bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Jobs as JSON, by id.
pub const JOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("jobs");
/// Finished parts of jobs as JSON, by id and number.
pub const PARTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("parts");
/// Results as JSON, by id.
pub const RESULTS: TableDefinition<&str, &[u8]> = TableDefinition::new("results");
/// Values of the store itself.
const STORE: TableDefinition<&str, &[u8]> = TableDefinition::new("store");
const SALT: &str = "salt";

/// Opens the database, or creates it.
pub fn open(path: &Path) -> Result<Database, StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    // Only this user may read the texts, even if others may read the folder.
    let mut private = std::fs::OpenOptions::new();
    private.create(true).append(true).mode(0o600);
    private
        .open(path)
        .map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Unavailable(format!("another process uses {}", path.display()))
        }
        error => failed(error),
    })
}

/// Reads the salt and all jobs, and creates what is missing. A job that cannot be read is left out: another version of
/// the program may have written it.
pub fn load(database: &Database) -> Result<([u8; 16], Vec<Job>), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut jobs = Vec::new();
    let salt;
    {
        let mut store = transaction.open_table(STORE).map_err(failed)?;
        let known = store
            .get(SALT)
            .map_err(failed)?
            .and_then(|known| known.value().try_into().ok());
        salt = known.unwrap_or_else(|| *uuid::Uuid::new_v4().as_bytes());
        store.insert(SALT, salt.as_slice()).map_err(failed)?;
        let table = transaction.open_table(JOBS).map_err(failed)?;
        for entry in table.iter().map_err(failed)? {
            let (id, json) = entry.map_err(failed)?;
            match decode(json.value()) {
                Ok(job) => jobs.push(job),
                Err(error) => warn!(job = id.value(), %error, "a stored job is ignored"),
            }
        }
        transaction.open_table(PARTS).map_err(failed)?;
        transaction.open_table(RESULTS).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok((salt, jobs))
}

pub fn put_job(transaction: &WriteTransaction, job: &Job) -> Result<(), StoreError> {
    let json = encode(job)?;
    let mut table = transaction.open_table(JOBS).map_err(failed)?;
    table.insert(&*job.id, &*json).map_err(failed)?;
    Ok(())
}

pub fn remove_parts(transaction: &WriteTransaction, id: &str) -> Result<(), StoreError> {
    let mut table = transaction.open_table(PARTS).map_err(failed)?;
    let of_job = (id, 0)..=(id, u64::MAX);
    table.retain_in(of_job, |_, _| false).map_err(failed)
}

/// The work that is stored of a job. Work that cannot be read is done again.
pub fn finished_work(database: &Database, id: &str) -> Result<FinishedWork, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let table = transaction.open_table(PARTS).map_err(failed)?;
    let mut finished = FinishedWork::default();
    for entry in table.range((id, 0)..=(id, u64::MAX)).map_err(failed)? {
        let (_, json) = entry.map_err(failed)?;
        match decode(json.value()) {
            Ok(part) => finished.apply(part),
            Err(error) => {
                warn!(job = id, %error, "finished chunks of a job are done again");
                break;
            }
        }
    }
    Ok(finished)
}

pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Unreadable(error.to_string()))
}

pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| StoreError::Unreadable(error.to_string()))
}

/// An error of the database.
pub fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
            ) =>
        {
            StoreError::Full
        }
        error => StoreError::Unavailable(error.to_string()),
    }
}
