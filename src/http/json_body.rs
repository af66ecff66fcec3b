//! A request in JSON, with the audio in base64: `{"model", "language", "input_audio": {"data",
//! "format"}}`, and all other fields of the form by their names.
//!
//! The body is stored as it comes and read as a stream after that, so that a large one takes no memory.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use futures::{Stream, StreamExt};
use struson::reader::{JsonReader, JsonStreamReader, ReaderSettings, ValueType};

use super::error::ApiError;
use super::parts::{LARGEST_FIELD, Parts, in_time, too_long, unreadable};
use super::upload::{BlockingUpload, UploadStore};

/// Base64 as clients write it, with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Decoded bytes in one go.
const BLOCK: usize = 64 * 1024;
/// Deeper ones have no meaning here.
const DEEPEST: u32 = 32;

/// Reads a body of JSON that has no more than so many bytes.
pub async fn read(
    body: impl Stream<Item = Result<Bytes, PayloadError>>,
    uploads: &UploadStore,
    most: u64,
) -> Result<Parts, ApiError> {
    let mut stored = uploads.begin_up_to(most)?;
    let mut body = std::pin::pin!(body);
    while let Some(bytes) = in_time(body.next()).await? {
        let bytes = bytes.map_err(|error| unreadable(&error, uploads.largest()))?;
        stored.write(&bytes).await?;
    }
    let stored = stored.finish().await?;
    let audio = uploads.begin_blocking()?;
    let parsing = tokio::task::spawn_blocking(move || parse(stored.source.path(), audio));
    parsing.await.map_err(|_panic| ApiError::internal())?
}

/// The fields of a stored body, and its audio if there is any.
fn parse(path: &Path, mut audio: BlockingUpload) -> Result<Parts, ApiError> {
    let file = File::open(path).map_err(|_gone| ApiError::internal())?;
    let settings = ReaderSettings {
        max_nesting_depth: Some(DEEPEST),
        ..ReaderSettings::default()
    };
    let mut json = JsonStreamReader::new_custom(BufReader::new(file), settings);
    let mut parts = Parts::default();
    let mut has_audio = false;
    json.begin_object().map_err(|error| malformed(&error))?;
    while json.has_next().map_err(|error| malformed(&error))? {
        let name = json.next_name_owned().map_err(|error| malformed(&error))?;
        if name == "input_audio" {
            if has_audio {
                return Err(ApiError::malformed_body("there are two `input_audio`"));
            }
            has_audio = read_audio(&mut json, &mut audio)?;
        } else {
            read_field(&mut json, &name, &mut parts)?;
        }
    }
    json.end_object().map_err(|error| malformed(&error))?;
    (json.consume_trailing_whitespace()).map_err(|error| malformed(&error))?;
    parts.file = has_audio.then(|| audio.finish());
    Ok(parts)
}

/// `{"data", "format"}`. The sound decides about its format, whatever is said. Gives whether there is
/// audio.
fn read_audio(
    json: &mut JsonStreamReader<BufReader<File>>,
    audio: &mut BlockingUpload,
) -> Result<bool, ApiError> {
    let mut has_data = false;
    json.begin_object().map_err(|error| malformed(&error))?;
    while json.has_next().map_err(|error| malformed(&error))? {
        let name = json.next_name_owned().map_err(|error| malformed(&error))?;
        if name == "data" && !has_data {
            has_data = true;
            let text = json
                .next_string_reader()
                .map_err(|error| malformed(&error))?;
            decode(text, audio)?;
        } else {
            json.skip_value().map_err(|error| malformed(&error))?;
        }
    }
    json.end_object().map_err(|error| malformed(&error))?;
    Ok(has_data)
}

fn decode(text: impl Read, audio: &mut BlockingUpload) -> Result<(), ApiError> {
    let mut decoder = DecoderReader::new(Letters::new(text), &BASE64);
    let mut block = vec![0; BLOCK];
    loop {
        match decoder.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => audio.write(&block[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let message = format!("`input_audio.data` cannot be read as base64: {error}");
                return Err(ApiError::malformed_body(message));
            }
        }
    }
}

