//! Whisper itself, with the guards that its C++ implementation needs.
//!
//! Every chunk gets a fresh state: a state keeps its random generator, its encoder window and, on
//! a GPU, stale rows of its caches from one call to the next, so that a reply would depend on the
//! request before it.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
// The worker has no runtime whose clock could be paused.
use std::time::Instant;

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::transcript::{
    ChunkTranscript, Doubt, Segment, Task, TokenLogprob, compression_ratio,
};
use whisper_rs::{
    FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters, WhisperState,
    WhisperToken,
};

use crate::engine::ggml_hooks::observe::{self, Head};
use crate::engine::ggml_hooks::{self, reuse};
use crate::engine::protocol::Failure;
use callbacks::{First, GRAPHS_OF_A_PASS, Watch};
pub use callbacks::{forget_memory, memory_was_short};
use window::Window;
use windows::Timing;

mod alignment;
mod callbacks;
pub mod window;
mod windows;
mod words;

/// Whisper reads beyond the end of very short audio: it is padded with silence to this.
const SHORTEST_SAMPLES: usize = (SAMPLE_RATE as usize * 11) / 10;
/// Whisper itself takes nothing shorter than this and gives no text for it.
const SHORTEST_SPEECH_MILLIS: usize = 100;
/// Steps of the temperature ladder, as in OpenAI's implementation.
const LADDER_STEP: f32 = 0.2;
/// Encoder windows are multiples of so many frames.
const WINDOW_STEP: usize = 64;
/// On a GPU, attention is computed on rows in multiples of this, and those beyond the window are not
/// masked: there shall be none.
const WINDOW_STEP_ON_GPU: usize = 256;
/// Text of the 220 tokens that whisper keeps of a prompt, and some more.
const LONGEST_PROMPT_BYTES: usize = 2000;
/// Vocabulary of the models that know 100 languages; those with fewer entries know 99.
const VOCABULARY_WITH_100_LANGUAGES: i32 = 51_866;

/// One chunk to transcribe.
#[derive(Debug)]
pub struct Request {
    /// 16 kHz mono, ±1.0, at most 30 s.
    pub samples: Vec<f32>,
    /// Transcribe or translate.
    pub task: Task,
    /// ISO 639-1; `None`: detect.
    pub language: Option<String>,
    /// What came before, for the model.
    pub prompt: Option<String>,
    /// 0: greedy with the temperature ladder; else this alone.
    pub temperature: f32,
}

/// How a model works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads of the CPU for one inference.
    pub threads: u32,
    /// Use the GPU with this index; `None`: the CPU.
    pub gpu: Option<u32>,
    /// Candidates that are followed at once at temperature 0; 1: greedy.
    pub beam_size: u32,
    /// How much of the encoder's window a chunk gets.
    pub window: Window,
    /// Whether the model tells times. Without, a chunk is one segment.
    pub timestamps: bool,
    /// Whether the times of words are found by where the model looks, which takes the decoder one more
    /// pass over the text; else they are whisper's rough ones.
    pub exact_words: bool,
}

impl Default for Options {
    /// Greedy on one thread of the CPU.
    fn default() -> Self {
        Self {
            threads: 1,
            gpu: None,
            beam_size: 1,
            window: Window::MEASURED,
            timestamps: true,
            exact_words: true,
        }
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    context: WhisperContext,
    options: Options,
    /// Of the decoder's attention, those that follow the audio.
    heads: Vec<Head>,
}

/// What is the same in all attempts at a chunk.
struct Plan<'a> {
    samples: &'a [f32],
    /// Of the audio, without padding.
    millis: usize,
    language: &'a str,
    task: Task,
    prompt: &'a [i32],
    temperature: f32,
}

impl Model {
    /// Loads a ggml file.
    ///
    /// # Errors
    /// Why not, for people. Whisper's own words go to standard error.
    pub fn load(path: &Path, options: Options) -> Result<Self, String> {
        callbacks::quieten_log();
        ggml_hooks::check()?;
        let gpu = options.gpu;
        let mut parameters = WhisperContextParameters::default();
        parameters
            .use_gpu(gpu.is_some())
            .gpu_device(gpu.unwrap_or(0).cast_signed())
            // About twice as slow as the plain kernels on a CPU.
            .flash_attn(gpu.is_some());
        let context = WhisperContext::new_with_params(path, parameters)
            .map_err(|error| format!("whisper could not load {}: {error}", path.display()))?;
        let shape = (
            context.model_n_text_layer(),
            context.model_n_text_state(),
            context.model_n_vocab(),
        );
        let heads_of_a_layer = usize::try_from(context.model_n_text_head()).unwrap_or(0);
        let heads = alignment::heads(shape, heads_of_a_layer);
        Ok(Self {
            context,
            options,
            heads,
        })
    }

