//! One utterance: its live session, and the replies to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stt_actors::LiveEvents;
use stt_actors::domain::error::{LiveError, SttError};
use stt_actors::domain::live::{LiveClient, LiveEvent, LiveOptions, PcmFormat, TurnDetection};
use stt_actors::domain::transcript::Transcript;
use stt_actors::{LiveInput, Options, Priority, TRANSCRIPTS};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::event::{self, Failure, Transcribe};
use super::frame::Event;
use super::{Caller, Server};
use crate::language;
use crate::metrics::live::{Outcome, Protocol, record_turn};
use crate::metrics::record_error;
use crate::metrics::record_timings;

/// Events that are sent together.
pub type Replies = mpsc::Sender<Vec<Event>>;

/// An utterance that is being received, or whose transcript is being made. Dropping it before the reply cancels the
/// work.
pub struct Utterance {
    input: LiveInput,
    options: LiveOptions,
    audio: Arc<AudioLength>,
    replied: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

/// Length of the received audio, in microseconds.
#[derive(Debug, Default)]
struct AudioLength(AtomicU64);

impl AudioLength {
    fn add(&self, bytes: usize, format: PcmFormat) {
        let micros = format.duration(bytes as u64).as_micros() as u64;
        self.0.fetch_add(micros, Ordering::Relaxed);
    }

    fn seconds(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / 1e6
    }
}

impl Utterance {
    /// Opens a session for the utterance.
    ///
    /// # Errors
    /// The caller's limits, the number of sessions, the format or the language does not allow it.
    pub async fn open(
        server: &Arc<Server>,
        caller: &Caller,
        request: &Transcribe,
        format: PcmFormat,
        replies: Replies,
    ) -> Result<Self, Failure> {
        let options = LiveOptions {
            format,
            options: options(server, caller, request)?,
            turns: TurnDetection::Manual,
            partials: server.settings.partials,
        };
        server.callers.admit(caller.address)?;
        let client = LiveClient {
            priority: Priority::default(),
            session_id: Arc::clone(&caller.id),
            is_in_turn: true,
        };
        let (input, events) = server.stt.open_live(client, options.clone()).await?;
        let end = CancellationToken::new();
        let audio = Arc::new(AudioLength::default());
        let reply = Reply {
            server: Arc::clone(server),
            caller: caller.clone(),
            audio: Arc::clone(&audio),
            replies,
            is_started: false,
        };
        let guard = end.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _guard = guard;
            reply.follow(events).await;
        });
        Ok(Self {
            input,
            options,
            audio,
            replied: end,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// The format of the audio that follows.
    ///
    /// # Errors
    /// It is none, or the session has ended.
    pub fn set_format(&mut self, format: PcmFormat) -> Result<(), LiveError> {
        if format == self.options.format {
            return Ok(());
        }
        let options = LiveOptions {
            format,
            ..self.options.clone()
        };
        self.input.configure(options.clone())?;
        self.options = options;
        Ok(())
    }

    /// Sends audio to the session. Waits while it has much to do.
    pub async fn push(&self, audio: &[u8]) {
        self.audio.add(audio.len(), self.options.format);
        tokio::select! {
            // The reply says why a session ended.
            _ = self.input.push(audio) => {}
            () = self.replied.cancelled() => {}
        }
    }

    /// How to transcribe all of it.
    ///
    /// # Errors
    /// The language does not allow it, or the session has ended.
    pub fn set_request(
        &mut self,
        server: &Server,
        caller: &Caller,
        request: &Transcribe,
    ) -> Result<(), Failure> {
        let options = LiveOptions {
            options: options(server, caller, request)?,
            ..self.options.clone()
        };
        if options != self.options {
            self.input.configure(options.clone())?;
            self.options = options;
        }
        Ok(())
    }

    /// Ends the utterance without a reply: it has failed.
    pub fn discard(self) {
        self.replied.cancel();
    }

    /// The utterance is complete.
    pub fn finish(&self) {
        // If the session has ended already, so has the utterance.
        let committed = self.input.commit();
        let _ = committed.and_then(|()| self.input.finish());
    }

    /// Waits until the reply was sent.
    pub async fn replied(&self) {
        self.replied.cancelled().await;
    }

    /// Whether the reply was sent.
    pub fn is_replied(&self) -> bool {
        self.replied.is_cancelled()
    }
}

impl Drop for Utterance {
    fn drop(&mut self) {
        if !self.is_replied() {
            record_turn(Protocol::Wyoming, Outcome::Abandoned);
        }
    }
}

/// How to transcribe. An unknown language is detected; a known one that the model does not know is an error.
fn options(server: &Server, caller: &Caller, request: &Transcribe) -> Result<Options, Failure> {
    let requested = request.language.as_deref();
    let language = match requested {
        None => server.settings.default_language.clone(),
        Some(text) if language::is_undetermined(text) => None,
        Some(text) => {
            let known = language::parse(text).map(|language| language.code().to_owned());
            if known.is_none() {
                info!(session = %caller.id, language = %shortened(text), "unknown language: it is detected");
            }
            known
        }
    };
    let model = server.model();
    if let Some(name) = request.name.as_deref().filter(|name| *name != model.name) {
        debug!(session = %caller.id, name = %shortened(name), model = model.name, "the client names another model");
    }
    match language {
        Some(code) if model.english_only && code != "en" => Err(Failure {
            code: "unsupported_language",
            text: format!(
                "the language {code:?} ({}) is not supported: the model {} knows English only",
                language::name_of(&code),
                model.name
            ),
        }),
        language => Ok(Options {
            language,
            prompt: request.prompt.clone(),
            ..Options::default()
        }),
    }
}

/// A client's text as the log shows it.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 50;
    text.chars().take(MAX_CHARS).collect()
}

/// Turns the events of a session into replies.
struct Reply {
    server: Arc<Server>,
    caller: Caller,
    audio: Arc<AudioLength>,
    replies: Replies,
    /// Whether `transcript-start` was sent.
    is_started: bool,
}

impl Reply {
    /// Follows the session to its end and sends the transcript, or why there is none.
    async fn follow(mut self, mut events: LiveEvents) {
        let mut result: Option<Result<Transcript, SttError>> = None;
        let end = loop {
            match events.next().await {
                Some(LiveEvent::Delta { text, .. }) if self.server.settings.partials => {
                    self.partial(&text).await;
                }
                // There is one turn: the client ends it, or the session does when it ends.
                Some(LiveEvent::Completed {
                    result: of_turn, ..
                }) => result = Some(of_turn),
                Some(LiveEvent::Ended(end)) => break Some(end),
                Some(_) => {}
                None => break None,
            }
        };
        let result = match (result, end) {
            (Some(result), _) => result.map_err(Failure::from),
            (None, Some(stt_actors::domain::live::LiveEnd::Draining)) => {
                Err(Failure::from(LiveError::Draining))
            }
            // Without speech there is no turn.
            (None, Some(_)) => Ok(Transcript::default()),
            (None, None) => Err(Failure::from(LiveError::Lost)),
        };
        match result {
            Ok(transcript) => self.transcript(&transcript).await,
            Err(failure) => self.failure(&failure).await,
        }
    }