/// The letters of base64 in a text: without blanks and line ends, without `data:audio/wav;base64,`
/// before them, and in the usual alphabet.
struct Letters<R> {
    text: R,
    /// What was read of the beginning, until it is known what it is.
    begun: bool,
}

/// A `data:` address is at most so long before its comma.
const LONGEST_PREFIX: usize = 256;

impl<R: Read> Letters<R> {
    fn new(text: R) -> Self {
        Self { text, begun: false }
    }

    /// Passes over a `data:` address; gives how many bytes of `buffer` are letters.
    fn begin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut prefix = Vec::new();
        let mut byte = [0];
        while prefix.len() < LONGEST_PREFIX && self.text.read(&mut byte)? == 1 {
            prefix.push(byte[0]);
            let is_address = b"data:".starts_with(&prefix[..prefix.len().min(5)]);
            if !is_address || prefix.len() == buffer.len() {
                break;
            }
            if byte[0] == b',' {
                return Ok(0);
            }
        }
        buffer[..prefix.len()].copy_from_slice(&prefix);
        Ok(prefix.len())
    }
}

impl<R: Read> Read for Letters<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let begun = std::mem::replace(&mut self.begun, true);
            let mut count = if begun { 0 } else { self.begin(buffer)? };
            if count == 0 {
                count = self.text.read(buffer)?;
            }
            if count == 0 {
                return Ok(0);
            }
            let mut kept = 0;
            for place in 0..count {
                let letter = match buffer[place] {
                    byte if byte.is_ascii_whitespace() => continue,
                    b'-' => b'+',
                    b'_' => b'/',
                    byte => byte,
                };
                buffer[kept] = letter;
                kept += 1;
            }
            if kept > 0 {
                return Ok(kept);
            }
        }
    }
}

/// A field as the form would have it: an array is its values, one after the other. Objects and nulls
/// have no meaning here, but for the strategy of chunking, which is not looked into.
fn read_field(
    json: &mut JsonStreamReader<BufReader<File>>,
    name: &str,
    parts: &mut Parts,
) -> Result<(), ApiError> {
    match json.peek().map_err(|error| malformed(&error))? {
        ValueType::Array => {
            json.begin_array().map_err(|error| malformed(&error))?;
            while json.has_next().map_err(|error| malformed(&error))? {
                read_scalar(json, &format!("{name}[]"), parts)?;
            }
            json.end_array().map_err(|error| malformed(&error))
        }
        _ => read_scalar(json, name, parts),
    }
}

fn read_scalar(
    json: &mut JsonStreamReader<BufReader<File>>,
    name: &str,
    parts: &mut Parts,
) -> Result<(), ApiError> {
    let value = match json.peek().map_err(|error| malformed(&error))? {
        ValueType::String => {
            let mut value = String::new();
            let text = json
                .next_string_reader()
                .map_err(|error| malformed(&error))?;
            let mut bounded = text.take(LARGEST_FIELD as u64 + 1);
            (bounded.read_to_string(&mut value)).map_err(|error| malformed(&error))?;
            if value.len() > LARGEST_FIELD {
                return Err(too_long(name));
            }
            value
        }
        ValueType::Number => {
            let number = json.next_number_as_string();
            number.map_err(|error| malformed(&error))?
        }
        ValueType::Boolean => {
            let value = json.next_bool().map_err(|error| malformed(&error))?;
            value.to_string()
        }
        ValueType::Null | ValueType::Object | ValueType::Array => {
            return json.skip_value().map_err(|error| malformed(&error));
        }
    };
    parts.add(name.to_owned(), value)
}

/// The words of whatever stumbled over the body.
fn malformed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::malformed_body(format!("the body cannot be read as JSON: {error}"))
}

#[cfg(test)]
#[path = "json_body_tests.rs"]
mod tests;
