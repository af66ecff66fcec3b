//! Live sessions: turns, text before it is asked for, and what live work does to other work.

use super::*;

use std::sync::atomic::AtomicUsize;

use crate::LiveEvents;
use crate::LiveInput;
use crate::domain::error::LiveError;
use crate::domain::live::{
    LiveClient, LiveEnd, LiveEvent, LiveOptions, PcmEncoding, PcmFormat, TurnDetection, TurnId,
};
use crate::live::sessions::LiveSessionsMessage;
use crate::request::transcriptions::TranscriptionsMessage;

const SAID: u8 = 250;
/// A second of speech or silence, in frames.
const SECOND: usize = 31;

/// One byte is a frame.
const FORMAT: PcmFormat = PcmFormat {
    encoding: PcmEncoding::Integer,
    width: 1,
    rate: 31,
    channels: 1,
};

fn options(turns: TurnDetection) -> LiveOptions {
    LiveOptions {
        format: FORMAT,
        options: Options {
            language: Some("en".to_owned()),
            ..Options::default()
        },
        turns,
        partials: false,
    }
}

const HALF_A_SECOND: TurnDetection = TurnDetection::Silence {
    threshold: 0.5,
    prefix: Duration::ZERO,
    silence: Duration::from_millis(512),
};

fn client() -> LiveClient {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    LiveClient {
        priority: crate::Priority::default(),
        session_id: format!("live-{number}").into(),
        is_in_turn: false,
    }
}

struct Session {
    input: LiveInput,
    events: LiveEvents,
}

impl Session {
    async fn open(tree: &Tree, options: LiveOptions) -> Self {
        let opened = tree.stt.open_live(client(), options).await;
        let (input, events) = opened.expect("a session");
        Self { input, events }
    }

    /// Sends frames at the speed of real time.
    async fn say(&self, frames: usize, speech: u8) {
        for _ in 0..frames {
            self.input.push(&[speech]).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(32)).await;
        }
    }

    async fn next(&mut self) -> LiveEvent {
        self.events.next().await.expect("an event")
    }

    /// The text of the next completed turn, and the deltas before it.
    async fn completed(&mut self) -> (TurnId, String, Vec<String>) {
        let mut deltas = Vec::new();
        loop {
            match self.next().await {
                LiveEvent::Delta { text, .. } => deltas.push(text),
                LiveEvent::Completed { turn, result } => {
                    return (turn, result.expect("a text").text(), deltas);
                }
                LiveEvent::Ended(end) => panic!("{end:?}"),
                LiveEvent::SpeechStarted { .. }
                | LiveEvent::SpeechStopped { .. }
                | LiveEvent::Committed(_) => {}
            }
        }
    }

    /// The time from now until the next turn is completed.
    async fn delay(&mut self) -> Duration {
        let before = tokio::time::Instant::now();
        self.completed().await;
        before.elapsed()
    }
}

