//! `uttera-stt watch DIR`: has a server transcribe each recording that appears in a folder.
//!
//! Each file is a job, so that the server does it after other work. A job is deleted only after its result was written,
//! and a repeated upload of the same file is the same job: a restart of either program loses nothing.

mod files;
mod folder;
mod names;
mod trouble;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use uttera_stt_client::{Attempt, Client};

use super::server_key::server_key;
use super::transcribe::job::is_outage;
use super::transcribe::{extension, parse_format, parse_language, response_format};
use crate::render::Format;
use crate::shutdown::StopSignals;
use files::{Change, Files, Outcome, Version};
use folder::Event;
use trouble::Trouble;
use work::Work;

/// Arguments of `uttera-stt watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// The folder with the recordings; folders in it are not read.
    folder: PathBuf,
    /// Write each result into this folder, which may be that of the recordings. A file whose result is there already is
    /// skipped. The reason why a file failed is written there, too, with the ending .error; remove that file to try again.
    #[arg(long)]
    out: PathBuf,
    /// Output format: txt, json, verbose_json, srt or vtt.
    #[arg(long, default_value = "srt", value_parser = parse_format)]
    format: Format,
    /// Spoken language (default: detected).
    #[arg(long, value_parser = parse_language)]
    language: Option<String>,
    /// The server. Its key comes from the environment variable UTTERA_API_KEY.
    #[arg(long, default_value = "http://127.0.0.1:9005")]
    url: String,
    /// Environment variable with the server's key, in place of UTTERA_API_KEY.
    #[arg(long, value_name = "NAME")]
    api_key_env: Option<String>,
    /// Also transcribe files with this ending, for example dss; may be given more than once.
    #[arg(long, value_name = "NAME")]
    ending: Vec<String>,
    /// How many seconds a file must stay the same to count as complete, if no program on this machine wrote it since the
    /// start: files that were there before, and those that other machines write to a network file system.
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    quiet_seconds: u64,
    /// Transcribe the files that are there, as soon as they are complete, and exit.
    #[arg(long)]
    once: bool,
}

/// Transcribes files until Ctrl-C or SIGTERM.
///
/// # Errors
/// A folder cannot be used; with `--once`, also: a file failed, or a signal came first.
pub async fn watch(args: WatchArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let mut rescans = tokio::time::interval(Duration::from_secs(args.quiet_seconds));
    // Two rescans are never closer.
    rescans.set_missed_tick_behavior(MissedTickBehavior::Delay);
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    // Before the folder is read, so that no file is missed.
    let mut events = folder::events(&args.folder)?;
    let mut watcher = Watcher::new(args)?;
    loop {
        tokio::select! {
            signal = signals.next() => {
                ensure!(!watcher.args.once, "{signal} before all files were transcribed");
                return Ok(());
            }
            event = events.recv() => match event {
                Some(event) => watcher.event(event),
                None => bail!("{} cannot be watched any more", watcher.args.folder.display()),
            },
            _ = rescans.tick() => watcher.rescan(),
            Some(ended) = watcher.running.join_next() => watcher.ended(ended),
        }
        if watcher.args.once && watcher.is_done() {
            return watcher.verdict();
        }
    }
}

struct Watcher {
    args: WatchArgs,
    work: Arc<Work>,
    files: Files,
    running: JoinSet<(OsString, Outcome)>,
    was_read: bool,
    /// The folder could not be read at the last rescan.
    is_unreadable: bool,
    /// The files whose work ended without a result.
    failed: BTreeSet<OsString>,
    /// The recordings that cannot be examined. For each, the path that was reported: its own, or that of its result.
    unreadable: BTreeMap<OsString, PathBuf>,
    /// The folder of the results could not be read.
    is_out_away: bool,
}

