//! The download against a small server that misbehaves in one way at a time.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};

use super::*;
use crate::models::catalogue::{Published, find};
use crate::models::checksum::hex;
use crate::models::progress::Silent;

/// What the server does with one connection.
#[derive(Clone)]
enum Answer {
    /// The whole file, or the rest of it when a range is asked for.
    Serve(Vec<u8>),
    /// Like `Serve`, but hangs up after so many bytes of the body.
    Break(Vec<u8>, usize),
    /// The whole file whatever is asked for, as servers without ranges do.
    IgnoreRange(Vec<u8>),
    /// Only a status line.
    Status(&'static str),
    /// A body without a length, as gateways and sign-in pages send.
    Lengthless(&'static str),
    /// Takes the connection and says nothing until the client leaves.
    Silence,
}

/// Serves the answers in order, then closes its door. Returns its address and the ranges asked for.
fn serve(answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<Option<u64>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    thread::spawn(move || {
        for answer in answers {
            let Ok((stream, _)) = listener.accept() else {
                return;
            };
            let range = read_request(&stream);
            log.lock().unwrap().push(range);
            // A client that hung up is not this server's problem.
            let _ = reply(stream, &answer, range);
        }
    });
    (base, asked)
}

fn read_request(stream: &TcpStream) -> Option<u64> {
    let mut range = None;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap_or_default().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.trim_end_matches('-').parse().ok();
        }
    }
    range
}

fn reply(mut stream: TcpStream, answer: &Answer, range: Option<u64>) -> std::io::Result<()> {
    let (file, limit, ranges) = match answer {
        Answer::Serve(file) => (file, usize::MAX, true),
        Answer::Break(file, limit) => (file, *limit, true),
        Answer::IgnoreRange(file) => (file, usize::MAX, false),
        Answer::Status(status) => {
            return write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Answer::Lengthless(page) => {
            return write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{page}");
        }
        Answer::Silence => {
            let mut line = String::new();
            return BufReader::new(stream).read_line(&mut line).map(drop);
        }
    };
    let from = range.filter(|_| ranges).unwrap_or(0) as usize;
    let body = &file[from..];
    match range.filter(|_| ranges) {
        None => write!(stream, "HTTP/1.1 200 OK\r\n")?,
        Some(from) => {
            let (last, total) = (file.len() - 1, file.len());
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{last}/{total}\r\n"
            )?;
        }
    }
    write!(
        stream,
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body[..body.len().min(limit)])
}

fn file() -> Vec<u8> {
    (0..300_000u32).map(|i| (i % 251) as u8).collect()
}

/// A catalogue entry whose published file is `file`.
fn entry_for(file: &[u8]) -> CatalogueEntry {
    let sha256: &'static str = hex(&Sha256::digest(file)).leak();
    let published = vec![Published {
        size_bytes: file.len() as u64,
        sha256,
    }]
    .leak();
    CatalogueEntry {
        published,
        ..*find("tiny").unwrap()
    }
}

async fn fetch(base: &str, entry: &CatalogueEntry, dir: &Path) -> Result<PathBuf, FetchError> {
    download(base, entry, dir, &Silent).await
}

fn reason(result: Result<PathBuf, FetchError>) -> String {
    match result {
        Err(FetchError::Unavailable(reason)) => reason,
        other => panic!("expected an unavailable source, got {other:?}"),
    }
}

#[tokio::test]
async fn a_file_arrives_whole_with_a_record_of_its_checksum() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let (base, _) = serve(vec![Answer::Serve(file.clone())]);
    let path = fetch(&base, &entry_for(&file), dir.path()).await.unwrap();
    assert_eq!(path, dir.path().join("ggml-tiny.bin"));
    assert_eq!(fs::read(&path).unwrap(), file);
    let record = files::read_record(&path).unwrap();
    assert_eq!(record.sha256, hex(&Sha256::digest(&file)));
    assert!(!dir.path().join("ggml-tiny.bin.part").exists());
}

