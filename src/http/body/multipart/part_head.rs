//! Reads the head of a form's part: its name, and that of the file. File names are written in every
//! encoding and with every error of quoting; therefore this module takes what it needs and rejects nothing.

use memchr::memmem;

/// The most characters of a file name that are kept.
const MAX_FILE_NAME: usize = 255;

/// What the server needs of a part's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartHead {
    /// The name of the field; empty if the head has none.
    pub name: String,
    /// `Content-Transfer-Encoding`; empty if the head has none.
    pub transfer_encoding: String,
    /// The name of the file, without folders, shortened to [`MAX_FILE_NAME`] characters; `None` if there is none.
    pub file_name: Option<String>,
}

impl PartHead {
    /// Reads the header lines of a part.
    pub fn parse(head: &[u8]) -> Self {
        let mut part = Self::default();
        for line in lines(head) {
            let Some((name, value)) = split_at(&line, b':') else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"content-disposition") {
                part.name = text(&parameter(value, "name").unwrap_or_default());
                part.file_name = parameter(value, "filename").and_then(|name| file_name(&name));
            } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
                part.transfer_encoding = text(value);
            }
        }
        part
    }
}

/// The last part of a path, in the notation of any system.
fn file_name(path: &[u8]) -> Option<String> {
    let path = String::from_utf8_lossy(path);
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = name.chars().filter(|letter| !letter.is_control());
    let name: String = name.take(MAX_FILE_NAME).collect();
    (!name.is_empty()).then_some(name)
}

/// The value of a parameter of a header: `file` in `form-data; name="file"`.
pub fn parameter(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let (_, mut rest) = split_at(header, b';')?;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| b"=;".contains(byte));
        let (key, after) = rest.split_at(end.unwrap_or(rest.len()));
        let Some(after) = after.strip_prefix(b"=") else {
            rest = after.get(1..).unwrap_or_default();
            continue;
        };
        let (value, next) = value(after);
        if key.trim_ascii().eq_ignore_ascii_case(name.as_bytes()) {
            return Some(value);
        }
        rest = next;
    }
    // An unbalanced quote of another parameter may have hidden it.
    let hidden = [format!(" {name}="), format!(";{name}=")];
    let found = hidden
        .iter()
        .find_map(|key| Some(memmem::find(header, key.as_bytes())? + key.len()));
    found.map(|start| value(&header[start..]).0)
}

/// The value at the beginning of a header's rest, and what follows it. A quote ends it only before a semicolon or
/// at the end: a file name may contain quotes, and its backslashes need not be escapes.
fn value(rest: &[u8]) -> (Vec<u8>, &[u8]) {
    let rest = rest.trim_ascii_start();
    let ends_value = |after: &[u8]| matches!(after.trim_ascii_start(), [] | [b';', ..]);
    let quoted = rest.strip_prefix(b"\"");
    let closing = quoted.and_then(|quoted| {
        memchr::memchr_iter(b'"', quoted).find(|end| ends_value(&quoted[end + 1..]))
    });
    let (value, after) = match (quoted, closing) {
        (Some(quoted), Some(end)) => {
            let after = split_at(&quoted[end + 1..], b';');
            (&quoted[..end], after.map_or(&[][..], |(_, after)| after))
        }
        (unclosed, _) => {
            let rest = unclosed.unwrap_or(rest);
            split_at(rest, b';').unwrap_or((rest, &[]))
        }
    };
    (value.trim_ascii().to_vec(), after)
}

/// The two sides of the first separator, without whitespace around them.
fn split_at(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((bytes[..at].trim_ascii(), bytes[at + 1..].trim_ascii()))
}

