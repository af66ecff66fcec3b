//! The bounded queue: which requests are admitted, with which wait, and correct accounts afterwards.

use super::*;
use crate::domain::ids::WorkerId;
use crate::ports::{Engine, EngineLauncher};
use crate::status::load::{Load, WaitEstimate};

fn nothing_is_left(tree: &Tree) -> bool {
    let snapshot = tree.stt.snapshot();
    let nothing = Load::default();
    (snapshot.requests, snapshot.busy_lanes, snapshot.queue_depth) == (0, 0, 0)
        && snapshot.remaining == nothing
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_estimates_no_wait_and_a_busy_one_reports_position_and_wait() {
    let tree = Tree::ready_with(config(0), vec![]).await;
    let wait_estimate = tree.admit().expect("accepted").wait_estimate();
    assert_eq!(wait_estimate, WaitEstimate::default());
    // Each request is one chunk of 10 s, which takes the lane one second.
    let streams = tree.submit_many(5, "1").await;
    tree.until_a_chunk_runs().await;
    let wait_estimate = tree.admit().expect("accepted").wait_estimate();
    assert_eq!(wait_estimate.position, 4);
    assert!(
        (wait_estimate.wait.as_secs_f64() - 5.0).abs() < 0.2,
        "{wait_estimate:?}"
    );
    drop(streams);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn work_beyond_the_queue_limit_is_rejected_with_a_retry_time() {
    let mut limits = config(0);
    limits.max_queue = Duration::from_secs(20);
    let tree = Tree::ready_with(limits, vec![]).await;
    let mut kept = Vec::new();
    let refusal = loop {
        match tree.submit("1").await {
            Ok(stream) => kept.push(stream),
            Err(error) => break error,
        }
        assert!(kept.len() < 100, "never refused");
    };
    // 20 s of earlier work are within the limit.
    assert!((20..=22).contains(&kept.len()), "{} were taken", kept.len());
    let SttError::Overloaded { retry_after } = refusal else {
        panic!("{refusal}")
    };
    assert!(retry_after <= Duration::from_secs(3), "{retry_after:?}");
    // A retry at that time is admitted.
    tokio::time::sleep(retry_after + WORK).await;
    kept.push(tree.submit("1").await.expect("accepted"));
    for stream in kept {
        stream.transcript().await.expect("nothing of it was lost");
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_file_that_runs_does_not_keep_a_command_out() {
    let mut limits = config(0);
    limits.max_queue = Duration::from_secs(20);
    let tree = Tree::ready_with(limits, vec![]).await;
    let long = tree.submit("1000").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    let admission = tree.admit().expect("accepted");
    assert!(admission.wait_estimate().wait <= Duration::from_secs(8));
    drop((long, admission));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn uploads_that_have_not_arrived_hold_admission_slots_and_return_them() {
    let mut limits = config(0);
    limits.max_queue = Duration::from_secs(20);
    let tree = Tree::ready_with(limits, vec![]).await;
    let held: Vec<_> = std::iter::from_fn(|| tree.admit().ok()).take(100).collect();
    assert!(
        (20..=22).contains(&held.len()),
        "{} were let in",
        held.len()
    );
    assert_eq!(tree.world.launched(), ["hot-1"]);
    drop(held);
    assert!(nothing_is_left(&tree));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_accounts_are_correct_after_every_kind_of_end() {
    let dying = |exit: EngineExit| ChunkPlan::Die(exit);
    let plans = vec![
        LaunchPlan::Up(vec![ChunkPlan::Fail, ChunkPlan::Fail, dying(crash())]),
        LaunchPlan::Up(vec![dying(crash())]),
        LaunchPlan::Up(vec![ChunkPlan::Answer, ChunkPlan::Hang]),
        LaunchPlan::Up(vec![ChunkPlan::Hang]),
        LaunchPlan::Up(vec![dying(killed())]),
    ];
    let tree = Tree::ready_with(config(0), plans).await;
    let mut ends = Vec::new();
    for script in ["bad", "2+bad", "1", "1", "1", "1", "3"] {
        let end = tree.text(script).await;
        ends.push(end.err().map(|error| error.to_string()));
        eventually("nothing is left", || nothing_is_left(&tree)).await;
    }
    assert_eq!(
        ends.iter().filter(|end| end.is_none()).count(),
        2,
        "{ends:?}"
    );
    // The client leaves at any time, the supervisor of the requests is lost, or the queue is lost.
    for millis in (0..3000).step_by(250) {
        let stream = tree.submit("3").await.expect("accepted");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        drop(stream);
        eventually("nothing is left", || nothing_is_left(&tree)).await;
    }
    let stream = tree.submit("3").await.expect("accepted");
    tree.children::<crate::request::transcriptions::TranscriptionsMessage>()[0].kill();
    stream.transcript().await.expect_err("lost");
    eventually("nothing is left", || nothing_is_left(&tree)).await;
    let stream = tree.submit("3").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    tree.dispatcher().kill();
    stream.transcript().await.expect("unharmed");
    eventually("nothing is left", || nothing_is_left(&tree)).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_requests_is_bounded_and_the_last_slot_is_given_once() {
    let mut limits = config(0);
    limits.max_queue = Duration::from_secs(1_000_000);
    let tree = Tree::ready_with(limits, vec![]).await;
    let held: Vec<_> = std::iter::from_fn(|| tree.admit().ok())
        .take(2000)
        .collect();
    assert_eq!(held.len(), 512);
    assert!(matches!(tree.admit(), Err(SttError::Overloaded { .. })));
    drop(held);
    assert!(tree.admit().is_ok());
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_file_does_not_make_commands_after_it_look_long() {
    let mut limits = config(1);
    limits.max_queue = Duration::from_secs(20);
    let tree = Tree::ready_with(limits, vec![]).await;
    tree.text("1000").await.expect("transcribed");
    eventually("it is over", || nothing_is_left(&tree)).await;
    // Before their audio is known, each counts as one chunk.
    let held: Vec<_> = std::iter::from_fn(|| tree.admit().ok()).take(5).collect();
    assert_eq!(held.len(), 5);
    assert!(tree.stt.snapshot().load_score() < 0.1);
    assert!(tree.stt.snapshot().accepts_requests());
    drop(held);
    tree.end().await;
}

/// A launcher that says how long its first launch should take.
struct Expecting(Arc<dyn EngineLauncher>, Option<Duration>);

#[async_trait]
impl EngineLauncher for Expecting {
    async fn launch(&self, worker: &WorkerId) -> Result<Arc<dyn Engine>, LaunchError> {
        self.0.launch(worker).await
    }

    fn expected_start(&self) -> Option<Duration> {
        self.1
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_model_loads_clients_are_told_to_come_back_when_it_should_be_ready() {
    let seconds = Duration::from_secs_f64;
    for (expected, passed, retry_after) in [
        (None, 0.0, 8.0),
        (None, 1.5, 6.5),
        (Some(2.0), 0.0, 2.0),
        (Some(2.0), 0.5, 1.5),
        (Some(2.0), 1.5, 1.0),
        // Overdue.
        (Some(0.1), 1.9, 1.0),
    ] {
        let tree = Tree::start_with(config(0), vec![], |ports| {
            let launcher = Arc::clone(&ports.launcher);
            ports.launcher = Arc::new(Expecting(launcher, expected.map(seconds)));
        })
        .await;
        tokio::time::sleep(seconds(passed)).await;
        let SttError::NotReady {
            retry_after: told, ..
        } = tree.admit().expect_err("it loads")
        else {
            panic!("another error");
        };
        let near = (told.as_secs_f64() - retry_after).abs() < 0.01;
        assert!(near, "{told:?} instead of {retry_after}");
        tree.end().await;
    }
}
