//! Reading the audio of a job.

use std::time::Duration;

use stt_actors::SttError;
use stt_actors::domain::chunk::AudioSource;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{End, MOST_ATTEMPTS, RENEWAL, Runner};
use crate::jobs::audio::{self, AudioError};
use crate::jobs::record::Job;
use crate::jobs::store::Rest;

/// For how many seconds a job rests whose audio could not be read, after each attempt but the last: other jobs come first,
/// and the store may be mended meanwhile.
const REST_SECONDS: [u64; MOST_ATTEMPTS as usize - 1] = [3, 60, 600, 3600];
/// How much longer this node leaves a job alone that another node may be able to read, and how long one for whose audio it
/// has no space.
const REST_HERE: Duration = Duration::from_secs(60);

impl Runner {
    /// Fetches the audio of a job, which may take longer than its lease.
    pub(super) async fn fetch(
        &self,
        job: &Job,
        cancelled: &CancellationToken,
    ) -> Result<AudioSource, End> {
        let mut renewal = interval(RENEWAL);
        let fetched = audio::fetch(self.jobs.audio(), &job.audio);
        tokio::pin!(fetched);
        let error = loop {
            tokio::select! {
                fetched = &mut fetched => match fetched {
                    Ok(audio) => return Ok(audio),
                    Err(error) => break error,
                },
                () = cancelled.cancelled() => return Err(End::Cancelled(job.progress.seconds_done)),
                () = self.stt.until_draining() => return Err(End::Draining),
                _ = renewal.tick() => if matches!(self.jobs.store().renew(&job.id).await, Ok(false)) {
                    return Err(self.lost(job, job.progress).await);
                },
            }
        };
        warn!(job = job.id, %error, "the audio of a job cannot be read");
        match error {
            AudioError::Unavailable(reason) => Err(End::Again {
                reason,
                blameless: true,
                rest: None,
            }),
            AudioError::NoCopy(_) => Err(End::Again {
                reason: error.to_string(),
                blameless: true,
                rest: Some(Rest {
                    here: REST_HERE,
                    ..Rest::default()
                }),
            }),
            // Another node may see it, if a folder that nodes share is not mounted here, or later this one.
            error if job.attempts < MOST_ATTEMPTS => Err(End::Again {
                reason: error.to_string(),
                blameless: false,
                rest: Some(self.rest_after(job.attempts)),
            }),
            error => {
                let why = match error {
                    AudioError::Lost(_) => "the audio of the job is lost",
                    _ => "the audio of the job cannot be read",
                };
                let seconds = job.progress.seconds_done;
                Err(End::Failed(SttError::Internal(why), seconds))
            }
        }
    }

    /// The rest after this many attempts to read the audio of a job.
    fn rest_after(&self, attempts: u32) -> Rest {
        let place = (attempts.max(1) as usize - 1).min(REST_SECONDS.len() - 1);
        let everywhere = Duration::from_secs(REST_SECONDS[place]);
        let here = if self.jobs.store().is_shared() {
            everywhere + REST_HERE
        } else {
            everywhere
        };
        Rest { here, everywhere }
    }
}
