//! A repeated request: while the first one runs, after its client has left, and after its end.

use super::*;
use crate::domain::ids::ChunkIndex::{self, Whole};
use crate::{Event, Identity};

pub(super) const A_MINUTE: Duration = Duration::from_secs(60);
const ALMOST_A_MINUTE: Duration = Duration::from_secs(59);

/// A job with the audio of `script`, of the owner of this key.
pub(super) fn job_of(owner: &str, script: &str) -> Job {
    let mut digest = [0; 32];
    digest[..script.len()].copy_from_slice(script.as_bytes());
    Job {
        identity: Some(Identity {
            owner: Client::new(owner),
            digest,
        }),
        ..job(script)
    }
}

pub(super) async fn submit(tree: &Tree, owner: &str, script: &str) -> TranscriptStream {
    let stream = tree.submit_as(owner, job_of(owner, script)).await;
    stream.expect("accepted")
}

pub(super) async fn text(stream: TranscriptStream) -> String {
    stream.transcript().await.expect("transcribed").text()
}

/// The chunks that engines received.
pub(super) fn chunks(tree: &Tree) -> Vec<ChunkIndex> {
    let seen = tree.world.seen().into_iter();
    let chunks = seen.filter_map(|seen| match seen {
        Seen::Chunk { index, .. } => Some(index),
        _ => None,
    });
    chunks.collect()
}

