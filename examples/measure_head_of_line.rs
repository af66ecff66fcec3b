//! Measures the latency of a short command on an idle server and during a long file: the figures of "A
//! command during a long file" in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_head_of_line -- --url http://127.0.0.1:9005 \
//!     --command samples/en-command.wav --long half-an-hour.flac [--count 20]
//! ```
//!
//! Any server with OpenAI's API will do. On a server that processes whole requests in order, use `--count 1`,
//! because a single command waits for the whole long file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use reqwest::Client;
use reqwest::multipart::{Form, Part};

#[derive(Parser)]
struct Args {
    /// The server's address.
    #[arg(long, default_value = "http://127.0.0.1:9005")]
    url: String,
    /// Audio file of about two seconds.
    #[arg(long)]
    command: PathBuf,
    /// Audio file of about half an hour.
    #[arg(long)]
    long: PathBuf,
    /// Number of commands, on the idle server and during the long file each.
    #[arg(long, default_value_t = 20)]
    count: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let client = Client::new();
    let mut idle = Vec::new();
    for _ in 0..args.count.max(3) {
        idle.push(ask(&client, &args.url, &args.command).await?);
    }
    let (long_client, url, file) = (client.clone(), args.url.clone(), args.long.clone());
    let long = tokio::spawn(async move { ask(&long_client, &url, &file).await });
    // Wait until the server works on the long file.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut during = Vec::new();
    while during.len() < args.count {
        let took = ask(&client, &args.url, &args.command).await?;
        if long.is_finished() && args.count > 1 {
            println!("the long file ended after {} commands", during.len());
            break;
        }
        during.push(took);
    }
    let took = long.await??;
    println!("the long file took {:.1} s", took.as_secs_f64());
    print("idle", &mut idle);
    print("during the long file", &mut during);
    let (idle, during) = (percentile(&mut idle, 95), percentile(&mut during, 95));
    println!("ratio of the 95th percentiles: {:.1}", during / idle);
    Ok(())
}

fn print(what: &str, times: &mut [Duration]) {
    println!(
        "{what}: median {:.2} s, 95th percentile {:.2} s of {}",
        percentile(times, 50),
        percentile(times, 95),
        times.len()
    );
}

/// Percentile by nearest rank, in seconds.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).map_or(f64::NAN, Duration::as_secs_f64)
}

async fn ask(client: &Client, url: &str, file: &Path) -> anyhow::Result<Duration> {
    let part = Part::bytes(std::fs::read(file)?).file_name("audio");
    let form = Form::new()
        .part("file", part)
        .text("model", "whisper-1")
        .text("language", "en");
    let begin = Instant::now();
    let request = client.post(format!("{url}/v1/audio/transcriptions"));
    let response = request.multipart(form).send().await?;
    let status = response.status();
    response.bytes().await?;
    ensure!(status == 200, "{status}");
    Ok(begin.elapsed())
}
