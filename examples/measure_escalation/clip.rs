//! Clips with the texts of two models.
//!
//! Both models transcribe every clip once. The server's own [`EscalationPolicy`] then decides what a threshold
//! passes on, so that a [`curve`](crate::curve) over thresholds needs no further inference.

use serde::{Deserialize, Serialize};
use stt_actors::EscalationPolicy;
use stt_actors::domain::transcript::ChunkTranscript;
use stt_actors::fallback::policy::words;

/// A clip with the texts of both models.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clip {
    /// The file's name in the corpus.
    pub name: String,
    /// The reference text.
    pub reference: String,
    /// The chunks, each tested and passed on by itself; most clips have one.
    #[serde(alias = "pieces")]
    pub chunks: Vec<ClipChunk>,
}

/// A chunk: at most 30 s of speech.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClipChunk {
    /// Length in seconds.
    pub seconds: f64,
    /// The primary's text.
    pub small: ChunkTranscript,
    /// The fallback's text.
    pub large: ChunkTranscript,
}

impl Clip {
    /// For each chunk, whether a policy passes it on.
    pub fn escalated(&self, policy: EscalationPolicy) -> Vec<bool> {
        let all: usize = self.chunks.iter().map(|chunk| words(&chunk.small)).sum();
        let few = all < policy.min_words;
        let weak = |chunk: &ClipChunk| !policy.weaknesses(&chunk.small, few).is_empty();
        self.chunks.iter().map(weak).collect()
    }

    /// The text if the fallback transcribes these chunks.
    pub fn text(&self, escalated: &[bool]) -> String {
        let chosen = (self.chunks.iter().zip(escalated)).map(|(chunk, escalated)| {
            if *escalated {
                &chunk.large
            } else {
                &chunk.small
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

    fn chunk(texts: [(&str, f32); 2]) -> ClipChunk {
        let [small, large] = texts;
        let written = |(text, confidence), inference_seconds| ChunkTranscript {
            segments: vec![segment(text, confidence)],
            language: "en".to_owned(),
            inference_seconds,
            ..ChunkTranscript::default()
        };
        ClipChunk {
            seconds: 2.0,
            small: written(small, 1.0),
            large: written(large, 4.0),
        }
    }

    /// A clip of one chunk with the texts and confidences of both models.
    pub fn clip(reference: &str, texts: [(&str, f32); 2]) -> Clip {
        Clip {
            name: reference.to_owned(),
            reference: reference.to_owned(),
            chunks: vec![chunk(texts)],
        }
    }

    #[test]
    fn chunks_are_passed_on_separately_and_words_counted_together() {
        let clip = Clip {
            chunks: vec![
                chunk([("one two", 0.4), ("1 2", 0.9)]),
                chunk([("three", 0.8), ("3", 0.9)]),
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
