//! The escalation of a request: which of its texts go to the fallback, and which text is kept.
//!
//! Each chunk is judged separately, so that only the doubtful chunks of a long file are escalated. If the
//! language is doubtful, the chunk that decides it is escalated first, and the others wait for the fallback's
//! language. If the fallback fails, the texts of this node are kept, and no more chunks of the request are
//! escalated.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::error::{FallbackError, SttError};
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::{ChunkTranscript, Escalation, Weaknesses};
use crate::fallback::policy::{EscalationPolicy, words};
use crate::ports::FallbackText;
use crate::request::transcription::intake::OpenChunk;

/// The escalation of one request.
#[derive(Default)]
pub(super) struct Escalating {
    /// The tests of a text; `None`: there is no fallback.
    policy: Option<EscalationPolicy>,
    so_far: Escalation,
    /// Words of all texts so far.
    words: usize,
    /// Texts with words that wait until it is known whether the request has enough of them.
    short: Vec<(OpenChunk, ChunkTranscript)>,
    /// Chunks at the fallback, with this node's text or error.
    sent: BTreeMap<ChunkIndex, (OpenChunk, Result<ChunkTranscript, SttError>)>,
    /// Chunks whose language is doubtful.
    doubtful_languages: BTreeSet<ChunkIndex>,
    /// Whether some of the text is this node's.
    has_own_text: bool,
    /// The fallback's model, if it wrote some of the text.
    model: Option<String>,
    /// Seconds that chunks spent at the fallback.
    seconds: f64,
}

/// A judged text of this node.
pub(super) struct Judged {
    pub(super) chunk: OpenChunk,
    pub(super) text: ChunkTranscript,
    /// The tests that it failed; none: the text is kept.
    pub(super) weaknesses: Weaknesses,
}

/// The outcome of a chunk's escalation.
pub(super) enum FallbackEnd {
    /// The fallback's text, and this node's if there is one.
    Better {
        text: ChunkTranscript,
        own: Option<ChunkTranscript>,
    },
    /// The fallback failed; this node's text is kept.
    Kept {
        own: ChunkTranscript,
        error: FallbackError,
    },
}

impl Escalating {
    /// `policy`: the tests of a text; `None` if there is no fallback.
    pub(super) fn new(policy: Option<EscalationPolicy>) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Whether chunks may still go to the fallback.
    pub(super) fn is_possible(&self) -> bool {
        self.policy.is_some() && self.so_far.error.is_none()
    }

    /// Whether texts wait here or at the fallback.
    pub(super) fn has_open_chunks(&self) -> bool {
        !self.sent.is_empty() || !self.short.is_empty()
    }

    /// Whether the fallback has chunks for which this node has no text, so that their words are not counted yet.
    pub(super) fn misses_words(&self) -> bool {
        self.sent.values().any(|(_, own)| own.is_err())
    }

    /// Tests the language of a new text. Returns whether it is doubtful and waits for the fallback's language.
    pub(super) fn doubts_language(&mut self, index: ChunkIndex, text: &ChunkTranscript) -> bool {
        self.so_far.language_was_tested |=
            self.policy.is_some() && text.language_probability.is_some();
        let policy = self.policy.filter(|_| self.is_possible());
        let doubts = policy.is_some_and(|policy| policy.doubts_language(text));
        if doubts {
            self.doubtful_languages.insert(index);
        }
        doubts
    }

    /// Whether the language of this chunk is doubtful.
    pub(super) fn is_language_doubtful(&self, index: ChunkIndex) -> bool {
        self.doubtful_languages.contains(&index)
    }

    /// Ends the doubt about a chunk's language: its text is final. Returns whether there was any.
    pub(super) fn settle_language(&mut self, index: ChunkIndex) -> bool {
        self.doubtful_languages.remove(&index)
    }

    /// Judges a text of this node, and those that waited for enough words. A text of few words waits here unless
    /// `is_last`, when no more words can come.
    pub(super) fn judge(
        &mut self,
        mut chunk: OpenChunk,
        text: ChunkTranscript,
        is_last: bool,
    ) -> Vec<Judged> {
        let words = words(&text);
        let Some(policy) = self.policy.filter(|_| words > 0) else {
            return vec![Judged {
                chunk,
                text,
                weaknesses: Weaknesses::default(),
            }];
        };
        self.words += words;
        let few = self.words < policy.min_words;
        if few && !is_last && !self.is_language_doubtful(chunk.audio.index) {
            // Few chunks are held here, so they do not count in the memory budget: decoding goes on.
            chunk.permit = None;
            self.short.push((chunk, text));
            return Vec::new();
        }
        let mut judged = Vec::new();
        if !few {
            judged = self.judge_short(false);
        }
        judged.push(self.judge_one(chunk, text, few && is_last));
        judged
    }

