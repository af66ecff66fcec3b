//! `HOT_IDLE_TIMEOUT`: the hot model is freed when it is idle, and reloaded with the next work.

use super::*;
use crate::HotState;

const IDLE: Duration = Duration::from_secs(50);

async fn sleepy() -> Tree {
    let mut limits = config(0);
    limits.hot_idle_limit = Some(IDLE);
    Tree::ready_with(limits, vec![]).await
}

fn is_asleep(tree: &Tree) -> bool {
    matches!(tree.stt.snapshot().hot, HotState::Asleep(_))
}

#[tokio::test(start_paused = true)]
async fn an_idle_hot_model_is_freed_and_the_next_request_brings_it_back() {
    let tree = sleepy().await;
    tree.text("1").await.expect("transcribed");
    let before = tokio::time::Instant::now();
    eventually("it sleeps", || is_asleep(&tree)).await;
    assert!(before.elapsed() >= IDLE);
    assert_eq!(tree.world.count(&Seen::Stopped), 1);
    let snapshot = tree.stt.snapshot();
    assert!(snapshot.accepts_requests() && snapshot.engine().is_none());
    assert_eq!(snapshot.hot_error(), None);
    // It stays unloaded while no request arrives.
    tokio::time::sleep(IDLE * 5).await;
    assert_eq!(tree.world.launched(), ["hot-1"]);
    assert_eq!(tree.text("3").await.expect("transcribed"), "0 1 2");
    assert_eq!(tree.world.launched(), ["hot-1", "hot-2"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_model_begins_to_load_during_the_upload() {
    let tree = sleepy().await;
    eventually("it sleeps", || is_asleep(&tree)).await;
    let admission = tree.admit().expect("accepted");
    assert_eq!(admission.wait_estimate().wait, START);
    eventually("it loads", || tree.world.launched().len() == 2).await;
    let stream = tree.stt.submit(admission, job("1")).await;
    let transcript = stream.expect("accepted").transcript().await;
    assert_eq!(transcript.expect("transcribed").text(), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_at_the_moment_of_unloading_is_never_lost() {
    let tree = sleepy().await;
    for step in 0..60 {
        let around = Duration::from_millis(49_700 + step * 10);
        tokio::time::sleep(around).await;
        assert_eq!(tree.text("1").await.expect("transcribed"), "0");
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_reloaded_is_reported_and_retried() {
    let mut limits = config(0);
    limits.hot_idle_limit = Some(IDLE);
    let missing = LaunchPlan::Fail(LaunchError::Model("no such file".to_owned()));
    let tree = Tree::ready_with(limits, vec![LaunchPlan::Up(vec![]), missing]).await;
    eventually("it sleeps", || is_asleep(&tree)).await;
    let refused = tree.text("1").await.expect_err("no model");
    assert!(matches!(refused, SttError::NotReady { .. }), "{refused}");
    eventually("it recovers", || tree.stt.snapshot().engine().is_some()).await;
    assert_eq!(tree.text("1").await.expect("transcribed"), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_tree_can_be_stopped() {
    let tree = sleepy().await;
    eventually("it sleeps", || is_asleep(&tree)).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_model_stays_loaded_for_a_request_that_is_uploading() {
    let tree = sleepy().await;
    let admission = tree.admit().expect("accepted");
    tokio::time::sleep(IDLE * 5).await;
    assert!(!is_asleep(&tree));
    let stream = tree.stt.submit(admission, job("1")).await;
    stream
        .expect("accepted")
        .transcript()
        .await
        .expect("transcribed");
    assert_eq!(tree.world.launched(), ["hot-1"]);
    eventually("it sleeps", || is_asleep(&tree)).await;
    tree.end().await;
}
