//! The server's end of the socket to one worker: a task that sends requests one at a time and passes each
//! answer to its caller.

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

/// Where the answers for a chunk go.
pub struct Caller {
    /// Called with the language, if it is detected.
    pub heard: Option<LanguageHeard>,
    /// Receives the answer.
    pub answer: oneshot::Sender<Answer>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Caller")
    }
}

/// Commands to the link's task.
#[derive(Debug)]
pub enum Command {
    /// Send this chunk. The task sets its number.
    Transcribe(TranscribeRequest, Caller),
    /// Abort the running chunk.
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

/// Runs the link until the worker exits, or the server closes or drops the link. A worker that breaks the
/// protocol is killed.
pub async fn run(
    mut frames: Frames,
    mut commands: mpsc::UnboundedReceiver<Command>,
    owner: ChildOwner,
) {
    if let Err(error) = exchange(&mut frames, &mut commands).await {
        let cause = EngineExit::Protocol(error.to_string());
        owner.ask(End::Kill(cause));
    }
}

async fn exchange(
    frames: &mut Frames,
    commands: &mut mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let mut next_id = 0;
    let mut running: Option<(u64, Caller)> = None;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Transcribe(mut request, caller)) => {
                    request.id = next_id;
                    running = Some((next_id, caller));
                    next_id += 1;
                    // If the worker has exited, the receiving half reports it.
                    let _ = send(frames, &ToWorker::Transcribe(request)).await;
                }
                Some(Command::Abort) => if let Some((id, _)) = &running {
                    let _ = send(frames, &ToWorker::Abort { id: *id }).await;
                },
                Some(Command::Close) | None => return Ok(()),
            },
            message = receive(frames) => match message {
                Ok(Some(message)) => deliver(message, &mut running)?,
                // The process has ended or is about to; its owner reports how.
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            },
        }
    }
}

fn deliver(message: FromWorker, running: &mut Option<(u64, Caller)>) -> io::Result<()> {
    let (id, answer) = match message {
        FromWorker::Language {
            id,
            code,
            probability,
        } => return pass_language_on(id, DetectedLanguage { code, probability }, running),
        FromWorker::Done { id, transcript } => (id, Ok(transcript)),
        FromWorker::Failed { id, failure } => (id, Err(failure)),
        FromWorker::Hello { .. } | FromWorker::Loaded { .. } | FromWorker::LoadFailed { .. } => {
            return Err(io::Error::other("greeting after the worker was ready"));
        }
    };
    match running.take() {
        // The caller may have been dropped.
        Some((expected, caller)) if expected == id => drop(caller.answer.send(answer)),
        Some(_) | None => return Err(io::Error::other("answer to no pending chunk")),
    }
    Ok(())
}

fn pass_language_on(
    id: u64,
    language: DetectedLanguage,
    running: &mut Option<(u64, Caller)>,
) -> io::Result<()> {
    match running {
        Some((expected, caller)) if *expected == id => {
            if let Some(heard) = caller.heard.take() {
                heard(language);
            }
            Ok(())
        }
        Some(_) | None => Err(io::Error::other("language for no pending chunk")),
    }
}
