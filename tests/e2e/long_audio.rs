//! A real server with long, silent and noisy audio: which text is written, which request waits, what a client
//! that leaves cancels, and how much memory hours of audio take.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reqwest::Response;
use serde_json::Value;
use test_support::null_engine::NullEngine;
use test_support::{
    Server, allocated_kib, checks, children, corpus, model, sample, sample_text, signal, until,
    voice_activity, words,
};

/// A file that ffmpeg creates in the server's folder.
fn made(server: &Server, name: &str, arguments: &str) -> PathBuf {
    let path = server.folder().join(name);
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(arguments.split_whitespace())
        .arg(&path)
        .stdin(Stdio::null())
        .status();
    assert!(status.expect("ffmpeg runs").success(), "{arguments}");
    path
}

/// A sample with this many seconds of silence on both sides.
fn in_silence(server: &Server, name: &str, seconds: u32) -> PathBuf {
    let millis = seconds * 1000;
    let source = sample(name);
    let arguments = format!(
        "-i {} -af adelay={millis}:all=1,apad=pad_dur={seconds}",
        source.display()
    );
    made(server, "in-silence.flac", &arguments)
}

async fn body(response: Response) -> Value {
    assert_eq!(response.status(), 200);
    response.json().await.expect("JSON")
}

fn text(body: &Value) -> &str {
    body["text"].as_str().expect("text")
}

#[tokio::test]
async fn silence_around_speech_is_not_transcribed_and_times_stay_true() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = in_silence(&server, "en-command.wav", 90);
    let fields = [("response_format", "verbose_json")];
    let found = body(server.transcribe(&file, &fields).await).await;
    assert_eq!(words(text(&found)), words(&sample_text("en-command.wav")));
    // The sample is 1.8 s long and contains some silence.
    let segment = &found["segments"][0];
    let (start, end) = (segment["start"].as_f64(), segment["end"].as_f64());
    assert!((89.8..90.4).contains(&start.expect("a start")), "{segment}");
    assert!((91.0..92.0).contains(&end.expect("an end")), "{segment}");
    assert!((found["duration"].as_f64().expect("a number") - 181.8).abs() < 0.3);
    // Three minutes, but one chunk.
    assert_eq!(server.chunks_handed_out(), 1);
}

#[tokio::test]
async fn silence_and_noise_are_an_empty_transcript_and_take_no_lane() {
    let server = Server::ready(&model("base").await, &[]).await;
    for source in [
        "-f lavfi -i anullsrc=r=16000:d=40",
        "-f lavfi -i anoisesrc=r=16000:a=0.1:d=40:seed=1",
        "-f lavfi -i sine=f=50:r=16000:d=40",
    ] {
        let file = made(&server, "noise.flac", source);
        let fields = [("response_format", "verbose_json")];
        let found = body(server.transcribe(&file, &fields).await).await;
        assert_eq!(text(&found), "", "{source}");
        assert_eq!(found["segments"], serde_json::json!([]));
        assert!((found["duration"].as_f64().expect("a number") - 40.0).abs() < 0.1);
    }
    assert_eq!(server.chunks_handed_out(), 0);
    // Each of the two guards can be switched off; then Whisper transcribes noise.
    let file = made(
        &server,
        "noise.flac",
        "-f lavfi -i anoisesrc=r=16000:a=0.1:d=5:seed=1",
    );
    let fields = [("vad_filter", "false"), ("hallucination_guard", "false")];
    body(server.transcribe(&file, &fields).await).await;
    assert_eq!(server.chunks_handed_out(), 1);
    for (field, value) in [
        ("vad_filter", "perhaps"),
        ("hallucination_guard", "2"),
        ("multilingual", "es,en"),
    ] {
        let refused = server.transcribe(&file, &[(field, value)]).await;
        assert_eq!(refused.status(), 422, "{field}");
        let refused: Value = refused.json().await.expect("JSON");
        assert_eq!(refused["error"]["param"], field);
    }
}

#[tokio::test]
async fn of_music_and_laughter_hardly_a_word_is_written() {
    let Some(corpus) = corpus() else { return };
    let server = Server::ready(&model("base").await, &[]).await;
    let table = std::fs::read_to_string(corpus.join("nonspeech.tsv")).expect("the table");
    let mut written = Vec::new();
    for row in table.lines().skip(1) {
        let path = row.split('\t').next().expect("a path");
        let found = body(server.transcribe(&corpus.join(path), &[]).await).await;
        let words = words(text(&found));
        if !words.is_empty() {
            println!("{path}: {}", text(&found));
        }
        written.extend(words);
    }
    println!("{} words in 23 minutes without speech", written.len());
    assert!(written.len() <= 15, "{written:?}");
}

