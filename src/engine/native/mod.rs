//! Whisper on the CPU, computed by the crate `whisper-cpu`.
//!
//! A chunk is encoded only as far as its audio goes; the model's mean tail stands for the rest of the
//! window. A text that is doubtful is decoded again with the full window and OpenAI's temperature ladder.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
// The worker has no runtime whose clock could be paused.
use std::time::Instant;

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::transcript::{
    ChunkTranscript, Doubt, Segment, Task, TokenLogprob, compression_ratio,
};
use stt_actors::ports::CERTAIN_LANGUAGE;
use whisper_cpu::decoder::Audio;
use whisper_cpu::decoding::{self, Decoded, Opening};
use whisper_cpu::rules::Rules;
use whisper_cpu::tail::Tail;
use whisper_cpu::tokenizer::Tokenizer;
use whisper_cpu::transcribe::{self as windows, Stopped, Transcriber, Transcript};
use whisper_cpu::vocabulary::Token;

use crate::engine::protocol::Failure;
use crate::engine::whisper::language::{id_of, restrict};
use crate::engine::whisper::window::{self, Window};
use crate::engine::whisper::{Options, Request, is_ladder, nothing_said};
use crate::engine::words;
use alignment::Attention;

mod alignment;
mod heads;
mod prepared;

/// Samples of a frame of 10 ms.
const FRAME: usize = SAMPLE_RATE as usize / 100;
/// Shorter audio holds no word.
const SHORTEST_SAMPLES: usize = SAMPLE_RATE as usize / 10;
/// Compression ratio above which a text is decoded again at a higher temperature.
const MOST_COMPRESSION: f32 = 2.4;

/// A loaded model.
#[derive(Debug)]
pub struct Native {
    model: whisper_cpu::Model,
    rules: Rules,
    tokenizer: Tokenizer,
    /// `None`: every window is full.
    tail: Option<Tail>,
    /// Texts that are kept at each token; 1: greedy decoding.
    beam: usize,
    /// Attention heads of the decoder that follow the audio.
    heads: Vec<(usize, usize)>,
}

/// The language of a chunk.
struct Language {
    /// ISO 639-1.
    code: String,
    /// `None` for English-only models.
    token: Option<Token>,
    /// `None`: it was given.
    probability: Option<f32>,
    /// The first window, encoded for the detection, and the beginning of its text.
    heard: Option<(Arc<Audio>, Opening)>,
}

impl Native {
    /// Whether this engine does what the options ask for.
    pub fn supports(options: &Options) -> bool {
        options.gpu.is_none()
    }

    /// Loads a ggml file.
    ///
    /// # Errors
    /// The message says why.
    pub fn load(path: &Path, options: Options) -> Result<Self, String> {
        let failed = |error: whisper_cpu::file::FileError| {
            format!("{} cannot be loaded: {error}", path.display())
        };
        let threads = options.threads.max(1) as usize;
        let (model, tail) = prepared::load(path, threads).map_err(failed)?;
        let dimensions = model.dimensions;
        let shape = (
            dimensions.text_layers,
            dimensions.state,
            dimensions.vocabulary,
        );
        Ok(Self {
            rules: Rules::new(&model.vocabulary),
            tokenizer: Tokenizer::new(&model.vocabulary),
            tail: (options.window != Window::Full).then_some(tail),
            beam: options.beam_size as usize,
            heads: heads::heads_of(shape, dimensions.heads),
            model,
        })
    }

    /// Whether it supports languages other than English.
    pub fn is_multilingual(&self) -> bool {
        self.model.vocabulary.special.multilingual
    }

