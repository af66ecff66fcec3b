//! Cold workers that die, hang or run out of memory, and a pool that breaks: a test for each fault.

use super::*;
use crate::HotState;
use crate::domain::transcript::{Route, Transcript};
use crate::pool::cold_pool::ColdPoolMessage;

/// A tree whose hot lane is busy with its first chunk for a long time, and whose first cold workers follow
/// the plan.
async fn with_cold(plans: Vec<LaunchPlan>) -> Tree {
    let mut launches = vec![LaunchPlan::Up(vec![])];
    launches.extend(plans);
    Tree::ready_with(config(1), launches).await
}

/// Enough work to start a cold worker and keep it busy.
async fn burst(tree: &Tree) -> Vec<Transcript> {
    let mut transcripts = Vec::new();
    for stream in tree.submit_many(12, "1").await {
        transcripts.push(stream.transcript().await.expect("transcribed"));
    }
    transcripts
}

fn routes(transcripts: &[Transcript]) -> Vec<Route> {
    transcripts
        .iter()
        .map(|transcript| transcript.route)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_cold_worker_that_dies_gives_its_chunk_to_the_hot_lane_and_the_route_says_so() {
    for death in [killed(), crash(), EngineExit::Code(1)] {
        let tree = with_cold(vec![LaunchPlan::Up(vec![ChunkPlan::Die(death)])]).await;
        let transcripts = burst(&tree).await;
        assert!(
            transcripts
                .iter()
                .all(|transcript| transcript.text() == "0")
        );
        let routes = routes(&transcripts);
        let rescued = routes
            .iter()
            .filter(|route| **route == Route::ColdPoolThenHot);
        assert_eq!(rescued.count(), 1, "{routes:?}");
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cold_worker_that_hangs_is_killed_and_the_hot_lane_does_its_chunk() {
    let tree = with_cold(vec![LaunchPlan::Up(vec![ChunkPlan::Hang])]).await;
    let transcripts = burst(&tree).await;
    assert!(routes(&transcripts).contains(&Route::ColdPoolThenHot));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cold_engine_that_fails_stays_and_the_hot_lane_does_its_chunk() {
    let tree = with_cold(vec![LaunchPlan::Up(vec![ChunkPlan::Fail])]).await;
    let transcripts = burst(&tree).await;
    assert!(routes(&transcripts).contains(&Route::ColdPoolThenHot));
    assert_eq!(tree.world.launched(), ["hot-1", "cold-1"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_hot_lane_is_down_cold_ones_try_again_and_work_goes_on() {
    let away = || LaunchPlan::Fail(LaunchError::TimedOut { seconds: 10 });
    // The hot engine dies on its fourth chunk and stays down for a while.
    let mut hot = vec![ChunkPlan::Answer; 5];
    hot.push(ChunkPlan::Die(killed()));
    let mut plans = vec![LaunchPlan::Up(hot), LaunchPlan::Up(vec![])];
    plans.extend((0..3).map(|_| away()));
    let tree = Tree::ready_with(config(1), plans).await;
    let transcripts = burst(&tree).await;
    assert!(
        transcripts
            .iter()
            .all(|transcript| transcript.text() == "0")
    );
    assert!(routes(&transcripts).contains(&Route::ColdPool));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn audio_that_crashes_a_cold_and_a_hot_worker_is_poison_and_other_requests_continue() {
    let mut a_cold_one_was_hit = false;
    // At every position in the queue; at some of them the cold lane takes it first.
    for before in 0..6 {
        let tree = with_cold(vec![]).await;
        let mut others = tree.submit_many(before, "1").await;
        let poisoned = tree.submit("poison").await.expect("accepted");
        others.extend(tree.submit_many(10, "1").await);
        let error = poisoned.transcript().await.expect_err("poison");
        assert!(matches!(error, SttError::Poison { .. }), "{error}");
        assert!(all_texts(others).await.iter().all(|text| text == "0"));
        let seen = tree.world.seen();
        let hit: Vec<_> = (seen.iter())
            .filter_map(|seen| match seen {
                Seen::Poisoned(worker) => Some(worker.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(hit.len(), 2, "{hit:?}");
        a_cold_one_was_hit |= hit[0].starts_with("cold") && hit[1].starts_with("hot");
        eventually("the hot worker is back", || {
            tree.stt.snapshot().engine().is_some()
        })
        .await;
        tree.end().await;
    }
    assert!(a_cold_one_was_hit);
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_memory_lowers_the_pools_limit_for_a_while() {
    let full = || LaunchPlan::Fail(LaunchError::OutOfMemory("the GPU is full".to_owned()));
    let mut plans = vec![LaunchPlan::Up(vec![]), LaunchPlan::Up(vec![])];
    plans.extend((0..3).map(|_| full()));
    let tree = Tree::ready_with(config(5), plans).await;
    let streams = tree.submit_many(400, "1").await;
    eventually("the second one fails", || tree.world.launched().len() == 3).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    // One cold worker fits: the pool starts no other one, and this one continues.
    assert_eq!(tree.world.launched(), ["hot-1", "cold-1", "cold-2"]);
    assert_eq!(tree.stt.snapshot().pool.wanted, 1);
    assert_eq!(tree.stt.snapshot().pool.active, 1);
    assert!(all_texts(streams).await.iter().all(|text| text == "0"));
    // Later the pool tries again.
    tokio::time::sleep(Duration::from_secs(300)).await;
    let streams = tree.submit_many(200, "1").await;
    eventually("it tries again", || tree.world.launched().len() >= 4).await;
    drop(streams);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_breaks_is_replaced_and_its_workers_chunks_are_done_by_others() {
    let tree = with_cold(vec![]).await;
    let streams = tree.submit_many(20, "1").await;
    eventually("a cold worker is busy", || {
        tree.stt.snapshot().busy_lanes == 2
    })
    .await;
    tree.break_and_replace::<ColdPoolMessage>().await;
    assert!(all_texts(streams).await.iter().all(|text| text == "0"));
    // The new pool works, and numbers its workers from the start.
    let streams = tree.submit_many(20, "1").await;
    eventually("another one comes", || tree.stt.snapshot().pool.active == 1).await;
    drop(streams);
    let launched = tree.world.launched();
    assert_eq!(launched.iter().filter(|name| *name == "cold-1").count(), 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cold_worker_actor_that_is_killed_gives_its_chunk_back() {
    let tree = with_cold(vec![]).await;
    let streams = tree.submit_many(20, "1").await;
    eventually("a cold worker is busy", || {
        tree.stt.snapshot().busy_lanes == 2
    })
    .await;
    tree.cold_pool().get_children()[0].kill();
    assert!(all_texts(streams).await.iter().all(|text| text == "0"));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_dispatcher_loses_nothing_that_hot_and_cold_lanes_work_on() {
    let tree = with_cold(vec![]).await;
    let streams = tree.submit_many(20, "1").await;
    for _ in 0..3 {
        eventually("both work", || tree.stt.snapshot().busy_lanes == 2).await;
        tree.break_and_replace::<DispatcherMessage>().await;
    }
    assert!(all_texts(streams).await.iter().all(|text| text == "0"));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_leaves_in_its_time_though_the_dispatcher_was_lost_meanwhile() {
    let tree = with_cold(vec![]).await;
    burst(&tree).await;
    eventually("it idles", || tree.stt.snapshot().busy_lanes == 0).await;
    // Once long before its idle limit, and once exactly when it asks to leave.
    for pause in [30_000, 69_990] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        tree.break_and_replace::<DispatcherMessage>().await;
    }
    eventually("it leaves", || tree.stt.snapshot().pool.active == 0).await;
    assert_eq!(tree.text("1").await.expect("transcribed"), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_at_its_recycling_limit_is_replaced_although_the_dispatcher_failed_meanwhile() {
    let mut limits = config(0);
    limits.recycling.chunks = Some(2);
    let tree = Tree::ready_with(limits, vec![]).await;
    for _ in 0..20 {
        let stream = tree.submit("1").await.expect("accepted");
        tree.until_a_chunk_runs().await;
        tree.break_and_replace::<DispatcherMessage>().await;
        assert_eq!(stream.transcript().await.expect("unharmed").text(), "0");
    }
    assert!(
        tree.world.launched().len() > 8,
        "{:?}",
        tree.world.launched()
    );
    assert_eq!(tree.stt.snapshot().hot_error(), None);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn cold_workers_continue_without_the_hot_model_until_they_are_idle() {
    let gone = || LaunchPlan::Fail(LaunchError::Model("the file is gone".to_owned()));
    let mut hot = vec![ChunkPlan::Answer; 5];
    hot.push(ChunkPlan::Die(killed()));
    let mut plans = vec![LaunchPlan::Up(hot), LaunchPlan::Up(vec![])];
    plans.extend((0..60).map(|_| gone()));
    let tree = Tree::ready_with(config(1), plans).await;
    let transcripts = burst(&tree).await;
    assert!(
        transcripts
            .iter()
            .all(|transcript| transcript.text() == "0")
    );
    assert!(matches!(tree.stt.snapshot().hot, HotState::Failed { .. }));
    // A cold lane is running, so work is still accepted.
    assert_eq!(tree.text("2").await.expect("transcribed"), "0 1");
    assert!(
        !tree.stt.snapshot().accepts_requests(),
        "but routers look elsewhere"
    );
    eventually("the cold one leaves", || tree.stt.snapshot().lanes() == 0).await;
    let refused = tree.admit().expect_err("no lane");
    assert!(matches!(refused, SttError::NotReady { .. }), "{refused}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn chunks_that_wait_when_the_last_lane_ends_are_rejected_and_not_forgotten() {
    let gone = || LaunchPlan::Fail(LaunchError::Model("the file is gone".to_owned()));
    let mut plans = vec![LaunchPlan::Up(vec![ChunkPlan::Die(killed())])];
    plans.extend((0..60).map(|_| gone()));
    let tree = Tree::ready_with(config(0), plans).await;
    let streams = tree.submit_many(5, "1").await;
    for stream in streams {
        let error = stream.transcript().await.expect_err("no model");
        assert!(matches!(error, SttError::NotReady { .. }), "{error}");
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cold_worker_that_runs_out_of_memory_during_a_chunk_lowers_the_limit_too() {
    let short = LaunchPlan::Up(vec![ChunkPlan::Die(EngineExit::OutOfMemory)]);
    let tree = with_cold(vec![short]).await;
    let transcripts = burst(&tree).await;
    assert!(routes(&transcripts).contains(&Route::ColdPoolThenHot));
    // Work is waiting, and no worker is started.
    let streams = tree.submit_many(30, "1").await;
    for stream in streams {
        stream.transcript().await.expect("transcribed");
    }
    assert_eq!(tree.world.launched(), ["hot-1", "cold-1"]);
    tree.end().await;
}
