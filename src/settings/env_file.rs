//! Parser for `.env` files: `NAME=value`, `export`, quotes, comments on their own line or after a
//! value.
//!
//! The usual library does not fit: it expands `$` inside values, which silently truncates keys and
//! passwords, and it rejects unquoted blanks, which files of the Python original contain.

use std::fmt;
use std::path::Path;

/// One assignment of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name, left of `=`.
    pub name: String,
    /// The value, without quotes and comment.
    pub value: String,
}

/// Hides the value, which may be a secret.
impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// Reads the assignments of a file.
///
/// # Errors
/// One line that names the file and the problem.
pub fn read(path: &Path) -> Result<Vec<Assignment>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    parse(&text).map_err(|(line, what)| format!("{}, line {line}: {what}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Assignment>, (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut assignments = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            // The message omits the line, which may be part of a key.
            return Err((index + 1, "expected NAME=value".to_owned()));
        };
        let value = parse_value(value.trim()).map_err(|what| (index + 1, what))?;
        assignments.push(Assignment {
            name: name.trim().to_owned(),
            value,
        });
    }
    Ok(assignments)
}

fn parse_value(value: &str) -> Result<String, String> {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return match rest.split_once(quote) {
                Some((inner, _comment)) => Ok(inner.to_owned()),
                None => Err(format!("the quote {quote} is not closed")),
            };
        }
    }
    if value.starts_with('#') {
        return Ok(String::new());
    }
    // A `#` inside a word is part of the value: passwords and URLs contain them.
    let comment = value.find(" #").or_else(|| value.find("\t#"));
    Ok(value[..comment.unwrap_or(value.len())]
        .trim_end()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let parsed = parse(text).expect("parses");
        parsed.into_iter().map(|a| (a.name, a.value)).collect()
    }

    #[test]
    fn quotes_comments_and_blanks_are_parsed() {
        let text = "\u{feff}# comment\n\nA=1\nexport B = two words # why\nC=\"x # y\" # z\nD=\nE= # none\nF='it''s'\nG=a#b$c\n";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "x # y"),
            ("D", ""),
            ("E", ""),
            ("F", "it"),
            ("G", "a#b$c"),
        ];
        let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn an_error_names_the_line_but_not_its_text() {
        let (line, what) = parse("A=1\nnonsense\n").expect_err("rejected");
        assert!(line == 2 && !what.contains("nonsense"), "{what}");
        assert!(parse("A=\"open\n").is_err());
    }
}