#[tokio::test]
async fn four_hours_of_silence_in_a_small_file_are_no_trouble_and_more_is_refused_at_once() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let silent = "-f lavfi -i anullsrc=r=8000:cl=mono";
    let file = made(&server, "silent.flac", &format!("{silent} -t 14400"));
    let found = body(server.transcribe(&file, &[]).await).await;
    assert_eq!(
        (text(&found), &found["usage"]["seconds"]),
        ("", &14_400.into())
    );
    let file = made(&server, "bomb.flac", &format!("{silent} -t 36000"));
    let refused = server.transcribe(&file, &[]).await;
    assert_eq!(refused.status(), 400);
    let refused: Value = refused.json().await.expect("JSON");
    assert_eq!(refused["error"]["code"], "audio_too_long");
    assert_eq!(server.chunks_handed_out(), 0);
}

#[tokio::test]
async fn a_command_is_answered_while_a_long_file_runs_and_the_file_is_whole_in_the_end() {
    const TIMES: u32 = 5;
    // One lane, so that the order of work is the order of the queue.
    let settings = [("COLD_POOL_SIZE", "0")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = server.long_file(TIMES);
    let long = server.transcribe(&file, &[]);
    let commands = async {
        server.until_a_lane_has_work().await;
        for number in 0..3 {
            a_command_is_next(&server, &format!("command-{number}")).await;
        }
        server.health().await
    };
    let (response, health) = tokio::join!(long, commands);
    let left = health["smart_routing"]["queue_audio_seconds"].as_f64();
    assert!(
        left > Some(30.0),
        "the long file was over before: {left:?} s"
    );
    let sentence = words(&sample_text("en-long.ogg"));
    let found = body(response).await;
    let said = words(text(&found)).len() as f64;
    let expected = f64::from(TIMES) * sentence.len() as f64;
    assert!(
        (said - expected).abs() < 0.1 * expected,
        "{said} words of {expected}"
    );
}

/// Number of waiting chunks of a long file while the only lane works on another one.
const CHUNKS_OF_A_FILE_THAT_WAIT: u64 = 2;

/// If a command arrives while the only lane works on a long file with waiting chunks, the lane takes the command next.
/// The worker is stopped until the command is in the queue, so that the test does not depend on timing.
async fn a_command_is_next(server: &Server, id: &str) {
    let workers = server.workers();
    for worker in &workers {
        signal(*worker, "STOP");
    }
    let depth = || async { server.health().await["smart_routing"]["queue_depth"].as_u64() };
    let full = || async { depth().await == Some(CHUNKS_OF_A_FILE_THAT_WAIT) };
    server.until("chunks of the file wait", full).await;
    let file = sample("en-command.wav");
    let command = server.transcribe_as(id, &file, &[]);
    let release = async {
        let queued = || async { depth().await > Some(CHUNKS_OF_A_FILE_THAT_WAIT) };
        server.until("the command waits", queued).await;
        // A log line after those of all chunks that were assigned so far.
        let mark = format!("mark-{id}");
        let none = server
            .transcribe_as(&mark, &sample("samples.tsv"), &[])
            .await;
        assert_eq!(none.status(), 400);
        server.log_line(&mark).await;
        for worker in &workers {
            signal(*worker, "CONT");
        }
        mark
    };
    let (response, mark) = tokio::join!(command, release);
    let found = body(response).await;
    assert_eq!(words(text(&found)), words(&sample_text("en-command.wav")));
    let log = server.log();
    let mut later = log.iter().skip_while(|line| !line.contains(&mark));
    let next = later.find(|line| line.contains("chunk assigned"));
    let next = next.expect("the command was handed out");
    assert!(next.contains(id), "before the command came: {next}");
}

#[tokio::test]
async fn a_client_that_leaves_a_long_file_takes_all_of_it_along_and_the_lane_is_free() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = server.long_file(10);
    for _ in 0..3 {
        let request = server.transcribe(&file, &[]);
        tokio::select! {
            _ = request => panic!("it should still run"),
            () = server.until_a_lane_has_work() => {}
        }
    }
    let gone = || async {
        let health = server.health().await;
        let routing = &health["smart_routing"];
        routing["queue_depth"] == 0
            && routing["queue_audio_seconds"] == 0.0
            && children(server.pid(), "-i").is_empty()
    };
    server.until("nothing of it is left", gone).await;
    let left = r#"uttera_stt_requests_total{endpoint="/v1/audio/transcriptions",method="POST",status="499"}"#;
    let are_counted = || async { server.metric(left).await > 2.5 };
    server.until("all three are counted", are_counted).await;
    assert!(server.metric(left).await < 3.5);
    let is_empty = || async { uploads(&server).is_empty() };
    server.until("their files are removed", is_empty).await;
    // The lane's next chunk is the command.
    let before = server.chunks_handed_out();
    let found = body(server.transcribe(&sample("en-command.wav"), &[]).await).await;
    assert_eq!(words(text(&found)), words(&sample_text("en-command.wav")));
    assert_eq!(server.chunks_handed_out() - before, 1);
}

