//! From scores to text: sampling one window's tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Model;
use crate::decoder::{Audio, Observed, Sequence};
use crate::kernels::{log_sum_exp, maximum};
use crate::rules::Rules;
use crate::vocabulary::{Special, Token};

/// The most tokens of one window, as in OpenAI's implementation: half of the decoder's positions.
pub const MOST_TOKENS: usize = 224;

/// Time stamps of the last 100 ms of the audio.
const CLOSE_TO_THE_END: Token = 5;

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
    /// Layers and heads of the decoder whose attention to the audio is recorded.
    pub heads: Vec<(usize, usize)>,
}

impl Task {
    /// The tokens between the start and the text. An English-only model with time stamps has none.
    fn tokens(&self, special: &Special) -> Vec<Token> {
        let mut tokens = Vec::new();
        if special.multilingual {
            tokens.extend(self.language);
            tokens.push(if self.translate {
                special.translate
            } else {
                special.transcribe
            });
        }
        if !self.timestamps {
            tokens.push(special.no_timestamps);
        }
        tokens
    }
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

/// A sequence that has read the audio's first token, and what it expects then.
#[derive(Clone, Debug)]
pub struct Opening {
    sequence: Sequence,
    scores: Vec<f32>,
}

impl Opening {
    /// Begins a text without a prompt. The attention of `heads`, layers and heads of the decoder, is recorded.
    pub fn new(model: &Model, audio: &Arc<Audio>, heads: &[(usize, usize)]) -> Self {
        let mut sequence = Sequence::new(Arc::clone(audio), heads);
        let start = model.vocabulary.special.start;
        let scores = model.step(&mut [(&mut sequence, &[start])]).remove(0);
        Self { sequence, scores }
    }

    /// The probabilities of all languages, in the order of Whisper's list.
    pub fn languages(&self, model: &Model) -> Vec<f32> {
        let special = model.vocabulary.special;
        let first = special.start as usize + 1;
        let scores = &self.scores[first..first + special.languages as usize];
        let total = log_sum_exp(scores);
        scores.iter().map(|score| (score - total).exp()).collect()
    }
}

/// How tokens are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// 0: the most likely token each time. Otherwise tokens are drawn.
    pub temperature: f32,
    /// Where the random numbers begin.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token each time.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        seed: 0,
    };
}

/// A text that is about to begin: everything before its first token has been read.
pub struct Begun<'a> {
    model: &'a Model,
    rules: &'a Rules,
    timestamps: bool,
    /// Length of the audio in time stamps. A text that reaches it is complete.
    length: Token,
    /// Whether a tail stands for the rest of the window.
    has_tail: bool,
    sequence: Sequence,
    /// Of the first token.
    scores: Vec<f32>,
    no_speech: f32,
    stop: &'a AtomicBool,
}

impl<'a> Begun<'a> {
    /// Reads what precedes a window's text. A task without a prompt may continue an `opening`. `None` when another
    /// thread set `stop`.
    pub fn new(
        model: &'a Model,
        rules: &'a Rules,
        (audio, opening): (&Arc<Audio>, Option<&Opening>),
        task: &Task,
        stop: &'a AtomicBool,
    ) -> Option<Self> {
        let special = model.vocabulary.special;
        if stop.load(Ordering::Acquire) {
            return None;
        }
        let next = task.tokens(&special);
        let opening = opening.filter(|_| task.prompt.is_empty()).cloned();
        let (sequence, start, scores) = match opening {
            Some(mut opening) if !next.is_empty() => {
                let scores = model.step(&mut [(&mut opening.sequence, &next)]).remove(0);
                (opening.sequence, opening.scores, scores)
            }
            Some(opening) => (opening.sequence, opening.scores.clone(), opening.scores),
            None => {
                let mut sequence = Sequence::new(Arc::clone(audio), &task.heads);
                let mut tokens = Vec::new();
                if !task.prompt.is_empty() {
                    let most = MOST_TOKENS - 1;
                    tokens.push(special.previous);
                    tokens.extend(&task.prompt[task.prompt.len().saturating_sub(most)..]);
                }
                let start = tokens.len();
                tokens.push(special.start);
                tokens.extend(next);
                let wanted = [(0, start), (0, tokens.len() - 1)];
                let mut scores = model.append(&mut [(&mut sequence, &tokens)], &wanted);
                let last = scores.pop().unwrap_or_default();
                (sequence, scores.pop().unwrap_or_default(), last)
            }
        };
        Some(Self {
            model,
            rules,
            timestamps: task.timestamps,
            length: audio.length,
            has_tail: audio.has_tail(),
            sequence,
            scores,
            no_speech: (start[special.no_speech as usize] - log_sum_exp(&start)).exp(),
            stop,
        })
    }

