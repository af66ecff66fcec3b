//! The supervisor of all live sessions, and the client's side of a session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::{Semaphore, mpsc};
use tracing::{error, info};

use crate::domain::error::LiveError;
use crate::domain::live::{LiveClient, LiveEvent, LiveOptions};
use crate::live::LiveConfig;
use crate::live::session::{LiveMessage, LiveSession, LiveSessionArguments, MOST_AHEAD_MILLIS};
use crate::live::work::LiveWork;
use crate::ports::AudioDecoder;

/// Most audio in one message to a session, in milliseconds, so that no message takes long.
const BLOCK_MILLIS: u64 = 1000;

/// Messages that the LiveSessions actor handles.
#[derive(Debug)]
pub enum LiveSessionsMessage {
    /// From the handle: open a session.
    Open {
        /// Who opens it.
        client: LiveClient,
        /// How it begins.
        options: Box<LiveOptions>,
        /// Receives the session.
        reply: RpcReplyPort<Result<LiveInputAndEvents, LiveError>>,
    },
    /// From the Supervisor: end all sessions, each when its open turn is over and its turns are completed; call `on_drained`
    /// after the last.
    Drain {
        /// Longest wait for the end of an open turn, which is then ended.
        turn_limit: Duration,
    },
    /// From the Supervisor: the time for draining is over.
    EndAll,
}

/// Arguments of the LiveSessions actor.
pub struct LiveSessionsArguments {
    /// The limits.
    pub config: LiveConfig,
    /// Opens live audio.
    pub decoder: Arc<dyn AudioDecoder>,
    /// Transcribes.
    pub work: LiveWork,
    /// Called when the last session has ended while draining.
    pub on_drained: Box<dyn Fn() + Send + Sync>,
}

/// State of the LiveSessions actor.
pub struct LiveSessionsState {
    arguments: LiveSessionsArguments,
    sessions: HashMap<ActorId, ActorRef<LiveMessage>>,
    draining: bool,
}

/// The actor.
#[derive(Debug)]
pub struct LiveSessions;

