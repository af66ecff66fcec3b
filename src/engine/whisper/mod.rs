//! The Whisper model, with the safeguards that whisper.cpp needs.
//!
//! Every chunk gets a fresh state. A state keeps its random generator, its encoder window and, on a GPU,
//! stale cache rows from call to call; with one state, a reply would depend on the previous request.

use std::path::Path;
use std::sync::atomic::AtomicBool;
// The worker has no runtime whose clock could be paused.
use std::time::Instant;

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::transcript::{ChunkTranscript, Doubt, Segment, Task};
use whisper_cpu::file::ModelFile;
use whisper_cpu::linear::Precision;
use whisper_rs::{
    FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters, WhisperState,
};

use crate::engine::protocol::Failure;
use callbacks::Watch;
use window::Window;

mod callbacks;
pub(in crate::engine) mod language;
mod segments;
pub mod window;
mod windows;

/// Shorter audio is padded with silence: whisper reads beyond its end.
const SHORTEST_SAMPLES: usize = (SAMPLE_RATE as usize * 11) / 10;
/// Whisper returns no text for shorter audio.
const SHORTEST_SPEECH_MILLIS: usize = 100;
/// Steps of the temperature ladder, as in OpenAI's implementation.
const LADDER_STEP: f32 = 0.2;
/// Encoder windows are multiples of this many frames.
const WINDOW_STEP: usize = 64;
/// On a GPU, attention is computed on multiples of this many rows, without a mask for those beyond the
/// window. A window that is a multiple has no such rows.
const WINDOW_STEP_ON_GPU: usize = 256;
/// More than the text of the 220 tokens that whisper keeps of a prompt.
const LONGEST_PROMPT_BYTES: usize = 2000;
/// One chunk to transcribe.
#[derive(Debug)]
pub struct Request {
    /// 16 kHz mono, ±1.0, at most 30 s.
    pub samples: Vec<f32>,
    /// Transcribe or translate.
    pub task: Task,
    /// ISO 639-1; `None`: detect.
    pub language: Option<String>,
    /// The languages among which the detection chooses; empty: all.
    pub languages: Vec<String>,
    /// ISO 639-1: the language to use if the detection is uncertain.
    pub likely_language: Option<String>,
    /// Text that the model takes as preceding the chunk.
    pub prompt: Option<String>,
    /// 0: greedy with the temperature ladder; any other value is used alone.
    pub temperature: f32,
}

/// How a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// CPU threads of one inference.
    pub threads: u32,
    /// Use the GPU with this index; `None`: the CPU.
    pub gpu: Option<u32>,
    /// Beam size at temperature 0; 1: greedy.
    pub beam_size: u32,
    /// How much of the encoder's window a chunk uses. The native engine takes any but the full one for its own choice.
    pub window: Window,
    /// Whether the model writes timestamps. Without them, a chunk is one segment.
    pub timestamps: bool,
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
        }
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    context: WhisperContext,
    options: Options,
}