    /// Transcribes one chunk independently of others. `heard` is called with a detected language before the text is
    /// decoded.
    ///
    /// # Errors
    /// [`Failure::Aborted`] soon after `abort` is set, [`Failure::Engine`] if the language is unknown.
    pub fn transcribe(
        &self,
        request: &Request,
        abort: &AtomicBool,
        heard: &mut dyn FnMut(&str, f32),
    ) -> Result<ChunkTranscript, Failure> {
        let begin = Instant::now();
        if request.samples.len() < SHORTEST_SAMPLES {
            return Ok(nothing_said(request));
        }
        let language = self.language(request, abort)?;
        if let Some(probability) = language.probability {
            heard(&language.code, probability);
        }
        let options = windows::Options {
            task: decoding::Task {
                language: language.token,
                translate: request.task == Task::Translate,
                prompt: (request.prompt.as_deref())
                    .map_or_else(Vec::new, |text| self.tokenizer.tokens(text)),
                timestamps: true,
                heads: self.heads.clone(),
            },
            temperature: request.temperature,
            beam: self.beam,
            ladder: is_ladder(request.temperature),
        };
        let seconds = request.samples.len() as f64 / f64::from(SAMPLE_RATE);
        let tail = self.tail.as_ref();
        let first = self.attempt(request, &options, tail, language.heard, abort)?;
        let mut passes = first.encoder_passes + u32::from(language.probability.is_some());
        let mut segments = self.segments(first, seconds);
        let doubt = window::doubt(&segments, seconds);
        // A low probability is no reason for the full window: it gives the same text, and the ladder has been climbed.
        if tail.is_some() && doubt.is_some_and(|doubt| doubt != Doubt::LowProbability) {
            let second = self.attempt(request, &options, None, None, abort)?;
            passes += second.encoder_passes;
            segments = self.segments(second, seconds);
        }
        Ok(ChunkTranscript {
            segments,
            language: language.code,
            language_probability: language.probability,
            encoder_passes: passes,
            doubt,
            inference_seconds: begin.elapsed().as_secs_f64(),
        })
    }

    fn attempt(
        &self,
        request: &Request,
        options: &windows::Options,
        tail: Option<&Tail>,
        heard: Option<(Arc<Audio>, Opening)>,
        abort: &AtomicBool,
    ) -> Result<Transcript, Failure> {
        let timing = |decoded: &Decoded, frames: usize| self.token_times(decoded, frames);
        let transcriber = Transcriber {
            model: &self.model,
            rules: &self.rules,
            timing: Some(&timing),
            // With a tail, the full window comes before higher temperatures.
            is_bad: &|text| tail.is_none() && compression_ratio(text) > MOST_COMPRESSION,
            stop: abort,
        };
        transcriber
            .transcribe(&request.samples, options, tail, heard)
            .map_err(|Stopped| Failure::Aborted)
    }

    /// The wanted language, or the one that the model detects; if that is uncertain, the likely one.
    fn language(&self, request: &Request, abort: &AtomicBool) -> Result<Language, Failure> {
        let special = self.model.vocabulary.special;
        if !special.multilingual {
            return Ok(Language {
                code: "en".to_owned(),
                token: None,
                probability: None,
                heard: None,
            });
        }
        if let Some(code) = &request.language {
            let token = token_of(code).and_then(|place| special.language(place));
            let token = token.ok_or_else(|| {
                Failure::Engine(format!("this model does not support the language {code:?}"))
            })?;
            return Ok(Language {
                code: code.clone(),
                token: Some(token),
                probability: None,
                heard: None,
            });
        }
        let window = &request.samples[..request.samples.len().min(30 * SAMPLE_RATE as usize)];
        let audio = windows::listen(&self.model, window, self.tail.as_ref(), abort);
        let audio = audio.ok_or(Failure::Aborted)?;
        let opening = Opening::new(&self.model, &audio, &self.heads);
        let mut all = opening.languages(&self.model);
        restrict(&mut all, &request.languages);
        let best = all.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let (best, probability) =
            best.map_or((0, 0.0), |(place, probability)| (place, *probability));
        let likely = request.likely_language.as_deref().and_then(token_of);
        let likely =
            likely.filter(|place| probability < CERTAIN_LANGUAGE && (*place as usize) < all.len());
        let place = likely.unwrap_or(best as u32);
        let code = whisper_rs::get_lang_str(place as i32)
            .ok_or_else(|| Failure::Engine("no language was detected".to_owned()))?;
        Ok(Language {
            code: code.to_owned(),
            token: special.language(place),
            probability: all.get(place as usize).copied(),
            heard: Some((audio, opening)),
        })
    }