    /// Decodes in several ways at once: the weights are read once for each token of all texts. The results have the
    /// order of `samplings`. `None` when another thread set the stop flag.
    pub fn sample(&self, samplings: &[Sampling]) -> Option<Vec<Decoded>> {
        let mut texts: Vec<Text> = (samplings.iter())
            .map(|sampling| self.text(*sampling))
            .collect();
        loop {
            for text in texts.iter_mut().filter(|text| !text.is_over) {
                self.forbid(text);
                let choice = choose(&text.scores, text.temperature, &mut text.random);
                self.accept(text, choice);
            }
            let mut going: Vec<&mut Text> = texts.iter_mut().filter(|text| !text.is_over).collect();
            if going.is_empty() {
                break;
            }
            self.step(&mut going)?;
        }
        let results = texts.into_iter().map(|text| self.decoded(text));
        Some(results.collect())
    }

    /// Decodes with a beam: keeps the `size` most probable texts at each token. `None` when another thread set the stop
    /// flag.
    pub fn beam(&self, size: usize) -> Option<Decoded> {
        let mut going = vec![self.text(Sampling::GREEDY)];
        let mut ended: Vec<Text> = Vec::new();
        while !going.is_empty() && ended.len() < size {
            let mut candidates = Vec::new();
            for (parent, text) in going.iter_mut().enumerate() {
                self.forbid(text);
                // One more than the beam's size, because one may be the end.
                let best = most_likely(&text.scores, size + 1);
                candidates.extend(best.into_iter().map(|choice| (parent, choice)));
            }
            let total = |(parent, choice): &(usize, Choice)| going[*parent].sum + choice.logprob;
            candidates.sort_by(|a, b| total(b).total_cmp(&total(a)));
            let mut kept = Vec::new();
            for (parent, choice) in candidates {
                if kept.len() == size || ended.len() == size {
                    break;
                }
                let mut text = going[parent].clone();
                self.accept(&mut text, choice);
                if text.is_over {
                    ended.push(text);
                } else {
                    kept.push(text);
                }
            }
            going = kept;
            if ended.len() < size && !going.is_empty() {
                self.step(&mut going.iter_mut().collect::<Vec<_>>())?;
            }
        }
        let all = ended.into_iter().chain(going);
        let all = all.map(|text| self.decoded(text));
        all.max_by(|a, b| a.mean_logprob.total_cmp(&b.mean_logprob))
    }

    fn text(&self, sampling: Sampling) -> Text {
        Text {
            sequence: self.sequence.clone(),
            scores: self.scores.clone(),
            temperature: sampling.temperature,
            random: Random(sampling.seed),
            tokens: Vec::new(),
            choices: Vec::new(),
            sum: 0.0,
            ended: false,
            is_over: false,
        }
    }

    fn forbid(&self, text: &mut Text) {
        self.rules
            .apply(&mut text.scores, &text.tokens, self.timestamps);
    }

    fn accept(&self, text: &mut Text, choice: Choice) {
        text.sum += choice.logprob;
        let special = self.model.vocabulary.special;
        // As in whisper.cpp. The first time stamp begins the text. With a tail, time stamps are sometimes late, and text
        // follows.
        let time = special.timestamp(choice.token).filter(|_| !self.has_tail);
        let at_end = time.is_some_and(|time| time + CLOSE_TO_THE_END >= self.length);
        if at_end && !text.tokens.is_empty() {
            text.ended = true;
        }
        if choice.token == special.end {
            text.ended = true;
        } else {
            text.tokens.push(choice.token);
            text.choices.push(choice);
        }
        let room = self.model.dimensions.text_positions - self.sequence.length();
        text.is_over = text.ended || text.tokens.len() == MOST_TOKENS.min(room + 1);
    }

