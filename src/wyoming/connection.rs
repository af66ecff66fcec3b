//! One connection: reads events, answers them, and hands utterances to live sessions.
//!
//! Replies are written by a task of their own, so that reading never waits for a client that does not read. What a
//! client sends faster than it can be processed waits in its socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use stt_actors::domain::live::PcmFormat;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::event::{self, Failure, Request, Transcribe};
use super::frame::{Event, Frame, FrameCodec, FrameError};
use super::info::info;
use super::utterance::{Replies, Utterance, failed};
use super::{Caller, Server};

/// Replies that wait for the client to read them.
const MAX_UNREAD: usize = 32;
/// A client that reads nothing for this long is disconnected.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Serves a connection until the client or the server closes it.
pub async fn serve<S>(stream: S, server: Arc<Server>, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reading, writing) = tokio::io::split(stream);
    let (replies, unsent) = mpsc::channel(MAX_UNREAD);
    let writer = tokio::spawn(write(writing, unsent));
    let peer = caller.peer.clone();
    let connection = Connection {
        last_frame: Instant::now(),
        server,
        caller,
        replies,
        request: None,
        audio: Audio::None,
        receives_audio: false,
    };
    let result = connection
        .run(FramedRead::new(reading, FrameCodec::new()))
        .await;
    match result {
        Err(FrameError::Io(error)) => debug!(%peer, %error, "a Wyoming connection broke"),
        Err(error) => warn!(%peer, reason = error.for_log(), "a Wyoming connection is closed"),
        Ok(reason) => debug!(%peer, reason, "a Wyoming connection ends"),
    }
    // The last replies.
    let _ = writer.await;
}

