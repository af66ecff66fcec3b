//! A finding: what a check saw, why it matters, and the command that mends it.

use serde::Serialize;

/// How serious a finding is, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The check passed.
    Ok,
    /// Worth knowing; nothing is wrong, or the check could not be made.
    Note,
    /// The server works, but not always, not as set, or not safely.
    Warning,
    /// The server does not start, or a configured part of it does not work.
    Error,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The subject of the check, such as `ffmpeg`.
    pub check: &'static str,
    /// How serious it is.
    pub severity: Severity,
    /// What the check saw.
    pub what: String,
    /// Why it matters; always present from [`Severity::Warning`] on.
    pub why: Option<String>,
    /// The command, or the change of a setting, that mends it.
    pub fix: Option<String>,
}

impl Finding {
    /// The check passed.
    pub fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, what.into())
    }

    /// Something worth knowing.
    pub fn note(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Note, check, what.into())
    }

    /// Something that limits the server. `why` it matters.
    pub fn warning(check: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, what.into()).because(why)
    }

    /// Something that does not work. `why` it matters.
    pub fn error(check: &'static str, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, what.into()).because(why)
    }

    /// Adds why it matters.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds the command or the change that mends it.
    #[must_use]
    pub fn mended_by(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn new(severity: Severity, check: &'static str, what: String) -> Self {
        Self {
            check,
            severity,
            what,
            why: None,
            fix: None,
        }
    }
}

/// A size in binary units; GiB have one decimal.
pub(super) fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1024.0 * 1024.0);
    if mib < 1024.0 {
        format!("{mib:.0} MiB")
    } else {
        format!("{:.1} GiB", mib / 1024.0)
    }
}
