//! Draining: running work is finished, new work is rejected, and nothing is left over.

use std::time::Duration;

use super::*;
use crate::SttError;

#[tokio::test(start_paused = true)]
async fn draining_finishes_running_work_and_rejects_new_work() {
    let mut tree = Tree::ready(vec![]).await;
    let running = tree.submit("3").await.expect("accepted");
    tree.stt.drain(Duration::from_secs(60));
    eventually("it drains", || tree.stt.snapshot().draining).await;
    let refused = tree.submit("1").await.err();
    assert!(
        matches!(refused, Some(SttError::Draining { .. })),
        "{refused:?}"
    );
    assert_eq!(
        running.transcript().await.expect("finished").text(),
        "0 1 2"
    );
    tree.ended.wait().await;
    assert_eq!(tree.world.count(&Seen::Stopped), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_exceeds_the_grace_period_fails_with_the_reason() {
    let mut tree = Tree::ready(vec![]).await;
    let running = tree.submit("1000").await.expect("accepted");
    tree.stt.drain(Duration::from_secs(5));
    let ended = running.transcript().await;
    assert!(matches!(ended, Err(SttError::Draining { .. })), "{ended:?}");
    tree.ended.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_ends_the_grace_period() {
    let mut tree = Tree::ready(vec![]).await;
    let running = tree.submit("1000").await.expect("accepted");
    let before = tokio::time::Instant::now();
    tree.stt.drain(Duration::from_secs(3600));
    tree.stt.drain(Duration::from_secs(3600));
    let ended = running.transcript().await;
    assert!(matches!(ended, Err(SttError::Draining { .. })), "{ended:?}");
    tree.ended.wait().await;
    assert!(before.elapsed() < Duration::from_secs(60));
}

/// A plan with both times in seconds.
fn plan(delay: u64, grace: u64) -> crate::DrainPlan {
    crate::DrainPlan {
        delay: Duration::from_secs(delay),
        grace: Duration::from_secs(grace),
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_served_until_routers_have_seen_the_announcement() {
    let mut tree = Tree::ready(vec![]).await;
    let before = tokio::time::Instant::now();
    tree.stt.drain(plan(3, 60));
    eventually("it is announced", || tree.stt.snapshot().drain.is_some()).await;
    let snapshot = tree.stt.snapshot();
    assert!(!snapshot.accepts_requests() && !snapshot.draining);
    assert_eq!(snapshot.status(), "draining");
    let rest = snapshot.drain.expect("a drain");
    assert!(rest.rejects_in <= Duration::from_secs(3) && !rest.rejects_in.is_zero());
    assert!(rest.cancels_in > Duration::from_secs(60));
    assert_eq!(tree.text("1").await.expect("served"), "0");
    let late = tree.submit("2").await.expect("accepted");
    tree.stt.until_rejecting().await;
    assert!(before.elapsed() >= Duration::from_secs(3));
    assert!(matches!(
        tree.submit("1").await.err(),
        Some(SttError::Draining { .. })
    ));
    assert_eq!(late.transcript().await.expect("finished").text(), "0 1");
    tree.ended.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_drain_ends_the_delay_as_well() {
    let mut tree = Tree::ready(vec![]).await;
    let running = tree.submit("1000").await.expect("accepted");
    let before = tokio::time::Instant::now();
    tree.stt.drain(plan(3600, 3600));
    tree.stt.drain(plan(3600, 3600));
    let ended = running.transcript().await;
    assert!(matches!(ended, Err(SttError::Draining { .. })), "{ended:?}");
    tree.ended.wait().await;
    assert!(before.elapsed() < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_tree_whose_model_never_loaded_can_be_stopped() {
    let missing = LaunchPlan::Fail(LaunchError::Model("no such file".to_owned()));
    let tree = Tree::start(vec![missing]).await;
    tree.stt.ready().await.expect_err("no model");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_supervisor_ends_every_actor() {
    let mut tree = Tree::ready(vec![]).await;
    let stream = tree.submit("5").await.expect("accepted");
    tree.stt.supervisor.stop(None);
    tree.ended.wait().await;
    stream.transcript().await.expect_err("ended with it");
    eventually("no actor is left", || {
        Arc::strong_count(&tree.stt.status) == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn draining_ends_even_if_the_transcriptions_are_lost_meanwhile() {
    let mut tree = Tree::ready(vec![]).await;
    let stream = tree.submit("5").await.expect("accepted");
    tree.stt.drain(Duration::from_secs(600));
    eventually("it drains", || tree.stt.snapshot().draining).await;
    tree.children::<crate::request::transcriptions::TranscriptionsMessage>()[0].kill();
    stream.transcript().await.expect_err("lost");
    tree.ended.wait().await;
}

#[tokio::test(start_paused = true)]
async fn requests_and_jobs_that_upload_when_the_drain_begins_are_finished() {
    let mut tree = Tree::ready(vec![]).await;
    let (kept, given_up) = (
        tree.admit().expect("accepted"),
        tree.admit().expect("accepted"),
    );
    let of_a_job = tree.stt.expect_upload();
    let before = tokio::time::Instant::now();
    tree.stt.drain(Duration::from_secs(3600));
    eventually("it drains", || tree.stt.snapshot().draining).await;
    let refused = tree.admit().err();
    assert!(
        matches!(refused, Some(SttError::Draining { .. })),
        "{refused:?}"
    );
    let stream = tree.stt.submit(kept, job("2")).await.expect("accepted");
    assert_eq!(stream.transcript().await.expect("finished").text(), "0 1");
    drop(given_up);
    let ended = tokio::time::timeout(Duration::from_secs(600), tree.ended.wait());
    assert!(ended.await.is_err(), "it waits for the job");
    drop(of_a_job);
    tree.ended.wait().await;
    assert!(before.elapsed() < Duration::from_secs(1200));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_ends_after_the_tree_fails_with_draining() {
    let mut tree = Tree::ready(vec![]).await;
    let admission = tree.admit().expect("accepted");
    tree.stt.drain(Duration::from_secs(60));
    tree.ended.wait().await;
    let refused = tree.stt.submit(admission, job("1")).await.err();
    assert!(
        matches!(refused, Some(SttError::Draining { .. })),
        "{refused:?}"
    );
}
