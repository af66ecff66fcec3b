//! Prints live text: to a terminal as it comes, elsewhere a line for each turn.

use std::io::{IsTerminal, Write};

use serde_json::json;

/// What is printed, and how.
pub(super) enum Printer {
    /// Every event as a line of JSON.
    Json,
    /// Text as it comes. The text of the turn that is printed so far.
    Terminal(String),
    /// A line for each turn.
    Lines,
}

impl Printer {
    /// The printer for standard output.
    pub(super) fn new(json: bool) -> Self {
        if json {
            Self::Json
        } else if std::io::stdout().is_terminal() {
            Self::Terminal(String::new())
        } else {
            Self::Lines
        }
    }

    /// More text of a turn.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn delta(&mut self, turn: &str, text: &str) -> std::io::Result<()> {
        match self {
            Self::Json => write(&format!("{}\n", json!({"turn": turn, "delta": text}))),
            Self::Terminal(so_far) => {
                so_far.push_str(text);
                write(text)
            }
            Self::Lines => Ok(()),
        }
    }

    /// The whole text of a turn.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(super) fn completed(&mut self, turn: &str, text: &str) -> std::io::Result<()> {
        match self {
            Self::Json => write(&format!("{}\n", json!({"turn": turn, "text": text}))),
            Self::Terminal(so_far) => {
                let printed = std::mem::take(so_far);
                if printed.trim() == text.trim() {
                    write(if printed.is_empty() { "" } else { "\n" })
                } else {
                    // The last look at the audio changed words that were printed.
                    write(&format!("\n{text}\n"))
                }
            }
            Self::Lines if text.is_empty() => Ok(()),
            Self::Lines => write(&format!("{text}\n")),
        }
    }

    /// A turn without a text.
    pub(super) fn failed(&mut self, turn: &str, error: &str) {
        if let Self::Terminal(so_far) = self {
            so_far.clear();
        }
        eprintln!("turn {turn} failed: {error}");
    }
}

fn write(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