/// Reads events until this number of segments has arrived.
pub(super) async fn segments(stream: &mut TranscriptStream, count: usize) {
    let mut left = count;
    while left > 0 {
        let event = stream.next().await.expect("goes on").expect("no error");
        left -= usize::from(matches!(event, Event::Segment(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_identical_request_joins_the_running_one_and_gets_all_events() {
    let tree = Tree::ready(vec![]).await;
    let mut first = submit(&tree, "key", "4").await;
    segments(&mut first, 2).await;
    let mut second = submit(&tree, "key", "4").await;
    assert_eq!(tree.stt.snapshot().requests, 2);
    segments(&mut second, 2).await;
    assert_eq!(text(first).await, "0 1 2 3");
    assert_eq!(text(second).await, "0 1 2 3");
    assert_eq!(chunks(&tree), [0, 1, 2, 3].map(Whole));
    assert_eq!(tree.stt.snapshot().requests, 0);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn requests_of_other_clients_or_with_other_options_are_not_joined() {
    let tree = Tree::ready(vec![]).await;
    let first = submit(&tree, "key", "1").await;
    let of_another_key = submit(&tree, "other key", "1").await;
    let mut other_options = job_of("key", "1");
    other_options.options.prompt = Some("Hello".to_owned());
    let other_options = tree.submit_as("key", other_options).await;
    let unknown = tree.submit("1").await;
    let again = [other_options, unknown].map(|stream| stream.expect("accepted"));
    for stream in [first, of_another_key].into_iter().chain(again) {
        assert_eq!(text(stream).await, "0");
    }
    assert_eq!(chunks(&tree).len(), 4);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_work_ends_when_the_last_client_has_left_and_not_before() {
    let tree = Tree::ready(vec![]).await;
    let first = submit(&tree, "key", "50").await;
    let second = submit(&tree, "key", "50").await;
    tree.until_a_chunk_runs().await;
    drop(first);
    tokio::time::sleep(WORK * 7 / 2).await;
    assert!(chunks(&tree).len() > 2);
    drop(second);
    let begun = chunks(&tree).len();
    until_nothing_is_left(&tree).await;
    // The chunk that was running is finished, and no other one is begun.
    assert_eq!(chunks(&tree).len(), begun);
    assert_eq!(tree.world.count(&Seen::Aborted), 0);
    tree.end().await;
}

pub(super) async fn until_nothing_is_left(tree: &Tree) {
    eventually("nothing of it is left", || {
        let snapshot = tree.stt.snapshot();
        snapshot.requests == 0 && snapshot.busy_lanes == 0
    })
    .await;
}

/// Asserts that engines received each chunk once.
pub(super) fn assert_each_chunk_once(tree: &Tree, count: usize) {
    let mut seen = chunks(tree);
    seen.sort_unstable();
    assert_eq!(seen, (0..count).map(Whole).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn all_subscribers_get_the_error() {
    let tree = Tree::ready(vec![]).await;
    let first = submit(&tree, "key", "1+bad").await;
    let second = submit(&tree, "key", "1+bad").await;
    for stream in [first, second] {
        let error = stream.transcript().await.expect_err("not audio");
        assert!(matches!(error, SttError::Decode(_)), "{error}");
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_and_returns_continues_where_it_stopped() {
    let tree = Tree::ready(vec![]).await;
    let mut left = submit(&tree, "key", "6").await;
    segments(&mut left, 3).await;
    drop(left);
    // The client returns at once, or after a while.
    let mut back = submit(&tree, "key", "6").await;
    segments(&mut back, 4).await;
    drop(back);
    eventually("it is over", || tree.stt.snapshot().requests == 0).await;
    tokio::time::sleep(ALMOST_A_MINUTE).await;
    let back = submit(&tree, "key", "6").await;
    assert_eq!(text(back).await, "0 1 2 3 4 5");
    let seen = chunks(&tree);
    // Chunks that were running when the client left are finished, and none is transcribed again.
    assert_each_chunk_once(&tree, 6);
    assert_eq!(seen.len(), 6);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn parts_that_were_transcribed_again_are_kept_as_well() {
    let tree = Tree::ready(vec![]).await;
    let mut left = submit(&tree, "key", "1h+3").await;
    segments(&mut left, 3).await;
    drop(left);
    eventually("it is over", || tree.stt.snapshot().requests == 0).await;
    let before = chunks(&tree).len();
    let back = submit(&tree, "key", "1h+3").await;
    let expected = format!("{HALF_HEARD_TEXT} and the rest 1 2 3");
    assert_eq!(text(back).await, expected);
    let again = &chunks(&tree)[before..];
    assert_eq!(again.last(), Some(&Whole(3)));
    assert!(again.iter().all(|index| *index == Whole(3)), "{again:?}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_minute_or_for_another_key_nothing_is_left_of_it() {
    let tree = Tree::ready(vec![]).await;
    for (owner, pause) in [("key", A_MINUTE), ("other key", WORK)] {
        let mut left = submit(&tree, "key", "3").await;
        segments(&mut left, 2).await;
        drop(left);
        eventually("it is over", || tree.stt.snapshot().requests == 0).await;
        tokio::time::sleep(pause).await;
        let before = chunks(&tree).len();
        let back = submit(&tree, owner, "3").await;
        assert_eq!(text(back).await, "0 1 2");
        assert_eq!(chunks(&tree)[before..], [0, 1, 2].map(Whole));
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_audio_is_cut_in_the_same_places_again() {
    let tree = Tree::ready(vec![]).await;
    let streamed = Job {
        streamed: true,
        ..job_of("key", "5")
    };
    let mut left = tree.submit_as("key", streamed).await.expect("accepted");
    segments(&mut left, 2).await;
    drop(left);
    eventually("it is over", || tree.stt.snapshot().requests == 0).await;
    let before: Vec<u64> = lock(&tree.world.targets).drain(..).collect();
    assert_eq!(before[..3], [5, 10, 20]);
    let back = submit(&tree, "key", "5").await;
    assert_eq!(text(back).await, "0 1 2 3 4");
    // Audio that was not transcribed is cut as this request specifies.
    let again = lock(&tree.world.targets).clone();
    assert_eq!(again, [5, 10, 20, 28, 28]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn results_are_kept_only_if_the_operator_says_so_and_only_for_a_while() {
    for (keep, pause, expected) in [
        (Duration::ZERO, Duration::ZERO, 4),
        (Duration::from_secs(30), Duration::from_secs(29), 2),
        (Duration::from_secs(30), Duration::from_secs(30), 4),
    ] {
        let config = TreeConfig {
            result_cache: keep,
            ..config(0)
        };
        let tree = Tree::ready_with(config, vec![]).await;
        let first = submit(&tree, "key", "2").await.transcript().await;
        tokio::time::sleep(pause).await;
        let mut again = submit(&tree, "key", "2").await;
        segments(&mut again, 2).await;
        assert_eq!(text(again).await, first.expect("transcribed").text());
        assert_eq!(chunks(&tree).len(), expected, "{keep:?} {pause:?}");
        assert_eq!(tree.stt.snapshot().requests, 0);
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_language_that_was_decided_holds_for_what_is_left() {
    let tree = Tree::ready(vec![]).await;
    let mut left = submit(&tree, "key", "3+3n").await;
    segments(&mut left, 3).await;
    drop(left);
    eventually("it is over", || tree.stt.snapshot().requests == 0).await;
    let before = tree.world.seen().len();
    let back = submit(&tree, "key", "3+3n").await.transcript().await;
    let back = back.expect("transcribed");
    assert_eq!(back.language, "es");
    assert_eq!(back.language_probability, Some(0.9));
    let given: Vec<_> = tree.world.seen()[before..]
        .iter()
        .filter_map(|seen| match seen {
            Seen::Chunk { language, .. } => Some(language.clone()),
            _ => None,
        })
        .collect();
    let spanish = Some("es".to_owned());
    assert_eq!(
        given,
        [spanish.clone(), spanish],
        "it was not detected anew"
    );
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn chunks_that_finished_before_a_failure_are_kept_as_well() {
    let tree = Tree::ready(vec![]).await;
    for _ in 0..2 {
        let failed = submit(&tree, "key", "2+poison").await.transcript().await;
        let error = failed.expect_err("no worker survives it");
        assert!(matches!(error, SttError::Poison { .. }), "{error}");
    }
    let seen = chunks(&tree);
    for index in 0..2 {
        let times = seen.iter().filter(|seen| **seen == Whole(index)).count();
        assert_eq!(times, 1, "chunk {index} of {seen:?}");
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_earlier_request_does_not_count_for_this_one() {
    let tree = Tree::ready(vec![]).await;
    let mut left = submit(&tree, "key", "6").await;
    segments(&mut left, 3).await;
    drop(left);
    eventually("it is over", || tree.stt.snapshot().requests == 0).await;
    let back = submit(&tree, "key", "6").await.transcript().await;
    let timings = back.expect("transcribed").timings;
    assert!((timings.inference - 2.0).abs() < 1e-6, "{timings:?}");
    assert!(timings.inference <= timings.total, "{timings:?}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn all_subscribers_get_the_end_of_the_grace_period() {
    let tree = Tree::ready(vec![]).await;
    let first = submit(&tree, "key", "50").await;
    let second = submit(&tree, "key", "50").await;
    tree.until_a_chunk_runs().await;
    tree.stt.drain(WORK);
    for stream in [first, second] {
        let error = stream.transcript().await.expect_err("cancelled");
        assert!(matches!(error, SttError::Draining { .. }), "{error}");
    }
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_does_not_delay_other_requests() {
    let tree = Tree::ready(vec![]).await;
    let first = submit(&tree, "key", "1").await;
    let joined = submit(&tree, "key", "1").await;
    tree.until_a_chunk_runs().await;
    let position = tree.admit().expect("admitted").wait_estimate().position;
    assert_eq!(position, 0, "one chunk runs, and none waits");
    assert_eq!(
        (text(first).await, text(joined).await),
        ("0".into(), "0".into())
    );
    tree.end().await;
}
