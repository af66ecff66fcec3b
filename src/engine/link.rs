//! The server's end of the socket to one worker: a task that sends requests one at a time and
//! brings answers back to whoever asked.

use std::io;

use futures::{SinkExt, StreamExt};
use stt_actors::ports::EngineExit;
use stt_actors::transcript::ChunkTranscript;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::exit::{End, Reaper};
use super::protocol::{self, Failure, FromWorker, ToWorker, TranscribeRequest};

/// Frames to and from a worker.
pub type Frames = Framed<UnixStream, LengthDelimitedCodec>;

/// A worker's answer to a chunk.
pub type Answer = Result<ChunkTranscript, Failure>;

/// What the link's task is asked.
#[derive(Debug)]
pub enum Command {
    /// Send this chunk; its answer goes here. Its number is filled in.
    Transcribe(TranscribeRequest, oneshot::Sender<Answer>),
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
    reaper: Reaper,
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
    let mut running: Option<(u64, oneshot::Sender<Answer>)> = None;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Transcribe(mut request, answer)) => {
                    request.id = next_id;
                    running = Some((next_id, answer));
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

fn deliver(
    message: FromWorker,
    running: &mut Option<(u64, oneshot::Sender<Answer>)>,
) -> io::Result<()> {
    let (id, answer) = match message {
        FromWorker::Done { id, transcript } => (id, Ok(transcript)),
        FromWorker::Failed { id, failure } => (id, Err(failure)),
        FromWorker::Hello { .. } | FromWorker::Loaded { .. } | FromWorker::LoadFailed { .. } => {
            return Err(io::Error::other("a greeting in the middle of work"));
        }
    };
    match running.take() {
        // Whoever asked may be gone.
        Some((expected, asked)) if expected == id => drop(asked.send(answer)),
        Some(_) | None => return Err(io::Error::other("an answer that nobody asked for")),
    }
    Ok(())
}
