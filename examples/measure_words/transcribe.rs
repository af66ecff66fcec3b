//! Transcribes the clips with this server's engine and with whisper.cpp unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use measurement_support::decode::decode;
use stt_actors::domain::chunk::AudioChunk;
use stt_actors::domain::transcript::{ChunkTranscript, Task};
use stt_actors::text::merger::Merger;
use stt_actors::text::segment_split;
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::SpeechDetector;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::engine::whisper::{Options, Request};
use uttera_stt::engine::{Engine, EngineChoice};
use whisper_rs::{
    DtwMode, DtwModelPreset, DtwParameters, FullParams, SamplingStrategy, WhisperContext,
    WhisperContextParameters,
};

use crate::Timed;
use crate::score::Score;

/// The words of each clip.
pub type Words = BTreeMap<String, Vec<Timed>>;

/// The chunks of each clip.
pub type Chunks = Vec<(String, Vec<AudioChunk>)>;

/// Cuts the clips as the server does.
pub fn chunks<'a>(args: &Score, clips: impl Iterator<Item = &'a String>) -> anyhow::Result<Chunks> {
    let weights = Arc::new(Weights::load(&args.weights)?);
    clips
        .map(|clip| {
            let samples = decode(&args.clips.join(clip), 0.0)?;
            let detector = SpeechDetector::new(Arc::clone(&weights));
            let mut chunker = Chunker::new(Some(Box::new(detector)));
            chunker.aim_at(Duration::from_secs(28));
            let mut chunks = chunker.push(&samples);
            chunks.extend(chunker.flush());
            Ok((clip.clone(), chunks))
        })
        .collect()
}

fn language_of(clip: &str) -> &str {
    clip.split('-').next().unwrap_or("en")
}

/// The words of one of this server's engines.
pub fn ours(args: &Score, chunks: &Chunks, engine: EngineChoice) -> anyhow::Result<Words> {
    let options = Options {
        threads: args.threads,
        ..Options::default()
    };
    let mut model = Engine::load(&args.model, engine, options).map_err(anyhow::Error::msg)?;
    let mut seconds = 0.0;
    let mut found = BTreeMap::new();
    for (clip, chunks) in chunks {
        let mut merger = Merger::default();
        let mut words = Vec::new();
        for chunk in chunks {
            let request = Request {
                samples: floats(&chunk.samples),
                task: Task::Transcribe,
                language: Some(language_of(clip).to_owned()),
                languages: Vec::new(),
                likely_language: None,
                prompt: None,
                temperature: 0.0,
            };
            let done = model.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
            let mut done: ChunkTranscript = done.map_err(|error| anyhow!("{error:?}"))?;
            seconds += done.inference_seconds;
            done.segments = segment_split::settle(std::mem::take(&mut done.segments), chunk);
            for segment in merger.push(chunk.clone(), done) {
                words.extend(segment.words.into_iter().map(|word| Timed {
                    word: word.text,
                    time: word.start..word.end,
                }));
            }
        }
        found.insert(clip.clone(), words);
    }
    println!("{engine:?}: {seconds:.1} s of inference");
    Ok(found)
}

fn floats(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|s| f32::from(*s) / 32_768.0).collect()
}

/// whisper.cpp's own timestamps: those of tokens, and those of its dynamic time warping, which gives the
/// ends of tokens.
pub fn whispers(args: &Score, chunks: &Chunks) -> anyhow::Result<(Words, Words)> {
    let mut parameters = WhisperContextParameters::default();
    parameters.flash_attn(false).dtw_parameters(DtwParameters {
        mode: DtwMode::ModelPreset {
            model_preset: DtwModelPreset::Base,
        },
        ..DtwParameters::default()
    });
    whisper_rs::install_logging_hooks();
    let context = WhisperContext::new_with_params(&args.model, parameters)?;
    let (mut by_tokens, mut by_dtw) = (BTreeMap::new(), BTreeMap::new());
    for (clip, chunks) in chunks {
        let mut words = [Vec::new(), Vec::new()];
        for chunk in chunks {
            let mut parameters = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
            parameters.set_n_threads(args.threads.cast_signed());
            parameters.set_language(Some(language_of(clip)));
            parameters.set_token_timestamps(true);
            parameters.set_no_context(true);
            let mut state = context.create_state()?;
            state.full(parameters, &floats(&chunk.samples))?;
            for (words, found) in words.iter_mut().zip(whispers_words(&state, &context)) {
                words.extend(found.into_iter().map(|timed| Timed {
                    time: chunk.begins_at(timed.time.start)..chunk.ends_at(timed.time.end),
                    ..timed
                }));
            }
        }
        let [tokens, dtw] = words;
        by_tokens.insert(clip.clone(), tokens);
        by_dtw.insert(clip.clone(), dtw);
    }
    ensure!(!by_tokens.is_empty(), "there are no clips");
    Ok((by_tokens, by_dtw))
}

fn whispers_words(state: &whisper_rs::WhisperState, context: &WhisperContext) -> [Vec<Timed>; 2] {
    let mut found = [Vec::<Timed>::new(), Vec::<Timed>::new()];
    for segment in state.as_iter() {
        for number in 0..segment.n_tokens() {
            let Some(token) = segment.get_token(number) else {
                continue;
            };
            let data = token.token_data();
            if data.id >= context.token_eot() {
                continue;
            }
            let text = token.to_str_lossy().unwrap_or_default().into_owned();
            let seconds = |frames: i64| frames as f64 / 100.0;
            let before = found[1].last().map_or(0.0, |word| word.time.end);
            let times = [
                seconds(data.t0)..seconds(data.t1),
                before..seconds(data.t_dtw),
            ];
            for (words, time) in found.iter_mut().zip(times) {
                if text.starts_with(' ') || words.is_empty() {
                    words.push(Timed {
                        word: text.clone(),
                        time,
                    });
                } else if let Some(word) = words.last_mut() {
                    word.word += &text;
                    word.time.end = time.end;
                }
            }
        }
    }
    found
}
