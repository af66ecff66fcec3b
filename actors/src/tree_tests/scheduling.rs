//! The order of work: short work first, long files in between; and what is freed when a client leaves.

use std::sync::atomic::Ordering;

use super::*;
use crate::domain::error::DecodeError;
use crate::{Event, Priority};

/// Runs a command and returns its duration.
async fn command(tree: &Tree) -> Duration {
    let begin = tokio::time::Instant::now();
    tree.text("1").await.expect("transcribed");
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_no_more_than_the_running_chunk_of_a_long_file() {
    let tree = Tree::ready(vec![]).await;
    let long = tree.submit("180").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    for _ in 0..20 {
        let took = command(&tree).await;
        assert!(took <= WORK * 2 + Duration::from_millis(20), "{took:?}");
    }
    drop(long);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn endless_commands_do_not_block_a_long_file() {
    let tree = Tree::ready(vec![]).await;
    let long = tokio::spawn(tree.submit("8").await.expect("accepted").transcript());
    // Two of them at any time: one runs, one waits.
    let mut waiting = tree.submit("1").await.expect("accepted");
    let mut commands = 0;
    while !long.is_finished() {
        let next = tree.submit("1").await.expect("accepted");
        waiting.transcript().await.expect("transcribed");
        waiting = next;
        commands += 1;
        assert!(commands < 1000, "the long file never ends");
    }
    let transcript = long.await.expect("no panic").expect("transcribed");
    assert_eq!(transcript.text(), "0 1 2 3 4 5 6 7");
    assert!(commands > 100, "the commands were held up: {commands}");
    drop(waiting);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_file_fans_out_over_idle_lanes_and_its_text_is_in_order() {
    let tree = Tree::ready_with(config(3), vec![]).await;
    let mut stream = tree.submit("60").await.expect("accepted");
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await {
        if let Event::Segment(segment) = event.expect("no error") {
            seen.push(segment.text.trim().parse::<usize>().expect("a number"));
        }
    }
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
    let snapshot = tree.stt.snapshot();
    assert!(snapshot.finished_cold_chunks >= 20, "{snapshot:?}");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_others_wait_for_the_language_and_not_for_the_text() {
    let tree = Tree::ready_with(config(1), vec![]).await;
    // Starts a cold lane.
    tree.text("40").await.expect("transcribed");
    eventually("two lanes", || tree.stt.snapshot().lanes() == 2).await;
    let begin = tokio::time::Instant::now();
    let stream = tree.submit("2").await.expect("accepted");
    let transcript = stream.transcript().await.expect("transcribed");
    let took = begin.elapsed();
    assert!(took < WORK + DETECTION * 2, "one after the other: {took:?}");
    assert_eq!(transcript.language_probability, Some(0.9));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn noise_before_the_speech_does_not_decide_on_the_language() {
    let tree = Tree::ready(vec![]).await;
    let stream = tree.submit("2n+2").await.expect("accepted");
    let transcript = stream.transcript().await.expect("transcribed");
    assert_eq!(transcript.text(), "2 3");
    assert_eq!(transcript.language, "es");
    let reasons: Vec<_> = transcript
        .removed
        .iter()
        .map(|r| r.reason.as_str())
        .collect();
    assert_eq!(reasons, ["no_speech", "no_speech"]);
    let times: Vec<_> = transcript
        .removed
        .iter()
        .map(|r| (r.start, r.end))
        .collect();
    assert_eq!(times, [(0.0, 10.0), (10.0, 20.0)]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn noise_alone_is_an_empty_transcript_and_without_the_guard_it_is_not() {
    let tree = Tree::ready(vec![]).await;
    let transcript = tree
        .submit("5n")
        .await
        .expect("accepted")
        .transcript()
        .await;
    let transcript = transcript.expect("transcribed");
    assert_eq!(
        (transcript.text().as_str(), transcript.removed.len()),
        ("", 5)
    );
    let mut unguarded = job("5n");
    unguarded.options.hallucination_guard = false;
    let stream = tree.submit_as("client", unguarded).await.expect("accepted");
    let transcript = stream.transcript().await.expect("transcribed");
    assert_eq!(
        (transcript.text().as_str(), transcript.removed.len()),
        ("0 1 2 3 4", 0)
    );
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn speech_that_an_engine_skips_is_transcribed_again_and_inserted() {
    let tree = Tree::ready_with(config(1), vec![]).await;
    let transcript = tree
        .submit("1+2h+1")
        .await
        .expect("accepted")
        .transcript()
        .await;
    let transcript = transcript.expect("transcribed");
    let both = format!("{HALF_HEARD_TEXT} and the rest");
    assert_eq!(transcript.text(), format!("0 {both} {both} 3"));
    let starts: Vec<f64> = transcript.segments.iter().map(|s| s.start).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    assert!((starts[2] - 15.0).abs() < 0.1, "{starts:?}");
    // If a part cannot be transcribed, the earlier text stays.
    tree.end().await;
    let plans = vec![ChunkPlan::Answer, ChunkPlan::Fail, ChunkPlan::Fail];
    let tree = Tree::ready(vec![LaunchPlan::Up(plans)]).await;
    assert_eq!(tree.text("1h").await.expect("transcribed"), HALF_HEARD_TEXT);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn mixed_languages_are_detected_chunk_by_chunk() {
    let tree = Tree::ready(vec![]).await;
    let mut mixed = job("3");
    mixed.options.multilingual = true;
    let stream = tree.submit_as("client", mixed).await.expect("accepted");
    stream.transcript().await.expect("transcribed");
    let given: Vec<_> = tree.world.seen();
    let given = given.iter().filter_map(|seen| match seen {
        Seen::Chunk { language, .. } => Some(language.clone()),
        _ => None,
    });
    assert_eq!(given.collect::<Vec<_>>(), [None, None, None]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn silence_takes_no_lane_and_counts_as_done() {
    let tree = Tree::ready(vec![]).await;
    let mut stream = tree.submit("3s+1+2s").await.expect("accepted");
    let mut done = Vec::new();
    let transcript = loop {
        match stream.next().await.expect("not over").expect("no error") {
            Event::Progress(progress) => done.push(progress.seconds_done),
            Event::Done(transcript) => break transcript,
            Event::Language { .. } | Event::Route(_) | Event::Segment(_) | Event::Finished(_) => {}
        }
    };
    assert!(done.is_sorted() && done.last() == Some(&60.0), "{done:?}");
    assert!((transcript.duration - 60.0).abs() < 1e-9);
    assert!((transcript.segments[0].start - 30.0).abs() < 1e-9);
    let silent = tree
        .submit("500s")
        .await
        .expect("accepted")
        .transcript()
        .await;
    let silent = silent.expect("transcribed");
    assert_eq!(
        (silent.text().as_str(), silent.language.as_str()),
        ("", "en")
    );
    assert!((silent.duration - 5000.0).abs() < 1e-9);
    assert_eq!(tree.stt.snapshot().finished_hot_chunks, 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_ignores_the_abort_for_longer_than_a_start_takes_is_replaced_when_work_waits() {
    // A pass of an hour, as the engine reports it.
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Hang])]).await;
    let status = &tree.stt.status;
    status.record_finished_chunk(crate::domain::ids::LaneKind::Hot, 3600.0, 1.0);
    tree.world.deaf.store(true, Ordering::SeqCst);
    let leaver = tree.submit("1").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    drop(leaver);
    // No other work waits, so the worker continues.
    tokio::time::sleep(CHUNK_TIMEOUT / 4).await;
    assert_eq!(tree.world.launched(), ["hot-1"]);
    let begin = tokio::time::Instant::now();
    assert_eq!(tree.text("1").await.expect("transcribed"), "0");
    assert!(begin.elapsed() < START + WORK * 2, "{:?}", begin.elapsed());
    assert_eq!(tree.world.launched(), ["hot-1", "hot-2"]);
    assert_eq!(tree.world.count(&Seen::Stopped), 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_free_sooner_than_a_start_takes_is_not_replaced() {
    let tree = Tree::ready(vec![]).await;
    tree.world.deaf.store(true, Ordering::SeqCst);
    let leaver = tree.submit("1").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    drop(leaver);
    assert!(command(&tree).await < WORK * 2 + Duration::from_millis(20));
    assert_eq!(tree.world.launched(), ["hot-1"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_at_any_moment_leaves_nothing_behind_and_frees_the_lane() {
    for millis in (0..12_000).step_by(700) {
        let tree = Tree::ready_with(config(1), vec![]).await;
        let leaver = tree.submit("2s+30").await.expect("accepted");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        drop(leaver);
        let begin = tokio::time::Instant::now();
        eventually("it is gone", || {
            let snapshot = tree.stt.snapshot();
            (snapshot.requests, snapshot.queue_depth, snapshot.busy_lanes) == (0, 0, 0)
        })
        .await;
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        assert!(command(&tree).await <= WORK + Duration::from_millis(20));
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_decoder_that_breaks_off_fails_its_request_and_no_other() {
    let tree = Tree::ready(vec![]).await;
    let broken = tree.submit("3+2s+bad").await.expect("accepted");
    let other = tree.submit("2").await.expect("accepted");
    let error = broken.transcript().await.expect_err("broken");
    assert!(
        matches!(error, SttError::Decode(DecodeError::Undecodable(_))),
        "{error}"
    );
    assert_eq!(other.transcript().await.expect("unharmed").text(), "0 1");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_turns_out_too_long_for_the_queue_is_rejected_before_any_work() {
    let mut limits = config(0);
    limits.max_queue = Duration::from_secs(30);
    let tree = Tree::ready_with(limits, vec![]).await;
    let first = tree.submit("100").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    // The same client's second file would wait for the whole of the first.
    let second = tree.submit("50").await.expect("nothing is known of it yet");
    let refusal = second.transcript().await.expect_err("too long");
    assert!(matches!(refusal, SttError::Overloaded { .. }), "{refusal}");
    // Another client's file waits for one chunk, and a command hardly at all.
    let other = tree
        .submit_as("another", job("50"))
        .await
        .expect("accepted");
    assert!(command(&tree).await < WORK * 3);
    drop((first, other));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_of_high_priority_goes_first() {
    let tree = Tree::ready(vec![]).await;
    let running = tree.submit("1").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    let begin = tokio::time::Instant::now();
    let _normal = tree.submit_many(5, "1").await;
    let urgent = AdmissionRequest {
        priority: Priority::High,
        ..AdmissionRequest::of(Client::new("urgent"))
    };
    let admission = tree.stt.admit(urgent).expect("accepted");
    let urgent = tree
        .stt
        .submit(admission, job("1"))
        .await
        .expect("accepted");
    urgent.transcript().await.expect("transcribed");
    assert!(begin.elapsed() <= WORK * 2 + Duration::from_millis(20));
    drop(running);
    tree.end().await;
}