/// Writes replies until there are no more, or the client does not read them.
async fn write<S: AsyncWrite>(writing: WriteHalf<S>, mut unsent: mpsc::Receiver<Vec<Event>>) {
    let mut out = FramedWrite::new(writing, FrameCodec::new());
    while let Some(events) = unsent.recv().await {
        let sent = timeout(WRITE_LIMIT, async {
            for event in events {
                out.feed(event).await?;
            }
            out.flush().await
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return debug!(%error, "a Wyoming client no longer reads"),
            Err(_elapsed) => return debug!("a Wyoming client does not read"),
        }
    }
    let _ = timeout(WRITE_LIMIT, out.close()).await;
}

/// The audio of a connection.
enum Audio {
    /// No utterance.
    None,
    /// The client sends an utterance.
    Receiving(Utterance),
    /// The utterance is complete; its reply follows.
    Complete(Utterance),
    /// The utterance was answered before its end. The rest is dropped.
    Answered,
}

struct Connection {
    server: Arc<Server>,
    caller: Caller,
    replies: Replies,
    /// How to transcribe the next utterance.
    request: Option<Transcribe>,
    audio: Audio,
    /// Whether the payload that follows is audio.
    receives_audio: bool,
    last_frame: Instant,
}

impl Connection {
    /// Reads until the end and returns the reason.
    async fn run<S: AsyncRead + Unpin>(
        mut self,
        mut frames: FramedRead<S, FrameCodec>,
    ) -> Result<&'static str, FrameError> {
        let draining: CancellationToken = self.server.draining.clone();
        let unread = self.replies.clone();
        loop {
            let idle_end = self.last_frame + self.server.settings.idle_limit;
            let is_waiting = matches!(self.audio, Audio::Complete(_));
            let is_free = matches!(self.audio, Audio::None | Audio::Answered);
            tokio::select! {
                frame = frames.next() => match frame {
                    Some(frame) => self.take(frame?).await,
                    None => return Ok("the client has closed it"),
                },
                () = self.replied() => self.settle(),
                () = draining.cancelled(), if is_free => {
                    if self.request.is_some() && matches!(self.audio, Audio::None) {
                        self.fail(stt_actors::domain::error::LiveError::Draining.into()).await;
                    }
                    return Ok("the server is shutting down");
                }
                () = sleep_until(idle_end), if !is_waiting => return Ok("it was idle"),
                () = unread.closed() => return Ok("the client does not read"),
            }
        }
    }

    async fn take(&mut self, frame: Frame) {
        self.last_frame = Instant::now();
        match frame {
            Frame::Event(event) => self.event(&event).await,
            Frame::Payload(bytes) => self.payload(&bytes).await,
        }
    }

    async fn event(&mut self, event: &Event) {
        self.receives_audio = false;
        match Request::of(event) {
            Request::Describe => {
                let Server { settings, .. } = &*self.server;
                let info = info(&self.server.model(), &settings.languages);
                self.reply(info).await;
            }
            Request::Ping(data) => self.reply(event::pong(data)).await,
            Request::Transcribe(request) => self.transcribe(request).await,
            Request::AudioStart(format) => {
                self.finished().await;
                // An utterance that was not complete is given up.
                self.audio = Audio::None;
                self.open(format).await;
            }
            Request::AudioChunk(format) => {
                self.finished().await;
                self.chunk(format).await;
                self.receives_audio = true;
            }
            Request::AudioStop => {
                self.finished().await;
                self.stop().await;
            }
            Request::Other => {
                let kind: String = event.kind.chars().take(50).collect();
                debug!(peer = %self.caller.peer, kind, "an event of Wyoming is ignored");
            }
        }
    }

    /// Says how to transcribe: the next utterance, or the one that is being received.
    async fn transcribe(&mut self, request: Transcribe) {
        if let Audio::Receiving(utterance) = &mut self.audio
            && let Err(failure) = utterance.set_request(&self.server, &self.caller, &request)
            && !utterance.is_replied()
        {
            self.fail(failure).await;
        }
        self.request = Some(request);
    }

    /// Opens an utterance.
    async fn open(&mut self, format: Option<PcmFormat>) {
        let Some(format) = format else {
            let text = "audio needs the whole numbers rate, width and channels".to_owned();
            let code = "invalid_value";
            self.fail(Failure { code, text }).await;
            return;
        };
        let request = self.request.clone().unwrap_or_default();
        let (server, caller, replies) = (&self.server, &self.caller, self.replies.clone());
        match Utterance::open(server, caller, &request, format, replies).await {
            Ok(utterance) => self.audio = Audio::Receiving(utterance),
            Err(failure) => self.fail(failure).await,
        }
    }

    /// Prepares for a chunk of audio in this format.
    async fn chunk(&mut self, format: Option<PcmFormat>) {
        if let Audio::None = self.audio {
            self.open(format).await;
        }
        if let (Audio::Receiving(utterance), Some(format)) = (&mut self.audio, format)
            && let Err(error) = utterance.set_format(format)
            && !utterance.is_replied()
        {
            self.fail(error.into()).await;
        }
    }

    async fn payload(&mut self, bytes: &Bytes) {
        if let Audio::Receiving(utterance) = &self.audio
            && self.receives_audio
        {
            utterance.push(bytes).await;
        }
    }

    /// The utterance is complete.
    async fn stop(&mut self) {
        match std::mem::replace(&mut self.audio, Audio::None) {
            Audio::Receiving(utterance) => {
                utterance.finish();
                self.audio = Audio::Complete(utterance);
            }
            Audio::Answered => {}
            // No audio has no text.
            Audio::None | Audio::Complete(_) => {
                let empty = stt_actors::domain::transcript::Transcript::default();
                let events = [
                    event::transcript_start(None),
                    event::transcript(&empty),
                    event::transcript_stop(),
                ];
                self.send(events.into()).await;
            }
        }
        // What `transcribe` says is for one utterance.
        self.request = None;
    }

    /// Waits for the reply to an utterance that is complete.
    async fn finished(&mut self) {
        if matches!(self.audio, Audio::Complete(_)) {
            self.replied().await;
            self.settle();
        }
    }

    /// Waits for the reply to the utterance; forever if there is none.
    async fn replied(&self) {
        match &self.audio {
            Audio::Receiving(utterance) | Audio::Complete(utterance) => utterance.replied().await,
            Audio::None | Audio::Answered => std::future::pending().await,
        }
    }

    /// The utterance was replied to.
    fn settle(&mut self) {
        self.last_frame = Instant::now();
        self.audio = match self.audio {
            Audio::Receiving(_) => Audio::Answered,
            Audio::None | Audio::Complete(_) | Audio::Answered => Audio::None,
        };
    }

    /// The utterance has no transcript.
    async fn fail(&mut self, failure: Failure) {
        if let Audio::Receiving(utterance) = std::mem::replace(&mut self.audio, Audio::Answered) {
            utterance.discard();
        }
        let event = failed(&self.caller, &failure);
        self.reply(event).await;
    }

    async fn reply(&self, event: Event) {
        self.send(vec![event]).await;
    }

    async fn send(&self, events: Vec<Event>) {
        // If the writer has ended, so does the connection.
        let _ = self.replies.send(events).await;
    }
}
