//! The findings as text for people and as JSON for programs.

use std::fmt::Write;

use super::finding::{Finding, Severity};

/// Width of the column with the severity.
const COLUMN: usize = 9;

/// One block for each finding, and a last line that counts them.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for finding in findings {
        let (severity, check) = (name(finding.severity), finding.check);
        let _ = writeln!(
            text,
            "{severity:<COLUMN$}{check}: {}",
            indented(&finding.what)
        );
        let more = [("why", &finding.why), ("fix", &finding.fix)];
        for (title, content) in more {
            if let Some(content) = content {
                let _ = writeln!(text, "{:COLUMN$}{title}: {}", "", indented(content));
            }
        }
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let _ = writeln!(
        text,
        "{}, {}, {}, {} ok",
        counted(count(Severity::Error), "error"),
        counted(count(Severity::Warning), "warning"),
        counted(count(Severity::Note), "note"),
        count(Severity::Ok)
    );
    text
}

/// An array of objects with `check`, `severity`, `what`, `why` and `fix`; the last two may be null.
pub fn json(findings: &[Finding]) -> String {
    let json = serde_json::to_string_pretty(findings);
    json.expect("texts can always be written as JSON") + "\n"
}

/// 0: nothing worse than a note, 1: warnings, 2: errors.
pub fn exit_status(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.severity).max() {
        None | Some(Severity::Ok | Severity::Note) => 0,
        Some(Severity::Warning) => 1,
        Some(Severity::Error) => 2,
    }
}

/// The severity as a word.
pub fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn indented(content: &str) -> String {
    content.replace('\n', &format!("\n{:COLUMN$}", ""))
}

fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("cores", "2 cores"),
            Finding::note("gpu", "no GPU"),
            Finding::warning("keys", "no key\nis set", "anyone can use it").mended_by("set one"),
        ]
    }

    #[test]
    fn each_finding_is_a_block_and_the_last_line_counts_them() {
        let expected = "\
ok       cores: 2 cores
note     gpu: no GPU
warning  keys: no key
         is set
         why: anyone can use it
         fix: set one
0 errors, 1 warning, 1 note, 1 ok
";
        assert_eq!(text(&findings()), expected);
    }

    #[test]
    fn every_object_of_the_json_has_all_five_fields() {
        let parsed: serde_json::Value = serde_json::from_str(&json(&findings())).expect("JSON");
        let expected = serde_json::json!([
            {"check": "cores", "severity": "ok", "what": "2 cores", "why": null, "fix": null},
            {"check": "gpu", "severity": "note", "what": "no GPU", "why": null, "fix": null},
            {"check": "keys", "severity": "warning", "what": "no key\nis set",
             "why": "anyone can use it", "fix": "set one"},
        ]);
        assert_eq!(parsed, expected);
    }

    #[test]
    fn the_worst_finding_gives_the_exit_status() {
        let mut findings = findings();
        assert_eq!(exit_status(&findings[..2]), 0);
        assert_eq!(exit_status(&findings), 1);
        findings.push(Finding::error("port", "taken", "no start"));
        assert_eq!(exit_status(&findings), 2);
        assert_eq!(exit_status(&[]), 0);
    }
}