/// Number of uploads on disk.
fn uploads(server: &Server) -> Vec<PathBuf> {
    let mut folders = vec![server.folder().to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains("upload-") {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_multilingual_model_on_speech_that_misleads_it() {
    let server = Server::ready(&model("base").await, &[]).await;
    checks! {
        &server;
        languages_that_change_are_followed_where_the_client_says_so,
        a_sentence_that_is_said_again_is_written_again,
    }
}

/// Samples, one after the other, with this many seconds of silence between them.
fn joined(server: &Server, name: &str, samples: &[&str], pause: f64) -> PathBuf {
    let inputs = samples.iter().map(|name| sample(name));
    let inputs: Vec<String> = inputs
        .map(|path| format!("-i {}", path.display()))
        .collect();
    let last = samples.len() - 1;
    let padded = (0..last).map(|n| format!("[{n}]apad=pad_dur={pause}[p{n}];"));
    let labels = (0..last).map(|n| format!("[p{n}]"));
    let graph: String = padded.chain(labels).collect();
    let arguments = format!(
        "{} -filter_complex {graph}[{last}]concat=n={}:v=0:a=1",
        inputs.join(" "),
        samples.len()
    );
    made(server, name, &arguments)
}

async fn languages_that_change_are_followed_where_the_client_says_so(server: &Server) {
    let samples = ["de-sentence.wav", "en-sentence.wav", "es-sentence.wav"];
    let file = joined(server, "three-languages.flac", &samples, 1.5);
    let found = body(server.transcribe(&file, &[("multilingual", "true")]).await).await;
    let said = words(text(&found));
    for word in [
        "deutschland",
        "wohne",
        "morning",
        "warm",
        "música",
        "amigos",
    ] {
        assert!(said.contains(&word.to_owned()), "{word} is not in {said:?}");
    }
}

async fn a_sentence_that_is_said_again_is_written_again(server: &Server) {
    for (name, word, times) in [
        ("de-sentence.wav", "deutschland", 2),
        ("es-sentence.wav", "amigos", 2),
        ("es-sentence.wav", "amigos", 3),
    ] {
        let file = joined(server, "again.flac", &vec![name; times], 0.3);
        let found = body(server.transcribe(&file, &[]).await).await;
        let said = words(text(&found));
        let found_times = said.iter().filter(|said| *said == word).count();
        assert_eq!(found_times, times, "{said:?}");
    }
}

/// Sends a file, and returns the peak memory of the server and its decoder meanwhile, in MiB.
async fn peak_memory(server: &NullEngine, file: &Path) -> u64 {
    let form = test_support::form(file, &[("language", "en")]);
    let request = reqwest::Client::new()
        .post(format!("{}/v1/audio/transcriptions", server.url))
        .multipart(form);
    let answer = tokio::spawn(request.send());
    let mut peak = 0;
    // From outside, the test can only sample the memory.
    let answered = async || {
        let pid = server.process.id();
        let all = children(pid, "-i").into_iter().chain([pid]);
        peak = peak.max(all.map(allocated_kib).sum());
        answer.is_finished()
    };
    until("the answer", answered).await;
    let response = answer.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    peak / 1024
}

#[tokio::test]
async fn half_an_hour_takes_no_more_memory_than_three_minutes() {
    // The client library requires a provider even for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let detector = voice_activity().await;
    let server = NullEngine::start(&["--vad", detector.to_str().expect("UTF-8")]);
    let folder = tempfile::tempdir().expect("a folder");
    let (short, long) = (
        folder.path().join("short.flac"),
        folder.path().join("long.flac"),
    );
    for (path, seconds) in [(&short, 180), (&long, 1800)] {
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-stream_loop", "-1", "-i"])
            .arg(sample("en-long.ogg"))
            .args([
                "-t",
                &seconds.to_string(),
                "-ar",
                "16000",
                "-compression_level",
                "0",
            ])
            .arg(path)
            .stdin(Stdio::null())
            .status();
        assert!(status.expect("ffmpeg runs").success());
    }
    // The first request of a process uses more memory than later ones.
    peak_memory(&server, &short).await;
    let of_minutes = peak_memory(&server, &short).await;
    let of_half_an_hour = peak_memory(&server, &long).await;
    println!("{of_minutes} MiB for three minutes, {of_half_an_hour} MiB for half an hour");
    // The samples alone would be 55 MiB.
    assert!(
        of_half_an_hour <= of_minutes + 40,
        "{of_half_an_hour} MiB, not {of_minutes} MiB"
    );
}
