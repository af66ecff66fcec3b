//! From scores to text: sampling one window's tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Model;
use crate::decoder::{Audio, Observed, Sequence};
use crate::rules::{Rules, log_sum_exp};
use crate::vocabulary::Token;

/// The most tokens of one window, as in OpenAI's implementation: half of the decoder's positions.
pub const MOST_TOKENS: usize = 224;

/// What a window should become.
#[derive(Clone, Debug)]
pub struct Task {
    /// The language's token; `None` for English-only models.
    pub language: Option<Token>,
    /// Translate into English.
    pub translate: bool,
    /// Tokens that precede the audio: an initial prompt, or earlier text. Only the last 223 count.
    pub prompt: Vec<Token>,
    /// Whether the text has time stamps.
    pub timestamps: bool,
    /// 0: the most likely token each time. Otherwise tokens are drawn.
    pub temperature: f32,
    /// Where the random numbers begin.
    pub seed: u64,
    /// Layers and heads of the decoder whose attention to the audio is recorded.
    pub heads: Vec<(usize, usize)>,
}

/// A token of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token: text or a time stamp.
    pub token: Token,
    /// The logarithm of its probability among the allowed tokens.
    pub logprob: f32,
}

/// The result of decoding a window.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The tokens, without the one that ends the text.
    pub choices: Vec<Choice>,
    /// The sum of the tokens' and the end's log-probabilities, divided by their number.
    pub mean_logprob: f32,
    /// The probability that nothing is said.
    pub no_speech: f32,
    /// Whether the text ended by itself, and not at the limit.
    pub ended: bool,
    /// The attention of the task's heads to the audio: a row for each token, from the first one of the prompt to the
    /// last of the text.
    pub observed: Vec<Observed>,
    /// Number of tokens before the text.
    pub before: usize,
    /// Number of tokens that the decoder has read, those before the text included.
    pub read: usize,
}

/// The probabilities of all languages at the beginning of the audio, in the order of Whisper's list.
pub fn languages(model: &Model, audio: &Arc<Audio>) -> Vec<f32> {
    let special = model.vocabulary.special;
    let mut sequence = Sequence::new(Arc::clone(audio), &[]);
    let scores = model
        .step(&mut [(&mut sequence, &[special.start])])
        .remove(0);
    let first = special.start as usize + 1;
    let scores = &scores[first..first + special.languages as usize];
    let total = log_sum_exp(scores);
    scores.iter().map(|score| (score - total).exp()).collect()
}

/// Decodes a window. `None` when another thread set `stop`.
pub fn decode(
    model: &Model,
    rules: &Rules,
    audio: &Arc<Audio>,
    task: &Task,
    stop: &AtomicBool,
) -> Option<Decoded> {
    let special = model.vocabulary.special;
    let mut sequence = Sequence::new(Arc::clone(audio), &task.heads);
    let mut begin = Vec::new();
    if !task.prompt.is_empty() {
        let most = MOST_TOKENS - 1;
        begin.push(special.previous);
        begin.extend(&task.prompt[task.prompt.len().saturating_sub(most)..]);
    }
    begin.push(special.start);
    if stop.load(Ordering::Acquire) {
        return None;
    }
    let scores = model.step(&mut [(&mut sequence, &begin)]).remove(0);
    let no_speech = (scores[special.no_speech as usize] - log_sum_exp(&scores)).exp();
    let mut next = Vec::new();
    if special.multilingual {
        let task_token = if task.translate {
            special.translate
        } else {
            special.transcribe
        };
        next.extend(task.language);
        next.push(task_token);
    }
    if !task.timestamps {
        next.push(special.no_timestamps);
    }
    // An English-only model with time stamps has nothing more to read.
    let mut scores = if next.is_empty() {
        scores
    } else {
        model.step(&mut [(&mut sequence, &next)]).remove(0)
    };
    let mut decoded = Decoded {
        no_speech,
        before: sequence.length(),
        ..Decoded::default()
    };
    let mut tokens: Vec<Token> = Vec::new();
    let mut random = Random(task.seed);
    let mut sum = 0.0;
    while tokens.len() < MOST_TOKENS {
        rules.apply(&mut scores, &tokens, task.timestamps);
        let choice = choose(&scores, task.temperature, &mut random);
        sum += choice.logprob;
        if choice.token == special.end {
            decoded.ended = true;
            break;
        }
        tokens.push(choice.token);
        decoded.choices.push(choice);
        if tokens.len() == MOST_TOKENS {
            break;
        }
        if stop.load(Ordering::Acquire) {
            return None;
        }
        scores = model
            .step(&mut [(&mut sequence, &[choice.token])])
            .remove(0);
    }
    decoded.observed = sequence.observed().to_vec();
    decoded.read = sequence.length();
    decoded.mean_logprob = sum / (tokens.len() + usize::from(decoded.ended)).max(1) as f32;
    Some(decoded)
}

/// The most likely token, or one drawn with this temperature.
fn choose(scores: &[f32], temperature: f32, random: &mut Random) -> Choice {
    let token = if temperature > 0.0 {
        draw(scores, temperature, random)
    } else {
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(token, _)| token)
    };
    Choice {
        token: token as Token,
        logprob: scores[token] - log_sum_exp(scores),
    }
}

fn draw(scores: &[f32], temperature: f32, random: &mut Random) -> usize {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |score: &f32| f64::from((score - most) / temperature).exp();
    let total: f64 = scores.iter().map(weight).sum();
    let mut left = random.unit() * total;
    let mut last = 0;
    for (token, score) in scores.iter().enumerate() {
        let weight = weight(score);
        if weight > 0.0 {
            last = token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

/// Random numbers with the same sequence for the same seed (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let scores = [0.0, 1.0_f32.ln() + 3.0_f32.ln(), f32::NEG_INFINITY, 0.0];
        let mut random = Random(7);
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[draw(&scores, 1.0, &mut random)] += 1;
        }
        assert_eq!(counts[2], 0);
        assert!((5700..6300).contains(&counts[1]), "{counts:?}");
        // A low temperature is nearly the most likely token alone.
        let often = (0..1000)
            .filter(|_| draw(&scores, 0.1, &mut random) == 1)
            .count();
        assert!(often > 990, "{often}");
    }

    #[test]
    fn the_most_likely_token_is_chosen_at_temperature_0() {
        let choice = choose(&[1.0, 3.0, 2.0], 0.0, &mut Random(0));
        assert_eq!(choice.token, 1);
        let expected = (3.0_f32.exp() / (1.0_f32.exp() + 3.0_f32.exp() + 2.0_f32.exp())).ln();
        assert!((choice.logprob - expected).abs() < 1e-6);
    }
}
