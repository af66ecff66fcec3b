//! Memory, of the machine or of a GPU, against the models.

use stt_actors::ports::{MemorySample, VramProbe};

use super::finding::{Finding, size};
use super::machine::Machine;
use super::settings::wanted;
use crate::host_memory::HostMemoryProbe;
use crate::models::{self, CatalogueEntry, ModelStore};
use crate::settings::Settings;

const CHECK: &str = "memory";

/// Working memory of a worker whose model is not in the catalogue, in bytes: that of a large one.
const WORKING_BYTES: u64 = 1 << 30;

/// Memory that one worker with the configured model needs, in bytes: an estimate. `None`: the model is unknown.
pub(super) fn needed(settings: &Settings) -> Option<u64> {
    let model = wanted(settings).into_iter().next()?;
    let store = ModelStore::new(settings.models_dir.clone());
    let found = store.look_up(&model.name).ok();
    let name = found.as_ref().map_or(&model.name, |found| &found.name);
    let known = models::find(name).map(CatalogueEntry::memory_bytes);
    known.or_else(|| found.map(|found| found.size_bytes + WORKING_BYTES))
}

/// Compares the memory of the machine, or of this control group, with the model. `is_served`: whether the server
/// runs already.
pub(super) fn examine(machine: &Machine, settings: &Settings, is_served: bool) -> Vec<Finding> {
    let Some(needed) = needed(settings) else {
        // The finding about the model has the reason.
        return Vec::new();
    };
    let probe = HostMemoryProbe::under(machine.path("/proc"), machine.path("/sys/fs/cgroup"));
    vec![match probe.sample(&[]) {
        Ok(sample) => compare(
            "of this machine or its control group",
            needed,
            &sample,
            is_served,
        ),
        Err(error) => Finding::note(CHECK, format!("not checked: {}", error.0)),
    }]
}

/// Compares memory with the need of one worker. `place`: whose memory it is.
pub(super) fn compare(place: &str, needed: u64, sample: &MemorySample, is_served: bool) -> Finding {
    let (free, total) = (size(sample.free), size(sample.total));
    let what = format!(
        "{free} free of {total} {place}; a worker with the model needs about {}",
        size(needed)
    );
    let smaller = "--set WHISPER_MODEL=NAME with a smaller model of `uttera-stt models list`";
    if sample.total < needed {
        let why = "the worker is killed or cannot load the model";
        return Finding::error(CHECK, what, why).mended_by(smaller);
    }
    if is_served {
        let what = format!("{what}; the server has loaded it already");
        return Finding::ok(CHECK, what);
    }
    if sample.free < needed {
        let why = "the worker may be killed, or push other programs out of memory";
        return Finding::warning(CHECK, what, why)
            .mended_by(format!("end other programs, or {smaller}"));
    }
    if sample.free < needed.saturating_mul(2) {
        return Finding::note(CHECK, what)
            .because("it is enough for the hot worker, but not for a cold worker beside it");
    }
    Finding::ok(CHECK, what)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::machine::MadeUp;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn severity(free: u64, total: u64, is_served: bool) -> Severity {
        let sample = MemorySample {
            utilization_percent: None,
            free: free * GIB,
            total: total * GIB,
            used_by_process: Vec::default(),
        };
        compare("", 2 * GIB, &sample, is_served).severity
    }

    #[test]
    fn memory_is_compared_with_one_and_with_two_workers() {
        assert_eq!(severity(8, 8, false), Severity::Ok);
        assert_eq!(severity(3, 8, false), Severity::Note);
        assert_eq!(severity(1, 8, false), Severity::Warning);
        assert_eq!(severity(1, 8, true), Severity::Ok);
        assert_eq!(severity(1, 1, true), Severity::Error);
    }

    #[test]
    fn the_limit_of_the_control_group_counts() {
        let machine = MadeUp::new(&[
            (
                "/proc/meminfo",
                "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n",
            ),
            ("/proc/self/cgroup", "0::/box\n"),
            ("/sys/fs/cgroup/box/memory.max", "100000000\n"),
            ("/sys/fs/cgroup/box/memory.current", "1000\n"),
        ]);
        let mut settings = Settings::default();
        settings.whisper_model = "large-v3".to_owned();
        settings.models_dir = "/nowhere".into();
        let found = examine(&machine.machine(), &settings, false);
        assert_eq!(found[0].severity, Severity::Error, "{found:?}");
        let unreadable = MadeUp::new(&[]);
        let found = examine(&unreadable.machine(), &settings, false);
        assert_eq!(found[0].severity, Severity::Note, "{found:?}");
    }
}
