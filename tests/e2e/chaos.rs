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

/// Number of concurrent requests.
const CLIENTS: usize = 40;
/// Number of workers to kill.
const KILLS: usize = 30;
/// Minimum age of a worker before it is killed. If half of the longest file takes longer on this machine, that time
/// counts: it is enough for the longest chunk.
const LEAST_AGE: Duration = Duration::from_secs(2);

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

/// The answers of an undisturbed server, and the time that the longest one took.
async fn undisturbed(server: &Server) -> (HashMap<&'static str, String>, Duration) {
    let mut texts = HashMap::new();
    let mut longest = Duration::ZERO;
    for client in 0..CLIENTS {
        let file = file_of(client);
        if !texts.contains_key(file) {
            let begin = Instant::now();
            let (text, _) = ask(&server.client, &server.url, file)
                .await
                .expect("an answer");
            longest = longest.max(begin.elapsed());
            texts.insert(file, text);
        }
    }
    (texts, longest)
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

/// Kills a random worker of sufficient age every second. Returns the number of killed workers.
async fn kill_workers(server: &Server, least_age: Duration) -> usize {
    let mut seen: HashMap<u32, Instant> = HashMap::new();
    let mut random = Random(42);
    let mut killed = 0;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while killed < KILLS {
        ticks.tick().await;
        let workers = server.workers();
        seen.retain(|pid, _| workers.contains(pid));
        for pid in workers {
            seen.entry(pid).or_insert_with(Instant::now);
        }
        let mut old: Vec<u32> = (seen.iter())
            .filter(|(_, since)| since.elapsed() >= least_age)
            .map(|(pid, _)| *pid)
            .collect();
        old.sort_unstable();
        if !old.is_empty() {
            signal(old[random.below(old.len())], "KILL");
            killed += 1;
        }
    }
    killed
}

/// How often the chunk with the most lost workers lost one.
fn most_deaths(server: &Server) -> usize {
    let mut deaths: HashMap<String, usize> = HashMap::new();
    for line in server.log() {
        if let Some((_, chunk)) = line.split_once("retrying the chunk ") {
            *deaths.entry(chunk.to_owned()).or_default() += 1;
        }
    }
    deaths.into_values().max().unwrap_or(0)
}

#[tokio::test]
async fn forty_clients_lose_nothing_while_thirty_workers_are_killed() {
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.2"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let (expected, longest) = undisturbed(&server).await;
    let expected = Arc::new(expected);
    let least_age = (longest / 2).max(LEAST_AGE);
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
    let killed = kill_workers(&server, least_age).await;
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
            Err(lost) => panic!("lost or changed: {lost}\n{}", server.log().join("\n")),
        }
    }
    println!(
        "{killed} workers killed; answers by lane: {routes:?}; most deaths of one chunk: {}",
        most_deaths(&server)
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
    let (expected, _) = undisturbed(&server).await;
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
