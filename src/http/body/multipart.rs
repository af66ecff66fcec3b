//! Reads multipart forms.

mod part_head;
mod part_reader;

use std::pin::pin;

use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap};
use actix_web::web::Bytes;
use futures::Stream;

use crate::http::body::upload::{StoredUpload, UploadStore};
use crate::http::body::{BodyFormat, MAX_FIELD_BYTES, Parts, base_name, field_too_long, is_known};
use crate::http::reply::error::ApiError;
use part_head::{PartHead, parameter};
use part_reader::PartReader;

/// The longest boundary. The standard allows 70 bytes.
const MAX_BOUNDARY_BYTES: usize = 250;

/// Reads a form. `headers`: those of the request, with the boundary.
pub async fn read(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<Bytes, PayloadError>>,
    uploads: &UploadStore,
    format: BodyFormat,
) -> Result<Parts, ApiError> {
    let boundary = boundary(headers)?;
    let body = pin!(body);
    let mut form = PartReader::new(body, &boundary, uploads.largest());
    let mut parts = Parts::default();
    while let Some(part) = form.next_part().await? {
        if format.file_names.contains(&base_name(&part.name)) {
            if parts.file_names.len() == format.max_files {
                return Err(too_many_files(&part, format.max_files));
            }
            reject_encoded(&part)?;
            let file = read_file(&mut form, uploads, format.raw_samples).await?;
            parts.file_names.push(part.file_name);
            if parts.file.is_none() {
                parts.file = Some(file);
            } else {
                parts.further_files.push(file);
            }
        } else if is_known(&part.name) {
            let value = read_text(&mut form, &part.name).await?;
            parts.add(part.name, value)?;
        }
    }
    Ok(parts)
}

fn too_many_files(part: &PartHead, most: usize) -> ApiError {
    let name = base_name(&part.name);
    ApiError::malformed_body(if most == 1 {
        format!("the form has two parts named `{name}`")
    } else {
        format!("the form has more than {most} parts named `{name}`")
    })
}

/// The boundary that the Content-Type header names.
fn boundary(headers: &HeaderMap) -> Result<Vec<u8>, ApiError> {
    let value = headers.get(CONTENT_TYPE);
    let boundary = value.and_then(|value| parameter(value.as_bytes(), "boundary"));
    let is_usable = |boundary: &Vec<u8>| (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len());
    boundary.filter(is_usable).ok_or_else(|| {
        ApiError::malformed_body(
            "the Content-Type header of the multipart form names no boundary; HTTP clients add it if the header is not set by hand",
        )
    })
}

/// Rejects audio in the encodings of e-mail, which no HTTP server has to know.
fn reject_encoded(part: &PartHead) -> Result<(), ApiError> {
    let encoding = part.transfer_encoding.to_ascii_lowercase();
    if ["", "7bit", "8bit", "binary"].contains(&encoding.as_str()) {
        return Ok(());
    }
    let name = &part.name;
    let message = format!(
        "the part `{name}` has the Content-Transfer-Encoding {encoding:?}; send its bytes as they are"
    );
    Err(ApiError::malformed_body(message))
}

async fn read_file<S>(
    form: &mut PartReader<S>,
    uploads: &UploadStore,
    raw_samples: bool,
) -> Result<StoredUpload, ApiError>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let mut upload = if raw_samples {
        uploads.begin_samples().await?
    } else {
        uploads.begin()?
    };
    while let Some(bytes) = form.next_bytes().await? {
        upload.write(&bytes).await?;
    }
    upload.finish().await
}

async fn read_text<S>(form: &mut PartReader<S>, name: &str) -> Result<String, ApiError>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let mut value = Vec::new();
    while let Some(bytes) = form.next_bytes().await? {
        if value.len() + bytes.len() > MAX_FIELD_BYTES {
            return Err(field_too_long(name));
        }
        value.extend_from_slice(&bytes);
    }
    String::from_utf8(value)
        .map_err(|_| ApiError::malformed_body(format!("the field {name:?} is not UTF-8")))
}

#[cfg(test)]
mod tests;
