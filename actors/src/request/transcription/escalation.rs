//! A Transcription's doubtful texts: which are had again from a larger model, and what becomes of its
//! answers.
//!
//! Piece by piece, so that of a long file only the weak ones go: by then the lane that wrote the first
//! text is free. Where the language itself is doubtful, the piece that decides it goes first, and the
//! others wait for the larger model's word. A failure costs nothing that was there before, and after the
//! first one no more of this request is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ractor::ActorRef;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{OpenChunk, Outcome, TranscriptionMessage, TranscriptionState};
use crate::domain::error::{FallbackError, SttError};
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::{ChunkTranscript, Escalation, Weaknesses};
use crate::fallback::Escalator;
use crate::fallback::policy::words;
use crate::ports::{FallbackRequest, FallbackText};
use crate::request::decoding::ChunkPermit;
use crate::request::language::LanguageHold;
use crate::task::spawn;

/// What a request knows of its escalation.
#[derive(Default)]
pub(super) struct Escalating {
    to: Option<Escalator>,
    so_far: Escalation,
    /// Words of all texts so far.
    words: usize,
    /// Texts with words, as long as there are too few of them to tell whether the request has few.
    short: Vec<(OpenChunk, ChunkTranscript)>,
    sent: BTreeMap<ChunkIndex, Sent>,
    /// Chunks whose language is not believed yet.
    language_waits: BTreeSet<ChunkIndex>,
    /// Some of the text is this node's own.
    has_own_text: bool,
    /// Whose the rest is.
    model: Option<String>,
}

/// A chunk at the larger model.
struct Sent {
    chunk: OpenChunk,
    /// What there is if nothing better comes.
    own: Result<ChunkTranscript, SttError>,
    _asking: AbortOnDropHandle<()>,
}

impl Escalating {
    /// `to`: where doubtful texts go.
    pub(super) fn new(to: Option<Escalator>) -> Self {
        Self {
            to,
            ..Self::default()
        }
    }

    /// Chunks that are here.
    pub(super) fn open(&self) -> usize {
        self.sent.len() + self.short.len()
    }

    /// Whether there are words to come, of chunks that this node has no text for.
    pub(super) fn misses_words(&self) -> bool {
        self.sent.values().any(|sent| sent.own.is_err())
    }

    /// Whose text it is in the end; `own`: this node's model.
    pub(super) fn final_model(&self, own: String) -> String {
        match &self.model {
            Some(larger) if self.has_own_text => format!("{own}+{larger}"),
            Some(larger) => larger.clone(),
            None => own,
        }
    }

    /// What there is to tell of it in the end; `None`: there is nowhere to escalate to.
    pub(super) fn finish(&mut self) -> Option<Escalation> {
        self.to.take()?;
        Some(std::mem::take(&mut self.so_far))
    }

    /// Whether it would be of any use to ask.
    fn escalator(&self) -> Option<&Escalator> {
        self.to.as_ref().filter(|_| self.so_far.error.is_none())
    }
}

impl TranscriptionState {
    /// Whether a chunk's language waits for the larger model's word. It must then be had.
    pub(super) fn language_has_to_wait(
        &mut self,
        index: ChunkIndex,
        text: &ChunkTranscript,
    ) -> bool {
        self.escalating.so_far.language_was_tested |=
            self.escalating.to.is_some() && text.language_probability.is_some();
        let escalator = self.escalating.escalator();
        let waits = escalator.is_some_and(|to| to.policy.doubts_language(text));
        if waits {
            self.escalating.language_waits.insert(index);
        }
        waits
    }

