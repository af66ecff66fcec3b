//! Rejected requests cost next to nothing, however many there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use reqwest::{Body, Client};
use test_support::{Server, allocated_kib, model, refused, sample};

const PATH: &str = "/v1/audio/transcriptions";
const WRONG_KEYS: usize = 10_000;
const CONNECTIONS: usize = 8;
/// Maximum growth of a server's memory in the second round of requests, in KiB.
const MOST_MEMORY_KIB: u64 = 16 * 1024;
/// Maximum growth after requests without bodies: the table of addresses.
const MOST_MEMORY_OF_HEADS_KIB: u64 = 6 * 1024;

/// Sends this number of requests over several connections, each built from its number. Returns how often each
/// status was received.
async fn send_all<F, R>(count: usize, send: F) -> Vec<(u16, usize)>
where
    F: Fn(Client, usize) -> R,
    R: Future<Output = u16>,
{
    let next = Arc::new(AtomicUsize::new(0));
    let one_connection = || async {
        let client = Client::builder().pool_max_idle_per_host(1).build();
        let client = client.expect("a client");
        let mut statuses = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= count {
                return statuses;
            }
            statuses.push(send(client.clone(), number).await);
        }
    };
    let all = join_all((0..CONNECTIONS).map(|_| one_connection())).await;
    let mut all = all.concat();
    all.sort_unstable();
    let same = all.chunk_by(|a, b| a == b);
    same.map(|same| (same[0], same.len())).collect()
}

#[tokio::test]
async fn ten_thousand_wrong_keys_cost_no_inference_and_little_memory() {
    let settings = [
        ("API_KEYS", "right-key"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        ("RUST_LOG", "info"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = sample("en-command.wav");
    let right = server.transcribe_with("right-key", &file).await;
    assert_eq!(right.status(), 200);
    let (before, memory) = (server.inferences().await, allocated_kib(server.pid()));
    let url = format!("{}{PATH}", server.url);
    let bytes = std::fs::read(&file).expect("reads");
    let send = |client: Client, number: usize| {
        let request = client.post(&url).bearer_auth(format!("wrong-{number}"));
        // Half of the requests come from one address, the others each from a different one; some have a body.
        let request = match number % 2 {
            0 => request,
            _ => request.header(
                "x-forwarded-for",
                format!("10.1.{}.{}", number / 256, number % 256),
            ),
        };
        let request = match number % 10 {
            0 => request.body(bytes.clone()),
            _ => request,
        };
        async move { request.send().await.expect("an answer").status().as_u16() }
    };
    let statuses = send_all(WRONG_KEYS, send).await;
    let [(401, unauthorized), (429, limited)] = statuses[..] else {
        panic!("{statuses:?}");
    };
    assert_eq!(unauthorized + limited, WRONG_KEYS);
    // A few from the one address, and one from each of the others.
    let elsewhere = WRONG_KEYS / 2;
    assert!(unauthorized >= elsewhere + 20, "{unauthorized}");
    assert!(unauthorized < elsewhere + elsewhere / 2, "{unauthorized}");
    assert!((server.inferences().await - before).abs() < 1e-9);
    let grown = allocated_kib(server.pid()).saturating_sub(memory);
    assert!(grown < MOST_MEMORY_OF_HEADS_KIB, "{grown} KiB");
    // A request with the right key is accepted at once, from the same address.
    until_limited(&server, &file).await;
    let right = server.transcribe_with("right-key", &file).await;
    assert_eq!(right.status(), 200);
    let page = server.metrics().await;
    assert!(!page.contains("wrong-"), "{page}");
}

/// Sends wrong keys until one gets a 429, because the bucket may have received a token meanwhile.
async fn until_limited(server: &Server, file: &Path) {
    const MOST: usize = 5;
    for _ in 0..MOST {
        let refusal = server.transcribe_with("wrong", file).await;
        if refusal.status() != 401 {
            refused(refusal, 429, "rate_limit_exceeded", None).await;
            return;
        }
    }
    panic!("{MOST} wrong keys were let try");
}

/// Number of upload files below a folder.
fn uploads(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(uploads(&path));
        } else if entry.file_name().to_string_lossy().starts_with("upload-") {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn oversized_bodies_cost_no_inference_and_little_memory() {
    const BODIES: usize = 140;
    let settings = [("MAX_UPLOAD_MB", "0.5"), ("RUST_LOG", "info")];
    let server = Server::ready(&model("base").await, &settings).await;
    let file = sample("en-command.wav");
    assert_eq!(server.transcribe(&file, &[]).await.status(), 200);
    let before = server.inferences().await;
    let mut multipart =
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n".to_vec();
    multipart.resize(4 * 1024 * 1024, b'x');
    let mut json = b"{\"input_audio\": {\"data\": \"".to_vec();
    json.resize(4 * 1024 * 1024, b'A');
    let bodies = [bytes::Bytes::from(multipart), bytes::Bytes::from(json)];
    let paths = [
        (PATH, 0),
        ("/v1/audio/translations", 0),
        ("/asr", 0),
        ("/detect-language", 0),
        ("/inference", 0),
        ("/v1/transcribe", 0),
        (PATH, 1),
    ];
    let send = |client: Client, number: usize| {
        let (path, body) = paths[number % paths.len()];
        let kind = ["multipart/form-data; boundary=x", "application/json"][body];
        let bytes = bodies[body].clone();
        // Half of the uploads have no Content-Length.
        let tells_its_length = (number / paths.len()).is_multiple_of(2);
        let body = if tells_its_length {
            Body::from(bytes)
        } else {
            let parts: Vec<_> = (0..bytes.len())
                .step_by(65_536)
                .map(|from| Ok::<_, std::io::Error>(bytes.slice(from..from + 65_536)))
                .collect();
            Body::wrap_stream(futures::stream::iter(parts))
        };
        let request = client.post(format!("{}{path}", server.url));
        let request = request.header("content-type", kind).body(body);
        async move { request.send().await.expect("an answer").status().as_u16() }
    };
    let mut grown = 0;
    // The first round also fills the buffers that the server keeps for its connections; only a leak grows again.
    for _round in 0..2 {
        let memory = allocated_kib(server.pid());
        let statuses = send_all(BODIES, &send).await;
        let of = |status: u16| {
            let found = statuses.iter().find(|(other, _)| *other == status);
            found.map_or(0, |(_, count)| *count)
        };
        // Together they may fill the disk space for uploads, which is four times the maximum upload size.
        assert_eq!(of(413) + of(507), BODIES, "{statuses:?}");
        assert!(of(413) > BODIES / 2, "{statuses:?}");
        grown = allocated_kib(server.pid()).saturating_sub(memory);
    }
    assert!((server.inferences().await - before).abs() < 1e-9);
    assert!(grown < MOST_MEMORY_KIB, "{grown} KiB");
    assert_eq!(uploads(server.folder()), Vec::<PathBuf>::new());
    assert_eq!(server.transcribe(&file, &[]).await.status(), 200);
}
