//! The last warnings and errors of the log. Like the log, they are static: there is one list per process.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::lock;

/// Number of kept events.
pub const KEPT: usize = 50;
/// A longer message is cut at this many characters.
pub const MAX_CHARACTERS: usize = 500;
/// Fields that say who sent a request, and what was said. The log may have them; people who look at the board need not
/// know.
const PRIVATE: [&str; 3] = ["address", "client", "text"];

static RECENT: Mutex<VecDeque<Warning>> = Mutex::new(VecDeque::new());

/// A warning or an error of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// When it was logged.
    pub at: SystemTime,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// The message, and then its fields.
    pub message: String,
    /// The module that logged it.
    pub target: &'static str,
}

/// The last ones, the latest first.
pub fn recent() -> Vec<Warning> {
    lock(&RECENT).iter().rev().cloned().collect()
}

/// Keeps the warnings and errors that the log's filter lets through.
#[derive(Clone, Copy, Debug)]
pub struct WarningLayer;

impl<S: Subscriber> Layer<S> for WarningLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            _ => return,
        };
        let mut text = Text::default();
        event.record(&mut text);
        let warning = Warning {
            at: SystemTime::now(),
            level,
            message: text.joined(),
            target: metadata.target(),
        };
        let mut recent = lock(&RECENT);
        if recent.len() == KEPT {
            recent.pop_front();
        }
        recent.push_back(warning);
    }
}

/// An event's text.
#[derive(Default)]
struct Text {
    message: Shortened,
    fields: Shortened,
}

impl Text {
    fn joined(self) -> String {
        let mut joined = self.message;
        // Writing to a string cannot fail, except where it is cut.
        let _ = joined.write_str(&self.fields.text);
        joined.text
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name if PRIVATE.contains(&name) => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// A text of at most [`MAX_CHARACTERS`] characters. What is longer ends with `…`.
#[derive(Default)]
struct Shortened {
    text: String,
    characters: usize,
}

impl Write for Shortened {
    /// Fails once the text is full, so that the rest of a long value is not made at all.
    fn write_str(&mut self, more: &str) -> std::fmt::Result {
        for character in more.chars() {
            if self.characters == MAX_CHARACTERS {
                return Err(std::fmt::Error);
            }
            self.characters += 1;
            if self.characters == MAX_CHARACTERS {
                self.text.push('…');
                return Err(std::fmt::Error);
            }
            self.text.push(character);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// One test, because the list is one for the process.
    #[test]
    fn the_last_warnings_and_errors_are_kept_with_their_fields_and_cut() {
        let subscriber = tracing_subscriber::registry().with(WarningLayer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not this");
            tracing::warn!(
                seconds = 2,
                name = "é\n",
                client = "c",
                address = "a",
                text = "t",
                "first"
            );
            tracing::error!(reason = "x".repeat(10_000), "second");
        });
        let own: Vec<Warning> = recent()
            .into_iter()
            .filter(|warning| warning.target == module_path!())
            .collect();
        assert_eq!(own[1].level, "WARN");
        assert_eq!(own[1].message, r#"first seconds=2 name="é\n""#);
        assert_eq!(own[0].level, "ERROR");
        assert!(own[0].message.starts_with("second reason=\"xxx"));
        assert!(own[0].message.ends_with("x…"), "{}", own[0].message);
        assert_eq!(own[0].message.chars().count(), MAX_CHARACTERS);
        assert_eq!(own.len(), 2);
        let subscriber = tracing_subscriber::registry().with(WarningLayer);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..KEPT + 5 {
                tracing::warn!(number, "again");
            }
        });
        let recent = recent();
        assert_eq!(recent.len(), KEPT);
        assert!(recent[0].message.ends_with("number=54"));
    }
}
