//! The byte-level BPE vocabulary of a CTranslate2 folder, as the bytes each token stands for.
//!
//! A folder spells it in `tokenizer.json` (Hugging Face), `vocabulary.json` (a list) or
//! `vocabulary.txt` (a token a line). All use GPT-2's printable alphabet: the 188 printable bytes of
//! Latin-1 stand for themselves, the other 68 for U+0100 and up, in order.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::models::error::{FormatError, ModelError};

/// Largest file that is read; real ones have 2 MB.
const LARGEST_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Longest token in bytes; in real vocabularies it is 128.
const LONGEST_TOKEN: usize = 1024;

#[derive(Deserialize)]
struct TokenizerFile {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: HashMap<String, u32>,
}

type Parser = fn(&str, usize) -> Result<Vec<String>, FormatError>;

/// The files that can hold a vocabulary, best first.
const FORMS: [(&str, Parser); 3] = [
    ("tokenizer.json", from_tokenizer),
    ("vocabulary.json", from_list),
    ("vocabulary.txt", from_lines),
];

/// Parses the text in each of the three forms.
pub(crate) fn parse_as_each(text: &str, count: usize) -> Vec<Result<Vec<Vec<u8>>, FormatError>> {
    FORMS
        .iter()
        .map(|(_, parse)| parse(text, count).and_then(|t| decode_all(&t)))
        .collect()
}

/// Reads the first `count` tokens. whisper.cpp defines the special tokens that follow.
pub(crate) fn read(folder: &Path, count: usize) -> Result<Vec<Vec<u8>>, ModelError> {
    for (file, parse) in FORMS {
        let path = folder.join(file);
        if path.is_file() {
            let text = read_text(&path)?;
            return parse(&text, count)
                .and_then(|tokens| decode_all(&tokens))
                .map_err(ModelError::corrupt(path));
        }
    }
    Err(ModelError::NotAModel {
        path: folder.to_owned(),
        what: "a CTranslate2 folder without a vocabulary".to_owned(),
        advice: "copy the tokenizer.json or vocabulary.txt of the same model into it".to_owned(),
    })
}

fn read_text(path: &Path) -> Result<String, ModelError> {
    let size = fs::metadata(path)
        .map_err(ModelError::io("read", path))?
        .len();
    if size > LARGEST_FILE_BYTES {
        let error = FormatError::Invalid(format!("it has {size} bytes"));
        return Err(ModelError::corrupt(PathBuf::from(path))(error));
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_FILE_BYTES).read_to_string(&mut text))
        .map_err(ModelError::io("read", path))?;
    Ok(text)
}

fn from_tokenizer(text: &str, count: usize) -> Result<Vec<String>, FormatError> {
    let file: TokenizerFile = serde_json::from_str(text)
        .map_err(|error| FormatError::Invalid(format!("it is not a tokenizer: {error}")))?;
    let mut tokens: Vec<Option<String>> = vec![None; count];
    for (token, id) in file.model.vocab {
        if let Some(place) = tokens.get_mut(id as usize) {
            *place = Some(token);
        }
    }
    let missing = tokens.iter().position(Option::is_none);
    match missing {
        None => Ok(tokens.into_iter().flatten().collect()),
        Some(id) => Err(FormatError::Invalid(format!(
            "token {id} of {count} is missing"
        ))),
    }
}

fn from_list(text: &str, count: usize) -> Result<Vec<String>, FormatError> {
    let tokens: Vec<String> = serde_json::from_str(text)
        .map_err(|error| FormatError::Invalid(format!("it is not a list of tokens: {error}")))?;
    first(tokens, count)
}

fn from_lines(text: &str, count: usize) -> Result<Vec<String>, FormatError> {
    first(text.lines().take(count).map(str::to_owned).collect(), count)
}

fn first(mut tokens: Vec<String>, count: usize) -> Result<Vec<String>, FormatError> {
    if tokens.len() < count {
        return Err(FormatError::Invalid(format!(
            "it has {} of {count} tokens",
            tokens.len()
        )));
    }
    tokens.truncate(count);
    Ok(tokens)
}

fn decode_all(tokens: &[String]) -> Result<Vec<Vec<u8>>, FormatError> {
    let bytes_of = printable_alphabet();
    tokens
        .iter()
        .map(|token| {
            let bytes: Option<Vec<u8>> = token
                .chars()
                .map(|letter| bytes_of.get(&letter).copied())
                .collect();
            bytes
                .filter(|bytes| bytes.len() <= LONGEST_TOKEN)
                .ok_or_else(|| {
                    FormatError::Invalid(format!("the token {token:?} is not in GPT-2's alphabet"))
                })
        })
        .collect()
}

/// GPT-2's mapping from letters to bytes.
fn printable_alphabet() -> HashMap<char, u8> {
    let mut next_substitute = 0x100u32;
    (0..=u8::MAX)
        .filter_map(|byte| {
            let prints = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let code = if prints {
                u32::from(byte)
            } else {
                next_substitute += 1;
                next_substitute - 1
            };
            char::from_u32(code).map(|letter| (letter, byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printable_alphabet_names_every_byte_once() {
        let alphabet = printable_alphabet();
        assert_eq!(alphabet.len(), 256);
        // Well-known spellings: Ġ is the space, Ċ the newline, ģ the last byte before Latin-1's print.
        for (letter, byte) in [
            ('Ġ', b' '),
            ('Ċ', b'\n'),
            ('A', b'A'),
            ('ÿ', 0xff),
            ('Ā', 0),
        ] {
            assert_eq!(alphabet[&letter], byte, "{letter}");
        }
    }

    #[test]
    fn all_three_files_give_the_same_tokens() {
        let lines = from_lines("a\nĠb\n\nÃ©\n<|endoftext|>\n", 4).unwrap();
        let list = from_list(r#"["a","Ġb","","Ã©","<|endoftext|>"]"#, 4).unwrap();
        let tokenizer = from_tokenizer(
            r#"{"version":"1.0","model":{"type":"BPE","vocab":{"Ã©":3,"a":0,"Ġb":1,"":2,"x":9}}}"#,
            4,
        )
        .unwrap();
        assert_eq!(lines, list);
        assert_eq!(lines, tokenizer);
        let decoded = decode_all(&lines).unwrap();
        assert_eq!(
            decoded,
            [
                b"a".to_vec(),
                b" b".to_vec(),
                vec![],
                "é".as_bytes().to_vec()
            ]
        );
    }

    #[test]
    fn a_gap_in_the_vocabulary_is_an_error() {
        assert!(from_tokenizer(r#"{"model":{"vocab":{"a":0,"c":2}}}"#, 3).is_err());
        assert!(from_lines("a\nb", 3).is_err());
        assert!(from_list("[]", 1).is_err());
        assert!(decode_all(&["a b".to_owned()]).is_err());
    }
}
