//! A request in JSON, with the audio in base64: `{"model", "language", "input_audio": {"data",
//! "format"}}`, and all other fields of the form by their names.
//!
//! The body is stored as it comes and read as a stream after that, so that a large one takes no memory.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;
use std::rc::Rc;

use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use futures::{Stream, StreamExt};
use struson::reader::{JsonReader, JsonStreamReader, ReaderSettings, ValueType};

use crate::http::body::upload::{BlockingUpload, UploadStore};
use crate::http::body::{LARGEST_FIELD, Parts, in_time, is_known, too_long, unreadable};
use crate::http::reply::error::ApiError;

/// Base64 as clients write it, with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Decoded bytes in one go.
const BLOCK: usize = 64 * 1024;
/// Deeper ones have no meaning here.
const DEEPEST: u32 = 32;
/// Everything but the audio takes no more bytes than this: names and numbers come into memory.
const MOST_BESIDES_AUDIO: u64 = 1024 * 1024;
/// Of what is wrong with a body, so many characters are told: it may quote the body.
const LONGEST_COMPLAINT: usize = 200;

/// A body that is read.
type Json = JsonStreamReader<BufReader<Bounded>>;

/// A file of which only so much is read.
struct Bounded {
    file: File,
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(
            left.ok_or_else(|| io::Error::other("there is too much in it besides the audio"))?,
        );
        Ok(count)
    }
}

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
    let uploads = uploads.clone();
    let parsing =
        tokio::task::spawn_blocking(move || parse(stored.source.path(), uploads.begin_blocking()?));
    parsing.await.map_err(|_panic| ApiError::internal())?
}

/// The fields of a stored body, and its audio if there is any.
fn parse(path: &Path, mut audio: BlockingUpload) -> Result<Parts, ApiError> {
    let file = File::open(path).map_err(|_gone| ApiError::internal())?;
    let settings = ReaderSettings {
        max_nesting_depth: Some(DEEPEST),
        // It would copy every name.
        track_path: false,
        ..ReaderSettings::default()
    };
    let left = Rc::new(Cell::new(MOST_BESIDES_AUDIO));
    let bounded = Bounded {
        file,
        left: Rc::clone(&left),
    };
    let mut json = JsonStreamReader::new_custom(BufReader::new(bounded), settings);
    let mut parts = Parts {
        file_name: Some("input_audio"),
        ..Parts::default()
    };
    let mut has_audio = false;
    json.begin_object().map_err(|error| malformed(&error))?;
    while json.has_next().map_err(|error| malformed(&error))? {
        let name = json.next_name_owned().map_err(|error| malformed(&error))?;
        if name == "input_audio" {
            if has_audio {
                return Err(ApiError::malformed_body("there are two `input_audio`"));
            }
            has_audio = read_audio(&mut json, &mut audio, &left)?;
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
    json: &mut Json,
    audio: &mut BlockingUpload,
    left: &Cell<u64>,
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
            let besides = left.replace(u64::MAX);
            decode(text, audio)?;
            left.set(besides);
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
                let complaint: String = error.to_string().chars().take(LONGEST_COMPLAINT).collect();
                let message = format!("`input_audio.data` cannot be read as base64: {complaint}");
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

/// A field as the form would have it: an array is its values, one after the other, and of the strategy
/// of chunking the type counts. Other objects and nulls have no meaning here, as unknown fields.
fn read_field(json: &mut Json, name: &str, parts: &mut Parts) -> Result<(), ApiError> {
    if !is_known(name) {
        return json.skip_value().map_err(|error| malformed(&error));
    }
    match json.peek().map_err(|error| malformed(&error))? {
        ValueType::Array => {
            json.begin_array().map_err(|error| malformed(&error))?;
            while json.has_next().map_err(|error| malformed(&error))? {
                read_scalar(json, &format!("{name}[]"), parts)?;
            }
            json.end_array().map_err(|error| malformed(&error))
        }
        ValueType::Object if name == "chunking_strategy" => read_strategy(json, parts),
        _ => read_scalar(json, name, parts),
    }
}

fn read_strategy(json: &mut Json, parts: &mut Parts) -> Result<(), ApiError> {
    let mut kind = None;
    json.begin_object().map_err(|error| malformed(&error))?;
    while json.has_next().map_err(|error| malformed(&error))? {
        let name = json.next_name_owned().map_err(|error| malformed(&error))?;
        let value = scalar(json, &name)?;
        if name == "type" {
            kind = value;
        }
    }
    json.end_object().map_err(|error| malformed(&error))?;
    let strategy = serde_json::json!({"type": kind});
    parts.add("chunking_strategy".to_owned(), strategy.to_string())
}

fn read_scalar(json: &mut Json, name: &str, parts: &mut Parts) -> Result<(), ApiError> {
    match scalar(json, name)? {
        Some(value) => parts.add(name.to_owned(), value),
        None => Ok(()),
    }
}

/// A value as the form would have it; `None` for what has no such form.
fn scalar(json: &mut Json, name: &str) -> Result<Option<String>, ApiError> {
    match json.peek().map_err(|error| malformed(&error))? {
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
            Ok(Some(value))
        }
        ValueType::Number => {
            let number = json.next_number_as_string();
            number.map(Some).map_err(|error| malformed(&error))
        }
        ValueType::Boolean => {
            let value = json.next_bool().map_err(|error| malformed(&error))?;
            Ok(Some(value.to_string()))
        }
        ValueType::Null | ValueType::Object | ValueType::Array => {
            json.skip_value().map_err(|error| malformed(&error))?;
            Ok(None)
        }
    }
}

/// The words of whatever stumbled over the body.
fn malformed(error: &dyn std::fmt::Display) -> ApiError {
    let complaint: String = error.to_string().chars().take(LONGEST_COMPLAINT).collect();
    ApiError::malformed_body(format!("the body cannot be read as JSON: {complaint}"))
}

#[cfg(test)]
mod tests;
