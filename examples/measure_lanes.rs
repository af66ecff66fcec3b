//! Measures which number of workers and threads uses this machine's CPU best, alone and beside another
//! busy program: the figures behind the defaults of `WHISPER_THREADS` and `COLD_POOL_SIZE`
//! (docs/architecture.md).
//!
//! ```text
//! cargo run --release --example measure_lanes -- --server target/release/uttera-stt \
//!     --model ggml-base.bin [--rounds 3] [--clips 12] [--layouts 1x2,2x1,2x2]
//! ```
//!
//! Every layout transcribes the same clips in the server's own worker processes. Layouts take turns, round
//! by round, so that a drift in the machine's speed favours none. Prints the medians, and each layout's ratio
//! to the first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_trait::async_trait;
use clap::Parser;
use stt_actors::domain::chunk::AudioChunk;
use stt_actors::domain::ids::{LaneKind, WorkerId};
use stt_actors::domain::transcript::Task;
use stt_actors::ports::{ChunkRequest, Engine, EngineLauncher};
use uttera_stt::engine::process::{ModelSource, ReadyModel, WorkerConfig, WorkerLauncher};

#[derive(Parser)]
struct Args {
    /// Path of the program whose workers are measured.
    #[arg(long)]
    server: PathBuf,
    /// Path of a ggml file.
    #[arg(long)]
    model: PathBuf,
    /// Number of rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Clips per round.
    #[arg(long, default_value_t = 12)]
    clips: usize,
    /// Comma-separated layouts, workers x threads; the others are compared with the first.
    #[arg(long, default_value = "1x2,2x1,2x2")]
    layouts: String,
}

#[derive(Clone, Copy)]
struct Layout {
    workers: usize,
    threads: u32,
}

struct Fixed(PathBuf);

#[async_trait]
impl ModelSource for Fixed {
    async fn ready_model(&self) -> Result<ReadyModel, String> {
        Ok(ReadyModel {
            name: "measured".to_owned(),
            path: self.0.clone(),
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let layouts = layouts(&args.layouts)?;
    let clip = clip(Path::new("samples/en-sentence.wav"))?;
    for busy in [false, true] {
        let stop = Arc::new(AtomicBool::new(false));
        let spinner = busy.then(|| spin(Arc::clone(&stop)));
        let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); layouts.len()];
        for _ in 0..args.rounds {
            for (layout, seconds) in layouts.iter().zip(&mut seconds) {
                seconds.push(turn(&args, *layout, &clip).await?.as_secs_f64());
            }
        }
        stop.store(true, Ordering::Relaxed);
        if let Some(spinner) = spinner {
            let _ = spinner.join();
        }
        report(&layouts, &mut seconds, busy);
    }
    Ok(())
}

fn layouts(text: &str) -> anyhow::Result<Vec<Layout>> {
    let parse = |part: &str| {
        let (workers, threads) = part.split_once('x')?;
        Some(Layout {
            workers: workers.parse().ok()?,
            threads: threads.parse().ok()?,
        })
    };
    let parsed: Option<Vec<_>> = text.split(',').map(parse).collect();
    parsed.context("layouts must look like 1x2,2x1")
}

fn clip(path: &Path) -> anyhow::Result<Arc<[i16]>> {
    let mut wav = hound::WavReader::open(path).with_context(|| path.display().to_string())?;
    if wav.spec().sample_rate != 16_000 || wav.spec().channels != 1 {
        bail!("{} is not 16 kHz mono", path.display());
    }
    let samples: Vec<i16> = wav.samples().collect::<Result<_, _>>()?;
    Ok(samples.into())
}

/// Stands for another busy program: a thread that never sleeps.
fn spin(stop: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    })
}

/// Transcribes all clips with this many workers at once. The time does not include their start.
async fn turn(args: &Args, layout: Layout, clip: &Arc<[i16]>) -> anyhow::Result<Duration> {
    let config = WorkerConfig {
        executable: std::path::absolute(&args.server)?,
        threads: layout.threads,
        gpu: None,
        beam_size: 1,
        engine: uttera_stt::engine::EngineChoice::Auto,
        hello_limit: Duration::from_secs(20),
        load_limit: Duration::from_secs(120),
    };
    let launcher = WorkerLauncher::new(config, Arc::new(Fixed(args.model.clone())));
    let mut engines = Vec::new();
    for number in 0..layout.workers {
        engines.push(
            launcher
                .launch(&WorkerId::new(LaneKind::Hot, number as u64))
                .await?,
        );
    }
    let next = Arc::new(AtomicUsize::new(0));
    let begin = Instant::now();
    let lanes: Vec<_> = (engines.into_iter())
        .map(|engine| {
            tokio::spawn(lane(
                engine,
                Arc::clone(&next),
                args.clips,
                Arc::clone(clip),
            ))
        })
        .collect();
    for lane in lanes {
        lane.await??;
    }
    Ok(begin.elapsed())
}

async fn lane(
    engine: Arc<dyn Engine>,
    next: Arc<AtomicUsize>,
    clips: usize,
    samples: Arc<[i16]>,
) -> anyhow::Result<()> {
    while next.fetch_add(1, Ordering::Relaxed) < clips {
        let request = ChunkRequest {
            request_id: Arc::from("measure"),
            audio: AudioChunk::contiguous(0, 0, Arc::clone(&samples)),
            task: Task::Transcribe,
            language: Some("en".to_owned()),
            languages: Vec::new(),
            likely_language: None,
            prompt: None,
            temperature: 0.0,
        };
        engine.transcribe(request, Box::new(drop)).await?;
    }
    engine.stop(Duration::from_secs(5)).await;
    Ok(())
}

fn report(layouts: &[Layout], seconds: &mut [Vec<f64>], busy: bool) {
    println!(
        "{}",
        if busy {
            "beside a busy program"
        } else {
            "alone"
        }
    );
    let mut first = None;
    for (layout, seconds) in layouts.iter().zip(seconds) {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        let ratio = median / *first.get_or_insert(median);
        println!(
            "  {} x {} threads: {median:6.1} s (from {:.1} to {:.1}), ratio {ratio:.2}",
            layout.workers,
            layout.threads,
            seconds[0],
            seconds[seconds.len() - 1],
        );
    }
}
