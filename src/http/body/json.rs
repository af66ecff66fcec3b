//! Reads requests in JSON, with the audio in base64: `{"model", "language", "input_audio": {"data",
//! "format"}}`, and the other fields of the form under their names.
//!
//! The body is stored on disk as it arrives and then parsed as a stream: a large one takes no memory.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
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
use crate::http::body::{
    MAX_FIELD_BYTES, Parts, base_name, before_stall, field_too_long, is_known, read_error,
};
use crate::http::reply::error::ApiError;

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Decoded bytes per write.
const BLOCK_BYTES: usize = 64 * 1024;
/// The deepest nesting; known fields need less.
const MAX_NESTING: u32 = 32;
/// The most bytes besides the audio: the parser holds names and numbers in memory.
const MAX_BYTES_BESIDES_AUDIO: u64 = 1024 * 1024;
/// The longest reason in an error message: the parser may quote the body.
const MAX_REASON_CHARS: usize = 200;

type Json = JsonStreamReader<BufReader<Bounded>>;

/// A file from which at most `left` bytes can be read.
struct Bounded {
    file: File,
    left: Rc<Cell<u64>>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left
            .set(left.ok_or_else(|| io::Error::other("there is too much data besides the audio"))?);
        Ok(count)
    }
}

/// Reads a JSON body of at most `max_bytes`.
pub async fn read(
    body: impl Stream<Item = Result<Bytes, PayloadError>>,
    uploads: &UploadStore,
    max_bytes: u64,
) -> Result<Parts, ApiError> {
    let mut stored = uploads.begin_up_to(max_bytes)?;
    let mut body = std::pin::pin!(body);
    while let Some(bytes) = before_stall(body.next()).await? {
        let bytes = bytes.map_err(|error| read_error(&error, uploads.largest()))?;
        stored.write(&bytes).await?;
    }
    let stored = stored.finish().await?;
    let uploads = uploads.clone();
    let parsing =
        tokio::task::spawn_blocking(move || parse(stored.source.path(), uploads.begin_blocking()?));
    parsing.await.map_err(|_panic| ApiError::internal())?
}

/// Parses a stored body. Blocks.
fn parse(path: &Path, mut audio: BlockingUpload) -> Result<Parts, ApiError> {
    let file = File::open(path).map_err(|_gone| ApiError::internal())?;
    let settings = ReaderSettings {
        max_nesting_depth: Some(MAX_NESTING),
        // Tracking the path would copy every name.
        track_path: false,
        ..ReaderSettings::default()
    };
    let left = Rc::new(Cell::new(MAX_BYTES_BESIDES_AUDIO));
    let bounded = Bounded {
        file,
        left: Rc::clone(&left),
    };
    let mut reader = BufReader::new(bounded);
    skip_byte_order_mark(&mut reader).map_err(|_gone| ApiError::internal())?;
    let mut json = JsonStreamReader::new_custom(reader, settings);
    let mut parts = Parts {
        file_param: "input_audio",
        ..Parts::default()
    };
    let mut has_audio = false;
    json.begin_object().map_err(|error| malformed(&error))?;
    while json.has_next().map_err(|error| malformed(&error))? {
        let name = json.next_name_owned().map_err(|error| malformed(&error))?;
        if name == "input_audio" {
            if has_audio {
                return Err(ApiError::malformed_body(
                    "the body has two `input_audio` fields",
                ));
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

/// Skips the mark that some programs write before UTF-8.
fn skip_byte_order_mark(reader: &mut impl BufRead) -> io::Result<()> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if reader.fill_buf()?.starts_with(MARK) {
        reader.consume(MARK.len());
    }
    Ok(())
}

/// Reads `{"data", "format"}` and returns whether there was any data. The format field is ignored: ffmpeg
/// detects the format.
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
            // The limit does not apply to the audio.
            let left_before = left.replace(u64::MAX);
            decode(text, audio)?;
            left.set(left_before);
        } else {
            json.skip_value().map_err(|error| malformed(&error))?;
        }
    }
    json.end_object().map_err(|error| malformed(&error))?;
    Ok(has_data)
}

