//! Worker processes behind the engine port: the real program, and stand-ins.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::domain::chunk::AudioChunk;
use stt_actors::domain::error::{EngineError, EngineExit, LaunchError};
use stt_actors::domain::ids::{LaneKind, WorkerId};
use stt_actors::domain::transcript::{Doubt, Task};
use stt_actors::ports::{ChunkRequest, Engine, EngineLauncher, LanguageHeard};
use test_support::{lives, model, program, sample, signal, until, words};
use uttera_stt::engine::process::{ModelSource, ReadyModel, WorkerConfig, WorkerLauncher};

struct Fixed(PathBuf);

#[async_trait]
impl ModelSource for Fixed {
    async fn ready_model(&self) -> Result<ReadyModel, String> {
        Ok(ReadyModel {
            name: "test".to_owned(),
            path: self.0.clone(),
        })
    }
}

async fn launch(executable: &Path, model: &Path) -> Result<Arc<dyn Engine>, LaunchError> {
    launch_as(LaneKind::Hot, executable, model).await
}

async fn launch_as(
    kind: LaneKind,
    executable: &Path,
    model: &Path,
) -> Result<Arc<dyn Engine>, LaunchError> {
    let config = WorkerConfig {
        executable: executable.to_path_buf(),
        threads: 2,
        gpu: None,
        beam_size: 1,
        engine: uttera_stt::engine::EngineChoice::Auto,
        hello_limit: Duration::from_secs(2),
        load_limit: Duration::from_secs(60),
    };
    let launcher = WorkerLauncher::new(config, Arc::new(Fixed(model.to_path_buf())));
    launcher.launch(&WorkerId::new(kind, 1)).await
}

/// A program with this script in place of a worker.
fn pretend(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("worker.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("sets");
    path
}

fn request() -> ChunkRequest {
    let mut wav = hound::WavReader::open(sample("en-command.wav")).expect("opens");
    let samples: Vec<i16> = wav.samples().map(|s| s.expect("a sample")).collect();
    ChunkRequest {
        request_id: Arc::from("test"),
        audio: AudioChunk::contiguous(0, 0, Arc::from(samples)),
        task: Task::Transcribe,
        language: None,
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    }
}

/// Ignores the language.
fn unheard() -> LanguageHeard {
    Box::new(drop)
}

#[tokio::test]
async fn a_worker_transcribes_alike_every_time_and_stops_when_asked() {
    let engine = launch(program(), &model("tiny.en").await)
        .await
        .expect("launches");
    assert!(!engine.info().multilingual);
    let first = engine
        .transcribe(request(), unheard())
        .await
        .expect("transcribes");
    let again = engine
        .transcribe(request(), unheard())
        .await
        .expect("transcribes");
    assert_eq!(
        words(&first.segments[0].text),
        words("turn on the kitchen light")
    );
    assert_eq!(first.segments, again.segments);
    // One window, and no pass for language detection on an English-only model.
    assert_eq!(first.encoder_passes, 1);
    let pid = engine.info().process_id.expect("a process");
    assert_eq!(
        engine.stop(Duration::from_secs(5)).await,
        EngineExit::Stopped
    );
    assert!(!lives(pid));
}

/// Niceness of each thread of a process.
fn niceness(process: u32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("lives");
    let of_thread = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).expect("reads");
        // The name may contain anything, so count from behind it: the 17th field.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        fields.split_whitespace().nth(16).expect("is there").parse()
    };
    threads
        .map(|thread| of_thread(thread.expect("a thread")).expect("a number"))
        .collect()
}

#[tokio::test]
async fn a_cold_worker_steps_back_with_all_its_threads_and_the_hot_one_does_not() {
    let model = model("tiny.en").await;
    for kind in [LaneKind::Hot, LaneKind::Cold] {
        let engine = launch_as(kind, program(), &model).await.expect("launches");
        // Its threads for a chunk exist.
        engine
            .transcribe(request(), unheard())
            .await
            .expect("transcribes");
        let own = niceness(std::process::id())[0];
        let found = niceness(engine.info().process_id.expect("a process"));
        let expected = if kind == LaneKind::Cold { own + 5 } else { own };
        assert!(found.len() > 1, "{found:?}");
        assert!(
            found.iter().all(|nice| *nice == expected),
            "{kind:?}: {found:?}"
        );
    }
}