impl Actor for LiveSessions {
    type Msg = LiveSessionsMessage;
    type State = LiveSessionsState;
    type Arguments = LiveSessionsArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        arguments.work.status.set_live_sessions(0);
        Ok(LiveSessionsState {
            arguments,
            sessions: HashMap::new(),
            draining: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LiveSessionsMessage::Open {
                client,
                options,
                reply,
            } => {
                if !reply.is_closed() {
                    let opened = state.open(&myself, client, *options).await;
                    // If the client left meanwhile, its half is dropped, which ends the session.
                    let _ = reply.send(opened);
                }
            }
            LiveSessionsMessage::Drain { turn_limit } => {
                state.draining = true;
                for session in state.sessions.values() {
                    let _ = session.cast(LiveMessage::Drain { turn_limit });
                }
                state.report_when_empty();
            }
            LiveSessionsMessage::EndAll => {
                for session in state.sessions.values() {
                    session.stop(None);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, _, _) => state.ended(child.get_id()),
            SupervisionEvent::ActorFailed(child, reason) => {
                error!(%reason, "a live session failed");
                state.ended(child.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        myself.stop_children_and_wait(None, None).await;
        Ok(())
    }
}

impl LiveSessionsState {
    async fn open(
        &mut self,
        myself: &ActorRef<LiveSessionsMessage>,
        client: LiveClient,
        options: LiveOptions,
    ) -> Result<LiveInputAndEvents, LiveError> {
        let limit = self.arguments.config.sessions;
        if self.draining {
            return Err(LiveError::Draining);
        }
        if self.sessions.len() >= limit {
            info!(limit, "a live session is refused: there are too many");
            return Err(LiveError::TooMany { limit });
        }
        let decoder = Arc::clone(&self.arguments.decoder);
        let format = options.format;
        let stream = decoder.open_live(format).map_err(LiveError::Format)?;
        let (events, receiver) = mpsc::unbounded_channel();
        let ahead = Arc::new(Semaphore::new(MOST_AHEAD_MILLIS));
        let arguments = LiveSessionArguments {
            client,
            options,
            stream,
            decoder: Arc::clone(&decoder),
            events,
            ahead: Arc::clone(&ahead),
            work: self.arguments.work.clone(),
            idle_limit: self.arguments.config.idle_limit,
        };
        let spawned =
            LiveSession::spawn_linked(None, LiveSession, arguments, myself.get_cell()).await;
        let (actor, _join) = spawned.map_err(|_error| LiveError::Lost)?;
        self.sessions.insert(actor.get_id(), actor.clone());
        self.count();
        let input = LiveInput {
            actor,
            decoder,
            ahead,
            bytes_per_second: format.bytes_per_second(),
        };
        Ok((input, LiveEvents(receiver)))
    }

    fn ended(&mut self, session: ActorId) {
        self.sessions.remove(&session);
        self.count();
        self.report_when_empty();
    }

    fn count(&self) {
        let status = &self.arguments.work.status;
        status.set_live_sessions(self.sessions.len());
    }

    fn report_when_empty(&self) {
        if self.draining && self.sessions.is_empty() {
            (self.arguments.on_drained)();
        }
    }
}

/// Both halves of a session.
pub type LiveInputAndEvents = (LiveInput, LiveEvents);

/// The client's side of a session: its audio and requests. Dropping it ends the session.
pub struct LiveInput {
    actor: ActorRef<LiveMessage>,
    decoder: Arc<dyn AudioDecoder>,
    ahead: Arc<Semaphore>,
    bytes_per_second: u64,
}

impl std::fmt::Debug for LiveInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LiveInput")
    }
}

impl LiveInput {
    /// Sends audio. Waits while the session has much to do, so that its memory stays bounded.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn push(&self, audio: &[u8]) -> Result<(), LiveError> {
        let block = (self.bytes_per_second * BLOCK_MILLIS / 1000).max(1) as usize;
        for bytes in audio.chunks(block) {
            let millis = (bytes.len() as u64 * 1000).div_ceil(self.bytes_per_second.max(1));
            let permits = millis.min(BLOCK_MILLIS) as usize;
            let acquired = (self.ahead.acquire_many(permits as u32).await)
                .map_err(|_closed| LiveError::Lost)?;
            acquired.forget();
            let bytes = bytes.to_vec();
            self.send(LiveMessage::Audio { bytes, permits })?;
        }
        Ok(())
    }

    /// Changes the options for the audio that follows.
    ///
    /// # Errors
    /// The format is not one of audio, or the session has ended.
    pub fn configure(&mut self, options: LiveOptions) -> Result<(), LiveError> {
        let opened = self.decoder.open_live(options.format);
        opened.map_err(LiveError::Format)?;
        self.bytes_per_second = options.format.bytes_per_second();
        self.send(LiveMessage::Configure(Box::new(options)))
    }

    /// Ends the open turn, or a turn without speech if none is open: its text follows.
    ///
    /// # Errors
    /// The session has ended.
    pub fn commit(&self) -> Result<(), LiveError> {
        self.send(LiveMessage::Commit)
    }

    /// Forgets the audio of the open turn.
    ///
    /// # Errors
    /// The session has ended.
    pub fn clear(&self) -> Result<(), LiveError> {
        self.send(LiveMessage::Clear)
    }

    /// No audio follows: the session ends when every turn is completed.
    ///
    /// # Errors
    /// The session has ended.
    pub fn finish(&self) -> Result<(), LiveError> {
        self.send(LiveMessage::Finish)
    }

    fn send(&self, message: LiveMessage) -> Result<(), LiveError> {
        self.actor.cast(message).map_err(|_ended| LiveError::Lost)
    }
}

impl Drop for LiveInput {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.actor.cast(LiveMessage::Left);
    }
}

/// The events of a session.
#[derive(Debug)]
pub struct LiveEvents(mpsc::UnboundedReceiver<LiveEvent>);

impl LiveEvents {
    /// The next event; `None` after [`LiveEvent::Ended`], or when the session failed.
    pub async fn next(&mut self) -> Option<LiveEvent> {
        self.0.recv().await
    }
}
