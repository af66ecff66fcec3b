//! What a node is among others: one binary plays all roles, by configuration.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;

/// `serve --role`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A node of its own, with hot and cold workers.
    #[default]
    Hotcold,
    /// A small model, that passes on what it does not trust itself with.
    Primary,
    /// A larger model, for what others pass on.
    Fallback,
}

impl Role {
    /// What holds where nobody says anything else.
    pub fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Hotcold => &[],
            Self::Primary => &[("HOST", "0.0.0.0"), ("PORT", "8081")],
            Self::Fallback => &[("HOST", "0.0.0.0"), ("PORT", "8082")],
        }
    }

    /// Files of settings that are looked for, where none is named.
    pub fn usual_files(self) -> &'static [&'static str] {
        match self {
            Self::Hotcold => &[".env", "../.env"],
            Self::Primary => &["stt_primary.env", ".env"],
            Self::Fallback => &["stt_fallback.env", ".env"],
        }
    }

    /// The first of them that is there.
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
