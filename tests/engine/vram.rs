//! The pool and the memory of a GPU: real workers, and the real NVML wrapper on a stand-in for the
//! driver.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::domain::chunk::AudioSource;
use stt_actors::{
    AdmissionRequest, Client, EscalationPolicy, IdlePolicy, Job, Options, PoolConfig, Ports,
    RecyclingLimits, Stt, TranscriptStream, TreeConfig,
};
use test_support::nvml_driver::Driver;
use test_support::{model, program, sample, until};
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};
use uttera_stt::engine::EngineChoice;
use uttera_stt::engine::process::{ModelSource, ReadyModel, WorkerConfig, WorkerLauncher};

const GIB: u64 = 1 << 30;

struct Fixed(PathBuf);

#[async_trait]
impl ModelSource for Fixed {
    async fn ready_model(&self) -> Result<ReadyModel, String> {
        Ok(ReadyModel {
            name: "tiny.en".to_owned(),
            path: self.0.clone(),
        })
    }
}

fn gpu_with(driver: &Driver, free: u64) {
    driver.says(&format!("device GPU-aaaa-1111 {} {free}\n", 24 * GIB));
}

fn config() -> TreeConfig {
    TreeConfig {
        escalation: EscalationPolicy {
            min_confidence: 0.0,
            min_language_probability: 0.0,
            min_words: 0,
        },
        fallback_limit: Duration::ZERO,
        chunk_timeout: Duration::from_secs(60),
        stop_grace: Duration::from_secs(4),
        start_estimate: Duration::from_secs(8),
        max_queue: Duration::from_secs(600),
        drain_cap: Duration::from_secs(120),
        hot_idle_limit: None,
        recycling: RecyclingLimits::default(),
        live: stt_actors::LiveConfig {
            sessions: 1,
            idle_limit: Duration::from_secs(120),
        },
        pool: PoolConfig {
            size: 2,
            interval: Duration::from_millis(100),
            idle: IdlePolicy {
                timeout: Duration::from_secs(60),
                stagger: Duration::ZERO,
            },
        },
        translation_limit: Duration::ZERO,
        result_cache: Duration::ZERO,
        minimum_worker_bytes: 4 * GIB,
    }
}

async fn submit(stt: &Stt, count: usize) -> Vec<TranscriptStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let job = Job {
            request_id: Arc::from("test"),
            audio: AudioSource::file(sample("en-command.wav")).into(),
            options: Options::default(),
            identity: None,
            escalates: false,
            streamed: false,
            urgency: stt_actors::Urgency::default(),
            finished: None,
            trace: stt_actors::Trace::default(),
        };
        let admission = stt
            .admit(AdmissionRequest::of(Client::new("test")))
            .expect("admitted");
        streams.push(stt.submit(admission, job).await.expect("accepted"));
    }
    streams
}

#[tokio::test]
async fn no_cold_worker_is_started_on_a_full_gpu_and_one_is_when_there_is_room() {
    let driver = Driver::installed();
    gpu_with(&driver, GIB);
    let worker = WorkerConfig {
        executable: program().to_path_buf(),
        threads: 1,
        gpu: None,
        beam_size: 1,
        // The slower one, so that work piles up.
        engine: EngineChoice::WhisperCpp,
        hello_limit: Duration::from_secs(20),
        load_limit: Duration::from_secs(60),
    };
    let models = Arc::new(Fixed(model("tiny.en").await));
    let ports = Ports {
        fallback: None,
        translator: None,
        launcher: Arc::new(WorkerLauncher::new(worker, models)),
        decoder: Arc::new(Decoder::new(
            DecoderLimits::default(),
            VoiceActivity::default(),
        )),
        memory: Some(Arc::new(driver.probe(0))),
        directory: None,
    };
    let (stt, mut ended) = Stt::start(ports, config()).await.expect("starts");
    stt.ready().await.expect("ready");
    until("the GPU is seen", async || {
        stt.snapshot().memory.free_bytes == Some(GIB)
    })
    .await;
    let mut streams = submit(&stt, 12).await;
    until("more lanes are wanted", async || {
        stt.snapshot().pool.wanted > 0
    })
    .await;
    for stream in streams.drain(..8) {
        stream.transcript().await.expect("transcribed");
    }
    let snapshot = stt.snapshot();
    assert!(!snapshot.memory.fits_one_more);
    assert_eq!(snapshot.pool.spawned, 0);
    gpu_with(&driver, 9 * GIB);
    streams.extend(submit(&stt, 16).await);
    until("a cold worker is up", async || {
        stt.snapshot().pool.active > 0
    })
    .await;
    for stream in streams {
        stream.transcript().await.expect("transcribed");
    }
    assert!(stt.snapshot().finished_cold_chunks > 0);
    stt.drain(Duration::ZERO);
    ended.wait().await;
}
