//! Short clips, one at a time: how long each takes, and how many of its words come out wrong. And how
//! long it takes beside another program that keeps a core busy, as a home's other services do: engines
//! whose threads spin while they wait for one another can become many times slower then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::run::Run;
use super::sample::Quantity;

/// Every so many-th clip is enough to see it.
const CONTENDED_EVERY: usize = 4;

/// Every clip goes to every system before the next one does.
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

/// A part of the clips, beside a thread of this process that does nothing but spin.
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
