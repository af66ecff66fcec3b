//! `uttera-stt watch DIR`: has a server transcribe each file that appears in a folder.
//!
//! The kernel (inotify) says when a file is complete: when the program that wrote it closes it, or when it is moved into
//! the folder. Files that are there at the start count as complete if nothing has written to them for a while. Each file
//! is a job, so that the server does it after other work, and a restart of either program loses nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use uttera_stt_client::{Client, SpeechOptions};

use super::server_key::server_key;
use super::transcribe::{extension, finish_job, parse_format, parse_language, response_format};
use crate::render::Format;
use crate::shutdown::StopSignals;

/// A file that was there at the start is complete if it was written to before this time.
const QUIET: Duration = Duration::from_secs(10);
/// How often the folder is read beside the kernel's events: for those that were lost, and for files that were not quiet.
const RESCAN: Duration = Duration::from_secs(30);
/// Files that are with the server at the same time.
const AT_ONCE: usize = 4;
/// Endings of files that are not complete, or that this command writes.
const IGNORED: [&str; 10] = [
    "error",
    "part",
    "partial",
    "tmp",
    "crdownload",
    "json",
    "txt",
    "srt",
    "vtt",
    "log",
];

/// Arguments of `uttera-stt watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// The folder with the recordings; folders in it are not read.
    folder: PathBuf,
    /// Write each result into this folder. A file whose result is there already is skipped. The reason why a file failed
    /// is written there, too, with the ending .error; remove that file to try again.
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
    /// Transcribe the files that are there and complete, and exit.
    #[arg(long)]
    once: bool,
}

/// Transcribes files until Ctrl-C or SIGTERM.
///
/// # Errors
/// A folder cannot be used; with `--once`, also: a file failed.
pub async fn watch(args: WatchArgs) -> anyhow::Result<()> {
    let key = server_key(args.api_key_env.as_deref())?;
    let client = Client::builder(&args.url)
        .api_key(&key)
        .build()
        .context("--url")?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    // Before the folder is read, so that no file is missed.
    let mut complete = watch_folder(&args.folder)?;
    let mut watcher = Watcher {
        args: Arc::new(args),
        client,
        places: Arc::new(Semaphore::new(AT_ONCE)),
        taken: BTreeSet::new(),
        running: JoinSet::new(),
    };
    watcher.rescan()?;
    if watcher.args.once {
        return watcher.finish().await;
    }
    let mut signals = StopSignals::listen()?;
    let mut rescans = tokio::time::interval(RESCAN);
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            name = complete.recv() => match name {
                Some(path) => watcher.take(path),
                None => bail!("{} cannot be watched any more", watcher.args.folder.display()),
            },
            _ = rescans.tick() => watcher.rescan()?,
            Some(done) = watcher.running.join_next() => watcher.done(done),
        }
    }
}

/// Sends the path of each file that is complete. The channel closes when the folder is gone.
fn watch_folder(folder: &Path) -> anyhow::Result<mpsc::Receiver<PathBuf>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("cannot watch folders")?;
    let events =
        AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
    let watched = inotify.add_watch(folder, events);
    watched.with_context(|| folder.display().to_string())?;
    let (sender, receiver) = mpsc::channel(64);
    let folder = folder.to_owned();
    // It ends with the process: nothing else wakes it.
    std::thread::spawn(move || {
        while let Ok(events) = inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    return;
                }
                if let Some(name) = event.name
                    && sender.blocking_send(folder.join(name)).is_err()
                {
                    return;
                }
            }
        }
    });
    Ok(receiver)
}

/// The files that are with the server.
struct Watcher {
    args: Arc<WatchArgs>,
    client: Client,
    places: Arc<Semaphore>,
    taken: BTreeSet<PathBuf>,
    /// Each returns its file, and whether it has a result.
    running: JoinSet<(PathBuf, bool)>,
}

impl Watcher {
    /// Takes the files that nothing has written to for a while.
    fn rescan(&mut self) -> anyhow::Result<()> {
        let folder = self.args.folder.clone();
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries.filter_map(Result::ok) {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age >= QUIET) {
                self.take(entry.path());
            }
        }
        Ok(())
    }

    /// Sends a complete file to the server, unless it is there or was.
    fn take(&mut self, file: PathBuf) {
        let target = target(&self.args, &file);
        let is_new = |target: &PathBuf| !target.exists() && !failure(target).exists();
        let Some(target) = target.filter(is_new).filter(|_| file.is_file()) else {
            return;
        };
        if !self.taken.insert(file.clone()) {
            return;
        }
        let (args, client, places) = (
            Arc::clone(&self.args),
            self.client.clone(),
            Arc::clone(&self.places),
        );
        self.running.spawn(async move {
            let _place = places.acquire_owned().await;
            let result = transcribe(&args, &client, &file, &target).await;
            if let Err(error) = &result {
                eprintln!("{}: {error:#}", file.display());
                if let Err(error) = write(&failure(&target), &format!("{error:#}\n")) {
                    eprintln!("{}: {error:#}", target.display());
                }
            } else {
                println!("{}", target.display());
            }
            (file, result.is_ok())
        });
    }

    fn done(&mut self, done: Result<(PathBuf, bool), tokio::task::JoinError>) {
        match done {
            Ok((file, _)) => {
                self.taken.remove(&file);
            }
            Err(error) => eprintln!("{error}"),
        }
    }

    /// Waits until all files are done.
    async fn finish(mut self) -> anyhow::Result<()> {
        let mut failed = 0;
        while let Some(done) = self.running.join_next().await {
            failed += usize::from(!matches!(done, Ok((_, true))));
        }
        if failed > 0 {
            bail!("{failed} files failed");
        }
        Ok(())
    }
}

async fn transcribe(
    args: &WatchArgs,
    client: &Client,
    file: &Path,
    target: &Path,
) -> anyhow::Result<()> {
    let options = SpeechOptions {
        language: args.language.clone(),
        ..SpeechOptions::default()
    };
    let format = response_format(args.format);
    let result = finish_job(client, file, format, &options, |_| {}).await?;
    write(target, &result)
}

/// The file for a result; `None` if the file is no recording.
fn target(args: &WatchArgs, file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let ending = file.extension().and_then(|ending| ending.to_str());
    let is_ignored = ending.is_none_or(|ending| {
        IGNORED
            .iter()
            .any(|ignored| ignored.eq_ignore_ascii_case(ending))
    });
    if name.starts_with('.') || is_ignored {
        return None;
    }
    Some(args.out.join(name).with_extension(extension(args.format)))
}

/// The file for the reason of a failure.
fn failure(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".error");
    name.into()
}

/// Writes a file whole or not at all.
fn write(target: &Path, text: &str) -> anyhow::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".uttera-stt-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_name_of_their_recording_and_other_files_are_left_alone() {
        let args = WatchArgs {
            folder: PathBuf::from("in"),
            out: PathBuf::from("out"),
            format: Format::Srt,
            language: None,
            url: String::new(),
            api_key_env: None,
            once: false,
        };
        let name = |file: &str| target(&args, Path::new(file));
        assert_eq!(name("in/a.b.mp3"), Some(PathBuf::from("out/a.b.srt")));
        for other in [
            "in/.hidden.mp3",
            "in/a.part",
            "in/a.SRT",
            "in/a.srt.error",
            "in/readme",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(
            failure(Path::new("out/a.srt")),
            PathBuf::from("out/a.srt.error")
        );
    }
}