    /// Judges the texts that waited for enough words; `few_words`: the request has too few.
    pub(super) fn judge_short(&mut self, few_words: bool) -> Vec<Judged> {
        let short = std::mem::take(&mut self.short).into_iter();
        let judged = short.map(|(chunk, text)| self.judge_one(chunk, text, few_words));
        judged.collect()
    }

    fn judge_one(&mut self, chunk: OpenChunk, text: ChunkTranscript, few_words: bool) -> Judged {
        let weaknesses = self.policy.map_or_else(Weaknesses::default, |policy| {
            policy.weaknesses(&text, few_words)
        });
        self.so_far.below = self.so_far.below.with(weaknesses);
        Judged {
            chunk,
            text,
            weaknesses,
        }
    }

    /// Decides on a chunk that this node could not transcribe: `Ok` goes to the fallback, `Err` ends the request.
    pub(super) fn judge_failure(&self, error: SttError) -> Result<SttError, SttError> {
        if !error.is_engines_fault() || self.policy.is_none() {
            return Err(error);
        }
        match &self.so_far.error {
            // The fallback has failed already.
            Some(fallback) => Err(SttError::Fallback {
                primary: Box::new(error),
                fallback: fallback.clone(),
            }),
            None => Ok(error),
        }
    }

    /// Records that a chunk goes to the fallback.
    pub(super) fn send(&mut self, chunk: OpenChunk, own: Result<ChunkTranscript, SttError>) {
        self.sent.insert(chunk.audio.index, (chunk, own));
    }

    /// Records the fallback's answer for a chunk; `None` if none is awaited.
    ///
    /// # Errors
    /// Neither this node nor the fallback has a text: the request fails.
    pub(super) fn end(
        &mut self,
        index: ChunkIndex,
        outcome: Result<FallbackText, FallbackError>,
        seconds: f64,
    ) -> Option<Result<(OpenChunk, FallbackEnd), SttError>> {
        let (chunk, own) = self.sent.remove(&index)?;
        self.seconds += seconds;
        let end = match (outcome, own) {
            (Ok(FallbackText { transcript, model }), own) => {
                if own.is_err() {
                    self.words += words(&transcript);
                }
                self.so_far.used = true;
                self.model = Some(model);
                FallbackEnd::Better {
                    text: transcript,
                    own: own.ok(),
                }
            }
            (Err(error), Ok(own)) => {
                self.so_far.error = Some(error.clone());
                FallbackEnd::Kept { own, error }
            }
            (Err(fallback), Err(primary)) => {
                let primary = Box::new(primary);
                return Some(Err(SttError::Fallback { primary, fallback }));
            }
        };
        Some(Ok((chunk, end)))
    }

    /// Records that a text of this node is final.
    pub(super) fn keep(&mut self, text: &ChunkTranscript) {
        self.has_own_text |= !text.segments.is_empty();
    }

    /// The model or models that wrote the text; `own`: this node's.
    pub(super) fn final_model(&self, own: String) -> String {
        match &self.model {
            Some(fallback) if self.has_own_text => format!("{own}+{fallback}"),
            Some(fallback) => fallback.clone(),
            None => own,
        }
    }

