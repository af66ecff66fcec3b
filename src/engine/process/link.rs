//! The server's end of the socket to one worker: a task that sends requests one at a time and
//! brings answers back to whoever asked.

use std::{fmt, io};

use futures::{SinkExt, StreamExt};
use stt_actors::domain::error::EngineExit;
use stt_actors::domain::transcript::ChunkTranscript;
use stt_actors::ports::{DetectedLanguage, LanguageHeard};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::child_owner::{ChildOwner, End};
use crate::engine::protocol::{self, Failure, FromWorker, ToWorker, TranscribeRequest};

/// Frames to and from a worker.
pub type Frames = Framed<UnixStream, LengthDelimitedCodec>;

/// A worker's answer to a chunk.
pub type Answer = Result<ChunkTranscript, Failure>;

/// Who waits for a chunk.
pub struct Asked {
    /// Told of the language, if that is detected.
    pub heard: Option<LanguageHeard>,
    /// Told of the answer.
    pub answer: oneshot::Sender<Answer>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

/// What the link's task is asked.
#[derive(Debug)]
pub enum Command {
    /// Send this chunk; its language and its answer go to whoever asks. Its number is filled in.
    Transcribe(TranscribeRequest, Asked),
    /// Abort the chunk that runs.
    Abort,
    /// Close the socket: the worker ends.
    Close,
}

/// Sends one message.
pub async fn send(frames: &mut Frames, message: &ToWorker) -> io::Result<()> {
    frames.send(protocol::encode(message)?).await
}

/// The next message; `None` when the worker has closed its end.
pub async fn receive(frames: &mut Frames) -> io::Result<Option<FromWorker>> {
    match frames.next().await {
        Some(frame) => protocol::decode(&frame?).map(Some),
        None => Ok(None),
    }
}

/// Runs the link until the worker is gone, or until it is closed or forgotten by the server. A
/// worker that breaks the protocol is killed for it.
pub async fn run(
    mut frames: Frames,
    mut commands: mpsc::UnboundedReceiver<Command>,
    reaper: ChildOwner,
) {
    if let Err(error) = exchange(&mut frames, &mut commands).await {
        let cause = EngineExit::Protocol(error.to_string());
        reaper.ask(End::Kill(cause));
    }
}

async fn exchange(
    frames: &mut Frames,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let mut next_id = 0;
    let mut running: Option<(u64, Asked)> = None;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Transcribe(mut request, asked)) => {
                    request.id = next_id;
                    running = Some((next_id, asked));
                    next_id += 1;
                    // A worker that is gone closes its end: the receiving half tells.
                    let _ = send(frames, &ToWorker::Transcribe(request)).await;
                }
                Some(Command::Abort) => if let Some((id, _)) = &running {
                    let _ = send(frames, &ToWorker::Abort { id: *id }).await;
                },
                Some(Command::Close) | None => return Ok(()),
            },
            message = receive(frames) => match message {
                Ok(Some(message)) => deliver(message, &mut running)?,
                // The process has ended, or is about to; how is the reaper's to tell.
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            },
        }
    }
}

fn deliver(message: FromWorker, running: &mut Option<(u64, Asked)>) -> io::Result<()> {
    let (id, answer) = match message {
        FromWorker::Language {
            id,
            code,
            probability,
        } => return tell_language(id, DetectedLanguage { code, probability }, running),
        FromWorker::Done { id, transcript } => (id, Ok(transcript)),
        FromWorker::Failed { id, failure } => (id, Err(failure)),
        FromWorker::Hello { .. } | FromWorker::Loaded { .. } | FromWorker::LoadFailed { .. } => {
            return Err(io::Error::other("a greeting in the middle of work"));
        }
    };
    match running.take() {
        // Whoever asked may be gone.
        Some((expected, asked)) if expected == id => drop(asked.answer.send(answer)),
        Some(_) | None => return Err(io::Error::other("an answer that nobody asked for")),
    }
    Ok(())
}

fn tell_language(
    id: u64,
    language: DetectedLanguage,
    running: &mut Option<(u64, Asked)>,
) -> io::Result<()> {
    match running {
        Some((expected, asked)) if *expected == id => {
            if let Some(heard) = asked.heard.take() {
                heard(language);
            }
            Ok(())
        }
        Some(_) | None => Err(io::Error::other("a language that nobody asked for")),
    }
}
