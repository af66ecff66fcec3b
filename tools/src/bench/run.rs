//! A run: one scenario after the other, in each of which the systems take turns.

use std::time::Duration;

use reqwest::Client;

use super::client::{self, Answer, Target};
use super::recordings::{Recording, Recordings};
use super::sample::{Outcome, Quantity, Sample, Scenario};
use super::system::System;
use super::{burst, command, live, long, memory, short, start};
use crate::probe::progress::Progress;
use crate::probe::word_error_rate::Score;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The scenarios to run.
    pub scenarios: Vec<Scenario>,
    /// Number of repetitions of starts, long files and bursts.
    pub repeat: usize,
    /// Number of concurrent requests in a burst.
    pub requests: usize,
    /// Time limit of a measurement.
    pub limit: Duration,
}

/// State of a run, on which all scenarios work.
pub struct Run {
    /// Client for all requests; it keeps its connections.
    pub client: Client,
    /// The systems to compare.
    pub systems: Vec<System>,
    /// The recordings to send.
    pub recordings: Recordings,
    /// How much to measure.
    pub extent: Extent,
    /// The samples so far.
    pub samples: Vec<Sample>,
    /// Model of our own system, as far as known.
    pub model: String,
    /// Display of the progress.
    pub progress: Progress,
}

impl Run {
    /// Measures all requested scenarios. A system that fails is excluded from then on.
    pub async fn measure(&mut self) {
        if self.measures(Scenario::Start) {
            start::measure(self).await;
        }
        if self
            .extent
            .scenarios
            .iter()
            .any(|scenario| *scenario != Scenario::Start)
        {
            self.start_all().await;
        }
        if self.measures(Scenario::Memory) {
            memory::measure(self);
        }
        if self.measures(Scenario::Short) {
            short::measure(self).await;
        }
        if self.measures(Scenario::Contended) {
            short::measure_contended(self).await;
        }
        if self.measures(Scenario::Long) {
            long::measure(self).await;
        }
        // The peak of memory is measured during a burst.
        if self.measures(Scenario::Burst) || self.measures(Scenario::Memory) {
            burst::measure(self).await;
        }
        if self.measures(Scenario::Command) {
            command::measure(self).await;
        }
        if self.measures(Scenario::Live) {
            live::measure(self).await;
        }
        self.progress
            .begin("stopping the systems", self.systems.len());
        for system in &mut self.systems {
            system.stop().await;
            self.progress.step();
        }
    }

    /// Kills all running systems.
    pub fn end(&mut self) {
        self.progress.end();
        for system in &mut self.systems {
            system.end();
        }
    }

    fn measures(&self, scenario: Scenario) -> bool {
        self.extent.scenarios.contains(&scenario)
    }

    /// Starts every system and requests one command. From then on all models are in memory.
    async fn start_all(&mut self) {
        self.progress
            .begin("starting the systems", self.systems.len());
        let command = self.recordings.command.clone();
        for index in self.order(0) {
            let started = self.systems[index].start(&self.client).await;
            if let Err(error) = started {
                self.leave_out(index, &format!("{error:#}"));
                continue;
            }
            let answer = self.ask(index, &command).await;
            if let Outcome::Failed(reason) = answer.outcome {
                self.leave_out(index, &format!("its first transcript failed: {reason}"));
            }
            let system = &self.systems[index];
            if system.spec.ours
                && let Some(model) = client::served_model(system, &self.client).await
            {
                self.model = model;
            }
            self.progress.step();
        }
    }

    /// The systems that work; the first one rotates: A B C, B C A, C A B, …
    pub fn order(&self, turn: usize) -> Vec<usize> {
        let failed = |index: &usize| self.systems[*index].failed.is_some();
        rotated(
            (0..self.systems.len())
                .filter(|index| !failed(index))
                .collect(),
            turn,
        )
    }

    /// Requests a transcript. A system that exceeds the limit is restarted, because it would continue to work
    /// on the old request.
    pub async fn ask(&mut self, index: usize, recording: &Recording) -> Answer {
        let target = Target::of(&self.systems[index], &self.client);
        let answer = target.ask(recording, self.extent.limit).await;
        if matches!(answer.outcome, Outcome::MoreThan(_)) {
            self.restart(index).await;
        }
        answer
    }

    /// Requests a transcript and records the answer as a sample.
    pub async fn ask_and_keep(
        &mut self,
        index: usize,
        recording: &Recording,
        quantity: Quantity,
        round: usize,
    ) {
        let answer = self.ask(index, recording).await;
        self.keep(index, recording, quantity, round, answer);
        self.progress.step();
    }

    /// Records an answer as a sample.
    pub fn keep(
        &mut self,
        index: usize,
        recording: &Recording,
        quantity: Quantity,
        round: usize,
        answer: Answer,
    ) {
        let name = self.systems[index].name();
        let score = match (&recording.text, &answer.text) {
            (Some(reference), Some(said)) => Some(Score::of(reference, said)),
            _ => None,
        };
        self.samples.push(Sample {
            text: answer.text,
            score,
            ..Sample::new(quantity, name, &recording.name, round, answer.outcome)
        });
    }

    /// Kills a stuck system and starts it again.
    pub async fn restart(&mut self, index: usize) {
        if !self.systems[index].is_started_here() {
            return;
        }
        if let Err(error) = self.systems[index].restart(&self.client).await {
            self.leave_out(index, &format!("it could not be started again: {error:#}"));
        }
    }

    /// Excludes the system from all further measurements.
    pub fn leave_out(&mut self, index: usize, reason: &str) {
        let system = &mut self.systems[index];
        self.progress.say(&format!("{}: {reason}", system.name()));
        system.failed = Some(reason.to_owned());
        // An excluded system must not slow down the others.
        system.end();
    }
}

fn rotated(mut order: Vec<usize>, turn: usize) -> Vec<usize> {
    if !order.is_empty() {
        let front = turn % order.len();
        order.rotate_left(front);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_system_takes_a_turn_at_the_front() {
        let orders: Vec<_> = (0..4).map(|turn| rotated(vec![0, 1, 3], turn)).collect();
        assert_eq!(
            orders,
            [vec![0, 1, 3], vec![1, 3, 0], vec![3, 0, 1], vec![0, 1, 3]]
        );
        assert!(rotated(Vec::new(), 5).is_empty());
    }
}
