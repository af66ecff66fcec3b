//! Segments of a transcript, from what whisper's state holds after a call.

use stt_actors::domain::transcript::{Segment, TokenLogprob, compression_ratio};
use whisper_rs::{WhisperState, WhisperToken};

use super::callbacks::Watch;
use super::{LADDER_STEP, Model};
use crate::engine::words;

impl Model {
    /// The segments of a call. `duration` is that of the audio, in seconds.
    pub(super) fn segments(
        &self,
        state: &WhisperState,
        watch: &Watch<'_>,
        temperature: f32,
        duration: f64,
    ) -> Vec<Segment> {
        let end_of_text = self.context.token_eot();
        let mut segments: Vec<Segment> = Vec::new();
        for (index, segment) in state.as_iter().enumerate() {
            let window = watch.window_of(index);
            let tokens = (0..segment.n_tokens()).filter_map(|token| segment.get_token(token));
            let texts: Vec<_> = tokens
                .filter(|token| token.token_id() < end_of_text)
                .map(|token| text_token(&token))
                .collect();
            let logprobs: Vec<f32> = texts.iter().map(|token| token.logprob).collect();
            let text = segment
                .to_str_lossy()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default();
            let start = (segment.start_timestamp() as f64 / 100.0).clamp(0.0, duration);
            segments.push(Segment {
                id: index,
                seek: window.seek,
                start,
                end: (segment.end_timestamp() as f64 / 100.0).clamp(start, duration),
                tokens: texts.iter().map(|token| token.id).collect(),
                logprobs: texts.iter().map(token_logprob).collect(),
                temperature: temperature + LADDER_STEP * window.retries as f32,
                avg_logprob: mean(&logprobs),
                compression_ratio: compression_ratio(&text),
                no_speech_prob: segment.no_speech_probability(),
                words: words::of_tokens(texts.into_iter()),
                text,
            });
        }
        segments
    }
}

fn text_token<'a>(token: &WhisperToken<'_, 'a>) -> words::Token<'a> {
    let data = token.token_data();
    words::Token {
        id: token.token_id(),
        bytes: token.to_bytes().unwrap_or_default(),
        start: data.t0 as f64 / 100.0,
        end: data.t1 as f64 / 100.0,
        logprob: data.plog,
    }
}

fn token_logprob(token: &words::Token<'_>) -> TokenLogprob {
    TokenLogprob {
        bytes: token.bytes.to_vec(),
        logprob: token.logprob,
    }
}

fn mean(values: &[f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f32>() / values.len() as f32
}