    /// Whether it knows languages besides English.
    pub fn is_multilingual(&self) -> bool {
        self.context.is_multilingual()
    }

    /// Transcribes one chunk, complete in itself. `heard` is told a language that was detected, before
    /// the text is made.
    ///
    /// # Errors
    /// [`Failure::Aborted`] soon after `abort` is set; else what whisper could not do.
    pub fn transcribe(
        &mut self,
        request: Request,
        abort: &AtomicBool,
        heard: &mut dyn FnMut(&str, f32),
    ) -> Result<ChunkTranscript, Failure> {
        let begin = Instant::now();
        let millis = request.samples.len() * 1000 / SAMPLE_RATE as usize;
        if millis < SHORTEST_SPEECH_MILLIS {
            return Ok(nothing_said(&request));
        }
        let mut samples = request.samples;
        if samples.len() < SHORTEST_SAMPLES {
            samples.resize(SHORTEST_SAMPLES, 0.0);
        }
        let mut passes = 0;
        let window = (self.options.window).frames(samples.len(), self.window_step());
        let mut state = self.context.create_state().map_err(whisper_failed)?;
        let mut is_encoded = false;
        let forced = self.forced_language(request.language.as_deref())?;
        let (language, probability) = if let Some(forced) = forced {
            (forced, None)
        } else {
            let (code, probability);
            (code, probability, is_encoded) = self.detect_language(&mut state, &samples, window)?;
            passes += 1;
            heard(&code, probability);
            (code, Some(probability))
        };
        let plan = Plan {
            samples: &samples,
            millis,
            language: &language,
            task: request.task,
            prompt: &self.prompt_tokens(request.prompt.as_deref())?,
            temperature: request.temperature,
        };
        let look = self.look();
        let first = if is_encoded { First::IsEncoded } else { look };
        let watch = Watch::new(abort, first, self.timing(&plan, abort));
        let (mut segments, doubt) = self.attempt(state, &plan, window, &watch)?;
        passes += watch.encoder_passes();
        if doubt.is_some() {
            let state = self.context.create_state().map_err(whisper_failed)?;
            let watch = Watch::new(abort, look, self.timing(&plan, abort));
            (segments, _) = self.attempt(state, &plan, window::FULL, &watch)?;
            passes += watch.encoder_passes();
        }
        Ok(ChunkTranscript {
            segments,
            language,
            language_probability: probability,
            encoder_passes: passes,
            doubt,
            inference_seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// How the first window of a fresh state begins. Where nothing can be reused, a look would cost a
    /// second pass.
    fn look(&self) -> First {
        if reuse::AVAILABLE && self.options.gpu.is_none() {
            First::EncodeAndLook(self.options.threads)
        } else {
            First::Encode
        }
    }

    /// How tokens get their times. On a GPU attention is computed in one piece, which shows nothing.
    fn timing<'a>(&'a self, plan: &Plan<'_>, abort: &'a AtomicBool) -> Option<Timing<'a>> {
        let samples = plan.millis * SAMPLE_RATE as usize / 1000;
        let sees = observe::AVAILABLE && self.options.gpu.is_none();
        (self.options.exact_words && sees).then(|| Timing {
            heads: &self.heads,
            audio_frames: samples.div_ceil(SAMPLE_RATE as usize / 50),
            translates: plan.task == Task::Translate,
            threads: self.options.threads,
            abort,
        })
    }

    fn window_step(&self) -> usize {
        match self.options.gpu {
            Some(_) => WINDOW_STEP_ON_GPU,
            None => WINDOW_STEP,
        }
    }

    /// One transcription, with a window of so many frames, and what speaks against it where that is not
    /// the full one. The temperature ladder is for the full window alone: text that whisper itself would
    /// reject is doubted in any case.
    fn attempt(
        &self,
        mut state: WhisperState,
        plan: &Plan<'_>,
        window: usize,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Segment>, Option<Doubt>), Failure> {
        let mut parameters = self.parameters(plan.language, plan.task, plan.temperature);
        parameters.set_tokens(plan.prompt);
        // Without the true length, the padding would be decoded as well, and hallucinated into.
        parameters.set_duration_ms(plan.millis as i32);
        if window < window::FULL {
            parameters.set_audio_ctx(window as i32);
            parameters.set_temperature_inc(0.0);
        }
        watch.attach(&mut parameters);
        let result = state.full(parameters, plan.samples);
        // Whatever has become of it, nothing else is to be passed over.
        reuse::skip(0);
        if watch.was_aborted() {
            return Err(Failure::Aborted);
        }
        result.map_err(whisper_failed)?;
        let duration = plan
            .samples
            .len()
            .min(plan.millis * SAMPLE_RATE as usize / 1000);
        let duration = duration as f64 / f64::from(SAMPLE_RATE);
        if window < window::FULL {
            // What is thrown away needs no exact times.
            let segments = self.segments(&state, watch, plan.temperature, duration);
            let doubt = window::doubt(&segments, plan.millis as f64 / 1000.0);
            if doubt.is_some() {
                return Ok((segments, doubt));
            }
        }
        watch.call_ended();
        if watch.was_aborted() {
            return Err(Failure::Aborted);
        }
        let segments = self.segments(&state, watch, plan.temperature, duration);
        Ok((segments, None))
    }

    /// The language that needs no detection: the client's, or English on a model that knows no
    /// other. Whisper itself takes an unknown one without a word.
    fn forced_language(&self, wanted: Option<&str>) -> Result<Option<String>, Failure> {
        if !self.is_multilingual() {
            return Ok(Some("en".to_owned()));
        }
        let Some(code) = wanted else { return Ok(None) };
        let clean = !code.contains('\0');
        match clean.then(|| whisper_rs::get_lang_id(code)).flatten() {
            Some(id) if (id as usize) < self.language_count() => Ok(Some(code.to_owned())),
            Some(_) | None => Err(Failure::Engine(format!(
                "this model does not know the language {code:?}"
            ))),
        }
    }

    /// Languages that the model has a token for. Whisper's own table is one longer than that of
    /// most models; there, the last entry would be the token for "translate".
    fn language_count(&self) -> usize {
        if self.context.n_vocab() >= VOCABULARY_WITH_100_LANGUAGES {
            100
        } else {
            99
        }
    }

    /// Detects the language with one encoder pass over the window that transcribing takes; its code and
    /// probability, and whether what the encoder made can be used for that. Whisper's own "auto" takes
    /// a pass of its own, with whatever window the last call had left.
    fn detect_language(
        &self,
        state: &mut WhisperState,
        samples: &[f32],
        window: usize,
    ) -> Result<(String, f32, bool), Failure> {
        let mut parameters = self.parameters("en", Task::Transcribe, 0.0);
        parameters.set_audio_ctx(window as i32);
        // Sets the window and the spectrogram, and stops before the encoder.
        Watch::stop_before_encoder(&mut parameters);
        state.full(parameters, samples).map_err(whisper_failed)?;
        let threads = self.options.threads as usize;
        let (detected, graphs) = reuse::counted(|| state.lang_detect(0, threads));
        let (_, probabilities) = detected.map_err(whisper_failed)?;
        // The encoder's, and one of the decoder. Others are not understood, so nothing is reused; on a
        // GPU there are none.
        let is_encoded = graphs == GRAPHS_OF_A_PASS + 1 && self.options.gpu.is_none();
        let known = &probabilities[..probabilities.len().min(self.language_count())];
        let best = known
            .iter()
            .enumerate()
            .max_by(|(_, a), (_, b)| a.total_cmp(b))
            .and_then(|(id, probability)| {
                Some((whisper_rs::get_lang_str(id as i32)?, *probability))
            });
        match best {
            Some((code, probability)) => Ok((code.to_owned(), probability, is_encoded)),
            None => Err(Failure::Engine("no language was detected".to_owned())),
        }
    }

    fn prompt_tokens(&self, prompt: Option<&str>) -> Result<Vec<i32>, Failure> {
        let Some(prompt) = prompt else {
            return Ok(Vec::new());
        };
        // Whisper's text ends at a NUL. A token is at least a byte, so there is always room: with
        // too little of it the binding would misread the answer.
        let prompt = tail(prompt).replace('\0', " ");
        self.context
            .tokenize(&prompt, prompt.len() + 1)
            .map_err(whisper_failed)
    }

    fn parameters<'a, 'b>(
        &self,
        language: &'a str,
        task: Task,
        temperature: f32,
    ) -> FullParams<'a, 'b> {
        let beam_size = self.options.beam_size.cast_signed();
        let mut parameters = FullParams::new(if beam_size > 1 {
            let patience = -1.0;
            SamplingStrategy::BeamSearch {
                beam_size,
                patience,
            }
        } else {
            // One candidate at every temperature: more would regrow the cache in the middle of work.
            SamplingStrategy::Greedy { best_of: 1 }
        });
        parameters.set_n_threads(self.options.threads.cast_signed());
        parameters.set_no_timestamps(!self.options.timestamps);
        parameters.set_language(Some(language));
        parameters.set_translate(task == Task::Translate);
        parameters.set_temperature(temperature);
        parameters.set_temperature_inc(if is_ladder(temperature) {
            LADDER_STEP
        } else {
            0.0
        });
        parameters.set_no_context(true);
        // Rough times of tokens cost next to nothing, and are there where exact ones are not.
        parameters.set_token_timestamps(true);
        parameters.set_suppress_blank(true);
        parameters.set_suppress_nst(true);
        parameters.set_print_special(false);
        parameters.set_print_progress(false);
        parameters.set_print_realtime(false);
        parameters.set_print_timestamps(false);
        parameters
    }

    fn segments(
        &self,
        state: &WhisperState,
        watch: &Watch<'_>,
        temperature: f32,
        duration: f64,
    ) -> Vec<Segment> {
        let end_of_text = self.context.token_eot();
        let times = watch.token_times();
        let mut times = times.into_iter();
        let mut segments: Vec<Segment> = Vec::new();
        for (index, segment) in state.as_iter().enumerate() {
            let window = watch.window_of(index);
            let tokens = (0..segment.n_tokens()).filter_map(|token| segment.get_token(token));
            let texts: Vec<_> = tokens
                .filter(|token| token.token_id() < end_of_text)
                .map(|token| text_token(&token, times.next().flatten()))
                .collect();
            let logprobs: Vec<f32> = texts.iter().map(|token| token.logprob).collect();
            let text = segment
                .to_str_lossy()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default();
            let start = (segment.start_timestamp() as f64 / 100.0).clamp(0.0, duration);
            let no_speech = window.no_speech;
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
                no_speech_prob: no_speech.unwrap_or_else(|| segment.no_speech_probability()),
                words: words::of_tokens(texts.into_iter()),
                text,
            });
        }
        segments
    }
}