    /// A chunk has this node's text: it is taken, or had again.
    pub(super) fn weigh(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        mut chunk: OpenChunk,
        text: ChunkTranscript,
    ) {
        let words = words(&text);
        let Some(escalator) = self.escalating.to.as_ref().filter(|_| words > 0) else {
            self.settle_own(chunk, text);
            return;
        };
        let least = escalator.policy.min_words;
        self.escalating.words += words;
        let few = self.escalating.words < least;
        let language_waits = (self.escalating.language_waits).contains(&chunk.audio.index);
        let is_known = self.is_the_last();
        if few && !language_waits && !is_known {
            // There are few of these: their memory is not worth a decoder that waits for it.
            chunk.permit = None;
            self.escalating.short.push((chunk, text));
            return;
        }
        if !few {
            self.judge_short_ones(myself, false);
        }
        self.judge(myself, chunk, text, few && is_known);
    }

    /// All audio is here, and nothing but a text in hand is open.
    fn is_the_last(&self) -> bool {
        let open = self.outstanding.len() + self.held_back.len() + self.second_passes.len();
        self.decoded.is_some() && open == 0 && !self.escalating.misses_words()
    }

    /// The texts that waited for others: none came, or enough of them.
    pub(super) fn judge_short_ones(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        few_words: bool,
    ) {
        for (chunk, text) in std::mem::take(&mut self.escalating.short) {
            self.judge(myself, chunk, text, few_words);
        }
    }

    fn judge(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: OpenChunk,
        text: ChunkTranscript,
        few_words: bool,
    ) {
        let policy = self.escalating.to.as_ref().map(|to| to.policy);
        let weak = policy.map_or_else(Weaknesses::default, |policy| {
            policy.weaknesses(&text, few_words)
        });
        self.escalating.so_far.below = self.escalating.so_far.below.with(weak);
        if weak.is_empty() {
            self.settle_own(chunk, text);
            return;
        }
        let below = weak.names().join(",");
        info!(request_id = %self.job.request_id, chunk = %chunk.audio.index, below, "the text is not trusted");
        self.escalate(myself, chunk, Ok(text));
    }

    /// An engine could not do a chunk. Gives whether another one is asked.
    pub(super) fn escalate_failure(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        chunk: OpenChunk,
        error: SttError,
    ) -> Outcome {
        if !error.is_engines_fault() {
            return self.fail(error);
        }
        if let Some(fallback) = self.escalating.so_far.error.clone() {
            // It is not asked twice.
            let primary = Box::new(error);
            return self.fail(SttError::Fallback { primary, fallback });
        }
        if self.escalating.escalator().is_none() {
            return self.fail(error);
        }
        warn!(request_id = %self.job.request_id, chunk = %chunk.audio.index, %error, "no text of this node's own");
        self.escalate(myself, chunk, Err(error));
        Outcome::GoesOn
    }

    fn escalate(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        mut chunk: OpenChunk,
        own: Result<ChunkTranscript, SttError>,
    ) {
        let Some((to, slot)) = self.escalating.escalator().zip(self.slot.as_ref()) else {
            // It failed before: only a text of this node's own comes here then.
            if let Ok(text) = own {
                self.settle_own(chunk, text);
            }
            return;
        };
        let seconds = chunk.audio.duration_seconds();
        let scheduling = slot.scheduling_key(seconds, seconds);
        let options = &self.job.options;
        let request = FallbackRequest {
            request_id: self.job.request_id.clone(),
            audio: chunk.audio.clone(),
            language: self.language_for_fallback(own.as_ref().ok()),
            prompt: options.prompt.clone(),
            temperature: options.temperature,
            hallucination_guard: options.hallucination_guard,
        };
        // What waits there for long must not keep other requests from being decoded.
        chunk.permit = chunk.permit.map(ChunkPermit::of_its_request_alone);
        let room = Arc::clone(&to.room).try_acquire_owned();
        let (fallback, myself, index) = (to.fallback.clone(), myself.clone(), chunk.audio.index);
        let asking = spawn(async move {
            let begun = Instant::now();
            let outcome = match room {
                Ok(_room) => fallback.transcribe(request, scheduling).await,
                Err(_full) => Err(FallbackError::Overloaded),
            };
            let _ = myself.cast(TranscriptionMessage::FallbackEnded {
                index,
                outcome,
                seconds: begun.elapsed().as_secs_f64(),
            });
        });
        let sent = Sent {
            chunk,
            own,
            _asking: asking,
        };
        self.escalating.sent.insert(index, sent);
    }

