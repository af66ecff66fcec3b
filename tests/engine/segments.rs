//! The fields of segments besides their text, from a real model on real speech.

use std::sync::atomic::AtomicBool;

use stt_actors::domain::transcript::{ChunkTranscript, Segment, Task, compression_ratio};
use test_support::{model, sample, sample_text, words};
use uttera_stt::engine::whisper::window::Window;
use uttera_stt::engine::whisper::{Options, Request};
use uttera_stt::engine::{Engine, EngineChoice};

const ENGINES: [EngineChoice; 2] = [EngineChoice::Native, EngineChoice::WhisperCpp];

const SAMPLES_OF_A_SECOND: usize = 16_000;

fn speech(name: &str) -> Vec<f32> {
    let mut wav = hound::WavReader::open(sample(name)).expect("opens");
    let samples = wav.samples::<i16>().map(|s| s.expect("a sample"));
    samples.map(|s| f32::from(s) / 32_768.0).collect()
}

fn silence(seconds: usize) -> Vec<f32> {
    vec![0.0; seconds * SAMPLES_OF_A_SECOND]
}

async fn load(engine: EngineChoice, options: Options) -> Engine {
    let options = Options {
        threads: 2,
        ..options
    };
    Engine::load(&model("base").await, engine, options).expect("loads")
}

fn transcribe(model: &mut Engine, samples: Vec<f32>, temperature: f32) -> ChunkTranscript {
    let request = Request {
        samples,
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature,
    };
    let done = model.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    done.expect("transcribes")
}

/// Properties of every segment, independent of the text.
fn assert_true(segments: &[Segment], seconds: f64) {
    let mut last = 0.0;
    for segment in segments {
        assert!(last <= segment.start && segment.start <= segment.end && segment.end <= seconds);
        last = segment.end;
        assert!(!segment.tokens.is_empty() && segment.tokens.iter().all(|token| *token < 50_257));
        assert_eq!(segment.tokens.len(), segment.logprobs.len());
        let said: Vec<u8> = (segment.logprobs.iter())
            .flat_map(|token| token.bytes.clone())
            .collect();
        assert_eq!(String::from_utf8_lossy(&said), segment.text);
        let sum: f32 = segment.logprobs.iter().map(|token| token.logprob).sum();
        let mean = sum / segment.tokens.len() as f32;
        assert!((mean - segment.avg_logprob).abs() < 1e-5 && mean <= 0.0);
        let ratio = compression_ratio(&segment.text);
        assert!((ratio - segment.compression_ratio).abs() < 1e-6);
        let text: String = segment
            .words
            .iter()
            .map(|word| word.text.as_str())
            .collect();
        assert_eq!(text, segment.text);
        let tokens: usize = segment.words.iter().map(|word| word.tokens).sum();
        assert_eq!(tokens, segment.tokens.len());
    }
}

#[tokio::test]
async fn every_field_has_the_documented_meaning() {
    for engine in ENGINES {
        assert_every_field_has_its_meaning(load(engine, Options::default()).await);
    }
}

fn assert_every_field_has_its_meaning(mut model: Engine) {
    let samples = speech("en-sentence.wav");
    let seconds = samples.len() as f64 / SAMPLES_OF_A_SECOND as f64;
    let done = transcribe(&mut model, samples.clone(), 0.0);
    assert_eq!(
        words(&done.segments[0].text),
        words(&sample_text("en-sentence.wav"))
    );
    assert_true(&done.segments, seconds);
    let first = &done.segments[0];
    assert_eq!(first.seek, 0);
    assert!(first.temperature.abs() < f32::EPSILON);
    assert!(
        first.no_speech_prob > 1e-6 && first.no_speech_prob < 0.5,
        "{first:?}"
    );
    // The requested temperature is used.
    let warm = transcribe(&mut model, samples, 0.3);
    assert_true(&warm.segments, seconds);
    let used = warm.segments.iter().map(|segment| segment.temperature);
    assert!(used.into_iter().all(|used| (used - 0.3).abs() < 1e-6));
}

#[tokio::test]
async fn a_second_window_has_its_own_offset_and_its_own_no_speech_probability() {
    let sentence = speech("en-sentence.wav");
    // The last sentence is cut, so whisper.cpp starts the next window at the end of the last complete one.
    let cut = &sentence[..sentence.len() * 45 / 100];
    let samples = [&sentence[..], &sentence, &sentence, cut].concat();
    let options = Options {
        window: Window::Full,
        ..Options::default()
    };
    let model = load(EngineChoice::WhisperCpp, options).await;
    assert_a_second_window_is_right(model, &samples);
    // The native engine takes the rest for complete as well, so the audio is longer than a window.
    let model = load(EngineChoice::Native, Options::default()).await;
    let [first, last] = assert_a_second_window_is_right(model, &sentence.repeat(5));
    assert!((last - first).abs() > 1e-3, "{last} and {first}");
}

/// Checks the offset of a second window. Returns the no-speech probabilities of the first window and of the last one;
/// whisper.cpp gives that of whatever it decoded last.
fn assert_a_second_window_is_right(mut model: Engine, samples: &[f32]) -> [f32; 2] {
    let seconds = samples.len() as f64 / SAMPLES_OF_A_SECOND as f64;
    let done = transcribe(&mut model, samples.to_vec(), 0.0);
    assert_true(&done.segments, seconds);
    let (first, last) = (&done.segments[0], &done.segments[done.segments.len() - 1]);
    assert!(first.seek == 0 && last.seek > 2000, "{}", last.seek);
    let begins = last.seek as f64 / 100.0;
    assert!(last.start >= begins && last.words[0].start >= begins);
    [first.no_speech_prob, last.no_speech_prob]
}

#[tokio::test]
async fn words_are_where_they_are_said() {
    for beam_size in [1, 3] {
        let options = Options {
            beam_size,
            ..Options::default()
        };
        let mut model = load(EngineChoice::Native, options).await;
        assert_words_are_where_they_are_said(&mut model);
    }
}

fn assert_words_are_where_they_are_said(model: &mut Engine) {
    let (one, other) = (speech("en-command.wav"), speech("en-sentence.wav"));
    let pause = 5_u8;
    let after = one.len() as f64 / SAMPLES_OF_A_SECOND as f64 + f64::from(pause);
    let samples = [one, silence(usize::from(pause)), other].concat();
    let done = transcribe(model, samples, 0.0);
    let words: Vec<_> = done.segments.iter().flat_map(|s| &s.words).collect();
    for pair in words.windows(2) {
        assert!(pair[0].start <= pair[1].start && pair[0].end <= pair[1].start + 1e-9);
    }
    let said = |text: &str| {
        words
            .iter()
            .find(|word| word.text.contains(text))
            .expect(text)
    };
    assert!(said("kitchen").end < after - f64::from(pause));
    // By the model's own times, the first word after a pause may begin within the pause.
    assert!(
        (said("morning").start - (after + 0.2)).abs() < 0.5,
        "{words:?}"
    );
    assert!(said("train").start > said("morning").end);
}
