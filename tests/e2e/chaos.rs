//! Load while workers are killed, with real processes and a real model: nothing is lost, and every text is that of
//! an undisturbed server.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;
use test_support::wer::are_alike;
use test_support::{Server, form, model, sample, signal};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Number of concurrent requests.
const CLIENTS: usize = 40;
/// Number of workers to kill.
const KILLS: usize = 30;
/// Minimum age of a worker before it is killed, so that some finish a chunk.
const LEAST_AGE: Duration = Duration::from_secs(2);
/// Number of workers that a chunk may lose before no more are killed until its request is answered. The server gives a
/// chunk up with the sixth; without this limit, the killer of a slow machine always gets there.
const MOST_DEATHS: usize = 3;
/// Number of kills before no more workers are killed until the hot one has finished a chunk. The server gives the hot
/// one up when it fails five times in a row.
const MOST_IN_A_ROW: usize = 3;
/// The metric that counts the chunks that the hot worker has finished.
const FINISHED_BY_HOT: &str =
    "uttera_stt_inference_duration_seconds_count{op=\"whisper_transcribe_hot\"}";

/// What a client sends: mostly commands, some sentences, a few files of several chunks.
fn file_of(client: usize) -> &'static str {
    match client % 10 {
        0 => "en-long.ogg",
        1..=3 => "en-sentence.wav",
        _ => "en-command.wav",
    }
}

/// Text and lanes of an answer. Every status except 200 is a lost request.
async fn ask(client: &Client, url: &str, file: &str) -> Result<(String, String), String> {
    let request = client.post(format!("{url}/v1/audio/transcriptions"));
    let sent = request.multipart(form(&sample(file), &[])).send().await;
    let response = sent.map_err(|error| error.to_string())?;
    let status = response.status();
    let route = response.headers().get("x-route").cloned();
    let body = response.text().await.map_err(|error| error.to_string())?;
    if status != 200 {
        return Err(format!("{status}: {body}"));
    }
    let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    let route = route.and_then(|route| route.to_str().ok().map(str::to_owned));
    let text = body["text"].as_str().unwrap_or_default().to_owned();
    Ok((text, route.unwrap_or_default()))
}

/// The answers of an undisturbed server.
async fn undisturbed(server: &Server) -> HashMap<&'static str, String> {
    let mut texts = HashMap::new();
    for file in (0..CLIENTS).map(file_of) {
        if !texts.contains_key(file) {
            let answer = ask(&server.client, &server.url, file).await;
            texts.insert(file, answer.expect("an answer").0);
        }
    }
    texts
}

/// A random number generator with the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

