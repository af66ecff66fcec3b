//! Bodies of replies.

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use reqwest::Response;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::headers::ServerHeaders;
use crate::status::beginning;
use crate::transcript::Transcript;

/// Longer than any transcript. Protects the memory from a server that never stops sending.
const LARGEST_BODY_BYTES: usize = 128 * 1024 * 1024;

pub(crate) async fn whole(mut response: Response) -> Result<Bytes, Error> {
    let mut body = BytesMut::new();
    while let Some(buffer) = response.chunk().await.map_err(Error::of_transport)? {
        if body.len() + buffer.len() > LARGEST_BODY_BYTES {
            return Err(Error::BadReply("the body is too long".to_owned()));
        }
        body.extend_from_slice(&buffer);
    }
    Ok(body.freeze())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| Error::BadReply(format!("{error}: {}", beginning(body))))
}

/// A reply that contains its headers.
pub(crate) trait HasHeaders {
    fn set_headers(&mut self, headers: ServerHeaders);
}

impl HasHeaders for Transcript {
    fn set_headers(&mut self, headers: ServerHeaders) {
        if self.request_id.is_none() {
            self.request_id.clone_from(&headers.request_id);
        }
        self.headers = headers;
    }
}

/// Parses JSON and adds the headers.
pub(crate) fn with_headers<T>(
    response: Response,
    headers: ServerHeaders,
) -> BoxFuture<'static, Result<T, Error>>
where
    T: DeserializeOwned + HasHeaders + Send + 'static,
{
    Box::pin(async move {
        let mut reply: T = parse(&whole(response).await?)?;
        reply.set_headers(headers);
        Ok(reply)
    })
}

/// Parses JSON.
pub(crate) fn json<T: DeserializeOwned + Send + 'static>(
    response: Response,
    _headers: ServerHeaders,
) -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(async move { parse(&whole(response).await?) })
}

/// The body as text.
pub(crate) fn text(
    response: Response,
    _headers: ServerHeaders,
) -> BoxFuture<'static, Result<String, Error>> {
    Box::pin(async move {
        let body = whole(response).await?.to_vec();
        String::from_utf8(body).map_err(|_| Error::BadReply("the body is not UTF-8".to_owned()))
    })
}