/// A token with its exact times, or whisper's rough ones.
fn text_token<'a>(token: &WhisperToken<'_, 'a>, exact: Option<Range<f64>>) -> words::Token<'a> {
    let data = token.token_data();
    let rough = data.t0 as f64 / 100.0..data.t1 as f64 / 100.0;
    let time = exact.unwrap_or(rough);
    words::Token {
        id: token.token_id(),
        bytes: token.to_bytes().unwrap_or_default(),
        start: time.start,
        end: time.end,
        logprob: data.plog,
    }
}

fn token_logprob(token: &words::Token<'_>) -> TokenLogprob {
    TokenLogprob {
        bytes: token.bytes.to_vec(),
        logprob: token.logprob,
    }
}

/// The reply for audio too short to hold a word.
fn nothing_said(request: &Request) -> ChunkTranscript {
    ChunkTranscript {
        language: request.language.clone().unwrap_or_else(|| "en".to_owned()),
        ..ChunkTranscript::default()
    }
}

/// The end of a prompt, which is all that whisper looks at: it keeps some 220 tokens. Its tokeniser
/// recurses over the text and overflows the stack on tens of thousands of characters.
fn tail(prompt: &str) -> &str {
    let start = prompt.len().saturating_sub(LONGEST_PROMPT_BYTES);
    &prompt[prompt.ceil_char_boundary(start)..]
}

/// Temperature 0 asks for the ladder 0, 0.2 … 1.0; any other is used as it is.
fn is_ladder(temperature: f32) -> bool {
    temperature <= f32::EPSILON
}

fn mean(values: &[f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().sum::<f32>() / values.len() as f32
}

fn whisper_failed(error: whisper_rs::WhisperError) -> Failure {
    Failure::Engine(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_keeps_its_end_and_whole_characters() {
        assert_eq!(tail("short"), "short");
        let long = "ñ".repeat(LONGEST_PROMPT_BYTES);
        assert_eq!(tail(&long), "ñ".repeat(LONGEST_PROMPT_BYTES / 2));
        let odd = format!("{long}x");
        assert!(tail(&odd).len() <= LONGEST_PROMPT_BYTES && tail(&odd).ends_with('x'));
    }
}
