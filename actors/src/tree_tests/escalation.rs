//! Doubtful texts, and a scripted fallback node.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::*;
use crate::domain::error::FallbackError;
use crate::domain::ids::ChunkIndex;
use crate::domain::transcript::{Task, Transcript};
use crate::ports::{FallbackNode, FallbackRequest, FallbackText};
use crate::{Event, FallbackPort, Identity};

/// The node's reaction to the next request. Without a plan it answers.
enum NodePlan {
    Fail,
    Hang,
    /// Answers without a language.
    NoLanguage,
}

/// A scripted fallback node.
#[derive(Default)]
struct Node {
    plans: Mutex<VecDeque<NodePlan>>,
    /// Received requests: the chunk and the language.
    asked: Mutex<Vec<(usize, Option<String>)>>,
    /// Number of running requests.
    open: Mutex<usize>,
}

struct Open<'a>(&'a Node);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *lock(&self.0.open) -= 1;
    }
}

#[async_trait]
impl FallbackNode for Node {
    async fn transcribe(&self, request: FallbackRequest) -> Result<FallbackText, FallbackError> {
        let (index, language) = (request.audio.index.number(), request.language);
        lock(&self.asked).push((index, language.clone()));
        *lock(&self.open) += 1;
        let _open = Open(self);
        let plan = lock(&self.plans).pop_front();
        let mut transcript = better_text(index, language.as_deref());
        match plan {
            None => tokio::time::sleep(WORK).await,
            Some(NodePlan::NoLanguage) => transcript.language.clear(),
            Some(NodePlan::Fail) => return Err(away()),
            Some(NodePlan::Hang) => std::future::pending().await,
        }
        Ok(FallbackText {
            transcript,
            model: "larger".to_owned(),
        })
    }
}

fn away() -> FallbackError {
    FallbackError::Unreachable("scripted".to_owned())
}

async fn tree(launches: Vec<LaunchPlan>, min_words: usize) -> (Tree, Arc<Node>) {
    let node = Arc::new(Node::default());
    let mut config = config(0);
    config.escalation.min_words = min_words;
    let port = FallbackPort::Node(Arc::clone(&node) as Arc<dyn FallbackNode>);
    let tree = Tree::start_with(config, launches, |ports| ports.fallback = Some(port)).await;
    // If the model cannot be loaded, there is nothing to wait for.
    let _ = tree.stt.ready().await;
    (tree, node)
}

impl Node {
    fn plan(&self, plans: impl IntoIterator<Item = NodePlan>) {
        lock(&self.plans).extend(plans);
    }

    fn asked(&self) -> Vec<(usize, Option<String>)> {
        lock(&self.asked).clone()
    }
}

async fn transcript(tree: &Tree, script: &str) -> Result<Transcript, SttError> {
    tree.submit(script).await?.transcript().await
}

