//! Jobs that this process leaves alone for some time, so that others come first.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Ids of jobs, and until when they rest.
#[derive(Default)]
pub struct Resting(HashMap<String, Instant>);

impl Resting {
    /// Lets a job rest.
    pub fn add(&mut self, id: &str, rest: Duration) {
        if !rest.is_zero() {
            self.0.insert(id.to_owned(), Instant::now() + rest);
        }
    }

    /// The jobs that rest now.
    pub fn now(&mut self) -> &HashMap<String, Instant> {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
        &self.0
    }
}
