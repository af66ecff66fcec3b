//! What an idle system holds of memory after its first transcript. The most that it holds is looked
//! for during the burst.

use super::process_tree;
use super::run::Run;
use super::sample::{Outcome, Quantity, Sample};

/// Looks at all systems, which have nothing to do.
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
