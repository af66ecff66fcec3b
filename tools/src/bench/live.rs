//! Voice commands over the Wyoming protocol at the speed of real time, with the silence after them with which Home
//! Assistant ends a command: the time from the end of the audio until the text. Also while our own system transcribes
//! the long file.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::client::{Answer, Target};
use super::recordings::Recording;
use super::run::Run;
use super::sample::{Outcome, Quantity};
use crate::probe::wyoming::{self, RATE};

/// The two lengths of commands, in seconds, and what is measured with each.
const LENGTHS: [(f64, Quantity); 2] = [
    (2.0, Quantity::LiveShortSeconds),
    (6.0, Quantity::LiveLongSeconds),
];
/// Clips of each length.
const CLIPS: usize = 10;
/// Silence after a command, in seconds.
const SILENCE: f64 = 0.7;
/// Time between the long file and the first command, so that the system is already transcribing the file.
const HEAD_START: Duration = Duration::from_millis(500);

/// A command as samples.
struct Spoken {
    recording: Recording,
    samples: Vec<i16>,
}

/// Sends every command to all systems that speak Wyoming before the next one.
pub async fn measure(run: &mut Run) {
    let mut commands = Vec::new();
    for (seconds, quantity) in LENGTHS {
        for recording in nearest(&run.recordings.short, seconds) {
            match spoken(recording).await {
                Ok(command) => commands.push((quantity, command)),
                Err(error) => run.progress.say(&format!("{error:#}")),
            }
        }
    }
    let steps = commands.len() * speakers(run, 0).len();
    run.progress.begin("live commands", steps);
    for (round, (quantity, command)) in commands.iter().enumerate() {
        for index in speakers(run, round) {
            say(run, index, command, *quantity, round).await;
            run.progress.step();
        }
    }
    during_a_long_file(run, &commands).await;
}

/// The systems that speak Wyoming, the first one rotating.
fn speakers(run: &Run, turn: usize) -> Vec<usize> {
    let mut order = run.order(turn);
    order.retain(|index| run.systems[*index].wyoming.is_some());
    order
}

/// The clips whose length is nearest to this one.
fn nearest(clips: &[Recording], seconds: f64) -> Vec<Recording> {
    let mut clips = clips.to_vec();
    let off = |clip: &Recording| (clip.seconds - seconds).abs();
    clips.sort_by(|a, b| off(a).total_cmp(&off(b)));
    clips.truncate(CLIPS);
    clips
}

/// Decodes a recording and appends the silence.
async fn spoken(recording: Recording) -> anyhow::Result<Spoken> {
    let rate = RATE.to_string();
    let mut ffmpeg = Command::new("ffmpeg")
        .args([
            "-v", "error", "-i", "-", "-ac", "1", "-ar", &rate, "-f", "s16le", "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start ffmpeg")?;
    let mut input = ffmpeg.stdin.take().context("ffmpeg has no input")?;
    let audio = recording.audio.clone();
    let writing = tokio::spawn(async move { input.write_all(&audio).await });
    let output = ffmpeg.wait_with_output().await?;
    // ffmpeg may stop reading before the end.
    let _ = writing.await;
    ensure!(
        output.status.success(),
        "{} cannot be decoded",
        recording.name
    );
    let pairs = output.stdout.chunks_exact(2);
    let mut samples: Vec<i16> = pairs
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let silence = (SILENCE * f64::from(RATE)) as usize;
    samples.extend(std::iter::repeat_n(0, silence));
    Ok(Spoken { recording, samples })
}

async fn say(run: &mut Run, index: usize, command: &Spoken, quantity: Quantity, round: usize) {
    let Some(address) = run.systems[index].wyoming.clone() else {
        return;
    };
    let limit = run.extent.limit;
    let language = command.recording.language.as_deref();
    let saying = wyoming::say(&address, &command.samples, language);
    let answer = match tokio::time::timeout(limit, saying).await {
        Ok(Ok(heard)) => Answer {
            outcome: Outcome::Measured(heard.delay.as_secs_f64()),
            text: Some(heard.text),
        },
        Ok(Err(error)) => Answer {
            outcome: Outcome::Failed(format!("{error:#}")),
            text: None,
        },
        Err(_elapsed) => Answer {
            outcome: Outcome::MoreThan(limit.as_secs_f64()),
            text: None,
        },
    };
    run.keep(index, &command.recording, quantity, round, answer);
}

/// Sends commands to our own system until the long file is done.
async fn during_a_long_file(run: &mut Run, commands: &[(Quantity, Spoken)]) {
    let ours = speakers(run, 0)
        .into_iter()
        .find(|index| run.systems[*index].spec.ours);
    let Some(index) = ours else { return };
    run.progress.begin("live commands during a long file", 1);
    let (long, limit) = (run.recordings.long.clone(), run.extent.limit);
    let target = Target::of(&run.systems[index], &run.client);
    let mut running = JoinSet::new();
    running.spawn(async move { target.ask(&long, limit).await });
    let mut is_done = tokio::time::timeout(HEAD_START, running.join_next())
        .await
        .is_ok();
    for (round, (_, command)) in commands.iter().cycle().enumerate() {
        is_done |= running.try_join_next().is_some();
        if is_done {
            break;
        }
        say(run, index, command, Quantity::LiveBusySeconds, round).await;
    }
    run.progress.step();
}
