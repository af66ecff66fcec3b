//! How long a worker takes to start with a model: as it took last time, which a small file in the store tells, or as
//! the size of the model lets expect.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ModelStore;
use super::locate::{self, Located};

/// Bytes per second that a worker loads from an ordinary disk.
const BYTES_PER_SECOND: f64 = 150e6;
/// Time for everything else, above all for the clip that the worker transcribes before it is ready.
const BASE: Duration = Duration::from_secs(1);
/// A file that says more is not believed.
const LONGEST_SECONDS: f64 = 600.0;

/// The time that a start with a model of this size should take.
pub(crate) fn estimate(bytes: u64) -> Duration {
    BASE + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND)
}

impl ModelStore {
    /// The size of a model's file; `None` if the model must be fetched or imported first.
    pub(crate) fn bytes_on_disk(&self, model: &str) -> Option<u64> {
        match locate::locate(&self.dir, model).ok()? {
            Located::File { path, .. } | Located::Variant { base: path, .. } => {
                fs::metadata(path).ok().map(|file| file.len())
            }
            Located::Folder { path, .. } => {
                let weights = fs::metadata(path.join("model.bin")).ok();
                weights.map(|file| file.len())
            }
        }
    }

    /// The time that the last start with this model took; `None`: unknown.
    pub(crate) fn last_start(&self, model: &str) -> Option<Duration> {
        let text = fs::read_to_string(self.start_note(model)).ok()?;
        let seconds: f64 = text.trim().parse().ok()?;
        (0.0..=LONGEST_SECONDS)
            .contains(&seconds)
            .then(|| Duration::from_secs_f64(seconds))
    }

    /// Writes down how long a start with this model took. A store that cannot be written is not an error: the time is
    /// only a hint.
    pub(crate) fn record_start(&self, model: &str, took: Duration) {
        let note = self.start_note(model);
        let text = format!("{:.3}\n", took.as_secs_f64());
        let written = fs::create_dir_all(&self.dir).and_then(|()| fs::write(&note, text));
        if let Err(error) = written {
            tracing::debug!(file = %note.display(), %error, "cannot write down the start time");
        }
    }

    fn start_note(&self, model: &str) -> PathBuf {
        let name = locate::name_of(Path::new(model));
        self.dir.join(format!(".start-seconds-{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_gives_seconds_for_a_small_model_and_less_than_a_minute_for_the_largest() {
        assert!((1.9..2.1).contains(&estimate(148_000_000).as_secs_f64()));
        assert!((15.0..30.0).contains(&estimate(3_100_000_000).as_secs_f64()));
    }

    #[test]
    fn the_last_start_is_kept_for_each_model_and_nonsense_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = ModelStore::new(dir.path().join("new"));
        assert_eq!(store.last_start("base"), None);
        store.record_start("base", Duration::from_millis(2345));
        store.record_start("/some/where/ggml-mine.bin", Duration::from_secs(7));
        assert_eq!(store.last_start("base"), Some(Duration::from_millis(2345)));
        let mine = store.last_start("/some/where/ggml-mine.bin");
        assert_eq!(mine, Some(Duration::from_secs(7)));
        for nonsense in ["", "soon", "-1", "NaN", "inf", "1e9"] {
            fs::write(store.start_note("base"), nonsense).unwrap();
            assert_eq!(store.last_start("base"), None, "{nonsense}");
        }
        // A store that cannot be written.
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        ModelStore::new(file).record_start("base", Duration::from_secs(1));
    }

    #[test]
    fn a_model_that_is_not_on_disk_has_no_size() {
        let dir = tempfile::tempdir().unwrap();
        let store = ModelStore::new(dir.path().to_owned());
        assert_eq!(store.bytes_on_disk("base"), None);
        fs::write(dir.path().join("ggml-base.bin"), b"12345").unwrap();
        assert_eq!(store.bytes_on_disk("base"), Some(5));
        assert_eq!(store.bytes_on_disk("base-q5_1"), Some(5));
    }
}