/// Header lines. A line that begins with whitespace continues the one before it.
fn lines(head: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in head.split(|byte| *byte == b'\n') {
        match lines.last_mut() {
            Some(last) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                last.extend_from_slice(line.trim_ascii_end());
            }
            Some(_) | None => lines.push(line.trim_ascii_end().to_vec()),
        }
    }
    lines
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name in a `Content-Disposition` header.
    fn name(disposition: &[u8]) -> String {
        let head = [
            b"Content-Type: audio/wav\r\ncontent-disposition: ".as_slice(),
            disposition,
        ];
        PartHead::parse(&head.concat()).name
    }

    #[test]
    fn a_name_is_found_however_the_file_name_is_written() {
        for disposition in [
            &b"form-data; name=\"file\""[..],
            b"form-data; name=file",
            b"form-data;name=\"file\";filename=a.wav",
            b"form-data; Name = \"file\" ; filename=a b.wav",
            b"form-data; name=\"file\"; filename=\"Gespr\xe4ch.wav\"",
            b"form-data; filename=\"Gespr\xe4ch.wav\"; name=\"file\"",
            b"form-data; filename=\"\x83\x74\x83\x40\x5c.wav\"; name=\"file\"",
            b"form-data; filename=\"C:\\recordings\\\"; name=\"file\"",
            b"form-data; name=\"file\"; filename=\"C:\\recordings\\\"",
            b"form-data; filename=\"a \\\"quoted\\\" word.wav\"; name=\"file\"",
            b"form-data; filename=\"a \"quoted\" word.wav\"; name=\"file\"",
            b"form-data; filename=\"one; two=three.wav\"; name=\"file\"",
            b"form-data; filename*=UTF-8''a%E4%ZZ; name=\"file\"",
            b"form-data; filename*=; name=\"file\"",
            b"form-data; filename*=nonsense; filename=\"\"; name=\"file\"",
            b"form-data; filename=; name=\"file\"",
            b"form-data; filename=\"unclosed.wav; name=\"file\"",
            b"form-data; filename=unopened.wav\"; name=\"file\"",
            b"form-data; name=\"file\"; filename=\"unclosed.wav",
            b"form-data; name=\"file; filename=a.wav",
            b"form-data; filename=\"\0.wav\"; name=\"file\"",
            b"form-data; filename=\"a.wav\";\r\n name=\"file\"",
            b"form-data; ; =; name=\"file\"",
            b"attachment; name=\"file\"",
        ] {
            let shown = String::from_utf8_lossy(disposition);
            assert_eq!(name(disposition), "file", "{shown}");
        }
        let long = "x".repeat(100_000);
        let long = format!("form-data; filename=\"{long}\"; name=\"file\"");
        assert_eq!(name(long.as_bytes()), "file");
    }

    #[test]
    fn a_head_without_a_name_has_an_empty_one() {
        for disposition in [
            &b"form-data"[..],
            b"form-data; filename=\"a.wav\"",
            b"form-data; filename=\"name\"",
            b"form-data; name=\"\"",
            b"",
        ] {
            assert_eq!(name(disposition), "");
        }
        assert_eq!(PartHead::parse(b""), PartHead::default());
        assert_eq!(PartHead::parse(b"no colon\r\n\r\n: x"), PartHead::default());
    }

    #[test]
    fn names_keep_their_brackets_and_letters() {
        assert_eq!(
            name(b"form-data; name=\"timestamp_granularities[]\""),
            "timestamp_granularities[]"
        );
        assert_eq!(name("form-data; name=\"größe\"".as_bytes()), "größe");
    }

    #[test]
    fn a_boundary_may_be_quoted_or_not() {
        for (header, boundary) in [
            (&b"multipart/form-data; boundary=x"[..], &b"x"[..]),
            (
                b"multipart/form-data; charset=utf-8; boundary=\"a b\"",
                b"a b",
            ),
            (
                b"multipart/form-data;boundary=----=_Part_1_2.3",
                b"----=_Part_1_2.3",
            ),
        ] {
            assert_eq!(parameter(header, "boundary").as_deref(), Some(boundary));
        }
        assert_eq!(parameter(b"multipart/form-data", "boundary"), None);
    }
}
