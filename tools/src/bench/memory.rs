//! Memory of an idle system after its first transcript. The peak is measured during the burst.

use super::process_tree;
use super::run::Run;
use super::sample::{Outcome, Quantity, Sample};

/// Measures all systems while they are idle.
pub fn measure(run: &mut Run) {
    for index in run.order(0) {
        let system = &run.systems[index];
        let Some(process) = system.process_id() else {
            continue;
        };
        let held = Outcome::Measured(process_tree::mebibytes(process));
        let item = &run.recordings.command.name;
        let sample = Sample::new(Quantity::IdleMebibytes, system.name(), item, 0, held);
        run.samples.push(sample);
    }
}
