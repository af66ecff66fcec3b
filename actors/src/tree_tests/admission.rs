//! The bounded queue: who is let in, what they are told, and accounts that are right afterwards.

use super::*;
use crate::status::load::{Load, WaitEstimate};

fn nothing_is_left(tree: &Tree) -> bool {
    let snapshot = tree.stt.snapshot();
    let nothing = Load::default();
    (snapshot.requests, snapshot.busy_lanes, snapshot.queue_depth) == (0, 0, 0)
        && snapshot.remaining == nothing
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_promises_no_wait_and_a_busy_one_tells_place_and_time() {
    let tree = Tree::ready_with(config(0), vec![]).await;
    let wait_estimate = tree.admit().expect("accepted").wait_estimate();
    assert_eq!(wait_estimate, WaitEstimate::default());
    // Each is a chunk of 10 s, and the lane takes a second for that.
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
async fn work_beyond_the_queue_limit_is_refused_with_the_time_to_wait() {
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
    // 20 s of work before it are still fine.
    assert!((20..=22).contains(&kept.len()), "{} were taken", kept.len());
    let SttError::Overloaded { retry_after } = refusal else {
        panic!("{refusal}")
    };
    assert!(retry_after <= Duration::from_secs(3), "{retry_after:?}");
    // When it comes back at that time, it is let in.
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
async fn uploads_that_have_not_come_yet_hold_their_places_and_give_them_back() {
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
async fn however_a_request_ends_the_accounts_are_right_afterwards() {
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
    // A client that leaves at any moment, the supervisor of the requests lost, the queue lost.
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
async fn the_number_of_requests_is_bounded_and_the_last_place_is_given_once() {
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
    // Before their audio is known, they count as a piece of it each.
    let held: Vec<_> = std::iter::from_fn(|| tree.admit().ok()).take(5).collect();
    assert_eq!(held.len(), 5);
    assert!(tree.stt.snapshot().load_score() < 0.1);
    assert!(tree.stt.snapshot().accepts_requests());
    drop(held);
    tree.end().await;
}