#[tokio::test]
async fn text_that_looks_wrong_is_decoded_again_with_the_whole_window() {
    let engine = launch(program(), &model("tiny.en").await)
        .await
        .expect("launches");
    let plain = engine
        .transcribe(request(), unheard())
        .await
        .expect("transcribes");
    assert_eq!((plain.doubt, plain.encoder_passes), (None, 1));
    // Silence, whose text is improbable or empty; and a sentence that is said again and again.
    let sentence = request().audio.samples;
    for (samples, expected) in [
        (vec![0_i16; 48_000], [Doubt::LowProbability, Doubt::Empty]),
        (sentence.repeat(4), [Doubt::Repetition; 2]),
    ] {
        let asked = ChunkRequest {
            audio: AudioChunk::contiguous(0, 0, Arc::from(samples)),
            ..request()
        };
        let doubted = engine.transcribe(asked, unheard()).await;
        let doubted = doubted.expect("transcribes");
        let doubt = doubted.doubt.expect("doubt");
        assert!(expected.contains(&doubt), "{doubted:?}");
        // The whole window gives no more probable text.
        let passes = if doubt == Doubt::LowProbability { 1 } else { 2 };
        assert_eq!(doubted.encoder_passes, passes);
    }
    // Nothing is left behind.
    let again = engine
        .transcribe(request(), unheard())
        .await
        .expect("transcribes");
    assert_eq!(plain.segments, again.segments);
}

#[tokio::test]
async fn detecting_the_language_costs_no_pass_of_its_own_and_changes_nothing_else() {
    let engine = launch(program(), &model("base").await)
        .await
        .expect("launches");
    let detected = engine
        .transcribe(request(), unheard())
        .await
        .expect("transcribes");
    assert_eq!(
        (detected.language.as_str(), detected.encoder_passes),
        ("en", 1)
    );
    assert!(detected.language_probability > Some(0.5), "{detected:?}");
    let forced = ChunkRequest {
        language: Some("en".to_owned()),
        languages: Vec::new(),
        likely_language: None,
        ..request()
    };
    let forced = engine
        .transcribe(forced, unheard())
        .await
        .expect("transcribes");
    assert_eq!(
        (forced.language_probability, forced.encoder_passes),
        (None, 1)
    );
    assert_eq!(forced.segments, detected.segments);
    // Of 51,865 tokens, so not the value of an empty row of logits.
    assert!(forced.segments[0].no_speech_prob > 1e-4, "{forced:?}");
    let unknown = ChunkRequest {
        language: Some("xx".to_owned()),
        ..request()
    };
    let refused = engine
        .transcribe(unknown, unheard())
        .await
        .expect_err("refused");
    assert!(matches!(refused, EngineError::Failed(_)), "{refused}");
    engine
        .transcribe(request(), unheard())
        .await
        .expect("it still works");
}

#[tokio::test]
async fn an_aborted_chunk_ends_as_aborted_and_the_next_one_works() {
    let engine = launch(program(), &model("tiny.en").await)
        .await
        .expect("launches");
    let running = Arc::clone(&engine);
    let chunk = tokio::spawn(async move { running.transcribe(request(), unheard()).await });
    // An abort before the work begins has no effect.
    let aborted = async || {
        engine.abort();
        chunk.is_finished()
    };
    until("the chunk ends", aborted).await;
    assert_eq!(chunk.await.expect("no panic"), Err(EngineError::Aborted));
    engine
        .transcribe(request(), unheard())
        .await
        .expect("the next one works");
}

#[tokio::test]
async fn an_abort_before_or_after_the_language_is_heard_leaves_nothing_behind() {
    let engine = launch(program(), &model("base").await)
        .await
        .expect("launches");
    let plain = engine
        .transcribe(request(), unheard())
        .await
        .expect("transcribes");
    for at_once in [true, false] {
        let (running, aborting) = (Arc::clone(&engine), Arc::clone(&engine));
        let heard: LanguageHeard = Box::new(move |_| aborting.abort());
        let chunk = tokio::spawn(async move { running.transcribe(request(), heard).await });
        if at_once {
            tokio::task::yield_now().await;
            engine.abort();
        }
        // The abort may also come too late.
        let result = chunk.await.expect("no panic");
        assert!(
            matches!(result, Ok(_) | Err(EngineError::Aborted)),
            "{result:?}"
        );
        let next = engine
            .transcribe(request(), unheard())
            .await
            .expect("transcribes");
        assert_eq!(next.segments, plain.segments);
        assert_eq!(next.encoder_passes, 1);
    }
}

#[tokio::test]
async fn an_external_kill_is_distinguished_from_a_crash() {
    for (name, counts) in [("KILL", false), ("ABRT", true)] {
        let engine = launch(program(), &model("tiny.en").await)
            .await
            .expect("launches");
        signal(engine.info().process_id.expect("a process"), name);
        let exit = engine.exited().await;
        assert_eq!(exit.counts_against_chunk(), counts, "{exit}");
        let error = engine
            .transcribe(request(), unheard())
            .await
            .expect_err("gone");
        assert_eq!(error, EngineError::Exited(exit));
    }
}

