//! The VramWatcher, and the pool's reaction to its samples.

use std::sync::Condvar;

use super::*;
use crate::pool::vram_watcher::VramWatcherMessage;
use crate::ports::{MemoryKind, MemorySample, ProbeError, VramProbe};

const GIB: u64 = 1 << 30;

/// A scripted GPU or machine.
struct Gpu {
    free: Mutex<Result<u64, ProbeError>>,
    per_worker: u64,
    kind: MemoryKind,
    hanging: Mutex<bool>,
    let_go: Condvar,
}

impl Gpu {
    fn new(free_gib: u64) -> Arc<Self> {
        Self::of(MemoryKind::Vram, free_gib)
    }

    fn of(kind: MemoryKind, free_gib: u64) -> Arc<Self> {
        Arc::new(Self {
            kind,
            free: Mutex::new(Ok(free_gib * GIB)),
            per_worker: GIB,
            hanging: Mutex::new(false),
            let_go: Condvar::new(),
        })
    }

    fn set(&self, free: Result<u64, &str>) {
        *lock(&self.free) = free.map_err(|error| ProbeError(error.to_owned()));
    }

    fn hang(&self, hanging: bool) {
        *lock(&self.hanging) = hanging;
        self.let_go.notify_all();
    }
}

impl VramProbe for Gpu {
    fn kind(&self) -> MemoryKind {
        self.kind
    }

    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError> {
        let mut hanging = lock(&self.hanging);
        while *hanging {
            hanging = self.let_go.wait(hanging).expect("not poisoned");
        }
        Ok(MemorySample {
            utilization_percent: None,
            free: lock(&self.free).clone()?,
            total: 24 * GIB,
            used_by_process: processes
                .iter()
                .map(|pid| (*pid, self.per_worker))
                .collect(),
        })
    }
}

async fn tree_on(gpu: &Arc<Gpu>) -> Tree {
    let mut limits = config(4);
    limits.minimum_worker_bytes = 4 * GIB;
    let probe: Arc<dyn VramProbe> = Arc::clone(gpu) as _;
    let tree = Tree::start_with(limits, vec![], |ports| ports.memory = Some(probe)).await;
    tree.stt.ready().await.expect("ready");
    tree
}

#[tokio::test(start_paused = true)]
async fn no_worker_is_started_until_there_is_memory_for_it() {
    let gpu = Gpu::new(1);
    let tree = tree_on(&gpu).await;
    eventually("a worker is measured", || {
        tree.stt.snapshot().memory.worker_bytes == Some(GIB)
    })
    .await;
    let memory = tree.stt.snapshot().memory;
    assert_eq!(memory.need_bytes, Some(GIB * 12 / 10));
    assert!(!memory.fits_one_more);
    let streams = tree.submit_many(100, "1").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(tree.world.launched(), ["hot-1"]);
    gpu.set(Ok(2 * GIB));
    eventually("one is started", || tree.world.launched().len() == 2).await;
    drop(streams);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn on_a_cpu_the_machines_memory_decides_by_what_the_hot_worker_holds() {
    let machine = Gpu::of(MemoryKind::Host, 1);
    let tree = tree_on(&machine).await;
    let streams = tree.submit_many(100, "1").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(tree.world.launched(), ["hot-1"]);
    // The minimum of 4 GiB applies to GPUs only.
    machine.set(Ok(2 * GIB));
    eventually("one is started", || tree.world.launched().len() == 2).await;
    drop(streams);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_is_measured_before_the_next_one_is_started() {
    let gpu = Gpu::new(20);
    let tree = tree_on(&gpu).await;
    let streams = tree.submit_many(200, "1").await;
    eventually("one is up", || tree.stt.snapshot().pool.active == 1).await;
    // It used all free memory.
    gpu.set(Ok(0));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(tree.world.launched(), ["hot-1", "cold-1"]);
    drop(streams);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn slots_for_which_there_is_no_memory_do_not_lengthen_the_idle_limit() {
    // Four slots are configured, and one worker fits.
    let gpu = Gpu::new(2);
    let tree = tree_on(&gpu).await;
    let streams = tree.submit_many(100, "1").await;
    eventually("one is up", || tree.stt.snapshot().pool.active == 1).await;
    gpu.set(Ok(GIB));
    all_texts(streams).await;
    assert_eq!(tree.world.launched(), ["hot-1", "cold-1"]);
    tokio::time::sleep(Duration::from_secs(68)).await;
    assert_eq!(tree.stt.snapshot().pool.active, 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(tree.stt.snapshot().pool.active, 0);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_fails_is_logged_once_and_the_pool_works_without_it() {
    let warnings = Warnings::listen();
    let gpu = Gpu::new(1);
    gpu.set(Err("no driver"));
    let tree = tree_on(&gpu).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(warnings.count("no driver"), 1);
    assert_eq!(tree.stt.snapshot().memory.free_bytes, None);
    let streams = tree.submit_many(50, "1").await;
    eventually("one is started", || tree.stt.snapshot().pool.active > 0).await;
    gpu.set(Ok(3 * GIB));
    eventually("it is known again", || {
        tree.stt.snapshot().memory.free_bytes == Some(3 * GIB)
    })
    .await;
    drop(streams);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_hangs_delays_no_request() {
    let warnings = Warnings::listen();
    let gpu = Gpu::new(9);
    let tree = tree_on(&gpu).await;
    eventually("it is known", || {
        tree.stt.snapshot().memory.free_bytes.is_some()
    })
    .await;
    gpu.hang(true);
    // A blocking thread keeps the paused clock from advancing by itself.
    let stream = tree.submit("2").await.expect("accepted");
    for _ in 0..200 {
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(tree.stt.snapshot().memory.free_bytes, None);
    assert_eq!(warnings.count("no answer"), 1);
    assert_eq!(
        stream.transcript().await.expect("transcribed").text(),
        "0 1"
    );
    gpu.hang(false);
    eventually("it is known again", || {
        tree.stt.snapshot().memory.free_bytes.is_some()
    })
    .await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_breaks_is_replaced() {
    let gpu = Gpu::new(9);
    let tree = tree_on(&gpu).await;
    tree.break_and_replace::<VramWatcherMessage>().await;
    gpu.set(Ok(5 * GIB));
    eventually("it looks", || {
        tree.stt.snapshot().memory.free_bytes == Some(5 * GIB)
    })
    .await;
    tree.end().await;
}