    /// A language that was given is passed on. One that this very chunk was heard in is not: the larger
    /// model hears for itself.
    fn language_for_fallback(&self, own: Option<&ChunkTranscript>) -> Option<String> {
        let given = self.job.options.language.clone();
        let heard_here = own.is_some_and(|text| text.language_probability.is_some());
        given.or_else(|| {
            let held = self.hold.code().filter(|_| !heard_here);
            held.map(str::to_owned)
        })
    }

    pub(super) fn fallback_ended(
        &mut self,
        myself: &ActorRef<TranscriptionMessage>,
        index: ChunkIndex,
        outcome: Result<FallbackText, FallbackError>,
        seconds: f64,
    ) -> Outcome {
        let Some(Sent { chunk, own, .. }) = self.escalating.sent.remove(&index) else {
            return Outcome::GoesOn;
        };
        self.timings.fallback += seconds;
        // Told by now, unless no lane could do anything.
        self.announce_route();
        match (outcome, own) {
            (Ok(better), own) => self.take_better(chunk, own.ok().as_ref(), better),
            (Err(error), Ok(own)) => {
                warn!(request_id = %self.job.request_id, chunk = %index, %error, "the fallback failed: the text stays");
                self.escalating.so_far.error = Some(error);
                self.settle_own(chunk, own);
            }
            (Err(fallback), Err(primary)) => {
                return self.fail(SttError::Fallback {
                    primary: Box::new(primary),
                    fallback,
                });
            }
        }
        self.release_held_back(myself);
        self.end_if_done(myself)
    }

    fn take_better(
        &mut self,
        chunk: OpenChunk,
        own: Option<&ChunkTranscript>,
        better: FallbackText,
    ) {
        let FallbackText {
            mut transcript,
            model,
        } = better;
        if own.is_none() {
            self.escalating.words += words(&transcript);
        }
        if transcript.language.is_empty() {
            // Nodes of other make do not all tell it.
            let known = own.map(|own| own.language.as_str());
            let known = known.or_else(|| self.hold.code()).unwrap_or_default();
            known.clone_into(&mut transcript.language);
        }
        self.escalating.so_far.used = true;
        self.escalating.model = Some(model);
        let index = chunk.audio.index;
        if !self.escalating.language_waits.contains(&index) {
            self.relearn_language(index, own, &transcript);
        }
        self.settle(chunk, transcript);
    }

    /// The larger model's word on a language that this node had decided by this very chunk, or could not.
    fn relearn_language(
        &mut self,
        index: ChunkIndex,
        own: Option<&ChunkTranscript>,
        text: &ChunkTranscript,
    ) {
        let decided_here = own.is_some_and(|own| own.language_probability.is_some());
        let says_something = !text.segments.is_empty();
        match self.hold {
            LanguageHold::Open { .. } => self.learn_language(index, text),
            LanguageHold::Known(_) if decided_here && says_something => {
                self.language = Some((text.language.clone(), text.language_probability));
            }
            LanguageHold::PerChunk if own.is_none() => self.learn_language(index, text),
            LanguageHold::Known(_) | LanguageHold::PerChunk => {}
        }
    }

    fn settle_own(&mut self, chunk: OpenChunk, text: ChunkTranscript) {
        self.escalating.has_own_text |= !text.segments.is_empty();
        self.settle(chunk, text);
    }

    /// A chunk whose language waited has its last text.
    pub(super) fn learn_language_that_waited(&mut self, index: ChunkIndex, text: &ChunkTranscript) {
        if self.escalating.language_waits.remove(&index) {
            self.learn_language(index, text);
        }
    }
}
