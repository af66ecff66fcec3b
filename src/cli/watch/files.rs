//! Which recordings of the folder are complete and have no text of their present content.
//!
//! A file is complete when the kernel reports that the program that wrote it closed it or moved it into the folder. Files
//! that were there before, and those that another machine writes to a network file system, have no such event: they are
//! complete if two successive rescans find the same size and time of modification, and the kernel has not reported that
//! a program here writes to them. If it has, sixty rescans decide.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// The content of a file, as far as its size and time of modification tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Version {
    /// The version of a file, or of the file that a link names; `None` if there is no regular file.
    ///
    /// # Errors
    /// The file system cannot tell.
    pub fn of(file: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(file) {
            Ok(metadata) => Ok(metadata.is_file().then(|| Self {
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// After so many rescans that find the same version of an open file, it is complete: a program may keep a file open for
/// ever, and the kernel reports no end if a file was cut by its path.
const STILL: u32 = 60;

/// So many names of finished files are kept in any case: some megabytes.
const MOST_DONE: usize = 50_000;

/// An event of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A program wrote to it.
    Written,
    /// A program that wrote to it closed it, or it was moved into the folder.
    Complete,
    /// It was deleted, or moved out of the folder.
    Gone,
}

/// How the work on a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result of this version was written.
    Transcribed(Version),
    /// The reason why this version has no result was written.
    Failed(Version),
    /// This version has no result, and the reason was not written: this process does not try it again.
    GivenUp(Version),
    /// The file was changed meanwhile, so that nothing was written.
    Changed,
    /// The file is not there any more.
    Gone,
}

/// The recordings of the folder, by name.
#[derive(Debug, Default)]
pub struct Files {
    states: BTreeMap<OsString, State>,
    /// The versions whose result or failure this process wrote; also of files that are gone, because another one may come
    /// under the name. Beyond [`MOST_DONE`], only of files that are there.
    done: BTreeMap<OsString, Version>,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct State {
    /// A program has written to it, and not closed it.
    is_open: bool,
    /// A program closed it after the last write, or moved it here.
    is_closed: bool,
    /// The last two rescans found the same version, or the last [`STILL`], if it is open.
    is_quiet: bool,
    seen: Option<Version>,
    /// How many rescans in succession found the version that the one before had found.
    same: u32,
    is_running: bool,
    given_up: Option<Version>,
    /// There is nothing to do until it changes.
    is_settled: bool,
}

impl Files {
    /// Takes the names that a rescan found. Others are forgotten, unless work on them is running.
    pub fn list(&mut self, names: &BTreeSet<OsString>) {
        self.states
            .retain(|name, state| state.is_running || names.contains(name));
        if self.done.len() > MOST_DONE {
            self.done.retain(|name, _| names.contains(name));
        }
        for name in names {
            self.states.entry(name.clone()).or_default();
        }
    }

    /// The names.
    pub fn names(&self) -> Vec<OsString> {
        self.states.keys().cloned().collect()
    }

    /// Notes an event.
    pub fn change(&mut self, name: &OsStr, change: Change) {
        if change == Change::Gone {
            self.forget(name);
            return;
        }
        let state = self.states.entry(name.to_owned()).or_default();
        state.is_open = change == Change::Written;
        state.is_closed = change == Change::Complete;
        (state.is_quiet, state.seen) = (false, None);
        state.is_settled = false;
    }

    /// Notes that events were lost: that a program closed a file may be one of them.
    pub fn events_were_lost(&mut self) {
        for state in self.states.values_mut() {
            state.is_open = false;
        }
    }

    /// Compares the version that a rescan found with that of the rescan before.
    pub fn seen(&mut self, name: &OsStr, version: Version) {
        if let Some(state) = self.states.get_mut(name) {
            let is_same = state.seen.replace(version) == Some(version);
            state.same = if is_same { state.same + 1 } else { 0 };
            state.is_quiet = state.same >= if state.is_open { STILL } else { 1 };
        }
    }

    /// Notes that there is nothing to do with a file until somebody changes it or its folder.
    pub fn settle(&mut self, name: &OsStr) {
        if let Some(state) = self.states.get_mut(name) {
            state.is_settled = true;
        }
    }

    /// Whether to transcribe this version of a file now; if so, the file counts as running until [`Self::ended`].
    /// `has_result`: its result is there, or the reason why it has none.
    pub fn take(&mut self, name: &OsStr, version: Version, has_result: bool) -> bool {
        let Some(state) = self.states.get_mut(name) else {
            return false;
        };
        if state.is_running {
            return false;
        }
        // This process replaces only results that it wrote itself.
        let is_current = has_result && self.done.get(name).is_none_or(|done| *done == version);
        let is_empty = version.bytes == 0 && (state.is_quiet || !state.is_open);
        state.is_settled = is_current || is_empty || state.given_up == Some(version);
        if state.is_settled || !(state.is_closed || state.is_quiet) {
            return false;
        }
        (state.is_running, state.is_closed, state.is_quiet) = (true, false, false);
        true
    }

    /// Notes that the work on a file has ended.
    pub fn ended(&mut self, name: &OsStr, outcome: Outcome) {
        if let Outcome::Transcribed(version) | Outcome::Failed(version) = outcome {
            self.done.insert(name.to_owned(), version);
        }
        let Some(state) = self.states.get_mut(name) else {
            return;
        };
        state.is_running = false;
        match outcome {
            Outcome::Transcribed(_) | Outcome::Failed(_) | Outcome::Changed => {}
            Outcome::GivenUp(version) => state.given_up = Some(version),
            Outcome::Gone => {
                // A new file of this name may have come.
                if !(state.is_open || state.is_closed) {
                    self.states.remove(name);
                }
            }
        }
    }

    /// Whether this process wrote the result of a file, or why there is none.
    pub fn has_outcome(&self, name: &OsStr) -> bool {
        self.done.contains_key(name)
    }

    /// Forgets a file that is not there.
    pub fn forget(&mut self, name: &OsStr) {
        if (self.states.get(name)).is_some_and(|state| !state.is_running) {
            self.states.remove(name);
        }
    }

    /// Whether there is nothing to do until a file changes.
    pub fn are_settled(&self) -> bool {
        self.states
            .values()
            .all(|state| state.is_settled && !state.is_running)
    }

    /// Whether the usual name of a file's result may be that of another recording's result.
    pub fn shares_stem(&self, name: &OsStr) -> bool {
        let Some(stem) = Path::new(name).file_stem() else {
            return false;
        };
        let bytes = stem.as_encoded_bytes();
        let after = self.states.range(stem.to_owned()..);
        after
            .map(|(other, _)| other)
            .take_while(|other| other.as_encoded_bytes().starts_with(bytes))
            .any(|other| {
                // The second: `a.mp3` beside `a.mp3.mp4`, if the former keeps its ending.
                other != name && (Path::new(other).file_stem() == Some(stem) || other == stem)
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn version(bytes: u64) -> Version {
        // In the future: a clock that is wrong makes no difference.
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 36);
        Version {
            bytes,
            modified: Some(modified),
        }
    }

    fn name() -> OsString {
        "a.wav".into()
    }

    fn listed(names: &[&str]) -> Files {
        let mut files = Files::default();
        files.list(&names.iter().map(OsString::from).collect());
        files
    }

    /// What a rescan does with a file without a result.
    fn rescan(files: &mut Files, bytes: u64) -> bool {
        files.seen(&name(), version(bytes));
        files.take(&name(), version(bytes), false)
    }

    #[test]
    fn a_file_without_events_is_complete_after_two_equal_looks() {
        let mut files = listed(&["a.wav"]);
        assert!(!rescan(&mut files, 1));
        assert!(!rescan(&mut files, 2), "it has grown");
        assert!(!files.are_settled());
        assert!(rescan(&mut files, 2));
        assert!(!rescan(&mut files, 2), "it is running");
    }

    #[test]
    fn a_file_that_a_program_writes_to_is_complete_when_it_is_closed() {
        let mut files = listed(&["a.wav"]);
        files.change(&name(), Change::Written);
        for _ in 0..3 {
            assert!(!rescan(&mut files, 1), "the program pauses");
        }
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(2), false));
        files.ended(&name(), Outcome::Transcribed(version(2)));
        // Cut by its path.
        files.change(&name(), Change::Written);
        let looks = (0..100).position(|_| {
            files.seen(&name(), version(1));
            files.take(&name(), version(1), true)
        });
        assert_eq!(looks, Some(60));
        files.ended(&name(), Outcome::Transcribed(version(1)));
        // Emptied, and held open.
        files.change(&name(), Change::Written);
        assert!((0..100).all(|_| !rescan(&mut files, 0)) && files.are_settled());
    }

    #[test]
    fn after_lost_events_the_looks_decide() {
        let mut files = listed(&["a.wav"]);
        files.change(&name(), Change::Written);
        files.events_were_lost();
        assert!(!rescan(&mut files, 1));
        assert!(rescan(&mut files, 1));
    }

    #[test]
    fn a_changed_file_is_transcribed_again() {
        let mut files = listed(&["a.wav"]);
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(1), false));
        // Closed again while the job runs.
        files.change(&name(), Change::Complete);
        assert!(!files.take(&name(), version(2), false));
        files.ended(&name(), Outcome::Changed);
        assert!(files.take(&name(), version(2), false));
        files.ended(&name(), Outcome::Transcribed(version(2)));
        assert!(!files.take(&name(), version(2), true));
        assert!(files.are_settled());
        // Appended later: here, and on another machine.
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(3), true));
        files.ended(&name(), Outcome::Failed(version(3)));
        files.seen(&name(), version(4));
        files.seen(&name(), version(4));
        assert!(files.take(&name(), version(4), true));
    }

    #[test]
    fn another_file_under_the_name_of_one_that_was_deleted_is_transcribed() {
        let mut files = listed(&["a.wav"]);
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(1), false));
        files.ended(&name(), Outcome::Transcribed(version(1)));
        files.change(&name(), Change::Gone);
        files.list(&BTreeSet::new());
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(2), true));
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_is_no_work_until_it_can() {
        let mut files = listed(&["a.wav"]);
        files.settle(&name());
        assert!(files.are_settled());
        assert!(!rescan(&mut files, 1) && !files.are_settled());
        assert!(rescan(&mut files, 1));
    }

    #[test]
    fn a_result_from_before_stays() {
        let mut files = listed(&["a.wav"]);
        assert!(!files.take(&name(), version(1), true));
        assert!(files.are_settled());
        files.change(&name(), Change::Complete);
        assert!(!files.take(&name(), version(2), true));
        assert!(files.take(&name(), version(2), false), "it was removed");
    }

    #[test]
    fn a_file_that_was_given_up_is_no_work_until_it_changes() {
        let mut files = listed(&["a.wav"]);
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(1), false));
        files.ended(&name(), Outcome::GivenUp(version(1)));
        assert!(!rescan(&mut files, 1) && !rescan(&mut files, 1));
        assert!(files.are_settled());
        assert!(!rescan(&mut files, 2) && rescan(&mut files, 2));
    }

    #[test]
    fn an_empty_or_deleted_file_is_no_work() {
        let mut files = listed(&["a.wav"]);
        files.change(&name(), Change::Complete);
        assert!(!files.take(&name(), version(0), false));
        assert!(files.are_settled());
        files.change(&name(), Change::Complete);
        assert!(files.take(&name(), version(1), false));
        files.change(&name(), Change::Gone);
        files.list(&BTreeSet::new());
        files.ended(&name(), Outcome::Gone);
        assert!(files.names().is_empty());
    }

    #[test]
    fn recordings_that_differ_only_in_the_ending_share_a_stem() {
        let files = listed(&[
            "a.mp3",
            "a.mp4",
            "ab.mp3",
            "b.mp3",
            "b.x.mp3",
            "c.ogg",
            "c.ogg.mp4",
        ]);
        let shares = |name: &str| files.shares_stem(OsStr::new(name));
        assert!(shares("a.mp3") && shares("a.mp4") && shares("c.ogg.mp4"));
        assert!(!shares("ab.mp3") && !shares("b.mp3") && !shares("b.x.mp3") && !shares("c.ogg"));
    }
}