fn decode(text: impl Read, audio: &mut BlockingUpload) -> Result<(), ApiError> {
    let mut decoder = DecoderReader::new(Base64Text::new(text), &BASE64);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match decoder.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => audio.write(&block[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let reason: String = error.to_string().chars().take(MAX_REASON_CHARS).collect();
                let message = format!("`input_audio.data` is not valid base64: {reason}");
                return Err(ApiError::malformed_body(message));
            }
        }
    }
}

/// Normalizes base64 text: removes whitespace and a leading `data:audio/wav;base64,`, and converts the
/// URL-safe alphabet to the standard one.
struct Base64Text<R> {
    text: R,
    /// Whether the beginning has been checked for a `data:` prefix.
    started: bool,
}

/// The longest `data:` prefix, with its comma.
const MAX_PREFIX: usize = 256;

impl<R: Read> Base64Text<R> {
    fn new(text: R) -> Self {
        Self {
            text,
            started: false,
        }
    }

    /// Skips a `data:` prefix. If there is none, puts what was read into `buffer` and returns its length.
    fn skip_prefix(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut prefix = Vec::new();
        let mut byte = [0];
        while prefix.len() < MAX_PREFIX && self.text.read(&mut byte)? == 1 {
            prefix.push(byte[0]);
            let may_be_prefix = b"data:".starts_with(&prefix[..prefix.len().min(5)]);
            if !may_be_prefix || prefix.len() == buffer.len() {
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

impl<R: Read> Read for Base64Text<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let started = std::mem::replace(&mut self.started, true);
            let mut count = if started {
                0
            } else {
                self.skip_prefix(buffer)?
            };
            if count == 0 {
                count = self.text.read(buffer)?;
            }
            if count == 0 {
                return Ok(0);
            }
            let mut kept = 0;
            for index in 0..count {
                let byte = match buffer[index] {
                    byte if byte.is_ascii_whitespace() => continue,
                    b'-' => b'+',
                    b'_' => b'/',
                    byte => byte,
                };
                buffer[kept] = byte;
                kept += 1;
            }
            if kept > 0 {
                return Ok(kept);
            }
        }
    }
}

/// Reads a field into the shape that it has in a form: an array becomes one entry per value, and
/// `chunking_strategy` keeps its type only. Other objects, nulls and unknown fields are ignored.
fn read_field(json: &mut Json, name: &str, parts: &mut Parts) -> Result<(), ApiError> {
    if !is_known(name) {
        return json.skip_value().map_err(|error| malformed(&error));
    }
    match json.peek().map_err(|error| malformed(&error))? {
        ValueType::Array => {
            json.begin_array().map_err(|error| malformed(&error))?;
            while json.has_next().map_err(|error| malformed(&error))? {
                read_scalar(json, base_name(name), parts)?;
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

/// Reads a value as text; `None` for null, objects and arrays.
fn scalar(json: &mut Json, name: &str) -> Result<Option<String>, ApiError> {
    match json.peek().map_err(|error| malformed(&error))? {
        ValueType::String => {
            let mut value = String::new();
            let text = json
                .next_string_reader()
                .map_err(|error| malformed(&error))?;
            let mut bounded = text.take(MAX_FIELD_BYTES as u64 + 1);
            (bounded.read_to_string(&mut value)).map_err(|error| malformed(&error))?;
            if value.len() > MAX_FIELD_BYTES {
                return Err(field_too_long(name));
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

/// The error for a body that is not valid JSON.
fn malformed(error: &dyn std::fmt::Display) -> ApiError {
    let reason: String = error.to_string().chars().take(MAX_REASON_CHARS).collect();
    ApiError::malformed_body(format!("the body is not valid JSON: {reason}"))
}

#[cfg(test)]
mod tests;
