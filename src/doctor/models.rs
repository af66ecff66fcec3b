//! Checksums of the models on disk.

use super::finding::{Finding, size};
use super::settings::WantedModel;
use crate::models::{ModelStore, Verdict};
use crate::settings::Settings;

const CHECK: &str = "checksum";

/// Largest file, in bytes, whose checksum is computed unasked: it takes about a second.
const CHEAP: u64 = 256 << 20;

/// Verifies the checksums of the models that the settings name; with `full`, also of large files. Blocks: seconds for
/// each GiB.
pub(super) fn examine(settings: &Settings, models: &[WantedModel], full: bool) -> Vec<Finding> {
    let store = ModelStore::new(settings.models_dir.clone());
    let names = models.iter().map(|model| model.name.as_str());
    names
        .filter_map(|name| of_model(&store, name, full))
        .collect()
}

/// `None`: there is no file with a checksum, which another finding tells.
fn of_model(store: &ModelStore, name: &str, full: bool) -> Option<Finding> {
    let found = store.look_up(name).ok().filter(|found| !found.is_source)?;
    let shown = found.path.display();
    if !full && found.size_bytes > CHEAP {
        let what = format!("{shown} ({}) was not read", size(found.size_bytes));
        return Some(
            Finding::note(CHECK, what)
                .because("reading a large file takes seconds")
                .mended_by("uttera-stt doctor --full"),
        );
    }
    Some(match store.verify(name) {
        Ok(verified) => match verified.verdict {
            Verdict::Published => Finding::ok(CHECK, format!("{shown} is the published file")),
            Verdict::AsWritten => {
                Finding::ok(CHECK, format!("{shown} is as it was imported or converted"))
            }
            Verdict::WellFormed => Finding::ok(CHECK, format!("{shown}: none is known for it")),
            Verdict::Unrecorded => {
                Finding::note(CHECK, format!("{shown} is not the published file"))
                    .because("no record says where it came from; it is complete and can be loaded")
            }
        },
        Err(error) => {
            let what = format!("{:#}", anyhow::Error::from(error));
            Finding::error(
                CHECK,
                what,
                "a damaged model gives wrong texts or crashes the worker",
            )
            .mended_by(format!("rm '{shown}', then uttera-stt models pull {name}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::wanted;
    use super::*;

    #[test]
    fn a_model_that_is_not_there_has_no_checksum() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings::default();
        settings.models_dir = folder.path().to_owned();
        let models = wanted(&settings, None);
        assert_eq!(examine(&settings, &models, true), []);
    }
}
