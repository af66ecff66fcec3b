//! Progress reports of long work.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Receives the progress of a download, from any thread.
pub trait Progress: Send + Sync {
    /// Work begins; its size in bytes, if known.
    fn start(&self, what: &str, total_bytes: Option<u64>);
    /// This many bytes are done, counted from the beginning.
    fn advance(&self, done_bytes: u64);
    /// The work ended, successfully or not.
    fn finish(&self);
}

/// Reports nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _done_bytes: u64) {}
    fn finish(&self) {}
}

/// A bar on the terminal. If standard error is not a terminal, it shows nothing.
#[derive(Debug, Default)]
pub struct Bar {
    current: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn with_current(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        // A panic while drawing leaves the bar usable.
        act(&mut self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn start(&self, what: &str, total_bytes: Option<u64>) {
        let bar = match total_bytes {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        let known = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let template = if total_bytes.is_some() {
            known
        } else {
            "{msg} {spinner} {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with_current(|current| *current = Some(bar));
    }

    fn advance(&self, done_bytes: u64) {
        self.with_current(|current| {
            if let Some(bar) = current {
                bar.set_position(done_bytes);
            }
        });
    }

    fn finish(&self) {
        self.with_current(|current| {
            if let Some(bar) = current.take() {
                bar.finish_and_clear();
            }
        });
    }
}

/// Log lines, one per tenth of the work, for a server that fetches its model when it starts.
#[derive(Debug, Default)]
pub struct Logged {
    current: Mutex<Option<LoggedWork>>,
}

#[derive(Debug)]
struct LoggedWork {
    what: String,
    total_bytes: Option<u64>,
    tenths_logged: u64,
}

impl Progress for Logged {
    fn start(&self, what: &str, total_bytes: Option<u64>) {
        tracing::info!(what, total_bytes, "model work started");
        let work = LoggedWork {
            what: what.to_owned(),
            total_bytes,
            tenths_logged: 0,
        };
        *self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(work);
    }

    fn advance(&self, done_bytes: u64) {
        let mut current = self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(LoggedWork {
            what,
            total_bytes: Some(total),
            tenths_logged,
        }) = current.as_mut()
        else {
            return;
        };
        let tenths = done_bytes.saturating_mul(10) / (*total).max(1);
        if tenths > *tenths_logged {
            *tenths_logged = tenths;
            tracing::info!(what, percent = tenths * 10, "model work in progress");
        }
    }

    fn finish(&self) {
        let work = self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(work) = work {
            tracing::info!(what = work.what, "model work ended");
        }
    }
}

/// Calls [`Progress::finish`] on every way out, so that no bar stays on the screen after an error.
pub(crate) struct Finish<'a>(pub(crate) &'a dyn Progress);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}