    fn segments(&self, transcript: Transcript, duration: f64) -> Vec<Segment> {
        let vocabulary = &self.model.vocabulary;
        let segments = transcript.segments.into_iter().enumerate();
        segments
            .map(|(id, segment)| {
                let start = segment.time.start.min(duration);
                let end = segment.time.end.clamp(start, duration);
                let texts: Vec<&[u8]> = (segment.choices.iter())
                    .map(|choice| vocabulary.bytes(choice.token))
                    .collect();
                let text = String::from_utf8_lossy(&texts.concat()).into_owned();
                let logprobs = segment.choices.iter().map(|choice| choice.logprob);
                let mean = logprobs.sum::<f32>() / segment.choices.len().max(1) as f32;
                let time_of = |place: usize| match &segment.token_times {
                    Some(times) => times[place].clone(),
                    None => start..end,
                };
                let tokens = segment.choices.iter().zip(&texts).enumerate();
                let tokens = tokens.map(|(place, (choice, bytes))| words::Token {
                    id: choice.token.cast_signed(),
                    bytes,
                    start: time_of(place).start,
                    end: time_of(place).end,
                    logprob: choice.logprob,
                });
                Segment {
                    id,
                    seek: (segment.seek / FRAME) as u64,
                    start,
                    end,
                    tokens: segment
                        .choices
                        .iter()
                        .map(|choice| choice.token.cast_signed())
                        .collect(),
                    logprobs: segment
                        .choices
                        .iter()
                        .zip(&texts)
                        .map(|(choice, bytes)| TokenLogprob {
                            bytes: bytes.to_vec(),
                            logprob: choice.logprob,
                        })
                        .collect(),
                    temperature: segment.temperature,
                    avg_logprob: mean,
                    compression_ratio: compression_ratio(&text),
                    no_speech_prob: segment.no_speech,
                    words: words::of_tokens(tokens),
                    text,
                }
            })
            .collect()
    }

    /// Start and end of each token of text of a window, in its seconds.
    fn token_times(&self, decoded: &Decoded, frames: usize) -> Option<Vec<Range<f64>>> {
        let end_of_text = self.model.vocabulary.special.end;
        let text: Vec<usize> = (decoded.choices.iter().enumerate())
            .filter(|(_, choice)| choice.token < end_of_text)
            .map(|(place, _)| decoded.before + place)
            .collect();
        let last = *text.last()?;
        // The last token was not read if the text ended at the limit.
        if last >= decoded.read {
            return None;
        }
        let columns = decoded.observed.first()?.weights.len() / decoded.read;
        // The tokens that begin every text, without time stamps; the token before each token of text; the last one; and
        // one that stands for the end.
        let begin = 0..decoded.before - 1;
        let before = text.iter().map(|place| place - 1);
        let rows: Vec<usize> = begin.chain(before).chain([last, last]).collect();
        let heads = decoded.observed.iter().map(|head| {
            let rows = rows
                .iter()
                .flat_map(|row| &head.weights[row * columns..(row + 1) * columns]);
            rows.copied().collect()
        });
        let attention = Attention {
            tokens: rows.len(),
            frames: columns,
            heads: heads.collect(),
        };
        alignment::token_times(&attention, decoded.before, frames)
    }
}

/// The place of a language in Whisper's list.
fn token_of(code: &str) -> Option<u32> {
    u32::try_from(id_of(code)?).ok()
}
