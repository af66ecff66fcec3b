//! Memory, of the machine or of a GPU, against the models.

use stt_actors::ports::{MemorySample, VramProbe};

use super::finding::{Finding, size};
use super::machine::Machine;
use super::settings::WantedModel;
use crate::host_memory::HostMemoryProbe;
use crate::models::{self, CatalogueEntry, ModelStore};
use crate::settings::Settings;

const CHECK: &str = "memory";

/// Working memory of a worker whose model is not in the catalogue, in bytes: that of a large one.
const WORKING_BYTES: u64 = 1 << 30;

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) free: u64,
    pub(super) total: u64,
}

/// Compares memory with what one worker with this model needs. `gpu`: that of the GPU, if inference runs on one.
/// `is_served`: whether the server runs already.
pub(super) fn examine(
    machine: &Machine,
    settings: &Settings,
    model: &WantedModel,
    gpu: Option<Memory>,
    is_served: bool,
) -> Option<Finding> {
    // Without a need, the finding about the model has the reason.
    let needed = needed(settings, model)?;
    if let Some(gpu) = gpu {
        return Some(compare("of the GPU", needed, gpu, is_served));
    }
    let probe = HostMemoryProbe::under(machine.path("/proc"), machine.path("/sys/fs/cgroup"));
    Some(match probe.sample(&[]) {
        Ok(MemorySample { free, total, .. }) => {
            let place = "of this machine or its control group";
            compare(place, needed, Memory { free, total }, is_served)
        }
        Err(error) => Finding::note(CHECK, format!("not checked: {}", error.0)),
    })
}

/// Memory that one worker needs, in bytes: an estimate. `None`: the model is unknown.
fn needed(settings: &Settings, model: &WantedModel) -> Option<u64> {
    let store = ModelStore::new(settings.models_dir.clone());
    let found = store.look_up(&model.name).ok();
    let name = found.as_ref().map_or(&model.name, |found| &found.name);
    let known = models::find(name).map(CatalogueEntry::memory_bytes);
    known.or_else(|| found.map(|found| found.size_bytes + WORKING_BYTES))
}

/// Compares memory with the need of one worker, and of two. `place`: whose memory it is.
fn compare(place: &str, needed: u64, memory: Memory, is_served: bool) -> Finding {
    let (free, total) = (size(memory.free), size(memory.total));
    let what = format!(
        "{free} free of {total} {place}; a worker with the model needs about {}",
        size(needed)
    );
    let smaller = "--set WHISPER_MODEL=NAME with a smaller model of `uttera-stt models list`";
    if memory.total < needed {
        let why = "the worker is killed or cannot load the model";
        return Finding::error(CHECK, what, why).mended_by(smaller);
    }
    if is_served {
        let what = format!("{what}; the server has loaded it already");
        return Finding::ok(CHECK, what);
    }
    if memory.free < needed {
        let why = "the worker may be killed, or push other programs out of memory";
        return Finding::warning(CHECK, what, why)
            .mended_by(format!("end other programs, or {smaller}"));
    }
    if memory.free < needed.saturating_mul(2) {
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
        let (free, total) = (free * GIB, total * GIB);
        compare("", 2 * GIB, Memory { free, total }, is_served).severity
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
        settings.models_dir = "/nowhere".into();
        let model = WantedModel {
            variable: "WHISPER_MODEL",
            name: "large-v3".to_owned(),
        };
        let examine = |machine: &Machine, gpu| {
            let found = super::examine(machine, &settings, &model, gpu, false);
            found.expect("a finding").severity
        };
        assert_eq!(examine(&machine.machine(), None), Severity::Error);
        let unreadable = MadeUp::new(&[]);
        assert_eq!(examine(&unreadable.machine(), None), Severity::Note);
        let gpu = Memory {
            free: 24 * GIB,
            total: 24 * GIB,
        };
        assert_eq!(examine(&machine.machine(), Some(gpu)), Severity::Ok);
    }
}
