//! Reads multipart forms.

use actix_multipart::{Field, Multipart};
use actix_web::error::PayloadError;
use actix_web::http::header::HeaderMap;
use actix_web::web::Bytes;
use futures::{Stream, StreamExt};

use crate::http::body::upload::{StoredUpload, UploadStore};
use crate::http::body::{
    BodyFormat, MAX_FIELD_BYTES, Parts, before_stall, field_too_long, form_error, is_known,
};
use crate::http::reply::error::ApiError;

/// Reads a form. `headers`: those of the request, with the boundary.
pub async fn read(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    uploads: &UploadStore,
    format: BodyFormat,
) -> Result<Parts, ApiError> {
    let mut multipart = Multipart::new(headers, body);
    let mut parts = Parts::default();
    let largest = uploads.largest();
    while let Some(field) = before_stall(multipart.next()).await? {
        let mut field = field.map_err(|error| form_error(&error, largest))?;
        let name = field.name().unwrap_or_default().to_owned();
        if format.file_names.contains(&name.as_str()) {
            if parts.file.is_some() {
                let message = format!("the form has two parts named `{name}`");
                return Err(ApiError::malformed_body(message));
            }
            parts.file = Some(read_file(&mut field, uploads, format.raw_samples).await?);
        } else if is_known(&name) {
            let value = read_text(&mut field, &name, largest).await?;
            parts.add(name, value)?;
        } else {
            skip(&mut field, largest).await?;
        }
    }
    Ok(parts)
}

/// Reads an unknown field and discards it.
async fn skip(field: &mut Field, largest: u64) -> Result<(), ApiError> {
    while let Some(bytes) = before_stall(field.next()).await? {
        bytes.map_err(|error| form_error(&error, largest))?;
    }
    Ok(())
}

async fn read_file(
    field: &mut Field,
    uploads: &UploadStore,
    raw_samples: bool,
) -> Result<StoredUpload, ApiError> {
    let mut upload = if raw_samples {
        uploads.begin_samples().await?
    } else {
        uploads.begin()?
    };
    while let Some(bytes) = before_stall(field.next()).await? {
        let bytes = bytes.map_err(|error| form_error(&error, uploads.largest()))?;
        upload.write(&bytes).await?;
    }
    upload.finish().await
}

async fn read_text(field: &mut Field, name: &str, largest: u64) -> Result<String, ApiError> {
    let mut value = Vec::new();
    while let Some(bytes) = before_stall(field.next()).await? {
        let bytes = bytes.map_err(|error| form_error(&error, largest))?;
        if value.len() + bytes.len() > MAX_FIELD_BYTES {
            return Err(field_too_long(name));
        }
        value.extend_from_slice(&bytes);
    }
    String::from_utf8(value)
        .map_err(|_| ApiError::malformed_body(format!("the field {name:?} is not UTF-8")))
}