    /// Reads the last token of each text.
    fn step(&self, texts: &mut [&mut Text]) -> Option<()> {
        if self.stop.load(Ordering::Acquire) {
            return None;
        }
        let last: Vec<[Token; 1]> = (texts.iter())
            .map(|text| [text.tokens.last().copied().unwrap_or_default()])
            .collect();
        let mut steps: Vec<(&mut Sequence, &[Token])> = (texts.iter_mut().zip(&last))
            .map(|(text, last)| (&mut text.sequence, &last[..]))
            .collect();
        let scores = self.model.step(&mut steps);
        for (text, scores) in texts.iter_mut().zip(scores) {
            text.scores = scores;
        }
        Some(())
    }

    fn decoded(&self, text: Text) -> Decoded {
        let chosen = text.choices.len() + usize::from(text.ended);
        Decoded {
            mean_logprob: text.sum / chosen.max(1) as f32,
            choices: text.choices,
            no_speech: self.no_speech,
            ended: text.ended,
            observed: text.sequence.observed().to_vec(),
            before: self.sequence.length(),
            read: text.sequence.length(),
        }
    }
}

/// A text in the making.
#[derive(Clone)]
struct Text {
    sequence: Sequence,
    /// Of the next token.
    scores: Vec<f32>,
    temperature: f32,
    random: Random,
    tokens: Vec<Token>,
    choices: Vec<Choice>,
    /// Of all log-probabilities, the end's included.
    sum: f32,
    /// Whether it ended by itself.
    ended: bool,
    is_over: bool,
}

/// The most likely token, or one drawn with this temperature.
fn choose(scores: &[f32], temperature: f32, random: &mut Random) -> Choice {
    let token = if temperature > 0.0 {
        draw(scores, temperature, random)
    } else {
        let most = maximum(scores);
        let best = scores.iter().position(|score| *score >= most);
        best.unwrap_or(0)
    };
    Choice {
        token: token as Token,
        logprob: scores[token] - log_sum_exp(scores),
    }
}

/// The `count` most likely tokens, the best one first.
fn most_likely(scores: &[f32], count: usize) -> Vec<Choice> {
    let total = log_sum_exp(scores);
    let mut best: Vec<Choice> = Vec::with_capacity(count + 1);
    for (token, score) in scores.iter().enumerate() {
        let logprob = score - total;
        let is_full = best.len() == count;
        if !logprob.is_finite() || is_full && best[count - 1].logprob >= logprob {
            continue;
        }
        let place = best.partition_point(|choice| choice.logprob >= logprob);
        let token = token as Token;
        best.insert(place, Choice { token, logprob });
        best.truncate(count);
    }
    best
}

fn draw(scores: &[f32], temperature: f32, random: &mut Random) -> usize {
    let most = maximum(scores);
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
#[derive(Clone)]
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
    fn the_most_likely_tokens_are_in_order() {
        let scores = [1.0, 5.0, f32::NEG_INFINITY, 3.0, 4.0];
        let best = most_likely(&scores, 3);
        let tokens: Vec<Token> = best.iter().map(|choice| choice.token).collect();
        assert_eq!(tokens, [1, 4, 3]);
        assert_eq!(
            best[0],
            choose(&scores, 0.0, &mut Random(0)),
            "the same probability"
        );
        assert_eq!(most_likely(&scores, 9).len(), 4);
    }

    #[test]
    fn the_most_likely_token_is_chosen_at_temperature_0() {
        let choice = choose(&[1.0, 3.0, 2.0], 0.0, &mut Random(0));
        assert_eq!(choice.token, 1);
        let expected = (3.0_f32.exp() / (1.0_f32.exp() + 3.0_f32.exp() + 2.0_f32.exp())).ln();
        assert!((choice.logprob - expected).abs() < 1e-6);
    }
}
