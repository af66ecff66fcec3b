//! How far a run is, on standard error: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// What is under way.
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
    /// A part begins that has so many steps.
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

    /// One step more is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// So many steps are done.
    pub fn at(&self, steps: usize) {
        self.bar.set_position(steps as u64);
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// A line of the result, on standard output.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }

    /// Nothing is under way any more.
    pub fn end(&mut self) {
        self.bar.finish_and_clear();
    }
}
