//! Jobs: work that no client waits for.

use super::*;
use crate::domain::finished::FinishedWork;
use crate::domain::job::Client;
use crate::queue::waiting::BACKGROUND_PATIENCE;
use crate::{Event, Priority};

async fn submit(tree: &Tree, script: &str, finished: FinishedWork) -> TranscriptStream {
    let client = Client::new("jobs");
    let admission = (tree.stt.admit_job(client, Priority::default())).expect("admitted");
    let job = Job {
        urgency: Urgency::Background,
        finished: Some(finished),
        ..job(script)
    };
    tree.stt.submit(admission, job).await.expect("accepted")
}

#[tokio::test(start_paused = true)]
async fn a_job_does_not_count_as_load_and_comes_after_requests() {
    let tree = Tree::ready(vec![]).await;
    let job = submit(&tree, "3600", FinishedWork::default()).await;
    tree.until_a_chunk_runs().await;
    let snapshot = tree.stt.snapshot();
    assert_eq!((snapshot.requests, snapshot.queue_depth), (0, 0));
    assert!(snapshot.load_score() < f64::EPSILON, "{snapshot:?}");
    assert!(snapshot.background.audio_seconds() > 0.0, "{snapshot:?}");
    for _ in 0..20 {
        let begin = tokio::time::Instant::now();
        tree.text("1").await.expect("transcribed");
        // The chunk that the lane works on is not aborted.
        assert!(begin.elapsed() <= WORK * 2 + Duration::from_millis(20));
    }
    drop(job);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn endless_requests_do_not_stop_a_job() {
    let tree = Tree::ready(vec![]).await;
    let begin = tokio::time::Instant::now();
    let job = submit(&tree, "3", FinishedWork::default()).await;
    let job = tokio::spawn(job.transcript());
    let mut waiting = tree.submit("1").await.expect("accepted");
    while !job.is_finished() {
        let next = tree.submit("1").await.expect("accepted");
        waiting.transcript().await.expect("transcribed");
        waiting = next;
        assert!(begin.elapsed() < BACKGROUND_PATIENCE * 4, "it stands still");
    }
    let text = job.await.expect("no panic").expect("transcribed").text();
    assert_eq!(text, "0 1 2");
    assert!(begin.elapsed() > BACKGROUND_PATIENCE, "requests come first");
    drop(waiting);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_with_the_parts_that_an_earlier_run_reported() {
    let first = Tree::ready(vec![]).await;
    let mut stream = submit(&first, "5", FinishedWork::default()).await;
    let mut finished = FinishedWork::default();
    while finished.len() < 3 {
        if let Event::Finished(part) = stream.next().await.expect("goes on").expect("no error") {
            finished.apply(part);
        }
    }
    drop(stream);
    first.end().await;
    let second = Tree::ready(vec![]).await;
    let mut stream = submit(&second, "5", finished).await;
    let mut again = 0;
    let transcript = loop {
        match stream.next().await.expect("goes on").expect("no error") {
            Event::Finished(crate::domain::finished::FinishedPart::Chunk(_)) => again += 1,
            Event::Done(transcript) => break transcript,
            _ => {}
        }
    };
    assert_eq!((transcript.text().as_str(), again), ("0 1 2 3 4", 2));
    second.end().await;
}
