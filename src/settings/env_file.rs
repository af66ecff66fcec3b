//! `.env` files as people write them: `NAME=value`, `export`, quotes, comments on their own line
//! or after a value.
//!
//! Our own few lines, because the usual library replaces `$` inside values, which silently cuts
//! keys and passwords, and refuses unquoted blanks, which files of the Python original contain.

use std::fmt;
use std::path::Path;

/// One assignment of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Left of the sign.
    pub name: String,
    /// Right of it, without quotes and comment.
    pub value: String,
}

/// The value may be a secret.
impl fmt::Debug for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// Reads a file.
///
/// # Errors
/// One line that names the file and what is wrong.
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
            // It is not shown: it may be a key, or the rest of one.
            return Err((index + 1, "NAME=value is expected".to_owned()));
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
    // A `#` inside a word belongs to it: passwords and URLs have them.
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
    fn values_are_read_as_people_mean_them() {
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
    fn what_is_no_assignment_is_named_with_its_line() {
        let (line, what) = parse("A=1\nnonsense\n").expect_err("refused");
        assert!(line == 2 && !what.contains("nonsense"), "{what}");
        assert!(parse("A=\"open\n").is_err());
    }
}
