//! Models: the catalogue, fetching them, storing them, and converting their number format.
//!
//! [`ModelStore`] is a folder of ggml files. [`ModelStore::resolve`] turns what the operator wrote
//! (`WHISPER_MODEL`, `COMPUTE_TYPE`) into one checked file and never touches the network;
//! [`ModelStore::ensure`] also fetches the published ggml file of a catalogue model that is missing, over
//! HTTPS or from a mirror. CTranslate2 (faster-whisper) folders are imported. No input is trusted: every
//! length in a file is checked before use, a published model is identified by its checksum, and a file gets
//! its name only when it is complete.
//!
//! | module | contents |
//! |---|---|
//! | `catalogue` | names, sizes, checksums |
//! | `store` | the folder: resolve, pull, import, convert, verify |
//! | `sources` | where model files are fetched from |
//! | `ggml` | reading, checking and converting ggml files |
//! | `ctranslate2` | CTranslate2 folder → ggml file |
//! | `files`, `checksum` | temporary names, locks, records; SHA-256 |
//! | `reader`, `sniff` | bounded reads; telling file types apart |
//! | `compute`, `configured` | number formats; the model that the settings name |

mod catalogue;
pub(crate) mod checksum;
mod compute;
pub mod configured;
mod ctranslate2;
mod error;
mod files;
pub mod fuzzing;
mod ggml;
mod progress;
mod reader;
mod sniff;
mod sources;
mod store;

pub use catalogue::{ALIASES, CATALOGUE, CatalogueEntry, Published, canonical, find};
pub use compute::ComputeType;
pub use error::{FormatError, ModelError};
pub use ggml::GgmlFile;
pub use ggml::layout::Dimensions;
pub use progress::{Bar, Logged, Progress, Silent};
pub use store::inspect::{LocalModel, Verdict, Verified};
pub use store::locate::name_of;
pub use store::voice_activity::VOICE_ACTIVITY_NAME;
pub use store::{FoundModel, ModelStore, ResolvedModel};
