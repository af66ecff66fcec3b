//! The Registrar: what it publishes and when, and how the node behaves if the directory fails.

use super::*;
use crate::ports::{DirectoryError, NodeDirectory, NodeRecord};
use crate::registrar::RegistrarMessage;
use crate::supervisor::ANNOUNCE_LIMIT;

/// A scripted directory.
#[derive(Default)]
struct Directory {
    seen: Mutex<Vec<Entry>>,
    failing: AtomicBool,
    hanging: AtomicBool,
}

#[derive(Clone, Debug, PartialEq)]
enum Entry {
    Published(NodeRecord, Duration),
    Withdrawn,
}

impl Directory {
    fn entries(&self) -> Vec<Entry> {
        lock(&self.seen).clone()
    }

    fn last_record(&self) -> Option<NodeRecord> {
        let entries = self.entries();
        entries.iter().rev().find_map(|entry| match entry {
            Entry::Published(record, _) => Some(*record),
            Entry::Withdrawn => None,
        })
    }

    async fn note(&self, entry: Entry) -> Result<(), DirectoryError> {
        if self.hanging.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.failing.load(Ordering::SeqCst) {
            return Err(DirectoryError("connection refused".to_owned()));
        }
        lock(&self.seen).push(entry);
        Ok(())
    }
}

#[async_trait]
impl NodeDirectory for Directory {
    async fn publish(&self, record: NodeRecord, ttl: Duration) -> Result<(), DirectoryError> {
        self.note(Entry::Published(record, ttl)).await
    }

    async fn withdraw(&self) -> Result<(), DirectoryError> {
        self.note(Entry::Withdrawn).await
    }
}

async fn registered(change: impl FnOnce(&mut TreeConfig)) -> (Tree, Arc<Directory>) {
    let directory = Arc::<Directory>::default();
    let port: Arc<dyn NodeDirectory> = Arc::clone(&directory) as _;
    let mut limits = config(0);
    change(&mut limits);
    let tree = Tree::start_with(limits, vec![], |ports| ports.directory = Some(port)).await;
    (tree, directory)
}

fn accepts(directory: &Directory) -> Option<bool> {
    directory
        .last_record()
        .map(|record| record.accepts_requests)
}

#[tokio::test(start_paused = true)]
async fn every_tick_renews_the_record_and_the_end_removes_it() {
    let (tree, directory) = registered(|_| {}).await;
    tree.stt.ready().await.expect("ready");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let entries = directory.entries();
    let count = entries.len();
    // 12 s, two ticks a second.
    assert!((22..=28).contains(&count), "{count} records");
    let Some(Entry::Published(record, ttl)) = entries.last() else {
        panic!("{entries:?}")
    };
    assert_eq!(*ttl, Duration::from_secs(2));
    assert!(record.accepts_requests && record.load_score.abs() < f64::EPSILON);
    tree.end().await;
    assert_eq!(directory.entries().last(), Some(&Entry::Withdrawn));
}

#[tokio::test(start_paused = true)]
async fn ready_saturated_and_draining_are_published_at_once_and_not_at_the_next_tick() {
    // Ticks are so rare that only a change can cause a record.
    let (tree, directory) = registered(|limits| {
        limits.pool.interval = Duration::from_secs(10_000);
        limits.drain_cap = Duration::from_secs(5);
    })
    .await;
    eventually("the loading node is there", || {
        accepts(&directory) == Some(false)
    })
    .await;
    tree.stt.ready().await.expect("ready");
    eventually("ready", || accepts(&directory) == Some(true)).await;
    let streams = tree.submit_many(8, "1").await;
    eventually("saturated", || accepts(&directory) == Some(false)).await;
    let record = directory.last_record().expect("a record");
    assert!((record.load_score - 1.0).abs() < f64::EPSILON);
    for stream in streams {
        stream.transcript().await.expect("transcribed");
    }
    eventually("ready again", || accepts(&directory) == Some(true)).await;
    let running = tree.submit("3").await.expect("accepted");
    tree.stt.drain(crate::DrainPlan {
        delay: Duration::from_secs(3),
        grace: Duration::from_secs(600),
    });
    eventually("draining", || accepts(&directory) == Some(false)).await;
    running.transcript().await.expect("finished");
    tree.end().await;
    assert_eq!(directory.entries().last(), Some(&Entry::Withdrawn));
}

