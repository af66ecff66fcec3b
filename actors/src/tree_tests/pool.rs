//! The cold pool: how it grows and shrinks, and what it never does.

use std::collections::BTreeSet;

use super::*;
use crate::HotState;
use crate::domain::transcript::Route;
use crate::status::snapshot::PoolSnapshot;

fn pool(tree: &Tree) -> PoolSnapshot {
    tree.stt.snapshot().pool
}

#[tokio::test(start_paused = true)]
async fn a_burst_grows_the_pool_by_the_formula_one_worker_at_a_time() {
    let tree = Tree::ready_with(config(10), vec![]).await;
    // 20 s of work and starts of 2 s: N·(N−1) < 20, so three cold workers beside the hot one.
    let streams = tree.submit_many(20, "1").await;
    eventually("three are wanted", || pool(&tree).wanted == 3).await;
    let watching = async {
        let mut most = 0;
        while tree.stt.snapshot().requests > 0 {
            assert!(pool(&tree).loading <= 1, "two were starting at once");
            most = most.max(pool(&tree).active);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        most
    };
    let (texts, most) = tokio::join!(all_texts(streams), watching);
    assert_eq!(texts, vec!["0"; 20]);
    assert!((2..=3).contains(&most), "{most} cold workers");
    assert!(tree.stt.snapshot().finished_cold_chunks > 0);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_size_of_zero_means_no_cold_worker_ever() {
    let tree = Tree::ready_with(config(0), vec![]).await;
    let streams = tree.submit_many(100, "1").await;
    all_texts(streams).await;
    assert_eq!(tree.world.launched(), ["hot-1"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_single_command_starts_no_worker_however_slow_the_lane_is() {
    let tree = Tree::ready_with(config(10), vec![]).await;
    for _ in 0..10 {
        tree.text("1").await.expect("transcribed");
    }
    assert_eq!(tree.world.launched(), ["hot-1"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_file_fans_out_and_its_text_is_in_order() {
    let tree = Tree::ready_with(config(2), vec![]).await;
    let stream = tree.submit("60").await.expect("accepted");
    let transcript = stream.transcript().await.expect("transcribed");
    let expected: Vec<String> = (0..60).map(|index| index.to_string()).collect();
    assert_eq!(transcript.text(), expected.join(" "));
    assert_eq!(transcript.route, Route::ColdPool);
    let lanes: BTreeSet<_> = (tree.world.seen().into_iter())
        .filter_map(|seen| match seen {
            Seen::Chunk { worker, .. } => Some(worker),
            _ => None,
        })
        .collect();
    assert_eq!(lanes.len(), 3, "{lanes:?}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_pool_winds_down_one_by_one_the_first_worker_last() {
    let tree = Tree::ready_with(config(3), vec![]).await;
    let streams = tree.submit_many(60, "1").await;
    eventually("the pool is full", || pool(&tree).active == 3).await;
    all_texts(streams).await;
    let end_of_work = tokio::time::Instant::now();
    let mut left = Vec::new();
    for remaining in (0..3).rev() {
        eventually("one leaves", || pool(&tree).active == remaining).await;
        left.push(end_of_work.elapsed().as_secs_f64());
    }
    // 60 s, and 10 s for each slot that was free when it was spawned: 70, 80 and 90 s.
    for (left, limit) in left.iter().zip([70.0, 80.0, 90.0]) {
        // They became idle at about the same time: their last chunks end a second apart.
        assert!(
            (limit - 2.0..limit + 1.0).contains(left),
            "{left:?} for {limit}"
        );
    }
    assert_eq!(tree.world.count(&Seen::Stopped), 3);
    // The hot worker stays.
    assert!(matches!(tree.stt.snapshot().hot, HotState::Ready(_)));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn work_that_arrives_while_a_worker_is_about_to_leave_is_never_lost() {
    let tree = Tree::ready_with(config(1), vec![]).await;
    for round in 0..40 {
        let streams = tree.submit_many(12, "1").await;
        assert_eq!(all_texts(streams).await, vec!["0"; 12]);
        // Around the moment at which the only cold worker has been idle for 70 s.
        let pause = 69_000 + round * 50;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn failed_starts_are_retried_with_growing_pauses() {
    let mut plans = vec![LaunchPlan::Up(vec![])];
    plans.extend((0..200).map(|_| LaunchPlan::Fail(LaunchError::Worker("no".to_owned()))));
    let tree = Tree::ready_with(config(4), plans).await;
    let streams = tree.submit_many(300, "1").await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    let launched = tree.world.launched().len() - 1;
    // 2 s each, and pauses of 0, 0.25, 0.5 … 30 s.
    assert!((8..=18).contains(&launched), "{launched} starts");
    assert_eq!(all_texts(streams).await, vec!["0"; 300]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn both_rates_are_known_before_the_node_is_ready_from_the_hot_worker_alone() {
    let tree = Tree::ready_with(config(10), vec![]).await;
    let snapshot = tree.stt.snapshot();
    assert_eq!(snapshot.measured_start, Some(START));
    assert_eq!(snapshot.hot_real_time_factor, Some(0.1));
    assert!(snapshot.cost.is_some());
    assert_eq!(tree.world.launched(), ["hot-1"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn queue_waits_do_not_affect_the_rates() {
    let tree = Tree::ready_with(config(0), vec![]).await;
    let streams = tree.submit_many(50, "1").await;
    all_texts(streams).await;
    let factor = tree.stt.snapshot().hot_real_time_factor.expect("measured");
    assert!((factor - 0.1).abs() < 1e-9, "{factor}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_replaced_after_its_number_of_chunks_without_an_effect_on_requests() {
    let mut limits = config(1);
    limits.recycling.chunks = Some(3);
    let tree = Tree::ready_with(limits, vec![]).await;
    let streams = tree.submit_many(20, "1").await;
    let watching = async {
        while tree.stt.snapshot().requests > 0 {
            assert_eq!(tree.stt.snapshot().hot_error(), None);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (texts, ()) = tokio::join!(all_texts(streams), watching);
    assert_eq!(texts, vec!["0"; 20]);
    let launched = tree.world.launched();
    assert!(launched.contains(&"hot-2".to_owned()), "{launched:?}");
    assert!(launched.contains(&"cold-2".to_owned()), "{launched:?}");
    let by = |worker: &String| {
        let seen = tree.world.seen();
        let chunks = seen
            .iter()
            .filter(|seen| matches!(seen, Seen::Chunk { worker: by, .. } if by == worker));
        chunks.count()
    };
    assert!(launched.iter().all(|worker| by(worker) <= 3));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_grows_is_replaced() {
    let mut limits = config(0);
    limits.recycling.resident_bytes = Some(1000);
    let tree = Tree::ready_with(limits, vec![]).await;
    tree.text("2").await.expect("transcribed");
    assert_eq!(tree.world.launched(), ["hot-1"]);
    tree.world.resident_bytes.store(1001, Ordering::SeqCst);
    tree.text("1").await.expect("transcribed");
    tree.world.resident_bytes.store(0, Ordering::SeqCst);
    assert_eq!(tree.text("3").await.expect("transcribed"), "0 1 2");
    assert_eq!(tree.world.launched(), ["hot-1", "hot-2"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_worker_is_started_while_draining() {
    let tree = Tree::ready_with(config(4), vec![]).await;
    let streams = tree.submit_many(30, "1").await;
    tree.stt.drain(Duration::from_secs(600));
    let launched = tree.world.launched().len();
    assert_eq!(all_texts(streams).await, vec!["0"; 30]);
    assert!(tree.world.launched().len() <= launched.max(2));
    tree.end().await;
}