fn spanish(index: usize) -> (usize, Option<String>) {
    (index, Some("es".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_trusted_text_and_silence_are_not_passed_on() {
    let (tree, node) = tree(vec![], 3).await;
    let text = transcript(&tree, "3").await.expect("done");
    let escalation = text.escalation.expect("a fallback exists");
    assert!(!escalation.used && escalation.below.is_empty() && escalation.language_was_tested);
    assert_eq!(text.model, "scripted");
    let silence = transcript(&tree, "2s").await.expect("done");
    assert_eq!(silence.text(), "");
    assert!(silence.escalation.expect("told").below.is_empty());
    assert_eq!(node.asked(), []);
    assert_eq!(tree.stt.snapshot().fallbacks.skipped, 2);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn only_the_doubtful_chunks_of_a_file_are_passed_on() {
    let (tree, node) = tree(vec![], 3).await;
    let text = transcript(&tree, "2+w+2").await.expect("done");
    assert_eq!(text.text(), "0 1 better 2 3 4");
    assert_eq!(node.asked(), [spanish(2)]);
    let escalation = text.escalation.expect("told");
    assert!(escalation.used && escalation.error.is_none());
    assert_eq!(escalation.below.names(), ["logprob"]);
    assert_eq!(text.model, "scripted+larger");
    assert!((text.timings.fallback - 1.0).abs() < 0.01);
    assert_eq!(text.segments[2].start.to_bits(), 20.0_f64.to_bits());
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_lane_is_free_while_the_other_node_works() {
    let (tree, node) = tree(vec![], 0).await;
    node.plan([NodePlan::Hang]);
    let hanging = tree.submit("w").await.expect("accepted");
    eventually("the node is asked", || *lock(&node.open) == 1).await;
    assert_eq!(tree.stt.snapshot().busy_lanes, 0);
    assert_eq!(tree.text("1").await.expect("done"), "0");
    // The request is cancelled when its client leaves.
    drop(hanging);
    eventually("the node is left alone", || *lock(&node.open) == 0).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_text_stays_and_the_fallback_is_not_asked_again() {
    let (tree, node) = tree(vec![], 0).await;
    node.plan([NodePlan::Fail]);
    let text = transcript(&tree, "w+1+2w").await.expect("its own text");
    assert_eq!(text.text(), "0 1 2 3");
    let escalation = text.escalation.expect("told");
    assert_eq!(escalation.error, Some(away()));
    assert!(!escalation.used);
    assert_eq!(node.asked().len(), 1);
    assert_eq!(text.model, "scripted");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_on_which_the_engine_failed_is_passed_on() {
    let (tree, node) = tree(vec![], 0).await;
    let text = transcript(&tree, "1+poison+1").await.expect("done");
    assert_eq!(text.text(), "0 better 1 2");
    node.plan([NodePlan::Fail]);
    let error = transcript(&tree, "poison").await.expect_err("both fail");
    let SttError::Fallback { primary, fallback } = error else {
        panic!("{error}");
    };
    assert!(matches!(*primary, SttError::Poison { .. }), "{primary}");
    assert_eq!(fallback, away());
    // An error of the client is not passed on.
    let asked = node.asked().len();
    let counts = tree.stt.snapshot().fallbacks;
    assert_eq!((counts.used, counts.skipped, counts.failed), (1, 0, 1));
    let error = transcript(&tree, "1+bad").await.expect_err("bad audio");
    assert!(matches!(error, SttError::Decode(_)), "{error}");
    assert_eq!(node.asked().len(), asked);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn if_both_fail_the_error_has_both_reasons() {
    let (tree, node) = tree(vec![], 0).await;
    node.plan([NodePlan::Fail]);
    let error = transcript(&tree, "w+poison").await.expect_err("both fail");
    assert!(matches!(error, SttError::Fallback { .. }), "{error}");
    assert_eq!(node.asked().len(), 1);
    assert_eq!(tree.stt.snapshot().fallbacks.failed, 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn in_many_languages_a_doubtful_chunk_does_not_decide_for_all() {
    let (tree, node) = tree(vec![], 0).await;
    let mut job = job("1+w");
    job.options.multilingual = true;
    let stream = tree.submit_as("client", job).await.expect("accepted");
    let text = stream.transcript().await.expect("done");
    assert_eq!(
        (text.text().as_str(), text.language.as_str()),
        ("0 better 1", "es")
    );
    assert_eq!(node.asked(), [(1, None)]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_without_a_language_leaves_the_detected_one() {
    let (tree, node) = tree(vec![], 0).await;
    node.plan([NodePlan::NoLanguage]);
    let text = transcript(&tree, "m+1").await.expect("done");
    assert_eq!(
        (text.text().as_str(), text.language.as_str()),
        ("better 0 1", "pt")
    );
    // If this node detected no language either, the next chunk decides.
    node.plan([NodePlan::NoLanguage]);
    let text = transcript(&tree, "poison+1").await.expect("done");
    assert_eq!(
        (text.text().as_str(), text.language.as_str()),
        ("better 0 1", "es")
    );
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_returns_still_waits_for_the_doubtful_chunk_to_decide() {
    let (tree, node) = tree(vec![], 0).await;
    let submit = async || {
        let mut job = job("m+2");
        job.identity = Some(Identity {
            owner: Client::new("client"),
            digest: [1; 32],
        });
        tree.submit_as("client", job).await.expect("accepted")
    };
    node.plan([NodePlan::Hang]);
    let leaves = submit().await;
    eventually("the node is asked", || *lock(&node.open) == 1).await;
    drop(leaves);
    eventually("the node is left alone", || *lock(&node.open) == 0).await;
    let text = submit().await.transcript().await.expect("done");
    assert_eq!(
        (text.text().as_str(), text.language.as_str()),
        ("better 0 1 2", "gl")
    );
    let heard = |seen: &&Seen| {
        matches!(
            seen,
            Seen::Chunk {
                index: ChunkIndex::Whole(0),
                ..
            }
        )
    };
    assert_eq!(tree.world.seen().iter().filter(heard).count(), 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_number_of_chunks_at_the_fallback_is_limited() {
    let (tree, node) = tree(vec![], 0).await;
    node.plan((0..64).map(|_| NodePlan::Hang));
    let mut waiting = Vec::new();
    for _ in 0..64 {
        waiting.push(tree.submit("w").await.expect("accepted"));
    }
    eventually("all of them are there", || *lock(&node.open) == 64).await;
    let text = transcript(&tree, "w").await.expect("done");
    assert_eq!(text.text(), "0");
    let error = text.escalation.expect("told").error;
    assert_eq!(error, Some(FallbackError::Overloaded));
    drop(waiting);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_model_cannot_be_loaded_passes_everything_on() {
    let broken = || LaunchPlan::Fail(LaunchError::Model("scripted".to_owned()));
    let (tree, node) = tree(vec![broken(), broken()], 0).await;
    let text = transcript(&tree, "2").await.expect("done");
    assert_eq!(text.text(), "better 0 better 1");
    assert_eq!(text.model, "larger");
    // The language of the first chunk applies to the second.
    let galician = Some("gl".to_owned());
    assert_eq!(node.asked(), [(0, None), (1, galician)]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_doubtful_language_the_first_chunk_goes_and_the_others_follow_its_answer() {
    let (tree, node) = tree(vec![], 0).await;
    let text = transcript(&tree, "m+2").await.expect("done");
    assert_eq!(node.asked(), [(0, None)]);
    assert_eq!(text.text(), "better 0 1 2");
    assert_eq!(text.language, "gl");
    let given = |index| Seen::Chunk {
        worker: "hot-1".to_owned(),
        index: ChunkIndex::Whole(index),
        language: Some("gl".to_owned()),
    };
    assert_eq!(tree.world.count(&given(1)) + tree.world.count(&given(2)), 2);
    assert_eq!(text.escalation.expect("told").below.names(), ["langprob"]);
    // If the fallback fails, the detected language is used.
    node.plan([NodePlan::Fail]);
    let text = transcript(&tree, "m+1").await.expect("done");
    assert_eq!(
        (text.text().as_str(), text.language.as_str()),
        ("0 1", "pt")
    );
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_given_language_is_not_tested_and_passed_on() {
    let (tree, node) = tree(vec![], 0).await;
    let submit = async |script: &str, task| {
        let mut job = job(script);
        job.options.language = Some("pt".to_owned());
        job.options.task = task;
        let stream = tree.submit_as("client", job).await.expect("accepted");
        stream.transcript().await.expect("done")
    };
    let text = submit("m", Task::Transcribe).await;
    let escalation = text.escalation.expect("told");
    assert!(escalation.below.is_empty() && !escalation.language_was_tested);
    assert_eq!(node.asked(), []);
    submit("w", Task::Transcribe).await;
    assert_eq!(node.asked(), [(0, Some("pt".to_owned()))]);
    // A translation is not passed on.
    let text = submit("w", Task::Translate).await;
    assert_eq!(text.escalation, None);
    assert_eq!(node.asked().len(), 1);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_single_doubtful_chunk_is_transcribed_again_with_its_language() {
    let (tree, node) = tree(vec![], 0).await;
    let mut stream = tree.submit("w").await.expect("accepted");
    let mut heard = Vec::new();
    let text = loop {
        match stream.next().await.expect("goes on").expect("no error") {
            Event::Language { code, .. } => heard.push(code),
            Event::Done(text) => break text,
            _ => {}
        }
    };
    assert_eq!(node.asked(), [(0, None)]);
    // The first decision was published already; the last one counts.
    assert_eq!(
        (heard, text.language.as_str()),
        (vec!["es".to_owned()], "gl")
    );
    assert_eq!(text.language_probability, Some(0.99));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn few_words_are_counted_over_all_of_a_request() {
    let (tree, node) = tree(vec![], 3).await;
    let text = transcript(&tree, "2").await.expect("done");
    assert_eq!(text.text(), "better 0 better 1");
    assert_eq!(text.escalation.expect("told").below.names(), ["min_words"]);
    assert_eq!(node.asked().len(), 2);
    // One chunk after the other, with silence between them, until there are enough words.
    let text = transcript(&tree, "1+2s+1+s+1").await.expect("done");
    assert_eq!(text.text(), "0 1 2");
    // Earlier words count too if a chunk is doubtful for another reason.
    let text = transcript(&tree, "1+w").await.expect("done");
    assert_eq!(text.text(), "better 0 better 1");
    let names = text.escalation.expect("told").below.names();
    assert_eq!(names, ["logprob", "min_words"]);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_doubtful_chunks_never_stop_the_decoder() {
    let (tree, node) = tree(vec![], 1000).await;
    let begun = Instant::now();
    let text = transcript(&tree, "40w").await.expect("done");
    assert_eq!(node.asked().len(), 40);
    assert_eq!(text.segments.len(), 40);
    assert!(begun.elapsed() < Duration::from_secs(50));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_text_that_should_be_better_is_not_kept() {
    let node = Arc::new(Node::default());
    let port = FallbackPort::Node(Arc::clone(&node) as Arc<dyn FallbackNode>);
    let mut config = config(0);
    config.result_cache = Duration::from_secs(600);
    let tree = Tree::start_with(config, vec![], |ports| ports.fallback = Some(port)).await;
    tree.stt.ready().await.expect("ready");
    node.plan([NodePlan::Fail]);
    let mut texts = Vec::new();
    for _ in 0..3 {
        let mut job = job("w");
        job.identity = Some(Identity {
            owner: Client::new("client"),
            digest: [1; 32],
        });
        let stream = tree.submit_as("client", job).await.expect("accepted");
        texts.push(stream.transcript().await.expect("done").text());
    }
    assert_eq!(texts, ["0", "better 0", "better 0"]);
    assert_eq!(node.asked().len(), 2);
    tree.end().await;
}