#[tokio::test]
async fn a_broken_connection_is_continued_where_it_broke() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let (base, asked) = serve(vec![
        Answer::Break(file.clone(), 100_000),
        Answer::Serve(file.clone()),
    ]);
    let path = fetch(&base, &entry_for(&file), dir.path()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), file);
    let asked = asked.lock().unwrap();
    assert!(
        asked[0].is_none() && asked[1].is_some_and(|from| from > 0),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_part_of_an_earlier_run_is_continued() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    fs::write(dir.path().join("ggml-tiny.bin.part"), &file[..1234]).unwrap();
    let (base, asked) = serve(vec![Answer::Serve(file.clone())]);
    let path = fetch(&base, &entry_for(&file), dir.path()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), file);
    assert_eq!(*asked.lock().unwrap(), [Some(1234)]);
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    fs::write(dir.path().join("ggml-tiny.bin.part"), b"something").unwrap();
    let (base, _) = serve(vec![Answer::IgnoreRange(file.clone())]);
    let path = fetch(&base, &entry_for(&file), dir.path()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), file);
}

#[tokio::test]
async fn a_part_of_another_file_is_noticed_and_fetched_anew() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    fs::write(dir.path().join("ggml-tiny.bin.part"), vec![7; 5000]).unwrap();
    let (base, asked) = serve(vec![
        Answer::Serve(file.clone()),
        Answer::Serve(file.clone()),
    ]);
    let path = fetch(&base, &entry_for(&file), dir.path()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), file);
    assert_eq!(*asked.lock().unwrap(), [Some(5000), None]);
}

#[tokio::test]
async fn a_range_the_server_cannot_satisfy_costs_one_more_request() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    fs::write(dir.path().join("ggml-tiny.bin.part"), &file[..99]).unwrap();
    let status = Answer::Status("416 Range Not Satisfiable");
    let (base, asked) = serve(vec![status, Answer::Serve(file.clone())]);
    let path = fetch(&base, &entry_for(&file), dir.path()).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), file);
    assert_eq!(*asked.lock().unwrap(), [Some(99), None]);
}

#[tokio::test]
async fn a_mirror_with_other_bytes_of_the_same_size_is_refused() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let mut other = file.clone();
    other[200_000] ^= 1;
    let (base, _) = serve(vec![Answer::Serve(other)]);
    let error = fetch(&base, &entry_for(&file), dir.path())
        .await
        .unwrap_err();
    assert!(
        matches!(error, FetchError::Fatal(ModelError::Checksum { .. })),
        "{error:?}"
    );
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing of it is kept"
    );
}

#[tokio::test]
async fn a_file_of_another_size_is_refused_before_it_is_fetched() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let (base, _) = serve(vec![Answer::Serve(vec![0; 400_000])]);
    let reason = reason(fetch(&base, &entry_for(&file), dir.path()).await);
    assert!(reason.contains("400000 bytes"), "{reason}");
}

#[tokio::test]
async fn a_page_without_a_length_is_a_reason_to_try_elsewhere() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let (base, _) = serve(vec![Answer::Lengthless("<html>sign in</html>")]);
    let reason = reason(fetch(&base, &entry_for(&file), dir.path()).await);
    assert!(reason.contains("20 bytes"), "{reason}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_missing_file_and_a_closed_door_are_reasons_to_try_elsewhere() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let (base, _) = serve(vec![Answer::Status("404 Not Found")]);
    let missing = reason(fetch(&base, &entry_for(&file), dir.path()).await);
    assert!(missing.contains("404"), "{missing}");
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = reason(fetch(&format!("http://{closed}"), &entry_for(&file), dir.path()).await);
    assert!(refused.contains("127.0.0.1"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_left_in_time() {
    let (dir, file) = (tempfile::tempdir().unwrap(), file());
    let (base, _) = serve(vec![Answer::Silence]);
    let started = tokio::time::Instant::now();
    reason(fetch(&base, &entry_for(&file), dir.path()).await);
    assert!(
        started.elapsed() <= REPLY_TIMEOUT + CONNECT_TIMEOUT,
        "{:?}",
        started.elapsed()
    );
}