impl Watcher {
    fn new(args: WatchArgs) -> anyhow::Result<Self> {
        let key = server_key(args.api_key_env.as_deref())?;
        let (trouble, is_once) = (Trouble::default(), args.once);
        let report = move |attempt: &Attempt<'_>| {
            // With `--once`, files that are rejected do not wait.
            if !is_once || attempt.error.is_none_or(is_outage) {
                trouble.attempt(attempt);
            }
        };
        let client = Client::builder(&args.url)
            .api_key(&key)
            .telemetry(report)
            .build()
            .context("--url")?;
        let format = response_format(args.format);
        let work = Work::new(client, format, args.language.clone(), args.once);
        Ok(Self {
            args,
            work: Arc::new(work),
            files: Files::default(),
            running: JoinSet::new(),
            was_read: false,
            is_unreadable: false,
            failed: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            is_out_away: false,
        })
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Lost => self.files.events_were_lost(),
            Event::File(name, change) => {
                if names::is_recording(&name, &self.args.ending) {
                    self.files.change(&name, change);
                    if change == Change::Gone {
                        self.unreadable.remove(&name);
                    }
                    if change == Change::Complete {
                        self.look(&name, false);
                    }
                }
            }
        }
    }

    /// Looks at all files.
    fn rescan(&mut self) {
        let names = match recordings(&self.args.folder, &self.args.ending) {
            Ok(names) => names,
            Err(error) => {
                if !self.is_unreadable {
                    let folder = self.args.folder.display();
                    tell(format_args!(
                        "{folder} cannot be read: {error}; trying again"
                    ));
                }
                self.is_unreadable = true;
                return;
            }
        };
        (self.was_read, self.is_unreadable) = (true, false);
        self.files.list(&names);
        self.unreadable.retain(|name, _| names.contains(name));
        for name in self.files.names() {
            self.look(&name, true);
        }
    }

    /// Sends a file to the server if it is complete and has no result.
    fn look(&mut self, name: &OsStr, is_rescan: bool) {
        let file = self.args.folder.join(name);
        let shares_stem = self.files.shares_stem(name);
        let extension = extension(self.args.format);
        let result = names::result(&self.args.out, name, extension, shares_stem);
        let version = match Version::of(&file) {
            Ok(Some(version)) => version,
            Ok(None) => {
                self.unreadable.remove(name);
                return self.files.forget(name);
            }
            Err(error) => return self.cannot_read(name, &file, &error),
        };
        if is_rescan {
            self.files.seen(name, version);
        }
        let has_result = match names::has_result(&result) {
            Ok(has_result) => has_result,
            // A result may be there, which must not be replaced.
            Err(error) => return self.cannot_look_for(name, &result, &error),
        };
        self.is_out_away = false;
        self.unreadable.remove(name);
        if self.files.take(name, version, has_result) {
            let (work, name) = (Arc::clone(&self.work), name.to_owned());
            self.running.spawn(async move {
                let outcome = AssertUnwindSafe(work.transcribe(&file, &result)).catch_unwind();
                (name, outcome.await.unwrap_or(Outcome::GivenUp(version)))
            });
        }
    }

    /// The system does not say whether there is a result. The next rescan looks again.
    fn cannot_look_for(&mut self, name: &OsStr, result: &Path, error: &io::Error) {
        let out = &self.args.out;
        if let Err(error) = std::fs::metadata(out) {
            if !self.is_out_away {
                let out = out.display();
                tell(format_args!("{out} cannot be read: {error}; trying again"));
            }
            self.is_out_away = true;
        } else {
            self.cannot_read(name, result, error);
        }
    }

    /// The system does not say what a recording is, or whether it has a result. The next rescan looks again.
    fn cannot_read(&mut self, name: &OsStr, path: &Path, error: &io::Error) {
        if is_lasting(error) {
            self.files.settle(name);
        }
        let told = self.unreadable.insert(name.to_owned(), path.to_owned());
        if told.as_deref() != Some(path) {
            tell(format_args!("{} cannot be read: {error}", path.display()));
        }
    }

    fn ended(&mut self, ended: Result<(OsString, Outcome), JoinError>) {
        // It neither panics nor is it aborted.
        if let Ok((name, outcome)) = ended {
            match outcome {
                Outcome::Failed(_) | Outcome::GivenUp(_) => {
                    self.failed.insert(name.clone());
                }
                Outcome::Transcribed(_) | Outcome::Gone => {
                    self.failed.remove(&name);
                }
                Outcome::Changed => {}
            }
            self.files.ended(&name, outcome);
            // It may have been changed and closed meanwhile.
            self.look(&name, false);
        }
    }

    fn is_done(&self) -> bool {
        self.was_read && self.running.is_empty() && self.files.are_settled()
    }

    fn verdict(&self) -> anyhow::Result<()> {
        // A file that became unreadable while its job ran has its result nevertheless.
        let unread = (self.unreadable.keys())
            .filter(|name| !self.failed.contains(*name) && !self.files.has_outcome(name));
        match self.failed.len() + unread.count() {
            0 => Ok(()),
            1 => bail!("a file failed"),
            failed => bail!("{failed} files failed"),
        }
    }
}

/// Tells the user. A closed or full standard error is no reason to stop.
fn tell(message: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// Whether the system will answer the same until somebody changes the file or its folder.
fn is_lasting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory
    ) || error.raw_os_error() == Some(nix::libc::ELOOP)
}

/// The names of the recordings in a folder.
fn recordings(folder: &Path, more: &[String]) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        if names::is_recording(&name, more) {
            names.insert(name);
        }
    }
    Ok(names)
}
