//! The role of a node: the same binary serves all roles, by configuration.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;

/// `serve --role`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A standalone node with hot and cold workers.
    #[default]
    Hotcold,
    /// A node with a small model that escalates doubtful texts to a fallback.
    Primary,
    /// A node with a larger model that receives escalated chunks.
    Fallback,
}

impl Role {
    /// Defaults that differ from those of a standalone node.
    pub fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Hotcold => &[],
            Self::Primary => &[("HOST", "0.0.0.0"), ("PORT", "8081")],
            Self::Fallback => &[("HOST", "0.0.0.0"), ("PORT", "8082")],
        }
    }

    /// Settings files that are tried in this order if none is named.
    pub fn usual_files(self) -> &'static [&'static str] {
        match self {
            Self::Hotcold => &[".env", "../.env"],
            Self::Primary => &["stt_primary.env", ".env"],
            Self::Fallback => &["stt_fallback.env", ".env"],
        }
    }

    /// The first of [`Self::usual_files`] that exists.
    pub fn usual_file(self) -> Option<&'static Path> {
        let mut files = self.usual_files().iter().map(Path::new);
        files.find(|path| path.is_file())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hotcold => "hotcold",
            Self::Primary => "primary",
            Self::Fallback => "fallback",
        })
    }
}
