//! Removes expired jobs, and audio that no job needs, whatever else the node does meanwhile.

use std::time::Duration;

use stt_actors::Stt;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::Jobs;
use super::audio;
use super::record::now;
use super::store::StoreError;
use crate::metrics::jobs::{self as metrics, Outcome};

/// How often the store is kept in order, and expired jobs are looked for.
const UPKEEP: Duration = Duration::from_secs(10);
/// How often audio that no job needs is looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// Works until the server shuts down.
pub async fn run(jobs: Jobs, stt: Stt) {
    tokio::select! {
        () = stt.until_rejecting() => {}
        () = regularly(UPKEEP, || maintain(jobs.clone())) => {}
        () = regularly(SWEEP, || sweep(jobs.clone())) => {}
    }
}

async fn regularly<F: Future<Output = ()>>(every: Duration, work: impl Fn() -> F) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work().await;
    }
}

/// Keeps the store in order, and removes the jobs whose time is over. Their audio was removed at their end.
async fn maintain(jobs: Jobs) {
    if let Err(error) = jobs.store().maintain().await {
        warn!(%error, "the store of jobs could not be kept in order");
    }
    let expired = match jobs.store().expired(now()).await {
        Ok(expired) => expired,
        Err(error) => return warn!(%error, "expired jobs cannot be found"),
    };
    for job in expired {
        match jobs.store().remove(&job.id).await {
            Ok(Some(_)) => metrics::record_end(Outcome::Expired),
            Ok(None) => {}
            Err(error) => warn!(job = job.id, %error, "an expired job could not be removed"),
        }
    }
}

async fn sweep(jobs: Jobs) {
    let swept = async {
        let in_use = jobs.store().audio_in_use().await?;
        let prefix = audio::prefix(&jobs.store().salt());
        Ok::<(), StoreError>(jobs.audio().sweep(&prefix, &in_use).await?)
    };
    if let Err(error) = swept.await {
        warn!(%error, "audio that no job needs could not be removed");
    }
}
