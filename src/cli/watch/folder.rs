//! The kernel's events of a folder.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::sync::mpsc;

use super::files::Change;

/// An event of a folder.
#[derive(Debug)]
pub enum Event {
    /// A file was changed.
    File(OsString, Change),
    /// The kernel dropped events.
    Lost,
}

/// Sends the events of a folder, but not those of folders in it. The channel closes when the folder is gone.
///
/// # Errors
/// The folder cannot be watched.
pub fn events(folder: &Path) -> anyhow::Result<mpsc::Receiver<Event>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("cannot watch folders")?;
    let wanted = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ONLYDIR;
    let watched = inotify.add_watch(folder, wanted);
    watched.with_context(|| folder.display().to_string())?;
    let (sender, receiver) = mpsc::channel(64);
    // It ends with the process: nothing else wakes it.
    std::thread::spawn(move || {
        loop {
            let events = match inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    return;
                }
                if let Some(event) = meaning(event)
                    && sender.blocking_send(event).is_err()
                {
                    return;
                }
            }
        }
    });
    Ok(receiver)
}

fn meaning(event: InotifyEvent) -> Option<Event> {
    let is = |flag| event.mask.contains(flag);
    if is(AddWatchFlags::IN_Q_OVERFLOW) {
        return Some(Event::Lost);
    }
    let change = if is(AddWatchFlags::IN_MODIFY) {
        Change::Written
    } else if is(AddWatchFlags::IN_CLOSE_WRITE) || is(AddWatchFlags::IN_MOVED_TO) {
        Change::Complete
    } else {
        Change::Gone
    };
    Some(Event::File(event.name?, change))
}