    /// Seconds that chunks spent at the fallback.
    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// What the transcript says of its escalation; `None` if there is no fallback.
    pub(super) fn finish(&mut self) -> Option<Escalation> {
        self.policy?;
        Some(std::mem::take(&mut self.so_far))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::transcript::Segment;
    use crate::request::transcription::intake::tests::chunk;

    const FIRST: ChunkIndex = ChunkIndex::Whole(0);

    fn with_fallback() -> Escalating {
        Escalating::new(Some(EscalationPolicy {
            min_confidence: 0.55,
            min_language_probability: 0.7,
            min_words: 3,
        }))
    }

    fn text(said: &str, confidence: f32) -> ChunkTranscript {
        let logprob = confidence.ln();
        let segment = Segment::said(0.0, 1.0, said);
        let mut logprobs = segment.logprobs.clone();
        for token in &mut logprobs {
            token.logprob = logprob;
        }
        ChunkTranscript {
            segments: vec![Segment {
                avg_logprob: logprob,
                logprobs,
                ..segment
            }],
            language: "en".to_owned(),
            ..ChunkTranscript::default()
        }
    }

    fn fallback_text(said: &str) -> FallbackText {
        FallbackText {
            transcript: text(said, 0.9),
            model: "large".to_owned(),
        }
    }

    fn weaknesses(judged: &[Judged]) -> Vec<Vec<&str>> {
        judged
            .iter()
            .map(|judged| judged.weaknesses.names())
            .collect()
    }

    #[test]
    fn without_a_fallback_every_text_is_kept() {
        let mut escalating = Escalating::new(None);
        let judged = escalating.judge(chunk(0, 10), text("so it goes", 0.1), false);
        assert_eq!(weaknesses(&judged), [Vec::<&str>::new()]);
        let crash = SttError::Internal("a crash");
        assert_eq!(escalating.judge_failure(crash.clone()), Err(crash));
        assert_eq!(escalating.finish(), None);
    }

    #[test]
    fn a_text_of_few_words_waits_for_more_words() {
        let mut escalating = with_fallback();
        assert!(
            escalating
                .judge(chunk(0, 10), text("one", 0.9), false)
                .is_empty()
        );
        assert!(escalating.has_open_chunks());
        let judged = escalating.judge(chunk(1, 10), text("two three", 0.4), false);
        let order: Vec<_> = judged
            .iter()
            .map(|judged| judged.chunk.audio.index)
            .collect();
        assert_eq!(order, [FIRST, ChunkIndex::Whole(1)]);
        assert_eq!(weaknesses(&judged), [vec![], vec!["logprob"]]);
        assert!(!escalating.has_open_chunks());
    }

    #[test]
    fn few_words_are_a_weakness_only_when_no_more_can_come() {
        let mut escalating = with_fallback();
        let judged = escalating.judge(chunk(0, 10), text("one", 0.9), true);
        assert_eq!(weaknesses(&judged), [["min_words"]]);
        let mut escalating = with_fallback();
        escalating.judge(chunk(0, 10), text("one", 0.9), false);
        assert_eq!(weaknesses(&escalating.judge_short(true)), [["min_words"]]);
        let summary = escalating.finish().expect("there is a fallback");
        assert_eq!(summary.below.names(), ["min_words"]);
    }

    #[test]
    fn a_doubtful_language_goes_at_once_even_with_few_words() {
        let mut escalating = with_fallback();
        let doubtful = ChunkTranscript {
            language_probability: Some(0.4),
            ..text("one", 0.9)
        };
        assert!(escalating.doubts_language(FIRST, &doubtful));
        assert!(escalating.is_language_doubtful(FIRST));
        let judged = escalating.judge(chunk(0, 10), doubtful, false);
        assert_eq!(weaknesses(&judged), [["langprob"]]);
        assert!(escalating.settle_language(FIRST));
        assert!(!escalating.settle_language(FIRST), "it is settled");
        let certain = ChunkTranscript {
            language_probability: Some(0.9),
            ..text("one", 0.9)
        };
        assert!(!escalating.doubts_language(ChunkIndex::Whole(1), &certain));
        assert!(
            escalating
                .finish()
                .expect("there is a fallback")
                .language_was_tested
        );
    }

    #[test]
    fn after_one_failure_no_more_chunks_go_and_the_own_text_is_kept() {
        let mut escalating = with_fallback();
        escalating.send(chunk(0, 10), Ok(text("own", 0.4)));
        let (_, end) = (escalating.end(FIRST, Err(FallbackError::Overloaded), 2.0))
            .expect("it is awaited")
            .expect("the request goes on");
        assert!(matches!(end, FallbackEnd::Kept { own, .. } if own.segments[0].text == "own"));
        assert!(!escalating.is_possible());
        let doubtful = ChunkTranscript {
            language_probability: Some(0.4),
            ..text("one", 0.9)
        };
        assert!(!escalating.doubts_language(FIRST, &doubtful));
        let crash = SttError::Timeout;
        let expected = SttError::Fallback {
            primary: Box::new(crash.clone()),
            fallback: FallbackError::Overloaded,
        };
        assert_eq!(escalating.judge_failure(crash), Err(expected));
    }

    #[test]
    fn a_chunk_without_any_text_fails_the_request() {
        let mut escalating = with_fallback();
        let crash = escalating
            .judge_failure(SttError::Timeout)
            .expect("the fallback is asked");
        escalating.send(chunk(0, 10), Err(crash));
        assert!(escalating.misses_words());
        let end = escalating.end(FIRST, Err(FallbackError::Overloaded), 2.0);
        let error = end.expect("it is awaited").err().expect("there is no text");
        assert!(matches!(error, SttError::Fallback { .. }));
        assert!(
            escalating
                .end(FIRST, Ok(fallback_text("late")), 1.0)
                .is_none()
        );
    }

    #[test]
    fn the_model_names_all_that_wrote_and_the_seconds_add_up() {
        let mut escalating = with_fallback();
        assert_eq!(escalating.final_model("tiny".to_owned()), "tiny");
        for number in 0..2 {
            escalating.send(chunk(number, 10), Ok(text("own", 0.4)));
            let index = ChunkIndex::Whole(number);
            let end = escalating.end(index, Ok(fallback_text("better")), 1.5);
            assert!(matches!(
                end,
                Some(Ok((_, FallbackEnd::Better { own: Some(_), .. })))
            ));
        }
        assert_eq!(escalating.seconds().to_bits(), 3.0_f64.to_bits());
        assert_eq!(escalating.final_model("tiny".to_owned()), "large");
        escalating.keep(&text("own", 0.9));
        assert_eq!(escalating.final_model("tiny".to_owned()), "tiny+large");
        assert!(escalating.finish().expect("there is a fallback").used);
    }
}
