//! The voice activity detector with its real weights, and the chunks that follow from it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use stt_actors::domain::chunk::AudioChunk;
use test_support::{corpus, sample, voice_activity};
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::SpeechDetector;
use uttera_stt::audio::vad::silero::{FRAME, Memory, Weights, WeightsError};

/// The probabilities in every sixth frame of the sample, computed by an independent implementation of the published
/// network in 64-bit arithmetic.
const REFERENCE: [f64; 10] = [
    0.0180, 0.9967, 1.0000, 0.9953, 0.9879, 1.0000, 1.0000, 0.9998, 0.0269, 0.0197,
];

async fn weights() -> Arc<Weights> {
    Arc::new(Weights::load(&voice_activity().await).expect("loads"))
}

/// Decodes a file with ffmpeg's filters.
fn decoded(path: &Path, filters: &str) -> Vec<i16> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args([
            "-af", filters, "-ac", "1", "-ar", "16000", "-f", "s16le", "-",
        ])
        .output()
        .expect("ffmpeg runs");
    assert!(output.status.success(), "{}", path.display());
    let pairs = output.stdout.chunks_exact(2);
    pairs
        .map(|two| i16::from_le_bytes([two[0], two[1]]))
        .collect()
}

fn chunks(weights: &Arc<Weights>, samples: &[i16]) -> Vec<AudioChunk> {
    let detector = SpeechDetector::new(Arc::clone(weights));
    let mut chunker = Chunker::new(Some(Box::new(detector)));
    let mut chunks = chunker.push(samples);
    chunks.extend(chunker.flush());
    chunks
}

fn passed_seconds(weights: &Arc<Weights>, samples: &[i16]) -> f64 {
    let chunks = chunks(weights, samples);
    chunks.iter().map(AudioChunk::duration_seconds).sum()
}

#[tokio::test]
async fn the_network_computes_the_published_probabilities() {
    let samples = decoded(&sample("en-command.wav"), "anull");
    let mut samples: Vec<f32> = samples.iter().map(|s| f32::from(*s) / 32_768.0).collect();
    samples.resize(samples.len().next_multiple_of(FRAME), 0.0);
    let found = weights()
        .await
        .probabilities(&mut Memory::default(), &samples);
    let found = found.iter().step_by(6).map(|value| f64::from(*value));
    for (found, reference) in found.zip(REFERENCE) {
        assert!(
            (found - reference).abs() < 0.004,
            "{found} is not {reference}"
        );
    }
}

#[tokio::test]
async fn speech_is_heard_at_any_level_and_over_the_telephone() {
    let weights = weights().await;
    let file = sample("en-sentence.wav");
    let whole = passed_seconds(&weights, &decoded(&file, "anull"));
    for filters in [
        "volume=-20dB",
        "volume=-40dB",
        "highpass=f=300,lowpass=f=3400,aresample=8000,volume=-20dB",
    ] {
        let passed = passed_seconds(&weights, &decoded(&file, filters));
        assert!(
            (passed - whole).abs() < 0.3,
            "{filters}: {passed} s of {whole} s"
        );
    }
}

#[tokio::test]
async fn silence_noise_and_tones_are_no_speech() {
    let weights = weights().await;
    for source in [
        "anullsrc=r=16000:d=20",
        "anoisesrc=r=16000:a=0.1:d=20:seed=1",
        "anoisesrc=r=16000:a=0.0005:d=20:seed=1",
        "sine=f=440:r=16000:d=20",
        "sine=f=50:r=16000:d=20",
    ] {
        let output = Command::new("ffmpeg")
            .args([
                "-v", "error", "-f", "lavfi", "-i", source, "-f", "s16le", "-ac", "1", "-",
            ])
            .output()
            .expect("ffmpeg runs");
        let pairs = output.stdout.chunks_exact(2);
        let samples: Vec<i16> = pairs
            .map(|two| i16::from_le_bytes([two[0], two[1]]))
            .collect();
        assert!(samples.len() > 300_000, "{source}");
        assert_eq!(chunks(&weights, &samples).len(), 0, "{source}");
    }
}

#[tokio::test]
async fn speech_of_the_corpus_is_kept_and_music_is_not() {
    let Some(corpus) = corpus() else { return };
    let weights = weights().await;
    let files = |table: &str| -> Vec<String> {
        let table = std::fs::read_to_string(corpus.join(table)).expect("the table");
        let rows = table.lines().skip(1);
        rows.map(|row| row.split('\t').next().expect("a path").to_owned())
            .collect()
    };
    let mut lost = Vec::new();
    for file in files("speech.tsv").iter().step_by(10) {
        if chunks(&weights, &decoded(&corpus.join(file), "volume=-20dB")).is_empty() {
            lost.push(file.clone());
        }
    }
    assert_eq!(lost, [""; 0]);
    let (mut all, mut passed) = (0.0, 0.0);
    for file in files("nonspeech.tsv") {
        let samples = decoded(&corpus.join(file), "anull");
        all += samples.len() as f64 / 16_000.0;
        passed += passed_seconds(&weights, &samples);
    }
    println!("{passed:.1} s of {all:.1} s without speech would be transcribed");
    // The audio includes laughter, which is a voice.
    assert!(passed < 0.02 * all, "{passed} s of {all} s");
}

#[test]
fn a_file_of_something_else_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights");
    let missing = Weights::load(&path).expect_err("missing");
    assert!(matches!(missing, WeightsError::Read(_)), "{missing}");
    std::fs::write(&path, b"something").expect("writes");
    let garbage = Weights::load(&path).expect_err("garbage");
    assert!(matches!(garbage, WeightsError::Format(_)), "{garbage}");
    // A safetensors file without a single tensor.
    let mut empty = 2_u64.to_le_bytes().to_vec();
    empty.extend(b"{}");
    std::fs::write(&path, empty).expect("writes");
    let other = Weights::load(&path).expect_err("another network");
    assert!(other.to_string().contains("stft_conv.weight"), "{other}");
}
