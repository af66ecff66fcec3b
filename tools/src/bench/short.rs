//! Short clips, one at a time: the time for each, and the word errors. Also the time beside another program
//! that keeps a core busy, as other services of a home server do: engines whose threads spin while they wait
//! for each other can become many times slower then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::run::Run;
use super::sample::Quantity;

/// Uses every n-th clip; that is enough to see the effect.
const CONTENDED_EVERY: usize = 4;

/// Sends every clip to all systems before the next one.
pub async fn measure(run: &mut Run) {
    let clips = run.recordings.short.clone();
    run.progress
        .begin("short clips", clips.len() * run.order(0).len());
    for (round, clip) in clips.iter().enumerate() {
        for index in run.order(round) {
            run.ask_and_keep(index, clip, Quantity::ShortSeconds, round)
                .await;
        }
    }
}

/// Sends a part of the clips while a thread of this process spins.
pub async fn measure_contended(run: &mut Run) {
    let clips = run.recordings.short.iter().step_by(CONTENDED_EVERY);
    let clips: Vec<_> = clips.cloned().collect();
    run.progress.begin(
        "short clips beside a busy program",
        clips.len() * run.order(0).len(),
    );
    let _busy = Busy::start();
    for (round, clip) in clips.iter().enumerate() {
        for index in run.order(round) {
            run.ask_and_keep(index, clip, Quantity::ContendedSeconds, round)
                .await;
        }
    }
}

/// Keeps a core busy until it is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self(ended)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
