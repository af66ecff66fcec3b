//! The form with the audio: the body of one attempt.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use reqwest::Body;
use reqwest::multipart::{Form, Part};

use crate::audio::{Audio, ByteStream, Source, open};
use crate::error::Error;

/// An error of the audio source during sending. The HTTP library reports only that sending failed.
#[derive(Clone, Default)]
pub(crate) struct SourceFault(Arc<Mutex<Option<io::Error>>>);

impl SourceFault {
    pub fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: io::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// Builds the form. The fields come before the audio, so that a server can reject an invalid field at
/// once.
pub(crate) async fn form(
    fields: &[(String, String)],
    part_name: &'static str,
    audio: &Audio,
) -> Result<(Form, SourceFault), Error> {
    let mut form = Form::new();
    for (name, value) in fields {
        form = form.text(name.clone(), value.clone());
    }
    let fault = SourceFault::default();
    let part = part(&audio.source, &fault).await?;
    let part = part.file_name(audio.name()).mime_str(audio.mime());
    let part =
        part.map_err(|_| Error::Invalid(format!("the MIME type {:?} is invalid", audio.mime())))?;
    Ok((form.part(part_name, part), fault))
}

async fn part(source: &Source, fault: &SourceFault) -> Result<Part, Error> {
    let (buffers, length) = match source {
        Source::Bytes(bytes) => {
            let length = bytes.len() as u64;
            return Ok(Part::stream_with_length(bytes.clone(), length));
        }
        Source::File(path) => {
            let (buffers, length) = open(path).await.map_err(Error::Source)?;
            (buffers, Some(length))
        }
        Source::Once { buffers, length } => (taken_on_first_request(Arc::clone(buffers)), *length),
    };
    let body = Body::wrap_stream(watched(buffers, length, fault.clone()));
    Ok(match length {
        Some(length) => Part::stream_with_length(body, length),
        None => Part::stream(body),
    })
}

/// Takes the stream only when its first buffer is requested, so that it remains available for another
/// attempt if the connection fails.
fn taken_on_first_request(place: Arc<Mutex<Option<ByteStream>>>) -> ByteStream {
    let mut taken: Option<ByteStream> = None;
    let buffers = stream::poll_fn(move |context| {
        if taken.is_none() {
            taken = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        match &mut taken {
            Some(buffers) => buffers.poll_next_unpin(context),
            None => Poll::Ready(Some(Err(io::Error::other("the stream was sent already")))),
        }
    });
    buffers.boxed()
}

/// Records errors of the source. A source whose length differs from the given one is an error, because
/// the length is part of the request's head.
fn watched(
    mut buffers: ByteStream,
    length: Option<u64>,
    fault: SourceFault,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut sent = 0_u64;
    stream::poll_fn(move |context| {
        let next = std::task::ready!(buffers.poll_next_unpin(context));
        let checked = match (next, length) {
            (Some(Ok(buffer)), length) => {
                sent += buffer.len() as u64;
                match length {
                    Some(length) if sent > length => Some(Err(changed("more", length))),
                    _ => Some(Ok(buffer)),
                }
            }
            (None, Some(length)) if sent < length => Some(Err(changed("less", length))),
            (next, _) => next,
        };
        Poll::Ready(checked.map(|buffer| {
            buffer.map_err(|error| {
                let told = io::Error::new(error.kind(), error.to_string());
                fault.note(error);
                told
            })
        }))
    })
}

fn changed(how: &str, length: u64) -> io::Error {
    io::Error::other(format!(
        "the source has {how} than the {length} bytes that were specified"
    ))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    async fn sent(buffers: &[&'static [u8]], length: Option<u64>) -> Result<Vec<u8>, String> {
        let fault = SourceFault::default();
        let buffers: Vec<io::Result<Bytes>> =
            buffers.iter().map(|p| Ok(Bytes::from_static(p))).collect();
        let body = watched(stream::iter(buffers).boxed(), length, fault.clone());
        let sent: Result<Vec<Bytes>, io::Error> = body.try_collect().await;
        let noted = fault.take().map(|error| error.to_string());
        assert_eq!(sent.as_ref().err().map(ToString::to_string), noted);
        sent.map(|buffers| buffers.concat())
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_source_with_another_length_than_specified_is_an_error() {
        assert_eq!(sent(&[b"ab", b"c"], Some(3)).await, Ok(b"abc".to_vec()));
        assert_eq!(sent(&[b"ab", b"c"], None).await, Ok(b"abc".to_vec()));
        let less = sent(&[b"ab"], Some(3)).await.expect_err("is too short");
        assert!(less.contains("less than the 3 bytes"), "{less}");
        let more = sent(&[b"ab", b"cd"], Some(3))
            .await
            .expect_err("is too long");
        assert!(more.contains("more than the 3 bytes"), "{more}");
    }

    #[tokio::test]
    async fn a_stream_is_available_until_its_first_buffer_is_requested() {
        let audio = Audio::stream(stream::iter([Ok(Bytes::from_static(b"a"))]));
        let Source::Once { buffers, .. } = &audio.source else {
            panic!("a stream")
        };
        let mut body = taken_on_first_request(Arc::clone(buffers));
        assert!(audio.is_whole());
        assert!(body.next().await.is_some_and(|buffer| buffer.is_ok()));
        assert!(!audio.is_whole());
        let mut again = taken_on_first_request(Arc::clone(buffers));
        assert!(again.next().await.is_some_and(|buffer| buffer.is_err()));
    }
}
