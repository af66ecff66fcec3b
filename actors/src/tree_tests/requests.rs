//! Requests without faults, and requests with invalid audio.

use std::sync::atomic::Ordering;

use super::*;
use crate::domain::ids::ChunkIndex::Whole;
use crate::{Event, SttError};

#[tokio::test(start_paused = true)]
async fn a_request_gets_its_text_in_order_with_times_on_its_own_line() {
    let tree = Tree::ready(vec![]).await;
    let transcript = tree.submit("4").await.expect("accepted");
    let transcript = transcript.transcript().await.expect("transcribed");
    assert_eq!(transcript.text(), "0 1 2 3");
    assert_eq!(transcript.language, "es");
    assert_eq!(transcript.language_probability, Some(0.9));
    assert!((transcript.duration - 40.0).abs() < 1e-9);
    let starts: Vec<f64> = transcript.segments.iter().map(|s| s.start).collect();
    assert_eq!(starts, [0.0, 10.0, 20.0, 30.0]);
    let confidence = transcript.confidence().expect("tokens");
    assert!((confidence - (-0.5_f32).exp()).abs() < 1e-6);
    assert!((transcript.timings.inference - 4.0).abs() < 1e-6);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_are_the_language_then_segments_and_progress_then_the_end() {
    let tree = Tree::ready(vec![]).await;
    let mut stream = tree.submit("2").await.expect("accepted");
    let mut kinds = Vec::new();
    while let Some(event) = stream.next().await {
        kinds.push(match event.expect("no error") {
            Event::Language { .. } => "language",
            Event::Route(_) => "route",
            Event::Segment(_) => "segment",
            Event::Progress(_) => "progress",
            Event::Finished(_) => "finished",
            Event::Done(_) => "done",
        });
    }
    assert_eq!(
        kinds,
        [
            "language", "route", "segment", "progress", "segment", "progress", "done"
        ]
    );
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_chunk_detects_the_language_and_the_others_use_it() {
    let tree = Tree::ready(vec![]).await;
    let stream = tree.submit("3").await.expect("accepted");
    stream.transcript().await.expect("transcribed");
    let languages: Vec<_> = tree
        .world
        .seen()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Chunk { language, .. } => Some(language),
            _ => None,
        })
        .collect();
    let spanish = Some("es".to_owned());
    assert_eq!(languages, [None, spanish.clone(), spanish]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_file_is_decoded_only_a_few_chunks_ahead() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Hang])]).await;
    let stream = tree.submit("1000").await.expect("accepted");
    tokio::time::sleep(CHUNK_TIMEOUT / 2).await;
    let decoded = tree.world.chunks_decoded.load(Ordering::SeqCst);
    assert!(decoded <= 4, "{decoded} chunks in memory");
    drop(stream);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn audio_that_cannot_be_decoded_is_the_clients_error_and_other_requests_continue() {
    let tree = Tree::ready(vec![]).await;
    for script in ["bad", "2+bad"] {
        let stream = tree.submit(script).await.expect("accepted");
        let error = stream.transcript().await.expect_err("not audio");
        assert!(matches!(error, SttError::Decode(_)), "{error}");
    }
    let stream = tree.submit("1").await.expect("accepted");
    assert_eq!(stream.transcript().await.expect("transcribed").text(), "0");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_takes_its_work_with_it() {
    let tree = Tree::ready(vec![]).await;
    let leaver = tree.submit("50").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    drop(leaver);
    eventually("nothing of it is left", || {
        let snapshot = tree.stt.snapshot();
        snapshot.requests == 0 && snapshot.busy_lanes == 0
    })
    .await;
    assert_eq!(tree.world.count(&Seen::Aborted), 1);
    let before = tokio::time::Instant::now();
    let stream = tree.submit("1").await.expect("accepted");
    stream.transcript().await.expect("transcribed");
    assert!(before.elapsed() < WORK * 2, "the lane was not free");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn short_streamed_audio_is_not_cut_into_short_chunks_whatever_its_container_states() {
    for (script, expected) in [("1", 28), ("1+u", 28), ("2", 5), ("2+u", 5)] {
        let tree = Tree::ready(vec![]).await;
        let streamed = Job {
            streamed: true,
            ..job(script)
        };
        let stream = tree.submit_as("client", streamed).await.expect("accepted");
        stream.transcript().await.expect("transcribed");
        let targets = lock(&tree.world.targets).clone();
        assert_eq!(targets[0], expected, "{script}: {targets:?}");
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_languages_a_chunk_waits_for_the_language_before_and_lengths_are_steady() {
    for lanes in [0, 3] {
        let tree = Tree::ready_with(config(lanes), vec![]).await;
        let mixed = |streamed| {
            let mut job = job("1+30m+2n+9");
            job.options.multilingual = true;
            job.streamed = streamed;
            job
        };
        let stream = tree.submit_as("client", mixed(true)).await;
        stream.expect("accepted").transcript().await.expect("done");
        let targets = lock(&tree.world.targets).clone();
        assert_eq!(targets[..5], [5, 10, 20, 28, 28]);
        let likely: Vec<_> = tree.world.likely_languages();
        assert_eq!(likely.len(), 42);
        // The first chunk is certain to be Spanish; mumbling is as good as certain; noise is not.
        assert_eq!(likely[0], (Whole(0), None));
        let of = |index: usize| {
            let found = likely.iter().find(|(chunk, _)| *chunk == Whole(index));
            found.and_then(|(_, code)| code.clone())
        };
        let expected = [
            (1, "es"),
            (2, "pt"),
            (31, "pt"),
            (32, "pt"),
            (33, "pt"),
            (34, "es"),
        ];
        for (index, code) in expected {
            assert_eq!(of(index).as_deref(), Some(code), "chunk {index}");
        }
        let order: Vec<_> = likely.iter().map(|(chunk, _)| *chunk).collect();
        assert_eq!(order, (0..42).map(Whole).collect::<Vec<_>>());
        tree.end().await;
    }
}
