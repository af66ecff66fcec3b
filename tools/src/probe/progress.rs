//! Progress of a run on standard error: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Displays the current part of a run.
pub struct Progress {
    bar: ProgressBar,
    on_terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Self {
            bar: ProgressBar::hidden(),
            on_terminal,
        }
    }
}

impl Progress {
    /// Begins a part with this number of steps.
    pub fn begin(&mut self, what: &str, steps: usize) {
        self.bar.finish_and_clear();
        if !self.on_terminal {
            eprintln!("{what}");
            return;
        }
        self.bar = ProgressBar::new(steps as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {elapsed}") {
            self.bar.set_style(style);
        }
        self.bar.set_message(what.to_owned());
        self.bar
            .enable_steady_tick(std::time::Duration::from_millis(500));
    }

    /// Marks one more step as done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// Sets the number of steps that are done.
    pub fn at(&self, steps: usize) {
        self.bar.set_position(steps as u64);
    }

    /// Prints a line above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Prints a line of the result to standard output.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Removes the bar.
    pub fn end(&mut self) {
        self.bar.finish_and_clear();
    }
}
