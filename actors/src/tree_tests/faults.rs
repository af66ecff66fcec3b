//! Engines that die, hang, fail or never start, and actors that break: a test for each fault.

use super::*;
use crate::domain::chunk::AudioChunk;
use crate::domain::ids::JobId;
use crate::domain::job::{Priority, SchedulingKey, Urgency};
use crate::domain::transcript::Task;
use crate::ports::ChunkRequest;
use crate::queue::messages::ChunkOwner;
use crate::status::load::Load;
use crate::{HotState, SttError};

#[tokio::test(start_paused = true)]
async fn a_worker_killed_in_the_middle_costs_a_retry_and_no_text() {
    let plan = vec![ChunkPlan::Answer, ChunkPlan::Die(killed())];
    let tree = Tree::ready(vec![LaunchPlan::Up(plan)]).await;
    assert_eq!(tree.text("3").await.expect("rescued"), "0 1 2");
    assert_eq!(tree.world.count(&Seen::Launched("hot-2".to_owned())), 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn audio_that_crashes_two_workers_fails_and_others_continue() {
    let crashing = || LaunchPlan::Up(vec![ChunkPlan::Die(crash())]);
    let tree = Tree::ready(vec![crashing(), crashing()]).await;
    let error = tree.text("1").await.expect_err("poison");
    assert!(matches!(error, SttError::Poison { .. }), "{error}");
    assert_eq!(tree.text("2").await.expect("unharmed"), "0 1");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_hangs_is_killed_and_its_chunk_retried() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Hang])]).await;
    let before = tokio::time::Instant::now();
    assert_eq!(tree.text("1").await.expect("rescued"), "0");
    assert!(before.elapsed() >= CHUNK_TIMEOUT);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_even_be_killed_is_given_up_and_replaced() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::HangForGood])]).await;
    assert_eq!(tree.text("2").await.expect("rescued"), "0 1");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_hanging_workers_make_it_a_timeout() {
    let hanging = || LaunchPlan::Up(vec![ChunkPlan::Hang]);
    let tree = Tree::ready(vec![hanging(), hanging()]).await;
    assert_eq!(tree.text("1").await, Err(SttError::Timeout));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_twice_on_a_chunk_keeps_running() {
    let plan = vec![ChunkPlan::Fail, ChunkPlan::Fail];
    let tree = Tree::ready(vec![LaunchPlan::Up(plan)]).await;
    let error = tree.text("1").await.expect_err("refused");
    assert!(matches!(error, SttError::Engine(_)), "{error}");
    assert_eq!(tree.text("1").await.expect("unharmed"), "0");
    assert_eq!(tree.world.count(&Seen::Launched("hot-2".to_owned())), 0);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_load_leaves_the_tree_up_with_the_reason_and_is_retried() {
    let missing = || LaunchPlan::Fail(LaunchError::Model("no such file".to_owned()));
    let tree = Tree::start(vec![missing(), missing(), missing()]).await;
    let reason = tree.stt.ready().await.expect_err("no model");
    assert!(reason.contains("no such file"), "{reason}");
    let refusal = tree.admit().expect_err("refused");
    assert!(matches!(refusal, SttError::NotReady { .. }), "{refusal}");
    eventually("it recovers by itself", || tree.admit().is_ok()).await;
    assert_eq!(tree.text("1").await.expect("recovered"), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn work_waits_for_a_restart_while_the_budget_lasts_and_is_rejected_after() {
    let dead = || LaunchPlan::Fail(LaunchError::TimedOut { seconds: 10 });
    let mut plans = vec![LaunchPlan::Up(vec![ChunkPlan::Die(killed())])];
    plans.extend((0..3).map(|_| dead()));
    let tree = Tree::ready(plans).await;
    assert_eq!(tree.text("1").await.expect("it waited"), "0");
    tree.end().await;

    let mut plans = vec![LaunchPlan::Up(vec![ChunkPlan::Die(killed())])];
    plans.extend((0..30).map(|_| dead()));
    let tree = Tree::ready(plans).await;
    let error = tree.text("1").await.expect_err("no lane is left");
    assert!(matches!(error, SttError::NotReady { .. }), "{error}");
    assert!(matches!(tree.stt.snapshot().hot, HotState::Failed { .. }));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_dispatcher_is_replaced_and_no_request_notices() {
    let tree = Tree::ready(vec![]).await;
    let stream = tree.submit("5").await.expect("accepted");
    let before = tree.dispatcher();
    tree.until_a_chunk_runs().await;
    before.kill();
    eventually("it is replaced", || {
        tree.children::<DispatcherMessage>()
            .last()
            .is_some_and(|now| now.get_id() != before.get_id())
    })
    .await;
    let transcript = stream.transcript().await.expect("unharmed");
    assert_eq!(transcript.text(), "0 1 2 3 4");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hot_worker_actor_that_is_killed_gives_its_chunk_back() {
    let tree = Tree::ready(vec![]).await;
    let stream = tree.submit("2").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    tree.children::<crate::queue::messages::LaneMessage>()
        .remove(0)
        .kill();
    let transcript = stream.transcript().await.expect("rescued");
    assert_eq!(transcript.text(), "0 1");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_transcription_that_breaks_fails_alone_and_returns_its_slot() {
    let tree = Tree::ready(vec![]).await;
    let broken = tree.submit("5").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    let all = tree.children::<crate::request::transcriptions::TranscriptionsMessage>();
    all[0].get_children()[0].kill();
    let other = tree.submit("2").await.expect("accepted");
    let error = broken.transcript().await.expect_err("lost");
    assert!(matches!(error, SttError::Internal(_)), "{error}");
    let transcript = other.transcript().await.expect("unharmed");
    assert_eq!(transcript.text(), "0 1");
    eventually("nothing of it is left", || {
        let snapshot = tree.stt.snapshot();
        snapshot.requests == 0 && snapshot.remaining == Load::default()
    })
    .await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn lost_transcriptions_fail_typed_and_the_next_request_works() {
    let tree = Tree::ready(vec![]).await;
    let stream = tree.submit("5").await.expect("accepted");
    let all = tree.children::<crate::request::transcriptions::TranscriptionsMessage>();
    all[0].kill();
    let error = stream.transcript().await.expect_err("lost");
    assert!(matches!(error, SttError::Internal(_)), "{error}");
    eventually("its chunks are withdrawn", || {
        tree.stt.snapshot().remaining == Load::default()
    })
    .await;
    eventually("they are replaced", || {
        tree.children::<crate::request::transcriptions::TranscriptionsMessage>()
            .last()
            .is_some_and(|now| now.get_id() != all[0].get_id())
    })
    .await;
    assert_eq!(tree.text("1").await.expect("works"), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_an_engine_call_is_a_failure_like_any_other() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Panic])]).await;
    assert_eq!(tree.text("1").await.expect("rescued"), "0");
    tree.end().await;
}

/// With threads of its own, because the Dispatcher blocks one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_dispatcher_that_hangs_makes_the_tree_unresponsive_until_it_goes_on() {
    const LONG: Duration = Duration::from_secs(60);
    let tree = Tree::ready(vec![]).await;
    assert!(tree.stt.is_responsive(LONG).await);

    // The owner of a chunk blocks the Dispatcher, which reports the text to it.
    let (entered, mut is_blocked) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let owner = ChunkOwner::new(move |_, _| {
        let _ = entered.send(());
        let _ = lock(&wait).recv();
    });
    let chunk = DispatcherMessage::Enqueue {
        job: JobId::next(),
        request: ChunkRequest {
            request_id: Arc::from("test"),
            audio: AudioChunk::contiguous(0, 0, Arc::from(vec![0_i16; 16_000])),
            task: Task::Transcribe,
            language: Some("en".to_owned()),
            languages: Vec::new(),
            likely_language: None,
            prompt: None,
            temperature: 0.0,
        },
        scheduling: SchedulingKey {
            client: Client::new("client"),
            priority: Priority::Normal,
            urgency: Urgency::default(),
            total_seconds: 1.0,
            remaining_seconds: 1.0,
        },
        owner,
    };
    tree.dispatcher().send_message(chunk).expect("sent");
    is_blocked.recv().await.expect("the owner was called");
    assert!(!tree.stt.is_responsive(Duration::from_millis(20)).await);

    drop(go_on);
    assert!(tree.stt.is_responsive(LONG).await);
    tree.end().await;
}
