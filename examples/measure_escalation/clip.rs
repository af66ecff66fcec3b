//! What escalation comes to: clips that two models wrote down, and what any threshold would have made of
//! them.
//!
//! Both models write all of them once. What a threshold passes on follows from that by the server's own
//! [`EscalationPolicy`], so a [`curve`] over thresholds costs no inference, and a [`plot`] shows it.

use serde::{Deserialize, Serialize};
use stt_actors::EscalationPolicy;
use stt_actors::domain::transcript::ChunkTranscript;
use stt_actors::fallback::policy::words;

/// A clip as both models wrote it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clip {
    /// Its file's name in the corpus.
    pub name: String,
    /// What is said in it.
    pub reference: String,
    /// What is tested and passed on by itself; most clips are one piece.
    pub pieces: Vec<Piece>,
}

/// At most 30 s of speech.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// Its length.
    pub seconds: f64,
    /// The primary's text.
    pub small: ChunkTranscript,
    /// The fallback's.
    pub large: ChunkTranscript,
}

impl Clip {
    /// Which of its pieces a policy passes on.
    pub fn escalated(&self, policy: EscalationPolicy) -> Vec<bool> {
        let all: usize = self.pieces.iter().map(|piece| words(&piece.small)).sum();
        let few = all < policy.min_words;
        let weak = |piece: &Piece| !policy.weaknesses(&piece.small, few).is_empty();
        self.pieces.iter().map(weak).collect()
    }

    /// The text where these pieces are the fallback's.
    pub fn text(&self, escalated: &[bool]) -> String {
        let chosen = (self.pieces.iter().zip(escalated)).map(|(piece, escalated)| {
            if *escalated {
                &piece.large
            } else {
                &piece.small
            }
        });
        let segments = chosen.flat_map(|text| &text.segments);
        segments.map(|segment| segment.text.as_str()).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use stt_actors::domain::transcript::Segment;

    use super::*;

    fn segment(text: &str, confidence: f32) -> Segment {
        Segment {
            id: 0,
            seek: 0,
            start: 0.0,
            end: 1.0,
            text: format!(" {text}"),
            tokens: vec![1],
            logprobs: Vec::new(),
            temperature: 0.0,
            avg_logprob: confidence.ln(),
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: Vec::new(),
        }
    }

    fn piece(texts: [(&str, f32); 2]) -> Piece {
        let [small, large] = texts;
        let written = |(text, confidence), inference_seconds| ChunkTranscript {
            segments: vec![segment(text, confidence)],
            language: "en".to_owned(),
            inference_seconds,
            ..ChunkTranscript::default()
        };
        Piece {
            seconds: 2.0,
            small: written(small, 1.0),
            large: written(large, 4.0),
        }
    }

    /// One piece: both models' texts and confidences.
    pub fn clip(reference: &str, texts: [(&str, f32); 2]) -> Clip {
        Clip {
            name: reference.to_owned(),
            reference: reference.to_owned(),
            pieces: vec![piece(texts)],
        }
    }

    #[test]
    fn pieces_are_passed_on_by_themselves_and_words_counted_together() {
        let clip = Clip {
            pieces: vec![
                piece([("one two", 0.4), ("1 2", 0.9)]),
                piece([("three", 0.8), ("3", 0.9)]),
            ],
            ..clip("", [("", 1.0), ("", 1.0)])
        };
        let policy = |min_words| EscalationPolicy {
            min_confidence: 0.5,
            min_language_probability: 0.0,
            min_words,
        };
        let escalated = clip.escalated(policy(3));
        assert_eq!(escalated, [true, false]);
        assert_eq!(clip.text(&escalated), " 1 2 three");
        assert_eq!(clip.escalated(policy(4)), [true, true]);
    }
}