#[tokio::test]
async fn a_dropped_engine_leaves_no_process() {
    let engine = launch(program(), &model("tiny.en").await)
        .await
        .expect("launches");
    let pid = engine.info().process_id.expect("a process");
    drop(engine);
    until("the process ends", async || !lives(pid)).await;
}

#[tokio::test]
async fn earlier_work_of_an_engine_does_not_affect_later_work() {
    let model = model("base").await;
    let fresh = launch(program(), &model).await.expect("launches");
    let silence = || ChunkRequest {
        audio: AudioChunk {
            samples: Arc::from(vec![0_i16; 48_000]),
            ..request().audio
        },
        language: Some("en".to_owned()),
        ..request()
    };
    // Sampling at a temperature would reveal remaining state of a random number generator.
    let sampled = || ChunkRequest {
        temperature: 0.9,
        language: Some("en".to_owned()),
        ..request()
    };
    let quiet = fresh
        .transcribe(silence(), unheard())
        .await
        .expect("transcribes");
    let spoken = fresh
        .transcribe(sampled(), unheard())
        .await
        .expect("transcribes");
    drop(fresh);

    let used = launch(program(), &model).await.expect("launches");
    let secret = || ChunkRequest {
        prompt: Some("Zanzibar, xylophone, Quetzalcoatl.".to_owned()),
        temperature: 0.7,
        ..request()
    };
    used.transcribe(secret(), unheard())
        .await
        .expect("transcribes");
    let unknown = ChunkRequest {
        language: Some("xx".to_owned()),
        ..secret()
    };
    used.transcribe(unknown, unheard())
        .await
        .expect_err("refused");
    assert_eq!(
        used.transcribe(silence(), unheard())
            .await
            .expect("works")
            .segments,
        quiet.segments
    );
    let (aborted, ()) = tokio::join!(used.transcribe(secret(), unheard()), async {
        used.abort();
        tokio::task::yield_now().await;
        used.abort();
    });
    // The abort may also come too late, after the secret was transcribed.
    assert!(matches!(aborted, Ok(_) | Err(EngineError::Aborted)));
    assert_eq!(
        used.transcribe(sampled(), unheard())
            .await
            .expect("works")
            .segments,
        spoken.segments
    );
    assert_eq!(
        used.transcribe(silence(), unheard())
            .await
            .expect("works")
            .segments,
        quiet.segments
    );
}

#[tokio::test]
async fn a_lack_of_memory_for_a_model_is_distinguished_from_a_broken_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model("base").await;
    // The real worker, with enough address space for the program but not for the model.
    let script = format!("ulimit -v 220000; exec {} worker", program().display());
    let refused = launch(&pretend(folder.path(), &script), &model).await.err();
    assert!(
        matches!(refused, Some(LaunchError::OutOfMemory(_))),
        "{refused:?}"
    );
    let cut = folder.path().join("ggml-cut.bin");
    let whole = std::fs::read(&model).expect("reads");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("writes");
    let broken = launch(program(), &cut).await.err();
    assert!(matches!(broken, Some(LaunchError::Model(_))), "{broken:?}");
}

#[tokio::test]
async fn programs_that_only_pretend_are_found_out_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Path::new("/nowhere");
    let exits = launch(&pretend(folder.path(), "exit 7"), model).await.err();
    assert_eq!(exits, Some(LaunchError::Exited(EngineExit::Code(7))));
    let silent = launch(&pretend(folder.path(), "exec sleep 1000"), model)
        .await
        .err();
    assert_eq!(silent, Some(LaunchError::TimedOut { seconds: 2 }));
    let garbage = pretend(
        folder.path(),
        r"printf '\377\377\377\377' >&0; exec sleep 1000",
    );
    let garbage = launch(&garbage, model).await.err();
    assert!(
        matches!(garbage, Some(LaunchError::Worker(_))),
        "{garbage:?}"
    );
    // A hello of version 0.
    let older = pretend(
        folder.path(),
        r"printf '\000\000\000\002\000\000' >&0; exec sleep 1000",
    );
    let older = launch(&older, model).await.err();
    assert!(
        older
            .as_ref()
            .is_some_and(|e| e.to_string().contains("version")),
        "{older:?}"
    );
    let missing = launch(Path::new("/nowhere/worker"), model).await.err();
    assert!(
        matches!(missing, Some(LaunchError::Worker(_))),
        "{missing:?}"
    );
}
