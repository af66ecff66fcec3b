//! What the status says of each lane, and of the chunks that wait.

use super::*;
use crate::domain::ids::LaneKind;
use crate::pool::cold_pool::ColdPoolMessage;
use crate::{LaneSnapshot, LaneState, LaneWork, WaitingChunks, WorkKind};

/// A job of this urgency.
fn urgent(script: &str, urgency: Urgency) -> Job {
    Job {
        urgency,
        ..job(script)
    }
}

fn hot(tree: &Tree) -> LaneSnapshot {
    tree.stt.lanes().remove(0)
}

/// The lane of this name.
fn lane(tree: &Tree, name: &str) -> Option<LaneSnapshot> {
    let mut lanes = tree.stt.lanes().into_iter();
    lanes.find(|lane| &*lane.name == name)
}

/// The kind of the chunk that the hot lane works on.
fn kind(tree: &Tree) -> Option<WorkKind> {
    match hot(tree).state {
        LaneState::Busy(work) => Some(work.kind),
        _ => None,
    }
}

fn busy(kind: WorkKind) -> LaneState {
    LaneState::Busy(LaneWork {
        kind,
        audio_seconds: 10.0,
    })
}

#[tokio::test(start_paused = true)]
async fn a_hot_lane_loads_is_idle_without_an_end_and_works_on_each_kind_of_request() {
    let tree = Tree::start(vec![]).await;
    tokio::time::sleep(START / 2).await;
    let loading = hot(&tree);
    assert_eq!((&*loading.name, loading.kind), ("hot-1", LaneKind::Hot));
    assert_eq!(loading.state, LaneState::Loading);
    assert_eq!((loading.since, loading.process_id), (START / 2, None));
    tree.stt.ready().await.expect("ready");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let idle = hot(&tree);
    assert_eq!(idle.state, LaneState::Idle { ends_in: None });
    assert_eq!(idle.since, Duration::from_secs(300));
    assert_eq!(idle.process_id, Some(1));
    for (script, urgency, expected) in [
        ("1", Urgency::Queued, WorkKind::Short),
        ("4", Urgency::Queued, WorkKind::Long),
        ("1", Urgency::Live, WorkKind::Live),
        ("1", Urgency::Spare, WorkKind::Spare),
    ] {
        let stream = tree.submit_as("client", urgent(script, urgency)).await;
        eventually("it works", || hot(&tree).state == busy(expected)).await;
        tokio::time::sleep(WORK / 2).await;
        assert!(hot(&tree).since >= WORK / 2);
        stream.expect("accepted").transcript().await.expect("text");
    }
    assert!(matches!(hot(&tree).state, LaneState::Idle { .. }));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn work_that_becomes_urgent_is_of_another_kind_while_a_lane_has_it() {
    let tree = Tree::ready(vec![]).await;
    let spare = urgent("1", Urgency::Spare);
    let stream = tree.submit_as("client", spare).await.expect("accepted");
    eventually("spare", || kind(&tree) == Some(WorkKind::Spare)).await;
    stream.set_urgency(Urgency::Live);
    eventually("live", || kind(&tree) == Some(WorkKind::Live)).await;
    assert_eq!(stream.transcript().await.expect("text").text(), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_chunks_are_counted_by_kind_and_spare_ones_are_not_in_the_depth() {
    let tree = Tree::ready(vec![]).await;
    let first = tree.submit_as("client", urgent("1", Urgency::Live)).await;
    tree.until_a_chunk_runs().await;
    let mut others = Vec::new();
    for (script, urgency) in [
        ("1", Urgency::Live),
        ("1", Urgency::Queued),
        ("1", Urgency::Queued),
        ("1", Urgency::Background),
        ("1", Urgency::Spare),
        ("30", Urgency::Queued),
    ] {
        let stream = tree.submit_as("client", urgent(script, urgency)).await;
        others.push(stream.expect("accepted"));
    }
    let expected = WaitingChunks {
        live: 1,
        short: 2,
        long: 1,
        job: 1,
        spare: 1,
    };
    // The long file waits with one chunk until its language is known.
    eventually("all wait", || tree.stt.snapshot().waiting == expected).await;
    assert_eq!(tree.stt.snapshot().queue_depth, 4);
    first.expect("accepted").transcript().await.expect("text");
    all_texts(others).await;
    assert_eq!(tree.stt.snapshot().waiting, WaitingChunks::default());
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cold_lane_loads_works_counts_down_and_vanishes() {
    let tree = Tree::ready_with(config(1), vec![]).await;
    let streams = tree.submit_many(12, "1").await;
    let is = |state: &LaneState| lane(&tree, "cold-1").is_some_and(|lane| lane.state == *state);
    eventually("it loads", || is(&LaneState::Loading)).await;
    eventually("it works", || is(&busy(WorkKind::Short))).await;
    let lanes = tree.stt.lanes();
    let names: Vec<&str> = lanes.iter().map(|lane| &*lane.name).collect();
    assert_eq!(names, ["hot-1", "cold-1"]);
    assert_eq!(lanes[1].kind, LaneKind::Cold);
    assert_eq!(lanes[1].process_id, Some(2));
    all_texts(streams).await;
    // 60 s, and 10 s for the only slot.
    let limit = Duration::from_secs(70);
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let cold = lane(&tree, "cold-1").expect("there");
        let LaneState::Idle { ends_in } = cold.state else {
            panic!("{cold:?}");
        };
        assert_eq!(ends_in.map(|ends_in| ends_in + cold.since), Some(limit));
    }
    eventually("it vanishes", || tree.stt.lanes().len() == 1).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cold_lane_vanishes_however_it_ends() {
    let dies = LaunchPlan::Up(vec![ChunkPlan::Die(killed())]);
    let not_at_all = LaunchPlan::Fail(LaunchError::TimedOut { seconds: 10 });
    let launches = vec![LaunchPlan::Up(vec![]), dies, not_at_all];
    let tree = Tree::ready_with(config(1), launches).await;
    let streams = tree.submit_many(40, "1").await;
    for name in ["cold-1", "cold-2"] {
        eventually("it is there", || lane(&tree, name).is_some()).await;
        eventually("it vanishes", || lane(&tree, name).is_none()).await;
    }
    eventually("it works", || {
        lane(&tree, "cold-3").is_some_and(|lane| lane.state == busy(WorkKind::Short))
    })
    .await;
    // The actor itself is killed, while it has a chunk.
    tree.cold_pool().get_children()[0].kill();
    eventually("it vanishes", || lane(&tree, "cold-3").is_none()).await;
    eventually("there is another", || lane(&tree, "cold-4").is_some()).await;
    tree.break_and_replace::<ColdPoolMessage>().await;
    assert_eq!(lane(&tree, "cold-4"), None);
    all_texts(streams).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hot_lane_that_is_down_says_why_and_for_how_long() {
    let away = || LaunchPlan::Fail(LaunchError::TimedOut { seconds: 10 });
    let mut launches = vec![LaunchPlan::Up(vec![ChunkPlan::Die(killed())])];
    launches.extend((0..4).map(|_| away()));
    let tree = Tree::ready(launches).await;
    let stream = tree.submit("1").await.expect("accepted");
    let restarting = |tree: &Tree| matches!(hot(tree).state, LaneState::Restarting { .. });
    eventually("it restarts", || restarting(&tree)).await;
    tokio::time::sleep(START + Duration::from_millis(300)).await;
    let LaneState::Restarting { reason } = hot(&tree).state else {
        panic!("{:?}", hot(&tree));
    };
    assert!(reason.contains("10 s"), "{reason}");
    // It is the same restart, although it is the second try.
    assert!(hot(&tree).since > START, "{:?}", hot(&tree));
    eventually("it failed", || {
        matches!(hot(&tree).state, LaneState::Failed { .. })
    })
    .await;
    assert!(stream.transcript().await.is_err());
    eventually("it is back", || {
        matches!(hot(&tree).state, LaneState::Idle { .. })
    })
    .await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hot_lane_with_an_idle_limit_counts_down_sleeps_and_wakes() {
    let mut limits = config(0);
    limits.hot_idle_limit = Some(Duration::from_secs(50));
    let tree = Tree::ready_with(limits, vec![]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let LaneState::Idle { ends_in } = hot(&tree).state else {
        panic!("{:?}", hot(&tree));
    };
    assert_eq!(ends_in, Some(Duration::from_secs(20)));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let asleep = hot(&tree);
    assert_eq!((&*asleep.name, asleep.state), ("hot", LaneState::Asleep));
    assert_eq!(asleep.since, Duration::from_secs(100));
    assert_eq!(asleep.process_id, None);
    let stream = tree.submit("1").await.expect("accepted");
    eventually("it loads", || hot(&tree).state == LaneState::Loading).await;
    stream.transcript().await.expect("text");
    assert_eq!(&*hot(&tree).name, "hot-2");
    tree.end().await;
}
