//! Jobs.

use std::path::PathBuf;

use super::{Variable, row, secret};
use crate::settings::Secret;
use crate::settings::read::{MEGABYTE, audio_url, base_url, flag, number, positive_seconds};

/// The shortest secret for signatures.
const MIN_SECRET_BYTES: usize = 16;

pub const ROWS: &[Variable] = &[
    row(
        "JOBS_DIR",
        "",
        "Folder for jobs and their audio; empty: uttera-stt/jobs in the user's folder for data.",
        |s, v| {
            s.jobs.folder = PathBuf::from(v);
            Ok(())
        },
    ),
    row(
        "JOB_TTL_SECONDS",
        "86400",
        "Seconds that a job and its result are kept after its end.",
        |s, v| {
            s.jobs.time_to_live = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "MAX_JOBS_PER_CLIENT",
        "100",
        "Maximum number of jobs of one client that are kept, in whatever state; 0: no jobs.",
        |s, v| {
            s.jobs.per_client = number(v, 0, 100_000, "a whole number from 0 to 100000")?;
            Ok(())
        },
    ),
    row(
        "JOB_STORAGE_MB",
        "10240",
        "Maximum size of the audio of all jobs that are not over, in MB.",
        |s, v| {
            s.jobs.storage_bytes = megabytes(v)?;
            Ok(())
        },
    ),
    row(
        "JOB_STORAGE_PER_CLIENT_MB",
        "5120",
        "Maximum size of the audio of one client's jobs that are not over, in MB.",
        |s, v| {
            s.jobs.client_bytes = megabytes(v)?;
            Ok(())
        },
    ),
    row(
        "JOB_CONCURRENCY",
        "1",
        "How many jobs this node works on at the same time; 0: none, it only accepts them.",
        |s, v| {
            s.jobs.concurrency = number(v, 0, 64, "a whole number from 0 to 64")?;
            Ok(())
        },
    ),
    row(
        "JOBS_SHARED",
        "0",
        "1: jobs are in Redis (REDIS_URL), and their audio is in JOB_AUDIO_URL, or in a JOBS_DIR that all nodes share.",
        |s, v| {
            s.jobs.shared = flag(v)?;
            Ok(())
        },
    ),
    row(
        "JOB_AUDIO_URL",
        "",
        "Where the audio of jobs is: s3://bucket/folder in an S3 store; empty: in JOBS_DIR.",
        audio_url,
    ),
    row(
        "AWS_ENDPOINT_URL",
        "",
        "URL of the S3 store of JOB_AUDIO_URL; empty: Amazon's.",
        |s, v| {
            s.jobs.s3.endpoint = Some(base_url(v)?);
            Ok(())
        },
    ),
    row(
        "AWS_REGION",
        "",
        "Region of the S3 store; empty: us-east-1.",
        |s, v| {
            s.jobs.s3.region = Some(v.to_owned());
            Ok(())
        },
    ),
    row(
        "AWS_ACCESS_KEY_ID",
        "",
        "Id of the access key for the S3 store; empty: the identity that Amazon gives this machine or pod.",
        |s, v| {
            s.jobs.s3.key_id = Some(v.to_owned());
            Ok(())
        },
    ),
    secret(row(
        "AWS_SECRET_ACCESS_KEY",
        "",
        "Access key for the S3 store.",
        |s, v| {
            s.jobs.s3.key = Some(Secret::from(v));
            Ok(())
        },
    )),
    secret(row(
        "JOB_CALLBACK_SECRET",
        "",
        "Secret that signs the callbacks of jobs, at least 16 characters; empty: no callbacks.",
        |s, v| {
            if v.len() < MIN_SECRET_BYTES {
                return Err("expected at least 16 characters".to_owned());
            }
            s.jobs.callback_secret = Some(Secret::from(v));
            Ok(())
        },
    )),
    row(
        "JOB_CALLBACK_HOSTS",
        "",
        "Comma-separated hosts that callbacks may go to although their address is not public.",
        |s, v| {
            let hosts = v.split(',').map(str::trim).filter(|host| !host.is_empty());
            s.jobs.callback_hosts = hosts.map(str::to_ascii_lowercase).collect();
            Ok(())
        },
    ),
];

fn megabytes(value: &str) -> Result<u64, String> {
    let megabytes: f64 = number(value, 0.001, 1e9, "a number of MB from 0.001")?;
    Ok((megabytes * MEGABYTE as f64) as u64)
}