    async fn partial(&mut self, text: &str) {
        let mut events = Vec::new();
        if !std::mem::replace(&mut self.is_started, true) {
            events.push(event::transcript_start(None));
        }
        events.push(event::transcript_chunk(text));
        self.send(events).await;
    }

    async fn transcript(self, transcript: &Transcript) {
        let seconds = self.audio.seconds();
        self.server.callers.charge(self.caller.address, seconds);
        record_timings(transcript);
        record_turn(Protocol::Wyoming, Outcome::Completed);
        let text = transcript.text();
        info!(
            session = %self.caller.id,
            peer = %self.caller.peer,
            seconds,
            language = transcript.language,
            model = transcript.model,
            route = transcript.route.as_str(),
            fallback_used = transcript.escalation.as_ref().map(|escalation| escalation.used),
            characters = text.chars().count(),
            "Wyoming: transcribed"
        );
        info!(target: TRANSCRIPTS, session = %self.caller.id, text, "the text of an utterance");
        let mut events = Vec::new();
        if !self.is_started {
            let language = event::language_of(transcript);
            events.push(event::transcript_start(language));
            if !text.is_empty() {
                events.push(event::transcript_chunk(&text));
            }
        }
        events.push(event::transcript(transcript));
        events.push(event::transcript_stop());
        self.send(events).await;
    }

    async fn failure(self, failure: &Failure) {
        self.send(vec![failed(&self.caller, failure)]).await;
    }

    async fn send(&self, events: Vec<Event>) {
        // If the client is gone, the connection notices it.
        let _ = self.replies.send(events).await;
    }
}

/// Counts and logs an utterance without a transcript, and returns the event for it.
pub fn failed(caller: &Caller, failure: &Failure) -> Event {
    record_turn(Protocol::Wyoming, Outcome::Failed);
    record_error(failure.error_type());
    let Failure { code, text } = failure;
    info!(session = %caller.id, peer = %caller.peer, code, reason = text, "Wyoming: no transcript");
    failure.event()
}
