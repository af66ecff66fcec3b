//! The folders of uploads, of models and of the log files: whether they can be written, and whether the disk has space.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::{AccessFlags, access};

use super::finding::{Finding, size};
use super::settings::WantedModel;
use crate::models::{self, CatalogueEntry, ModelStore};
use crate::settings::Settings;

/// All uploads together may take this many times the largest one.
const UPLOADS_AT_ONCE: u64 = 4;
/// Space that all log files need, in bytes: five of 10 MB.
const LOG_FILES: u64 = 50_000_000;

/// Findings about the folder of uploads, the models folder and the folder of the log files.
pub(super) fn examine(settings: &Settings, models: &[WantedModel], uploads: &Path) -> Vec<Finding> {
    let mut findings = of_uploads(uploads, settings.max_upload_bytes);
    findings.push(of_models(settings, models));
    findings.extend(settings.log_dir.as_deref().map(of_log_files));
    findings
}

/// A folder that exists or can be created.
struct Folder {
    free: u64,
    is_in_memory: bool,
}

/// Looks at a folder, or at the nearest of its parents that exists.
fn look_at(folder: &Path) -> Result<Folder, String> {
    let shown = folder.display();
    let absolute = std::path::absolute(folder).map_err(|error| format!("{shown}: {error}"))?;
    let there = nearest(&absolute);
    if !there.is_dir() {
        let there = there.display();
        return Err(format!(
            "{shown} cannot be created: {there} is not a folder"
        ));
    }
    access(&there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| {
        let there = there.display();
        format!("{shown} cannot be written: {there}: {}", error.desc())
    })?;
    let statistics = statfs(&there).map_err(|error| format!("{shown}: {}", error.desc()))?;
    let block = u64::try_from(statistics.block_size()).unwrap_or_default();
    Ok(Folder {
        free: statistics.blocks_available().saturating_mul(block),
        is_in_memory: statistics.filesystem_type() == TMPFS_MAGIC,
    })
}

fn nearest(absolute: &Path) -> PathBuf {
    let mut parents = absolute.ancestors();
    let there = parents.find(|path| path.exists());
    there.unwrap_or(Path::new("/")).to_path_buf()
}

fn of_uploads(folder: &Path, largest: u64) -> Vec<Finding> {
    const CHECK: &str = "uploads-disk";
    let elsewhere =
        "TMPDIR=FOLDER, a folder on a disk with space, in the environment of the server";
    let found = match look_at(folder) {
        Ok(found) => found,
        Err(problem) => {
            let why = "the server does not start: it stores each upload until it is transcribed";
            return vec![Finding::error(CHECK, problem, why).mended_by(elsewhere)];
        }
    };
    let most = largest.saturating_mul(UPLOADS_AT_ONCE);
    let what = format!(
        "{} free in {}; an upload may have {}, all together {}",
        size(found.free),
        folder.display(),
        size(largest),
        size(most)
    );
    let fix = format!("a lower MAX_UPLOAD_MB, or {elsewhere}");
    let space = if found.free < largest {
        let why = "a large file fails with 507 although the settings allow it";
        Finding::error(CHECK, what, why).mended_by(fix)
    } else if found.free < most {
        let why = "several large files at the same time fill the disk";
        Finding::warning(CHECK, what, why).mended_by(fix)
    } else {
        Finding::ok(CHECK, what)
    };
    let in_memory = found.is_in_memory.then(|| {
        Finding::note(CHECK, format!("{} is in memory (tmpfs)", folder.display()))
            .because("uploads take memory that the workers may need")
            .mended_by(elsewhere)
    });
    [space].into_iter().chain(in_memory).collect()
}

fn of_models(settings: &Settings, models: &[WantedModel]) -> Finding {
    const CHECK: &str = "models-disk";
    let store = ModelStore::new(settings.models_dir.clone());
    let missing = models
        .iter()
        .filter(|model| store.look_up(&model.name).is_err());
    let download: u64 = missing
        .filter_map(|model| models::find(&model.name))
        .map(CatalogueEntry::size_bytes)
        .sum();
    // The first start on a CPU writes the prepared file, about half as large.
    let needed = download + download / 2;
    let shown = store.dir().display();
    let elsewhere = "set XDG_CACHE_HOME to a folder that the server may write; the models lie in whisper inside it";
    match look_at(store.dir()) {
        Err(problem) if download > 0 => {
            let why = "the model cannot be downloaded";
            Finding::error(CHECK, problem, why).mended_by(elsewhere)
        }
        Err(problem) => {
            let why = "every start prepares the model again, each worker has weights of its own, and nothing can be \
                       downloaded or converted";
            Finding::warning(CHECK, problem, why).mended_by(elsewhere)
        }
        Ok(found) if found.free < needed => {
            let what = format!(
                "{} free in {shown}; the model takes {}",
                size(found.free),
                size(needed)
            );
            Finding::error(CHECK, what, "the model cannot be downloaded").mended_by(elsewhere)
        }
        Ok(found) => Finding::ok(CHECK, format!("{} free in {shown}", size(found.free))),
    }
}

fn of_log_files(folder: &Path) -> Finding {
    const CHECK: &str = "log-disk";
    let elsewhere = "set LOG_DIR to a folder that the server may write, or remove it";
    match look_at(folder) {
        Err(problem) => {
            let why = "the log files get no lines; the log on standard error goes on";
            Finding::warning(CHECK, problem, why).mended_by(elsewhere)
        }
        Ok(found) if found.free < LOG_FILES => {
            let what = format!(
                "{} free in {}; the log files take up to {}",
                size(found.free),
                folder.display(),
                size(LOG_FILES)
            );
            Finding::warning(CHECK, what, "the log files will lack lines").mended_by(elsewhere)
        }
        Ok(found) => Finding::ok(
            CHECK,
            format!("{} free in {}", size(found.free), folder.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::settings::wanted;
    use super::*;

    #[test]
    fn the_largest_upload_must_fit_and_four_of_them_should() {
        let folder = tempfile::tempdir().expect("a folder");
        let uploads = folder.path().join("not/yet/there");
        let worst = |largest| {
            let findings = of_uploads(&uploads, largest);
            let space = findings.first().expect("a finding");
            space.severity
        };
        assert_eq!(worst(1), Severity::Ok);
        assert_eq!(worst(u64::MAX), Severity::Error);
        let free = look_at(&uploads).expect("can be written").free;
        assert_eq!(worst(free / 2), Severity::Warning);
        assert!(!uploads.exists(), "the check creates nothing");
    }

    #[test]
    fn a_folder_below_a_file_cannot_be_created() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let below = file.path().join("whisper");
        assert_eq!(of_uploads(&below, 1)[0].severity, Severity::Error);
        let mut settings = Settings::default();
        settings.models_dir = below;
        let finding = of_models(&settings, &wanted(&settings, None));
        assert_eq!(finding.severity, Severity::Error, "{finding:?}");
        assert!(finding.what.contains("is not a folder"), "{finding:?}");
        assert_eq!(
            of_log_files(&settings.models_dir).severity,
            Severity::Warning
        );
    }

    #[test]
    fn only_a_folder_of_log_files_that_is_set_is_looked_at() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings::default();
        let checks = |settings: &Settings| {
            let findings = examine(settings, &[], folder.path());
            findings
                .iter()
                .filter(|found| found.check == "log-disk")
                .count()
        };
        assert_eq!(checks(&settings), 0);
        settings.log_dir = Some(folder.path().join("log"));
        assert_eq!(checks(&settings), 1);
    }
}