fn text(frames: usize) -> String {
    live_text(frames).trim().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_command_is_ready_when_its_silence_is_over() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(60, SAID).await;
    // The engine needs a second; the pass begins after a quarter of it.
    session.say(60, 0).await;
    session.input.commit().expect("sent");
    let before = tokio::time::Instant::now();
    let (turn, said, deltas) = session.completed().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!((turn, said), (TurnId(1), text(68)));
    assert_eq!(deltas, [text(68)]);
    assert_eq!(tree.world.launched().len(), 1);
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_turns_and_each_gets_its_events_in_order() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(HALF_A_SECOND)).await;
    session.say(10, 0).await;
    session.say(20, SAID).await;
    session.say(40, 0).await;
    let at = |frames: u64| Duration::from_millis(32 * frames);
    let turn = TurnId(1);
    assert_eq!(
        session.next().await,
        LiveEvent::SpeechStarted { turn, at: at(10) }
    );
    let stopped = LiveEvent::SpeechStopped { turn, at: at(46) };
    assert_eq!(session.next().await, stopped);
    assert_eq!(session.next().await, LiveEvent::Committed(turn));
    let text = text(28);
    let delta = LiveEvent::Delta { turn, text };
    assert_eq!(session.next().await, delta);
    let LiveEvent::Completed { turn: of, result } = session.next().await else {
        panic!("not completed");
    };
    let transcript = result.expect("a transcript");
    assert_eq!(of, turn);
    // Its times count from the start of the session.
    assert!((transcript.segments[0].start - 0.32).abs() < 1e-9);
    session.say(20, SAID).await;
    session.say(40, 0).await;
    assert_eq!(session.completed().await.0, TurnId(2));
    session.input.finish().expect("sent");
    assert_eq!(session.next().await, LiveEvent::Ended(LiveEnd::Finished));
    assert_eq!(session.events.next().await, None);
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_without_speech_has_an_empty_text_and_costs_no_inference() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(3 * SECOND, 0).await;
    session.input.commit().expect("sent");
    assert_eq!(
        session.completed().await,
        (TurnId(1), String::new(), vec![])
    );
    // Without any audio as well.
    session.input.commit().expect("sent");
    assert_eq!(
        session.completed().await,
        (TurnId(2), String::new(), vec![])
    );
    assert_eq!(tree.stt.snapshot().finished_hot_chunks, 0);
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_live_turn_waits_for_one_chunk_of_a_long_file_and_a_guess_for_all_of_them() {
    let tree = Tree::ready(vec![]).await;
    let long = tree.submit("30").await.expect("accepted");
    tree.until_a_chunk_runs().await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(60, SAID).await;
    session.say(60, 0).await;
    // The long file has chunks waiting all the time, so that nothing was transcribed in the silence.
    session.input.commit().expect("sent");
    let delay = session.delay().await;
    assert!(delay <= WORK * 2, "{delay:?}");
    assert!(delay >= WORK, "{delay:?}");
    assert_eq!(tree.world.count(&Seen::Aborted), 0);
    drop((session, long));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_guess_gives_its_lane_to_work_that_waits_and_its_turn_still_gets_its_text() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(60, SAID).await;
    session.say(12, 0).await;
    assert_eq!(tree.stt.snapshot().busy_lanes, 1);
    // It counts for nothing: no wait, no load, no cold worker.
    assert_eq!(
        tree.stt.snapshot().remaining,
        crate::status::load::Load::default()
    );
    let before = tokio::time::Instant::now();
    assert_eq!(tree.text("1").await.expect("a text"), "0");
    assert_eq!(before.elapsed(), WORK, "it did not wait");
    assert_eq!(tree.world.count(&Seen::Aborted), 1);
    session.input.commit().expect("sent");
    assert_eq!(session.completed().await.1, text(68));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn speech_that_goes_on_cancels_the_guess() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(30, SAID).await;
    session.say(10, 0).await;
    session.say(40, SAID).await;
    assert_eq!(tree.world.count(&Seen::Aborted), 1);
    session.say(10, 0).await;
    session.input.commit().expect("sent");
    assert_eq!(session.completed().await.1, text(88));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn words_on_which_two_passes_agree_are_sent_while_the_client_speaks() {
    let tree = Tree::ready(vec![]).await;
    let partial = LiveOptions {
        partials: true,
        ..options(HALF_A_SECOND)
    };
    let mut session = Session::open(&tree, partial).await;
    let speaking = async {
        session.say(200, SAID).await;
        session.say(40, 0).await;
    };
    speaking.await;
    let (_, said, deltas) = session.completed().await;
    assert_eq!(said, text(208));
    assert_eq!(deltas.concat(), said, "nothing was taken back");
    // Passes of a second, over 6.4 s of speech.
    assert!(deltas.len() >= 4, "{deltas:?}");
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn passes_over_growing_speech_leave_the_lane_to_other_work() {
    let tree = Tree::ready(vec![]).await;
    let partial = LiveOptions {
        partials: true,
        ..options(HALF_A_SECOND)
    };
    let session = Session::open(&tree, partial).await;
    session.say(40, SAID).await;
    assert_eq!(tree.stt.snapshot().busy_lanes, 1);
    let before = tokio::time::Instant::now();
    assert_eq!(tree.text("1").await.expect("a text"), "0");
    assert_eq!(before.elapsed(), WORK);
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_sentence_ends_a_turn_early_and_half_of_one_does_not() {
    let turns = TurnDetection::Sentence {
        longest: Duration::from_secs(8),
    };
    // With the pause, 40 frames are four words, and 50 are five with a full stop.
    for (frames, silence) in [(32, 8.0), (42, 1.28)] {
        let tree = Tree::ready(vec![]).await;
        let mut session = Session::open(&tree, options(turns)).await;
        session.say(frames, SAID).await;
        session.say(9 * SECOND, 0).await;
        let stopped = loop {
            if let LiveEvent::SpeechStopped { at, .. } = session.next().await {
                break at;
            }
        };
        let after = stopped.as_secs_f64() - frames as f64 * 0.032;
        assert!((after - silence).abs() < 0.1, "{after} s for {frames}");
        drop(session);
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_turn_is_transcribed_in_parts_while_it_is_spoken() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    for _ in 0..5 {
        session.say(15 * SECOND, SAID).await;
        session.say(3 * SECOND, 0).await;
    }
    session.input.commit().expect("sent");
    let (turn, said, deltas) = session.completed().await;
    assert_eq!((turn, deltas.len()), (TurnId(1), 5));
    assert_eq!(deltas.concat(), said);
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_utterance_gets_its_text_after_workers_dispatcher_and_transcriptions_died() {
    let plans = vec![ChunkPlan::Die(killed())];
    let tree = Tree::ready(vec![LaunchPlan::Up(plans)]).await;
    let mut session = Session::open(&tree, options(HALF_A_SECOND)).await;
    session.say(30, SAID).await;
    session.say(20, 0).await;
    assert_eq!(session.completed().await.1, text(38));
    for what in [0, 1] {
        session.say(30, SAID).await;
        session.say(10, 0).await;
        // It is being transcribed.
        match what {
            0 => tree.break_and_replace::<DispatcherMessage>().await,
            _ => tree.break_and_replace::<TranscriptionsMessage>().await,
        }
        session.say(10, 0).await;
        let (_, said, _) = session.completed().await;
        assert!(said.starts_with(&text(30)), "{said}");
    }
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn audio_that_crashes_engines_fails_its_turn_and_not_the_session() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(HALF_A_SECOND)).await;
    session.say(1, POISONED_FRAME).await;
    session.say(30, SAID).await;
    session.say(20, 0).await;
    let failed = loop {
        if let LiveEvent::Completed { result, .. } = session.next().await {
            break result;
        }
    };
    assert!(matches!(failed, Err(SttError::Poison { .. })), "{failed:?}");
    session.say(30, SAID).await;
    session.say(20, 0).await;
    assert_eq!(session.completed().await.0, TurnId(2));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_fails_breaks_off_alone() {
    let tree = Tree::ready(vec![]).await;
    let mut one = Session::open(&tree, options(HALF_A_SECOND)).await;
    let mut other = Session::open(&tree, options(HALF_A_SECOND)).await;
    eventually("both are open", || tree.stt.snapshot().live_sessions == 2).await;
    let sessions = tree.children::<LiveSessionsMessage>().remove(0);
    sessions.get_children().remove(0).kill();
    eventually("one is left", || tree.stt.snapshot().live_sessions == 1).await;
    let ended = [
        one.events.next().await,
        other
            .input
            .commit()
            .ok()
            .map(|()| LiveEvent::Committed(TurnId(0))),
    ];
    let survivors = ended.iter().flatten().count();
    assert_eq!(survivors, 1, "{ended:?}");
    if ended[0].is_none() {
        assert_eq!(other.completed().await.1, "");
    }
    // All of them end with their supervisor, which is replaced.
    tree.break_and_replace::<LiveSessionsMessage>().await;
    let mut again = Session::open(&tree, options(HALF_A_SECOND)).await;
    again.input.commit().expect("sent");
    assert_eq!(again.completed().await.1, "");
    drop((one, other, again));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_are_limited_and_a_client_that_leaves_frees_its_place() {
    let tree = Tree::ready(vec![]).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Session::open(&tree, options(HALF_A_SECOND)).await);
    }
    let refused = tree.stt.open_live(client(), options(HALF_A_SECOND)).await;
    assert_eq!(refused.err(), Some(LiveError::TooMany { limit: 8 }));
    open.pop();
    eventually("its place is free", || {
        tree.stt.snapshot().live_sessions == 7
    })
    .await;
    let bad = LiveOptions {
        format: PcmFormat {
            channels: 0,
            ..FORMAT
        },
        ..options(HALF_A_SECOND)
    };
    let refused = tree.stt.open_live(client(), bad).await.err();
    assert!(matches!(refused, Some(LiveError::Format(_))), "{refused:?}");
    drop(open);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_cancels_its_work() {
    let tree = Tree::ready(vec![]).await;
    let session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(30, SAID).await;
    session.input.commit().expect("sent");
    tree.until_a_chunk_runs().await;
    drop(session);
    eventually("it is aborted", || tree.world.count(&Seen::Aborted) == 1).await;
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_and_one_with_audio_does_not() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(HALF_A_SECOND)).await;
    session.say(400 * SECOND, 0).await;
    tokio::time::sleep(Duration::from_secs(299)).await;
    session.input.push(&[0]).await.expect("it runs");
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(session.next().await, LiveEvent::Ended(LiveEnd::Idle));
    assert!(session.input.push(&[0]).await.is_err());
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_audio_waits_and_stays_bounded() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Hang; 1])]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    // Half an hour at once, with a pause after every ten seconds.
    let ten_seconds = [vec![SAID; 10 * SECOND], vec![0; 3 * SECOND]].concat();
    let flood = ten_seconds.repeat(150);
    let sending = tokio::time::timeout(Duration::from_secs(30), session.input.push(&flood));
    assert!(
        sending.await.is_err(),
        "the lane hangs, so the client waits"
    );
    assert!(tree.stt.snapshot().requests <= 16);
    session.input.clear().expect("sent");
    session.input.commit().expect("sent");
    assert_eq!(session.completed().await.1, "");
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_floods_does_not_delay_the_turn_of_another() {
    let tree = Tree::ready(vec![]).await;
    let flooding = Session::open(&tree, options(TurnDetection::Manual)).await;
    let mut other = Session::open(&tree, options(TurnDetection::Manual)).await;
    let flood = [vec![SAID; 10 * SECOND], vec![0; 3 * SECOND]]
        .concat()
        .repeat(20);
    let commanding = async {
        other.say(30, SAID).await;
        other.say(20, 0).await;
        other.input.commit().expect("sent");
        other.delay().await
    };
    let (sent, delay) = tokio::join!(flooding.input.push(&flood), commanding);
    sent.expect("sent");
    // Its own second of work, and the chunk that ran.
    assert!(delay <= WORK * 2, "{delay:?}");
    drop((flooding, other));
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_to_send_hears_that_its_session_failed() {
    let tree = Tree::ready(vec![LaunchPlan::Up(vec![ChunkPlan::Hang; 1])]).await;
    let session = Session::open(&tree, options(TurnDetection::Manual)).await;
    let flood = [vec![SAID; 10 * SECOND], vec![0; 3 * SECOND]]
        .concat()
        .repeat(150);
    let sending = session.input.push(&flood);
    let failing = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let sessions = tree.children::<LiveSessionsMessage>().remove(0);
        sessions.get_children().remove(0).kill();
    };
    let (sent, ()) = tokio::join!(sending, failing);
    assert_eq!(sent, Err(LiveError::Lost));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_a_model_that_loads() {
    let tree = Tree::start(vec![]).await;
    let mut session = Session::open(&tree, options(HALF_A_SECOND)).await;
    session.say(20, SAID).await;
    session.say(20, 0).await;
    assert_eq!(session.completed().await.1, text(28));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_waits_for_a_model_that_loads_even_if_its_guess_could_not() {
    let tree = Tree::start(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    // Without time in between: the guess fails after the turn has ended.
    let frames: Vec<u8> = [vec![SAID; 60], vec![0; 20]].concat();
    session.input.push(&frames).await.expect("sent");
    session.input.commit().expect("sent");
    assert_eq!(session.completed().await.1, text(68));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_asleep_loads_while_the_client_speaks() {
    let limits = TreeConfig {
        hot_idle_limit: Some(Duration::from_secs(10)),
        ..config(0)
    };
    let tree = Tree::ready_with(limits, vec![]).await;
    eventually("it sleeps", || {
        matches!(tree.stt.snapshot().hot, crate::HotState::Asleep(_))
    })
    .await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(100, SAID).await;
    session.say(60, 0).await;
    session.input.commit().expect("sent");
    assert_eq!(session.delay().await, Duration::ZERO);
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_end_of_a_turn_and_gives_it_its_text_first() {
    for turns in [TurnDetection::Manual, HALF_A_SECOND] {
        let tree = Tree::ready(vec![]).await;
        let mut session = Session::open(&tree, options(turns)).await;
        session.say(30, SAID).await;
        let before = tokio::time::Instant::now();
        tree.stt.drain(Duration::from_secs(60));
        eventually("it drains", || tree.stt.snapshot().draining).await;
        session.say(30, SAID).await;
        if turns == TurnDetection::Manual {
            session.input.commit().expect("sent");
        } else {
            session.say(20, 0).await;
        }
        assert_eq!(session.completed().await.1, text(60));
        assert_eq!(session.next().await, LiveEvent::Ended(LiveEnd::Draining));
        assert!(before.elapsed() < Duration::from_secs(10));
        drop(session);
        tree.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_turn_whose_audio_is_announced() {
    let tree = Tree::ready(vec![]).await;
    let speaker = LiveClient {
        is_in_turn: true,
        ..client()
    };
    let opened = tree.stt.open_live(speaker, options(TurnDetection::Manual));
    let (input, events) = opened.await.expect("opens");
    let mut session = Session { input, events };
    tree.stt.drain(Duration::from_secs(60));
    eventually("it drains", || tree.stt.snapshot().draining).await;
    session.say(30, SAID).await;
    session.input.commit().expect("sent");
    assert_eq!(session.completed().await.1, text(30));
    assert_eq!(session.next().await, LiveEvent::Ended(LiveEnd::Draining));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_turn_that_does_not_end() {
    let tree = Tree::ready(vec![]).await;
    let mut idle = Session::open(&tree, options(HALF_A_SECOND)).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(30, SAID).await;
    let before = tokio::time::Instant::now();
    tree.stt.drain(Duration::from_secs(60));
    // No turn is open here.
    assert_eq!(idle.next().await, LiveEvent::Ended(LiveEnd::Draining));
    assert!(before.elapsed() < Duration::from_secs(1));
    drop(idle);
    assert_eq!(session.completed().await.1, text(30));
    assert!(before.elapsed() >= Duration::from_secs(10));
    assert_eq!(session.next().await, LiveEvent::Ended(LiveEnd::Draining));
    let refused = tree.stt.open_live(client(), options(HALF_A_SECOND)).await;
    assert_eq!(refused.err(), Some(LiveError::Draining));
    drop(session);
    tree.end().await;
}

#[tokio::test(start_paused = true)]
async fn options_may_change_between_turns() {
    let tree = Tree::ready(vec![]).await;
    let mut session = Session::open(&tree, options(TurnDetection::Manual)).await;
    session.say(30, SAID).await;
    session.input.commit().expect("sent");
    session.completed().await;
    let mut german = options(HALF_A_SECOND);
    german.options.language = Some("de".to_owned());
    session.input.configure(german).expect("sent");
    session.say(30, SAID).await;
    session.say(20, 0).await;
    session.completed().await;
    let languages = tree.world.seen().into_iter().filter_map(|seen| match seen {
        Seen::Chunk { language, .. } => Some(language),
        _ => None,
    });
    let languages: Vec<_> = languages.flatten().collect();
    assert_eq!(languages, ["en", "de"]);
    let mut bad = options(HALF_A_SECOND);
    bad.format.channels = 0;
    assert!(session.input.configure(bad).is_err());
    drop(session);
    tree.end().await;
}
