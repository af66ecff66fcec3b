//! The parts of a multipart form.

use actix_multipart::{Field, Multipart};
use actix_web::error::PayloadError;
use actix_web::http::header::HeaderMap;
use actix_web::web::Bytes;
use futures::{Stream, StreamExt};

use crate::http::body::upload::{Received, UploadStore};
use crate::http::body::{
    LARGEST_FIELD, Parts, Wanted, in_time, is_known, too_long, unreadable_form,
};
use crate::http::reply::error::ApiError;

/// Reads a form whose head has these headers.
pub async fn read(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<Bytes, PayloadError>> + 'static,
    uploads: &UploadStore,
    wanted: Wanted,
) -> Result<Parts, ApiError> {
    let mut multipart = Multipart::new(headers, body);
    let mut parts = Parts::default();
    let largest = uploads.largest();
    while let Some(field) = in_time(multipart.next()).await? {
        let mut field = field.map_err(|error| unreadable_form(&error, largest))?;
        let name = field.name().unwrap_or_default().to_owned();
        if wanted.names.contains(&name.as_str()) {
            if parts.file.is_some() {
                let message = format!("the form has two parts named `{name}`");
                return Err(ApiError::malformed_body(message));
            }
            parts.file = Some(read_file(&mut field, uploads, wanted.raw).await?);
        } else if is_known(&name) {
            let value = read_text(&mut field, &name, largest).await?;
            parts.add(name, value)?;
        } else {
            skip(&mut field, largest).await?;
        }
    }
    Ok(parts)
}

/// Unknown fields are ignored, whatever they hold.
async fn skip(field: &mut Field, largest: u64) -> Result<(), ApiError> {
    while let Some(bytes) = in_time(field.next()).await? {
        bytes.map_err(|error| unreadable_form(&error, largest))?;
    }
    Ok(())
}

async fn read_file(
    field: &mut Field,
    uploads: &UploadStore,
    raw: bool,
) -> Result<Received, ApiError> {
    let mut upload = if raw {
        uploads.begin_samples().await?
    } else {
        uploads.begin()?
    };
    while let Some(bytes) = in_time(field.next()).await? {
        let bytes = bytes.map_err(|error| unreadable_form(&error, uploads.largest()))?;
        upload.write(&bytes).await?;
    }
    upload.finish().await
}

async fn read_text(field: &mut Field, name: &str, largest: u64) -> Result<String, ApiError> {
    let mut value = Vec::new();
    while let Some(bytes) = in_time(field.next()).await? {
        let bytes = bytes.map_err(|error| unreadable_form(&error, largest))?;
        if value.len() + bytes.len() > LARGEST_FIELD {
            return Err(too_long(name));
        }
        value.extend_from_slice(&bytes);
    }
    String::from_utf8(value)
        .map_err(|_| ApiError::malformed_body(format!("the field {name:?} is not UTF-8")))
}
