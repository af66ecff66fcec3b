//! The fallback model of this node, in a worker that starts and ends with the work.

use super::*;
use crate::FallbackPort;
use crate::domain::error::FallbackError;
use crate::domain::transcript::Transcript;
use crate::fallback::model::FallbackModelMessage;
use crate::ports::EngineLauncher;

async fn tree(launches: Vec<LaunchPlan>) -> Tree {
    let tree = Tree::start_with(config(2), launches, |ports| {
        ports.fallback = Some(FallbackPort::Model {
            launcher: Arc::clone(&ports.launcher) as Arc<dyn EngineLauncher>,
            model: Arc::from("larger"),
            least_bytes: 0,
        });
    })
    .await;
    tree.stt.ready().await.expect("ready");
    tree
}

async fn transcript(tree: &Tree, script: &str) -> Transcript {
    let stream = tree.submit(script).await.expect("accepted");
    stream.transcript().await.expect("done")
}

/// Plans the default hot worker, followed by these launches.
fn hot_then(plan: LaunchPlan) -> Vec<LaunchPlan> {
    vec![LaunchPlan::Up(vec![]), plan]
}

#[tokio::test(start_paused = true)]
async fn its_worker_starts_with_a_doubtful_text_and_ends_when_idle() {
    let tree = tree(vec![]).await;
    assert_eq!(transcript(&tree, "1").await.text(), "0");
    assert_eq!(tree.world.launched(), ["hot-1"]);
    let text = transcript(&tree, "1+w").await;
    assert_eq!(text.text(), "0 better 1");
    assert_eq!(text.model, "scripted+larger");
    assert_eq!(tree.world.launched(), ["hot-1", "fallback-1"]);
    // The worker is running, and the node's cold pool does not count it.
    assert_eq!(transcript(&tree, "w").await.text(), "better 0");
    assert_eq!(tree.stt.snapshot().pool.active, 0);
    assert_eq!(tree.world.launched().len(), 2);
    eventually("it goes", || tree.world.count(&Seen::Stopped) == 1).await;
    assert_eq!(transcript(&tree, "w").await.text(), "better 0");
    assert_eq!(tree.world.launched().last().expect("one"), "fallback-2");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_model_that_cannot_be_loaded_leaves_the_text_at_once() {
    let broken = LaunchError::Model("scripted".to_owned());
    let tree = tree(hot_then(LaunchPlan::Fail(broken))).await;
    let begun = tokio::time::Instant::now();
    let text = transcript(&tree, "w").await;
    assert_eq!(text.text(), "0");
    let error = text.escalation.expect("told").error.expect("failed");
    assert!(matches!(error, FallbackError::Model(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // The next chunk starts it again, after a pause.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(transcript(&tree, "w").await.text(), "better 0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_retried_and_a_hang_ends() {
    let dies = LaunchPlan::Up(vec![ChunkPlan::Die(killed())]);
    let tree = tree(hot_then(dies)).await;
    assert_eq!(transcript(&tree, "w").await.text(), "better 0");
    assert_eq!(tree.world.launched(), ["hot-1", "fallback-1", "fallback-2"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_silent_worker_is_limited() {
    let hangs = LaunchPlan::Up(vec![ChunkPlan::HangForGood]);
    let tree = tree(hot_then(hangs)).await;
    let text = transcript(&tree, "w").await;
    assert_eq!(text.text(), "0");
    let error = text.escalation.expect("told").error;
    assert_eq!(error, Some(FallbackError::TimedOut { seconds: 60 }));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn if_its_actor_fails_the_text_stays_and_another_takes_over() {
    let tree = tree(vec![]).await;
    let stream = tree.submit("w").await.expect("accepted");
    eventually("its worker is up", || tree.world.launched().len() == 2).await;
    tree.break_and_replace::<FallbackModelMessage>().await;
    assert_eq!(stream.transcript().await.expect("done").text(), "0");
    assert_eq!(transcript(&tree, "w").await.text(), "better 0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_its_pool_it_is_replaced_as_a_whole() {
    let tree = tree(vec![]).await;
    let model = tree.children::<FallbackModelMessage>().remove(0);
    let children = model.get_children();
    let pool = |child: &&ActorCell| {
        child.is_message_type_of::<crate::pool::cold_pool::ColdPoolMessage>() == Some(true)
    };
    children.iter().find(pool).expect("its pool").kill();
    eventually("it is replaced", || {
        let now = tree.children::<FallbackModelMessage>();
        now.last().is_some_and(|now| now.get_id() != model.get_id())
    })
    .await;
    assert_eq!(transcript(&tree, "w").await.text(), "better 0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_kills_its_workers_fails_alone() {
    let dies = || LaunchPlan::Up(vec![ChunkPlan::Die(crash())]);
    let mut launches = hot_then(dies());
    launches.push(dies());
    let tree = tree(launches).await;
    let first = tree.submit("w").await.expect("accepted");
    eventually("it is being worked on", || tree.world.launched().len() == 2).await;
    let second = tree.submit("w").await.expect("accepted");
    let (first, second) = tokio::join!(first.transcript(), second.transcript());
    let texts = [first.expect("done").text(), second.expect("done").text()];
    assert_eq!(texts, ["0", "better 0"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_its_chunk_out_of_the_queue() {
    let tree = tree(vec![]).await;
    let leaves = tree.submit("w").await.expect("accepted");
    eventually("its worker loads", || tree.world.launched().len() == 2).await;
    drop(leaves);
    assert_eq!(transcript(&tree, "2").await.text(), "0 1");
    let larger = |seen: &Seen| matches!(seen, Seen::Chunk { worker, .. } if worker == "fallback-1");
    assert_eq!(
        tree.world.seen().iter().filter(|seen| larger(seen)).count(),
        0
    );
    tree.end().await;
}
