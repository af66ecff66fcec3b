//! Listens with a tree of its own.

use std::sync::Arc;
use std::time::Duration;

use stt_actors::domain::live::{LiveClient, LiveEvent, LiveOptions, PcmFormat, TurnDetection};
use stt_actors::{LiveEvents, LiveInput, Options, Priority, Stt};

use super::{ListenArgs, Printer, Source};
use crate::cli::transcribe::ensure_voice_activity;
use crate::serve::{Neighbours, start_tree};
use crate::settings::Settings;
use crate::shutdown::StopSignals;

/// The probability from which on audio is speech.
const THRESHOLD: f32 = 0.5;
/// Audio before the speech that belongs to a turn.
const PREFIX: Duration = Duration::from_millis(300);

pub(super) async fn listen(
    settings: &Settings,
    args: &ListenArgs,
    signals: StopSignals,
) -> anyhow::Result<()> {
    ensure_voice_activity(settings).await;
    let (stt, mut tree_ended) = start_tree(settings, Neighbours::of_command(settings)?).await?;
    let result = tokio::select! {
        result = session(&stt, settings, args, signals) => result,
        () = tree_ended.wait() => return Err(anyhow::anyhow!("the supervision tree ended unexpectedly")),
    };
    stt.drain(Duration::ZERO);
    tree_ended.wait().await;
    result
}

async fn session(
    stt: &Stt,
    settings: &Settings,
    args: &ListenArgs,
    signals: StopSignals,
) -> anyhow::Result<()> {
    let mut source = Source::open(args, signals)?;
    stt.ready().await.map_err(anyhow::Error::msg)?;
    eprintln!("listening; Ctrl-C ends");
    let client = LiveClient {
        priority: Priority::Normal,
        session_id: Arc::from("listen"),
        is_in_turn: false,
    };
    let language = args.language.clone();
    let options = LiveOptions {
        format: PcmFormat::mono16(args.rate()),
        options: Options {
            language: language.or_else(|| settings.default_language.clone()),
            prompt: args.prompt.clone(),
            ..Options::default()
        },
        turns: TurnDetection::Silence {
            threshold: THRESHOLD,
            prefix: PREFIX,
            silence: args.silence(),
        },
        partials: true,
    };
    let (input, events) = stt.open_live(client, options).await?;
    let mut printer = Printer::new(args.json);
    tokio::select! {
        result = send(&input, &mut source) => result,
        result = print(events, &mut printer) => result,
    }
}

/// Sends the audio, then waits for a signal. The session ends when it has the text of what was said.
async fn send(input: &LiveInput, source: &mut Source) -> anyhow::Result<()> {
    while let Some(samples) = source.next().await? {
        input.push(&samples).await?;
    }
    input.finish()?;
    source.next().await.map(drop)
}

async fn print(mut events: LiveEvents, printer: &mut Printer) -> anyhow::Result<()> {
    while let Some(event) = events.next().await {
        match event {
            LiveEvent::Delta { turn, text } => printer.delta(&turn.0.to_string(), &text)?,
            LiveEvent::Completed { turn, result } => {
                let turn = turn.0.to_string();
                match result {
                    Ok(transcript) => printer.completed(&turn, &transcript.text())?,
                    Err(error) => printer.failed(&turn, &error.to_string()),
                }
            }
            LiveEvent::Ended(_) => return Ok(()),
            LiveEvent::SpeechStarted { .. }
            | LiveEvent::SpeechStopped { .. }
            | LiveEvent::Committed(_) => {}
        }
    }
    anyhow::bail!("the live session broke off")
}
