//! A client that gives up and returns: what is finished without it, and what it finds.

use super::same_again::{
    A_MINUTE, assert_each_chunk_once, chunks, segments, submit, text, until_nothing_is_left,
};
use super::*;

#[tokio::test(start_paused = true)]
async fn an_impatient_client_gets_its_text_after_as_many_tries_as_there_are_chunks() {
    // From less than a chunk takes to more than that, with pauses from none to longer than a chunk.
    for (patience, pause) in [(1, 0), (3, 4), (9, 1), (9, 30), (11, 5), (14, 100)] {
        let tree = Tree::ready(vec![]).await;
        let mut tries = 0;
        let text = loop {
            tries += 1;
            assert!(tries <= 60, "never answered: {patience} {pause}");
            let stream = submit(&tree, "key", "4").await;
            let tenth = WORK / 10;
            if let Ok(done) = tokio::time::timeout(tenth * patience, stream.transcript()).await {
                break done.expect("transcribed").text();
            }
            tokio::time::sleep(tenth * pause).await;
        };
        assert_eq!(text, "0 1 2 3");
        assert_each_chunk_once(&tree, 4);
        assert_eq!(tree.world.count(&Seen::Aborted), 0);
        let short_pauses = patience + pause < 10;
        assert!(
            short_pauses || tries <= 5,
            "{tries} tries: {patience} {pause}"
        );
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn work_without_a_client_yields_to_any_other_work_and_counts_for_nothing() {
    let tree = Tree::ready(vec![]).await;
    let left = submit(&tree, "key", "50").await;
    tree.until_a_chunk_runs().await;
    drop(left);
    eventually("it counts for nothing", || {
        let snapshot = tree.stt.snapshot();
        snapshot.load_score() == 0.0 && snapshot.queue_depth == 0 && snapshot.busy_lanes == 1
    })
    .await;
    let begin = tokio::time::Instant::now();
    assert_eq!(text(submit(&tree, "other key", "1").await).await, "0");
    assert!(begin.elapsed() < WORK + DETECTION, "{:?}", begin.elapsed());
    assert_eq!(tree.world.count(&Seen::Aborted), 1);
    // The aborted chunk is transcribed when the client returns, before or after the end of the other work.
    let busy = submit(&tree, "other key", "1+1").await;
    let back = submit(&tree, "key", "50").await;
    assert_eq!(text(busy).await, "0 1");
    assert!(text(back).await.ends_with(" 48 49"));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_returns_in_time_finds_its_chunk_running_and_its_queue_as_before() {
    let tree = Tree::ready_with(config(2), vec![]).await;
    let mut left = submit(&tree, "key", "60").await;
    // Several lanes, each with a chunk.
    eventually("all lanes work", || tree.stt.snapshot().busy_lanes == 3).await;
    segments(&mut left, 1).await;
    drop(left);
    tokio::time::sleep(WORK / 2).await;
    let back = submit(&tree, "key", "60").await;
    assert!(text(back).await.starts_with("0 1 2 3 4"));
    assert_each_chunk_once(&tree, 60);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn results_that_came_without_a_client_are_its_results_when_it_returns() {
    let plans = vec![ChunkPlan::Answer, ChunkPlan::Answer, ChunkPlan::Hang];
    let tree = Tree::ready_with(config(1), vec![LaunchPlan::Up(plans)]).await;
    let left = submit(&tree, "key", "60").await;
    // The hot lane hangs, and the cold one finishes its chunk.
    eventually("both lanes work", || {
        tree.stt.snapshot().busy_lanes == 2 && chunks(&tree).len() > 3
    })
    .await;
    drop(left);
    tokio::time::sleep(WORK * 2).await;
    assert_eq!(tree.stt.snapshot().busy_lanes, 1);
    assert_eq!(tree.stt.snapshot().requests, 1);
    let back = submit(&tree, "key", "60").await;
    assert!(text(back).await.starts_with("0 1 2 3 4"));
    let seen = chunks(&tree);
    // Only the chunk on which the lane hung is transcribed twice.
    assert_eq!(seen.len(), 61, "{seen:?}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_kills_its_worker_while_no_client_waits_is_not_tried_again() {
    let plans = vec![ChunkPlan::Answer, ChunkPlan::Die(crash())];
    let tree = Tree::ready(vec![LaunchPlan::Up(plans)]).await;
    let mut left = submit(&tree, "key", "3").await;
    segments(&mut left, 1).await;
    eventually("the second chunk runs", || chunks(&tree).len() == 2).await;
    drop(left);
    eventually("it is over", || tree.stt.snapshot().requests == 0).await;
    tokio::time::sleep(A_MINUTE / 2).await;
    assert_eq!(chunks(&tree).len(), 2);
    assert_eq!(text(submit(&tree, "key", "3").await).await, "0 1 2");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_client_a_drain_does_not_wait() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Hang])]).await;
    let left = submit(&tree, "key", "3").await;
    tree.until_a_chunk_runs().await;
    drop(left);
    tokio::time::sleep(WORK).await;
    assert_eq!(tree.stt.snapshot().requests, 1);
    let begin = tokio::time::Instant::now();
    tree.end().await;
    assert!(begin.elapsed() < CHUNK_TIMEOUT / 2, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dispatcher_that_fails_while_no_client_waits_loses_no_text() {
    let tree = Tree::ready(vec![]).await;
    let mut left = submit(&tree, "key", "5").await;
    segments(&mut left, 2).await;
    eventually("the third chunk runs", || chunks(&tree).len() == 3).await;
    drop(left);
    tree.break_and_replace::<DispatcherMessage>().await;
    assert_eq!(text(submit(&tree, "key", "5").await).await, "0 1 2 3 4");
    until_nothing_is_left(&tree).await;
    tree.end().await;
}
