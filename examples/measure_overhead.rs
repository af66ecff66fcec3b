//! Measures the overhead of the server per request, with `null_engine`, whose engine answers at once; and
//! with `--worker` the round trip to a worker process.
//!
//! ```text
//! cargo run --release --example null_engine -- --port 9105 &
//! cargo run --release --example measure_overhead -- --url http://127.0.0.1:9105 \
//!     --file samples/en-command.wav [--rate 100] [--seconds 10] [--fields vad_filter=false]
//! cargo run --release --example measure_overhead -- --worker target/release/uttera-stt \
//!     --model ggml-tiny.en.bin
//! ```
//!
//! Requests are sent at fixed times, whether or not earlier ones are answered, so that a server that falls
//! behind cannot hide it. The time of a request counts from when it was due, minus the millisecond to which the
//! sender's clock is rounded. Then the rate is raised until the server cannot sustain it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use clap::Parser;
use reqwest::multipart::{Form, Part};
use stt_actors::domain::chunk::AudioChunk;
use stt_actors::domain::ids::{LaneKind, WorkerId};
use stt_actors::domain::transcript::Task;
use stt_actors::ports::{ChunkRequest, EngineLauncher};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uttera_stt::engine::process::{ModelSource, ReadyModel, WorkerConfig, WorkerLauncher};

/// The server sustains a rate if this share of the requests is answered within this time.
const HELD_WITHIN: Duration = Duration::from_millis(250);

#[derive(Parser)]
struct Cli {
    /// Address of a server with a null engine.
    #[arg(long, requires = "file")]
    url: Option<String>,
    /// Audio file to send.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Form fields: `name=value`, comma-separated.
    #[arg(long, default_value = "")]
    fields: String,
    /// Requests per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Duration in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Path of the program, for the round trip to its worker.
    #[arg(long, requires = "model")]
    worker: Option<PathBuf>,
    /// Path of a ggml file for the worker.
    #[arg(long)]
    model: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Cli::parse();
    if let (Some(url), Some(file)) = (&args.url, &args.file) {
        http(&args, url, file).await?;
    }
    if let (Some(worker), Some(model)) = (args.worker, args.model) {
        round_trips(worker, model).await?;
    }
    Ok(())
}

/// The request that is sent repeatedly.
struct Target {
    client: reqwest::Client,
    url: String,
    audio: bytes::Bytes,
    fields: Vec<(String, String)>,
}

impl Target {
    async fn ask(&self) -> anyhow::Result<()> {
        let length = self.audio.len() as u64;
        let part = Part::stream_with_length(self.audio.clone(), length).file_name("clip.wav");
        let mut form = Form::new().part("file", part);
        for (name, value) in &self.fields {
            form = form.text(name.clone(), value.clone());
        }
        let response = self.client.post(&self.url).multipart(form).send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status == 200, "{status}: {body}");
        Ok(())
    }
}

async fn http(args: &Cli, url: &str, file: &PathBuf) -> anyhow::Result<()> {
    let fields = args.fields.split(',').filter(|field| !field.is_empty());
    let fields = fields.map(|field| {
        let (name, value) = field
            .split_once('=')
            .context("a field must be name=value")?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let target = Arc::new(Target {
        client: reqwest::Client::new(),
        url: format!("{url}/v1/audio/transcriptions"),
        audio: std::fs::read(file)?.into(),
        fields: fields.collect::<anyhow::Result<_>>()?,
    });
    // Warm up connections and everything else that the first request creates.
    at_rate(&target, 20, 1).await?;
    let mut took = at_rate(&target, args.rate, args.seconds).await?;
    print(args.rate, &mut took);
    let mut rate = args.rate;
    loop {
        rate = rate * 5 / 4;
        let mut took = match at_rate(&target, rate, 3).await {
            Ok(took) => took,
            Err(error) => {
                println!("{rate} requests per second are not sustained: {error}");
                return Ok(());
            }
        };
        print(rate, &mut took);
        if percentile(&mut took, 99) > HELD_WITHIN {
            return Ok(());
        }
    }
}

fn print(rate: u32, took: &mut [Duration]) {
    println!(
        "{rate} requests a second: median {:.2?}, p95 {:.2?}, p99 {:.2?}, longest {:.2?}, {} requests",
        percentile(took, 50),
        percentile(took, 95),
        percentile(took, 99),
        percentile(took, 100),
        took.len()
    );
}

/// The time of each request, from when it was due.
async fn at_rate(target: &Arc<Target>, rate: u32, seconds: u32) -> anyhow::Result<Vec<Duration>> {
    let begin = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..rate * seconds {
        let due = begin + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due).await;
        // Timers are rounded up to the next millisecond, which is not part of the server's time.
        let due = due + due.elapsed().min(Duration::from_millis(1));
        let target = Arc::clone(target);
        requests.spawn(async move {
            target.ask().await?;
            anyhow::Ok(due.elapsed())
        });
    }
    requests.join_all().await.into_iter().collect()
}

fn percentile(took: &mut [Duration], percent: usize) -> Duration {
    took.sort();
    let place = (took.len() * percent).div_ceil(100).max(1) - 1;
    took.get(place).copied().unwrap_or_default()
}

struct Fixed(PathBuf);

#[async_trait]
impl ModelSource for Fixed {
    async fn ready_model(&self) -> Result<ReadyModel, String> {
        Ok(ReadyModel {
            name: "model".to_owned(),
            path: self.0.clone(),
        })
    }
}

/// Measures the round trip to a worker: with audio that is too short for inference, and with a whole chunk,
/// minus the engine's own time.
async fn round_trips(program: PathBuf, model: PathBuf) -> anyhow::Result<()> {
    let config = WorkerConfig {
        executable: program.canonicalize()?,
        threads: 2,
        gpu: None,
        beam_size: 1,
        engine: uttera_stt::engine::EngineChoice::Auto,
        hello_limit: Duration::from_secs(5),
        load_limit: Duration::from_secs(60),
    };
    let launcher = WorkerLauncher::new(config, Arc::new(Fixed(model)));
    let engine = launcher.launch(&WorkerId::new(LaneKind::Hot, 1)).await?;
    println!("worker start: {:.1?}", engine.info().load_time);
    for (what, samples, rounds) in [("0.05 s", 800, 1000), ("30 s", 480_000, 5)] {
        let mut took = Vec::new();
        for _ in 0..rounds {
            let request = ChunkRequest {
                request_id: Arc::from("overhead"),
                audio: AudioChunk::contiguous(0, 0, Arc::from(vec![0_i16; samples])),
                task: Task::Transcribe,
                language: Some("en".to_owned()),
                languages: Vec::new(),
                likely_language: None,
                prompt: None,
                temperature: 0.0,
            };
            let begin = Instant::now();
            let done = engine.transcribe(request, Box::new(drop)).await?;
            let inference = Duration::from_secs_f64(done.inference_seconds);
            took.push(begin.elapsed().saturating_sub(inference));
        }
        println!(
            "round trip of {what}, without inference: median {:.3?}, p99 {:.3?}",
            percentile(&mut took, 50),
            percentile(&mut took, 99)
        );
    }
    engine.stop(Duration::from_secs(1)).await;
    Ok(())
}
