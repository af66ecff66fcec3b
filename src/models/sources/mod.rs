//! Where model files come from: the official address or a mirror over HTTPS (`download`), or a mirror that is a folder
//! (`folder`). Only a file with a published checksum is accepted, whichever source it comes from.

mod download;
mod folder;

use std::path::{Path, PathBuf};

use super::catalogue::CatalogueEntry;
use super::error::ModelError;
use super::progress::Progress;

/// Where whisper.cpp's author publishes the ggml files.
const OFFICIAL_BASE: &str = "https://huggingface.co/ggerganov/whisper.cpp/resolve/main";

/// Why a source did not deliver a file.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// The source cannot be reached or has no such file. The text is a line of the offline message.
    Unavailable(String),
    /// The local disk, or a file with the wrong checksum: another try does not help.
    Fatal(ModelError),
}

impl From<ModelError> for FetchError {
    fn from(error: ModelError) -> Self {
        Self::Fatal(error)
    }
}

/// The source of model files that the operator chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The publisher's address.
    Official,
    /// The base address of a mirror.
    Mirror(String),
    /// A folder with the published files.
    Folder(PathBuf),
}

impl Source {
    /// A mirror: an address, or a folder where the text has no scheme.
    pub(crate) fn mirror(place: &str) -> Self {
        if place.contains("://") {
            Self::Mirror(place.to_owned())
        } else {
            Self::Folder(PathBuf::from(place))
        }
    }

    /// Puts the published file of a model into `dir`. The caller holds the model's lock.
    pub(crate) async fn fetch(
        &self,
        entry: &CatalogueEntry,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, FetchError> {
        match self {
            Self::Official => download::download(OFFICIAL_BASE, entry, dir, progress).await,
            Self::Mirror(base) => download::download(base, entry, dir, progress).await,
            Self::Folder(folder) => folder::copy(folder, entry, dir, progress).await,
        }
    }

    /// Where a small file may be, in the order in which the places are tried.
    pub(crate) fn places_of_a_small_file(&self, name: &str, published_at: &str) -> Vec<Place> {
        let official = Place::Address(published_at.to_owned());
        match self {
            Self::Official => vec![official],
            Self::Mirror(base) => {
                let mirrored = format!("{}/{name}", base.trim_end_matches('/'));
                vec![Place::Address(mirrored), official]
            }
            Self::Folder(folder) => vec![Place::File(folder.join(name)), official],
        }
    }
}

/// One place of a small file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address.
    Address(String),
    /// A local file.
    File(PathBuf),
}

impl Place {
    /// Reads a file of exactly `size` bytes into memory. The error is a line of the offline message.
    pub(crate) async fn fetch(&self, size: u64) -> Result<Vec<u8>, String> {
        match self {
            Self::Address(url) => download::fetch_small(url, size).await,
            Self::File(path) => folder::read_small(path, size).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_an_address_or_a_folder() {
        let address = Source::mirror("https://models.example/whisper");
        assert_eq!(
            address,
            Source::Mirror("https://models.example/whisper".to_owned())
        );
        assert_eq!(
            Source::mirror("/mnt/models"),
            Source::Folder("/mnt/models".into())
        );
    }

    #[test]
    fn small_files_are_looked_for_in_the_mirror_first() {
        let published = "https://publisher.example/weights";
        let official = Place::Address(published.to_owned());
        let places = |source: Source| source.places_of_a_small_file("weights", published);
        assert_eq!(places(Source::Official), std::slice::from_ref(&official));
        let mirrored = Place::Address("https://models.example/weights".to_owned());
        assert_eq!(
            places(Source::mirror("https://models.example/")),
            [mirrored, official.clone()]
        );
        assert_eq!(
            places(Source::mirror("/mnt")),
            [Place::File("/mnt/weights".into()), official]
        );
    }
}
