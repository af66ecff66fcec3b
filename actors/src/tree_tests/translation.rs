//! Translations: what a translator's faults and its slowness do to a request, to others and to a drain.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::domain::error::{TranslationError, TranslatorError};
use crate::domain::transcript::Transcript;
use crate::domain::translation::{TargetLanguage, TranslationJob};
use crate::ports::{Translator, TranslatorRequest};
use crate::translation::TranslationsMessage;

/// The time limit in `config`.
const LIMIT: Duration = Duration::from_secs(30);

/// What the translator does with its next call. Without a plan it translates.
enum Plan {
    Fail,
    Hang,
    Panic,
}

#[derive(Default)]
struct Script {
    plans: Mutex<VecDeque<Plan>>,
    calls: Mutex<Vec<TranslatorRequest>>,
    running: AtomicUsize,
}

impl Script {
    fn plan(&self, plan: Plan) {
        lock(&self.plans).push_back(plan);
    }

    fn calls(&self) -> Vec<TranslatorRequest> {
        lock(&self.calls).clone()
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

/// Counts a call while it runs.
struct Call<'a>(&'a AtomicUsize);

impl<'a> Call<'a> {
    fn begin(running: &'a AtomicUsize) -> Self {
        running.fetch_add(1, Ordering::SeqCst);
        Self(running)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Translator for Script {
    fn source_code(&self, language: &str) -> String {
        language.to_owned()
    }

    async fn translate(&self, request: TranslatorRequest) -> Result<Vec<String>, TranslatorError> {
        let _call = Call::begin(&self.running);
        lock(&self.calls).push(request.clone());
        let plan = lock(&self.plans).pop_front();
        match plan {
            None => {
                tokio::time::sleep(WORK).await;
                let texts = request.texts.iter();
                Ok(texts
                    .map(|text| format!("{}:{text}", request.target))
                    .collect())
            }
            Some(Plan::Fail) => Err(TranslatorError::Unreachable("scripted".to_owned())),
            Some(Plan::Hang) => std::future::pending().await,
            Some(Plan::Panic) => panic!("scripted"),
        }
    }
}

async fn tree() -> (Tree, Arc<Script>) {
    let script = Arc::<Script>::default();
    let port: Arc<dyn Translator> = Arc::clone(&script) as _;
    let tree = Tree::start_with(config(0), vec![], |ports| ports.translator = Some(port)).await;
    tree.stt.ready().await.expect("ready");
    (tree, script)
}

fn german() -> TargetLanguage {
    TargetLanguage {
        code: "de".to_owned(),
        language: "de".to_owned(),
    }
}

impl Tree {
    /// Transcribes two chunks and translates them to German.
    async fn translated(&self) -> Result<Transcript, TranslationError> {
        let pending = self.stt.expect_translation().expect("a translator");
        let transcript = self.submit("2").await.expect("accepted").transcript().await;
        let job = TranslationJob {
            request_id: Arc::from("test"),
            transcript: transcript.expect("transcribed"),
            target: german(),
            mixed: false,
        };
        pending.translate(job).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_transcript_is_translated_in_one_call_and_keeps_its_times() {
    let (tree, script) = tree().await;
    let original = tree.submit("2").await.expect("accepted").transcript().await;
    let original = original.expect("transcribed");
    let translated = tree.translated().await.expect("translated");
    assert_eq!(translated.text(), "de:0 de:1");
    assert_eq!(translated.language, "de");
    let times = |transcript: &Transcript| -> Vec<(u64, u64)> {
        let segments = transcript.segments.iter();
        segments
            .map(|s| (s.start.to_bits(), s.end.to_bits()))
            .collect()
    };
    assert_eq!(times(&translated), times(&original));
    let [call] = &script.calls()[..] else {
        panic!("{:?}", script.calls());
    };
    assert_eq!(call.texts, ["0", "1"]);
    assert_eq!(call.source, Some(original.language));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_transcript_in_the_target_language_causes_no_call() {
    let (tree, script) = tree().await;
    for (language, segments) in [("de", true), ("en", false)] {
        let stream = tree.submit("1").await.expect("accepted");
        let mut transcript = stream.transcript().await.expect("transcribed");
        language.clone_into(&mut transcript.language);
        if !segments {
            transcript.segments.clear();
        }
        let job = TranslationJob {
            request_id: Arc::from("test"),
            transcript: transcript.clone(),
            target: german(),
            mixed: false,
        };
        let pending = tree.stt.expect_translation().expect("a translator");
        let translated = pending.translate(job).await.expect("translated");
        assert_eq!(translated.text(), transcript.text());
        assert_eq!(translated.language, "de");
    }
    assert_eq!(script.calls(), []);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_and_a_panic_of_the_translator_fail_one_request_each() {
    let (tree, script) = tree().await;
    let actor = tree.children::<TranslationsMessage>().remove(0);
    script.plan(Plan::Fail);
    let error = TranslatorError::Unreachable("scripted".to_owned());
    assert_eq!(tree.translated().await, Err(error.into()));
    script.plan(Plan::Panic);
    assert_eq!(tree.translated().await, Err(TranslationError::Panicked));
    assert_eq!(
        tree.translated().await.expect("translated").text(),
        "de:0 de:1"
    );
    // The actor itself has survived both.
    let now = tree.children::<TranslationsMessage>().remove(0);
    assert_eq!(now.get_id(), actor.get_id());
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_call_ends_at_the_time_limit_and_delays_no_other() {
    let (tree, script) = tree().await;
    script.plan(Plan::Hang);
    let hanging = tree.translated();
    let other = async {
        eventually("a call hangs", || script.running() == 1).await;
        let begin = tokio::time::Instant::now();
        tree.translated().await.expect("translated");
        assert!(begin.elapsed() < LIMIT / 2);
        assert_eq!(script.running(), 1);
    };
    let (hanging, ()) = tokio::join!(hanging, other);
    assert_eq!(hanging, Err(TranslationError::TimedOut { limit: LIMIT }));
    assert_eq!(script.running(), 0);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_its_call() {
    let (tree, script) = tree().await;
    script.plan(Plan::Hang);
    let left = tokio::time::timeout(LIMIT / 2, tree.translated()).await;
    assert!(left.is_err(), "{left:?}");
    eventually("the call is cancelled", || script.running() == 0).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_fails_is_replaced_and_its_requests_hear_of_it() {
    let (tree, script) = tree().await;
    script.plan(Plan::Hang);
    let kill = async {
        eventually("a call hangs", || script.running() == 1).await;
        tree.break_and_replace::<TranslationsMessage>().await;
    };
    let (lost, ()) = tokio::join!(tree.translated(), kill);
    assert!(matches!(lost, Err(TranslationError::Lost(_))), "{lost:?}");
    assert_eq!(script.running(), 0);
    assert_eq!(
        tree.translated().await.expect("translated").text(),
        "de:0 de:1"
    );
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_pending_translation() {
    let (tree, _script) = tree().await;
    let drain = async {
        tree.until_a_chunk_runs().await;
        tree.stt.drain(Duration::from_secs(600));
    };
    let (translated, ()) = tokio::join!(tree.translated(), drain);
    assert_eq!(translated.expect("translated").text(), "de:0 de:1");
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_interrupts_a_translation_that_outlasts_the_grace() {
    let (mut tree, script) = tree().await;
    script.plan(Plan::Hang);
    let begin = tokio::time::Instant::now();
    let drain = async {
        eventually("a call hangs", || script.running() == 1).await;
        tree.stt.drain(LIMIT / 3);
    };
    let (lost, ()) = tokio::join!(tree.translated(), drain);
    assert!(matches!(lost, Err(TranslationError::Lost(_))), "{lost:?}");
    tree.ended.wait().await;
    assert!(begin.elapsed() < LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_pending_translation_that_is_dropped_does_not_hold_up_a_drain() {
    let (tree, _script) = tree().await;
    let pending = tree.stt.expect_translation().expect("a translator");
    tree.stt.drain(Duration::from_secs(600));
    eventually("it drains", || tree.stt.snapshot().draining).await;
    drop(pending);
    let begin = tokio::time::Instant::now();
    tree.end().await;
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_the_tree_a_translation_is_an_error() {
    let (tree, _script) = tree().await;
    let pending = tree.stt.expect_translation().expect("a translator");
    let stream = tree.submit("1").await.expect("accepted");
    let transcript = stream.transcript().await.expect("transcribed");
    let mut ended = tree.ended;
    // Asking twice ends the grace.
    tree.stt.drain(Duration::from_secs(600));
    tree.stt.drain(Duration::from_secs(600));
    ended.wait().await;
    let job = TranslationJob {
        request_id: Arc::from("test"),
        transcript,
        target: german(),
        mixed: false,
    };
    let lost = pending.translate(job).await;
    assert!(matches!(lost, Err(TranslationError::Lost(_))), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_translator_no_translation_is_offered() {
    let tree = Tree::ready(vec![]).await;
    assert!(!tree.stt.has_translator() && tree.stt.expect_translation().is_none());
    assert!(tree.children::<TranslationsMessage>().is_empty());
    tree.end().await;
}
