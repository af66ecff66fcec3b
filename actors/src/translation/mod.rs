//! The Translations actor: translates finished transcripts through the [`Translator`] port.
//!
//! It owns one task per call, so that a slow call delays no other one, and it is the one place for
//! faults of a translator: a time limit, a panic and an error of the port all become a
//! [`TranslationError`]. A call ends when its client leaves.
//!
//! Supervised by the Supervisor, which replaces it if it fails and stops it at the end of a drain.
//! Both cancel the running calls.

mod texts;

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::domain::error::TranslationError;
use crate::domain::transcript::Transcript;
use crate::domain::translation::TranslationJob;
use crate::metrics::record_translation;
use crate::ports::Translator;
use crate::task::caught;

/// The result of a translation.
pub type Translated = Result<Transcript, TranslationError>;

/// Messages that the Translations actor handles.
#[derive(Debug)]
pub enum TranslationsMessage {
    /// From the Supervisor: translate a transcript.
    Translate {
        /// The transcript and its target language.
        job: Box<TranslationJob>,
        /// Receives the result. A closed channel cancels the call.
        reply: oneshot::Sender<Translated>,
    },
}

/// Arguments of the actor.
pub struct TranslationsArguments {
    /// The translator.
    pub translator: Arc<dyn Translator>,
    /// Time limit for one transcript.
    pub limit: Duration,
}

/// The actor's state.
pub struct TranslationsState {
    arguments: TranslationsArguments,
    /// Running calls; dropping the set cancels them.
    calls: JoinSet<()>,
}

/// The actor.
#[derive(Debug)]
pub struct Translations;

impl Actor for Translations {
    type Msg = TranslationsMessage;
    type State = TranslationsState;
    type Arguments = TranslationsArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(TranslationsState {
            arguments,
            calls: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TranslationsMessage::Translate { job, reply } => state.start(*job, reply),
        }
        Ok(())
    }
}

impl TranslationsState {
    fn start(&mut self, job: TranslationJob, mut reply: oneshot::Sender<Translated>) {
        while self.calls.try_join_next().is_some() {}
        let translator = Arc::clone(&self.arguments.translator);
        let limit = self.arguments.limit;
        self.calls.spawn(async move {
            let result = tokio::select! {
                result = translate_within(limit, &*translator, job) => result,
                () = reply.closed() => return,
            };
            // The client may leave at this moment.
            let _ = reply.send(result);
        });
    }
}

async fn translate_within(
    limit: Duration,
    translator: &dyn Translator,
    job: TranslationJob,
) -> Translated {
    match timeout(limit, caught(translate(translator, job))).await {
        Ok(Some(result)) => result,
        Ok(None) => Err(TranslationError::Panicked),
        Err(_elapsed) => Err(TranslationError::TimedOut { limit }),
    }
}

/// Translates a transcript. Calls the translator only if there is text in another language.
async fn translate(translator: &dyn Translator, job: TranslationJob) -> Translated {
    let TranslationJob {
        request_id,
        mut transcript,
        target,
        mixed,
    } = job;
    let source = translator.source_code(&transcript.language);
    let source = (!mixed).then_some(source);
    let request = texts::request(&transcript, request_id, source, &target);
    if let Some(request) = request {
        let begin = Instant::now();
        let translated = translator.translate(request).await?;
        record_translation(begin.elapsed());
        texts::replace(&mut transcript.segments, translated, &target)?;
    }
    texts::set_language(&mut transcript, &target);
    Ok(transcript)
}
