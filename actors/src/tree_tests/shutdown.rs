//! Draining: what runs is finished, nothing new is taken, and nothing is left over.

use std::time::Duration;

use super::*;
use crate::SttError;

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_runs_and_refuses_what_comes() {
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
async fn a_request_that_outlasts_the_grace_is_told_so() {
    let mut tree = Tree::ready(vec![]).await;
    let running = tree.submit("1000").await.expect("accepted");
    tree.stt.drain(Duration::from_secs(5));
    let ended = running.transcript().await;
    assert!(matches!(ended, Err(SttError::Draining { .. })), "{ended:?}");
    tree.ended.wait().await;
}

#[tokio::test(start_paused = true)]
async fn asking_twice_cuts_the_grace_short() {
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

#[tokio::test(start_paused = true)]
async fn a_tree_whose_model_never_loaded_can_be_stopped() {
    let missing = LaunchPlan::Fail(LaunchError::Model("no such file".to_owned()));
    let tree = Tree::start(vec![missing]).await;
    tree.stt.ready().await.expect_err("no model");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_supervisors_own_end_takes_every_actor_with_it() {
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
async fn an_upload_that_ends_after_the_tree_is_told_that_the_server_left() {
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
