//! Parser for `API_KEYS_FILE`: one key per line, `name key` followed by options.
//!
//! Errors name the line number and never quote the line, which may contain a key.

use std::io::Read;
use std::path::Path;

use stt_actors::Priority;

use super::{ANONYMOUS, Key};

/// Maximum size of the file, in bytes.
const LARGEST: u64 = 1024 * 1024;
/// Maximum length of a name, in characters: names are labels in metrics.
const LONGEST_NAME: usize = 64;
/// Names in use for requests without a key and for work that belongs to no client.
const RESERVED: [&str; 2] = [ANONYMOUS, "everybody"];

/// A line of the file.
pub(super) struct Line {
    pub(super) key: Key,
    /// The key itself.
    pub(super) text: String,
}

/// Reads a file of keys.
///
/// # Errors
/// The first problem, in one line that contains no key.
pub(super) fn read(path: &Path) -> Result<Vec<Line>, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| format!("{shown} cannot be read: {error}");
    // Reading a pipe would block.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let mut bounded = file.take(LARGEST + 1);
    bounded.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST {
        return Err(format!("{shown} is larger than {LARGEST} bytes"));
    }
    parse(&text).map_err(|what| format!("{shown}{what}"))
}

fn parse(text: &str) -> Result<Vec<Line>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split_whitespace();
        let words: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
        if !words.is_empty() {
            let read = parse_line(&words);
            lines.push(read.map_err(|what| format!(", line {}: {what}", index + 1))?);
        }
    }
    if lines.is_empty() {
        return Err(" contains no key".to_owned());
    }
    Ok(lines)
}

fn parse_line(words: &[&str]) -> Result<Line, String> {
    let [name, text, options @ ..] = words else {
        return Err("expected `name key`".to_owned());
    };
    check_name(name)?;
    check_key(text)?;
    let mut key = Key::new(name, text);
    for option in options {
        read_option(&mut key, option)?;
    }
    Ok(Line {
        key,
        text: (*text).to_owned(),
    })
}

/// Checks a name, which appears unescaped in logs, metrics and headers. Names of unnamed keys are
/// reserved.
fn check_name(name: &str) -> Result<(), String> {
    let is_safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
    if name.len() > LONGEST_NAME || !name.bytes().all(is_safe) {
        return Err(format!(
            "a name consists of up to {LONGEST_NAME} letters, digits and `-_.@` (the name precedes the key)"
        ));
    }
    let number = name.strip_prefix("key-");
    let is_unnamed = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if is_unnamed || RESERVED.contains(&name) {
        return Err(format!("the name {name} is reserved"));
    }
    Ok(())
}

/// Checks that a key is valid in a header.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    if key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("a key consists of printable ASCII characters without blanks".to_owned())
    }
}

fn read_option(key: &mut Key, option: &str) -> Result<(), String> {
    let expected = || {
        "expected priority=high, priority=low or audio_seconds_per_day=NUMBER after the key"
            .to_owned()
    };
    match option.split_once('=') {
        Some(("priority", "high")) => key.priority = Priority::High,
        Some(("priority", "normal")) => key.priority = Priority::Normal,
        Some(("priority", "low")) => key.priority = Priority::Low,
        Some(("audio_seconds_per_day", number)) => {
            let seconds = number.parse::<f64>().ok();
            let seconds = seconds.filter(|seconds| (0.0..=1e9).contains(seconds));
            key.audio_seconds_per_day = Some(seconds.ok_or_else(expected)?);
        }
        _ => return Err(expected()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keys_and_options_are_read_and_comments_are_skipped() {
        let text = "\u{feff}# who\n\n laptop  a#b=c \nphone\tk2 priority=high # of Eva\n\
                    batch k3 audio_seconds_per_day=60.5 priority=low\n";
        let lines = parse(text).expect("reads");
        let read: Vec<_> = (lines.iter())
            .map(|line| {
                let Key {
                    name,
                    priority,
                    audio_seconds_per_day,
                    ..
                } = &line.key;
                (
                    &**name,
                    line.text.as_str(),
                    *priority,
                    *audio_seconds_per_day,
                )
            })
            .collect();
        let expected = [
            ("laptop", "a#b=c", Priority::Normal, None),
            ("phone", "k2", Priority::High, None),
            ("batch", "k3", Priority::Low, Some(60.5)),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn an_error_names_the_line_and_never_quotes_it() {
        for line in [
            "sesame",
            "na/me sesame",
            "anonymous sesame",
            "everybody sesame",
            "key-12 sesame",
            "laptop sésame",
            "laptop sesame priority=urgent",
            "laptop sesame audio_seconds_per_day=-1",
            "laptop sesame audio_seconds_per_day=inf",
            "laptop two sesame",
        ] {
            let error = parse(&format!("# keys\n{line}\n")).err().expect(line);
            assert!(error.starts_with(", line 2: "), "{error}");
            assert!(
                !error.contains("sesame") && !error.contains('\n'),
                "{error}"
            );
        }
        let long = format!("{} sesame", "n".repeat(LONGEST_NAME + 1));
        assert!(parse(&long).is_err());
        assert!(parse("key-chain sesame").is_ok());
    }

    #[test]
    fn a_file_without_any_key_is_an_error() {
        for text in ["", "\n\n", "# laptop sesame\n"] {
            assert_eq!(parse(text).err().as_deref(), Some(" contains no key"));
        }
    }
}
