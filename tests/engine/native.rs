//! The native engine with real models.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use stt_actors::domain::transcript::{ChunkTranscript, Task};
use test_support::{model, sample, sample_text, words};
use uttera_stt::engine::native::Native;
use uttera_stt::engine::protocol::Failure;
use uttera_stt::engine::whisper::{Options, Request};

fn request(name: &str) -> Request {
    let mut wav = hound::WavReader::open(sample(name)).expect("opens");
    let samples = wav.samples::<i16>().map(|s| s.expect("a sample"));
    Request {
        samples: samples.map(|s| f32::from(s) / 32_768.0).collect(),
        task: Task::Transcribe,
        language: None,
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    }
}

fn transcribe(native: &Native, request: &Request) -> ChunkTranscript {
    let done = native.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    done.expect("transcribes")
}

/// A link to the model in a folder of its own, so that files beside it are this test's.
async fn linked(folder: &Path, name: &str) -> PathBuf {
    let link = folder.join(format!("ggml-{name}.bin"));
    std::os::unix::fs::symlink(model(name).await, &link).expect("links");
    link
}

#[tokio::test]
async fn it_writes_what_is_said_in_the_language_that_it_hears() {
    let native = Native::load(&model("base").await, Options::default()).expect("loads");
    for (name, language) in [
        ("en-command.wav", "en"),
        ("en-sentence.wav", "en"),
        ("es-sentence.wav", "es"),
        ("de-sentence.wav", "de"),
    ] {
        let asked = request(name);
        let seconds = asked.samples.len() as f64 / 16_000.0;
        let done = transcribe(&native, &asked);
        assert_eq!(done.language, language, "{name}");
        assert!(done.language_probability > Some(0.5), "{name}");
        let text: String = done.segments.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(words(&text), words(&sample_text(name)), "{name}");
        let mut last = 0.0;
        for segment in &done.segments {
            assert!(last <= segment.start && segment.start < segment.end && segment.end <= seconds);
            last = segment.end;
            let joined: String = segment
                .words
                .iter()
                .map(|word| word.text.as_str())
                .collect();
            assert_eq!(joined, segment.text);
            assert!(segment.avg_logprob < 0.0 && segment.avg_logprob > -0.7);
            for pair in segment.words.windows(2) {
                assert!(pair[0].start <= pair[1].start && pair[0].end <= pair[1].start + 1e-9);
            }
        }
    }
    // Among other languages, it chooses the likeliest of them.
    let mut asked = request("de-sentence.wav");
    asked.languages = vec!["nl".to_owned(), "ja".to_owned()];
    let done = transcribe(&native, &asked);
    assert_eq!(done.language, "nl");
    assert!(done.language_probability > Some(0.5));
    // Speech is found where it is said: the sentence's second half begins after its first.
    let done = transcribe(&native, &request("en-sentence.wav"));
    let all: Vec<_> = done.segments.iter().flat_map(|s| &s.words).collect();
    let start = |text: &str| {
        let found = all.iter().find(|word| word.text.contains(text));
        found.expect("is said").start
    };
    assert!(start("train") < start("eight") && start("eight") < start("coat"));
    assert!((4.0..7.5).contains(&start("coat")), "{all:?}");
}

#[tokio::test]
async fn a_prompt_decides_the_spelling_and_an_abort_ends_the_work() {
    let native = Native::load(&model("base").await, Options::default()).expect("loads");
    let mut asked = request("en-command.wav");
    asked.language = Some("en".to_owned());
    asked.prompt = Some("TURN OFF THE LIGHT. OPEN THE DOOR. CLOSE THE WINDOW.".to_owned());
    let text = transcribe(&native, &asked).segments[0].text.clone();
    assert_eq!(text.trim(), "TURN ON THE KITCHEN LIGHT.");
    let aborted = native.transcribe(&asked, &AtomicBool::new(true), &mut |_, _| {});
    assert!(matches!(aborted, Err(Failure::Aborted)));
    asked.language = Some("tlh".to_owned());
    let unknown = native.transcribe(&asked, &AtomicBool::new(false), &mut |_, _| {});
    assert!(matches!(unknown, Err(Failure::Engine(_))));
}

#[tokio::test]
async fn the_prepared_file_gives_the_same_text_and_is_made_again_if_it_is_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let link = linked(folder.path(), "tiny.en").await;
    let prepared = folder.path().join("ggml-tiny.en.bin.prepared");
    let native = Native::load(&link, Options::default()).expect("loads");
    let first = transcribe(&native, &request("en-sentence.wav"));
    let whole = std::fs::read(&prepared).expect("is kept");
    let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions();
    assert_eq!(mode(&prepared), mode(&link), "other users may read both");
    let native = Native::load(&link, Options::default()).expect("loads");
    let second = transcribe(&native, &request("en-sentence.wav"));
    assert_eq!(first.segments, second.segments);
    let mut damaged = whole.clone();
    damaged[100_000] ^= 1;
    // As another process would replace it: a mapped file must not change.
    std::fs::remove_file(&prepared).expect("removes");
    std::fs::write(&prepared, &damaged).expect("writes");
    let native = Native::load(&link, Options::default()).expect("loads");
    assert!(std::fs::read(&prepared).expect("is kept").len() == whole.len());
    assert_ne!(std::fs::read(&prepared).expect("is kept"), damaged);
    let done = transcribe(&native, &request("en-command.wav"));
    let text = words(&done.segments[0].text);
    assert_eq!(text, words(&sample_text("en-command.wav")));
    std::fs::write(folder.path().join("broken.bin"), b"lmgg and no more").expect("writes");
    let broken = Native::load(&folder.path().join("broken.bin"), Options::default());
    assert!(broken.expect_err("broken").contains("cannot be loaded"));
}