/// Kills a random worker of sufficient age every second, until a client has ended. Returns the number of killed workers.
async fn kill_workers<T>(server: &Server, clients: &[JoinHandle<T>]) -> usize {
    let mut seen: HashMap<u32, Instant> = HashMap::new();
    let mut random = Random(42);
    let (mut killed, mut in_a_row, mut finished) = (0, 0, 0.0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while killed < KILLS && !clients.iter().any(JoinHandle::is_finished) {
        ticks.tick().await;
        let now = server.metric(FINISHED_BY_HOT).await;
        if now > finished {
            (finished, in_a_row) = (now, 0);
        }
        let log = server.log();
        let is_endangered = (deaths(&log).iter())
            .any(|(chunk, &deaths)| deaths >= MOST_DEATHS && !is_answered(&log, chunk));
        let workers = server.workers();
        seen.retain(|pid, _| workers.contains(pid));
        for pid in workers {
            seen.entry(pid).or_insert_with(Instant::now);
        }
        let mut old: Vec<u32> = (seen.iter())
            .filter(|(_, since)| since.elapsed() >= LEAST_AGE)
            .map(|(pid, _)| *pid)
            .collect();
        old.sort_unstable();
        if !old.is_empty() && !is_endangered && in_a_row < MOST_IN_A_ROW {
            signal(old[random.below(old.len())], "KILL");
            killed += 1;
            in_a_row += 1;
        }
    }
    killed
}

/// How many workers each chunk has lost, by the number of its request and its own.
fn deaths(log: &[String]) -> HashMap<&str, usize> {
    let mut deaths = HashMap::new();
    for line in log {
        if let Some((_, chunk)) = line.split_once("retrying the chunk ") {
            *deaths.entry(chunk).or_default() += 1;
        }
    }
    deaths
}

/// Whether the log has the end of this chunk's request.
fn is_answered(log: &[String], chunk: &str) -> bool {
    let request = chunk.split('"').nth(1).expect("the number of a request");
    let ended = format!("request_id={request} ");
    (log.iter()).any(|line| line.contains(&ended) && line.contains(" status="))
}

#[tokio::test]
async fn forty_clients_lose_nothing_while_thirty_workers_are_killed() {
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.2"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let expected = Arc::new(undisturbed(&server).await);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (http, url) = (server.client.clone(), server.url.clone());
            let (expected, over) = (Arc::clone(&expected), Arc::clone(&over));
            tokio::spawn(async move {
                let file = file_of(client);
                let mut routes = Vec::new();
                // One request after the other until the last kill, so that there is always work.
                loop {
                    let (text, route) = ask(&http, &url, file).await?;
                    if !are_alike(&text, &expected[file]) {
                        return Err(format!("{file}: {text:?} by {route}"));
                    }
                    routes.push(route);
                    if over.load(Ordering::Relaxed) {
                        return Ok(routes);
                    }
                }
            })
        })
        .collect();
    let killed = kill_workers(&server, &clients).await;
    over.store(true, Ordering::Relaxed);
    let mut routes: BTreeMap<String, usize> = BTreeMap::new();
    for client in clients {
        let answered: Result<Vec<String>, String> = client.await.expect("no panic");
        match answered {
            Ok(answered) => {
                for route in answered {
                    *routes.entry(route).or_default() += 1;
                }
            }
            // The reason comes last, as in `until_or_show`.
            Err(lost) => panic!("{}\nlost or changed: {lost}", server.log().join("\n")),
        }
    }
    println!(
        "{killed} workers killed; answers by lane: {routes:?}; most deaths of one chunk: {}",
        deaths(&server.log()).values().max().unwrap_or(&0)
    );
    assert_eq!(killed, KILLS);
    let idle = || async { server.metric("uttera_stt_inflight_requests").await <= 0.0 };
    server.until("the accounts are empty", idle).await;
    assert!(!server.is_busy().await);
    server.until_ready().await;
    let again = ask(&server.client, &server.url, "en-long.ogg")
        .await
        .expect("an answer");
    // Not equal in every word: the cuts follow the measured speed of the lanes.
    assert!(are_alike(&again.0, &expected["en-long.ogg"]), "{}", again.0);
}

#[tokio::test]
async fn sixty_short_clips_at_once_are_all_answered() {
    let settings = [("COLD_POOL_SIZE", "1")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let expected = undisturbed(&server).await;
    let begin = Instant::now();
    let requests: Vec<_> = (0..60)
        .map(|_| {
            let (http, url) = (server.client.clone(), server.url.clone());
            tokio::spawn(async move { ask(&http, &url, "en-command.wav").await })
        })
        .collect();
    let mut routes: BTreeMap<String, usize> = BTreeMap::new();
    for request in requests {
        let answered = request.await.expect("no panic");
        let (text, route) = answered.unwrap_or_else(|lost| panic!("lost: {lost}"));
        assert_eq!(text, expected["en-command.wav"]);
        *routes.entry(route).or_default() += 1;
    }
    println!(
        "60 clips in {:.1} s; answers by lane: {routes:?}",
        begin.elapsed().as_secs_f64()
    );
    assert_eq!(routes.values().sum::<usize>(), 60);
}