#[tokio::test(start_paused = true)]
async fn a_drain_announces_first_then_removes_the_record_and_does_not_bring_it_back() {
    let (mut tree, directory) = registered(|_| {}).await;
    tree.stt.ready().await.expect("ready");
    eventually("ready", || accepts(&directory) == Some(true)).await;
    let running = tree.submit("1000").await.expect("accepted");
    let removed = || directory.entries().last() == Some(&Entry::Withdrawn);
    let before = tokio::time::Instant::now();
    tree.stt.drain(crate::DrainPlan {
        delay: Duration::from_secs(3),
        grace: Duration::from_secs(30),
    });
    eventually("announced", || accepts(&directory) == Some(false)).await;
    assert!(before.elapsed() < Duration::from_secs(1) && !removed());
    tree.stt.until_rejecting().await;
    eventually("removed", removed).await;
    assert!(before.elapsed() >= Duration::from_secs(3));
    eventually("its age is no matter", || {
        tree.stt.snapshot().record_age.is_none()
    })
    .await;
    // A Registrar that fails now is not replaced.
    tree.children::<RegistrarMessage>()[0].kill();
    running.transcript().await.expect_err("too long");
    tree.ended.wait().await;
    let withdrawals = directory
        .entries()
        .into_iter()
        .skip_while(|entry| *entry != Entry::Withdrawn);
    assert!(
        withdrawals
            .into_iter()
            .all(|entry| entry == Entry::Withdrawn)
    );
}

fn three_seconds() -> crate::DrainPlan {
    crate::DrainPlan {
        delay: Duration::from_secs(3),
        grace: Duration::from_secs(30),
    }
}

#[tokio::test(start_paused = true)]
async fn the_delay_of_a_drain_begins_when_the_directory_has_the_announcement() {
    let (mut tree, directory) = registered(|_| {}).await;
    tree.stt.ready().await.expect("ready");
    eventually("ready", || accepts(&directory) == Some(true)).await;
    directory.failing.store(true, Ordering::SeqCst);
    let before = tokio::time::Instant::now();
    tree.stt.drain(three_seconds());
    tokio::time::sleep(Duration::from_millis(1700)).await;
    assert!(tree.stt.snapshot().drain.is_some());
    assert_eq!(accepts(&directory), Some(true));
    directory.failing.store(false, Ordering::SeqCst);
    eventually("announced", || accepts(&directory) == Some(false)).await;
    let announced = tokio::time::Instant::now();
    assert!(announced - before >= Duration::from_millis(1700));
    eventually("the delay begins", || {
        let drain = tree.stt.snapshot().drain.expect("a drain");
        drain.rejects_in > Duration::from_millis(2500)
    })
    .await;
    tree.stt.until_rejecting().await;
    let delay = announced.elapsed();
    assert!(delay >= Duration::from_millis(2900), "{delay:?}");
    tree.ended.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_away_delays_a_drain_only_for_so_long() {
    for hangs in [false, true] {
        let warnings = Warnings::listen();
        let (mut tree, directory) = registered(|_| {}).await;
        tree.stt.ready().await.expect("ready");
        let is_away = if hangs {
            &directory.hanging
        } else {
            &directory.failing
        };
        is_away.store(true, Ordering::SeqCst);
        let before = tokio::time::Instant::now();
        tree.stt.drain(three_seconds());
        tree.stt.until_rejecting().await;
        let waited = before.elapsed();
        let limit = ANNOUNCE_LIMIT + Duration::from_secs(3);
        assert!(
            waited >= limit && waited < limit + Duration::from_secs(1),
            "{waited:?}"
        );
        assert_eq!(warnings.count("its record could not be written"), 1);
        is_away.store(false, Ordering::SeqCst);
        tree.ended.wait().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_directory_is_logged_once_and_then_rarely_and_requests_continue() {
    let warnings = Warnings::listen();
    let (tree, directory) = registered(|_| {}).await;
    directory.failing.store(true, Ordering::SeqCst);
    let record_age = || tree.stt.snapshot().record_age.expect("a directory");
    tree.stt.ready().await.expect("ready");
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert!(record_age() >= Duration::from_secs(500));
    assert_eq!(warnings.count("connection refused"), 1);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(warnings.count("connection refused"), 2);
    assert_eq!(tree.text("2").await.expect("transcribed"), "0 1");
    directory.failing.store(false, Ordering::SeqCst);
    eventually("it is registered", || accepts(&directory) == Some(true)).await;
    eventually("the record is new", || {
        record_age() < Duration::from_secs(2)
    })
    .await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_hangs_delays_neither_a_request_nor_the_end_for_long() {
    let (tree, directory) = registered(|_| {}).await;
    tree.stt.ready().await.expect("ready");
    directory.hanging.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = tokio::time::Instant::now();
    assert_eq!(tree.text("1").await.expect("transcribed"), "0");
    assert!(before.elapsed() < WORK * 2);
    directory.hanging.store(false, Ordering::SeqCst);
    let known = directory.entries().len();
    eventually("it goes on", || directory.entries().len() > known).await;
    directory.hanging.store(true, Ordering::SeqCst);
    let before = tokio::time::Instant::now();
    tree.end().await;
    assert!(before.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_registrar_that_breaks_is_replaced() {
    let (tree, directory) = registered(|_| {}).await;
    tree.stt.ready().await.expect("ready");
    tree.break_and_replace::<RegistrarMessage>().await;
    let known = directory.entries().len();
    eventually("it publishes", || directory.entries().len() > known + 2).await;
    tree.end().await;
}