/// Properties of a chunk that all attempts share.
struct Plan<'a> {
    samples: &'a [f32],
    /// Length of the audio without padding.
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
    /// The message says why. Whisper's own messages go to standard error.
    pub fn load(path: &Path, options: Options) -> Result<Self, String> {
        callbacks::quieten_log();
        let gpu = options.gpu;
        // It would abort (version 1.8.3, its issue 2557).
        let is_32_bit =
            || ModelFile::open(path).is_ok_and(|file| file.precision() == Precision::Float);
        if gpu.is_none() && is_32_bit() {
            return Err(format!(
                "whisper.cpp cannot compute the 32-bit weights of {} on a CPU; set ENGINE=auto, or convert the \
                 model to 16 bits",
                path.display()
            ));
        }
        let mut parameters = WhisperContextParameters::default();
        parameters
            .use_gpu(gpu.is_some())
            .gpu_device(gpu.unwrap_or(0).cast_signed())
            // About twice as slow as the plain kernels on a CPU.
            .flash_attn(gpu.is_some());
        let context = WhisperContext::new_with_params(path, parameters)
            .map_err(|error| format!("whisper could not load {}: {error}", path.display()))?;
        Ok(Self { context, options })
    }

    /// Whether it supports languages other than English.
    pub fn is_multilingual(&self) -> bool {
        self.context.is_multilingual()
    }

    /// Transcribes one chunk independently of others. `heard` is called with a detected language before the
    /// text is decoded.
    ///
    /// # Errors
    /// [`Failure::Aborted`] soon after `abort` is set, [`Failure::Engine`] if whisper fails.
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
        let window = (self.options.window).frames(samples.len(), self.window_step());
        let mut state = self.context.create_state().map_err(whisper_failed)?;
        let wanted = language::Wanted {
            language: request.language.as_deref(),
            languages: &request.languages,
            likely: request.likely_language.as_deref(),
        };
        let language = self.language(&mut state, &samples, window, &wanted)?;
        let mut passes = 0;
        if let Some(probability) = language.probability {
            passes += 1;
            heard(&language.code, probability);
        }
        let plan = Plan {
            samples: &samples,
            millis,
            language: &language.code,
            task: request.task,
            prompt: &self.prompt_tokens(request.prompt.as_deref())?,
            temperature: request.temperature,
        };
        let watch = Watch::new(abort);
        let (mut segments, doubt) = self.attempt(state, &plan, window, &watch)?;
        passes += watch.encoder_passes();
        if doubt.is_some() {
            let state = self.context.create_state().map_err(whisper_failed)?;
            let watch = Watch::new(abort);
            (segments, _) = self.attempt(state, &plan, window::FULL, &watch)?;
            passes += watch.encoder_passes();
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

    fn window_step(&self) -> usize {
        match self.options.gpu {
            Some(_) => WINDOW_STEP_ON_GPU,
            None => WINDOW_STEP,
        }
    }

    /// Transcribes once, with a window of this many frames. A shorter window than the full one may give a
    /// reason to doubt the text. Only the full window uses the temperature ladder: text that whisper itself
    /// would reject is doubted anyway.
    fn attempt(
        &self,
        mut state: WhisperState,
        plan: &Plan<'_>,
        window: usize,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Segment>, Option<Doubt>), Failure> {
        let mut parameters = self.parameters(plan.language, plan.task, plan.temperature);
        parameters.set_tokens(plan.prompt);
        // Without the true length, whisper would decode the padding too and hallucinate text there.
        parameters.set_duration_ms(plan.millis as i32);
        if window < window::FULL {
            parameters.set_audio_ctx(window as i32);
            parameters.set_temperature_inc(0.0);
        }
        watch.attach(&mut parameters);
        let result = state.full(parameters, plan.samples);
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

    fn prompt_tokens(&self, prompt: Option<&str>) -> Result<Vec<i32>, Failure> {
        let Some(prompt) = prompt else {
            return Ok(Vec::new());
        };
        // Whisper's text ends at a NUL. A token has at least one byte, so the buffer always suffices; the
        // binding misreads the result of one that does not.
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
            // One candidate at every temperature: more would reallocate the cache during decoding.
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
        // Rough token times are nearly free and serve where exact ones are not available.
        parameters.set_token_timestamps(true);
        parameters.set_suppress_blank(true);
        parameters.set_suppress_nst(true);
        parameters.set_print_special(false);
        parameters.set_print_progress(false);
        parameters.set_print_realtime(false);
        parameters.set_print_timestamps(false);
        parameters
    }
}

/// The transcript of audio that is too short for a word.
pub(super) fn nothing_said(request: &Request) -> ChunkTranscript {
    ChunkTranscript {
        language: request.language.clone().unwrap_or_else(|| "en".to_owned()),
        ..ChunkTranscript::default()
    }
}

/// The end of a prompt. Whisper keeps only about 220 tokens, and its tokeniser recurses over the text, which
/// overflows the stack on tens of thousands of characters.
fn tail(prompt: &str) -> &str {
    let start = prompt.len().saturating_sub(LONGEST_PROMPT_BYTES);
    &prompt[prompt.ceil_char_boundary(start)..]
}

/// Temperature 0 asks for the ladder 0, 0.2 … 1.0; any other is used as it is.
pub(super) fn is_ladder(temperature: f32) -> bool {
    temperature <= f32::EPSILON
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
