//! The sources of settings and their precedence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::variables::{self, VARIABLES};
use super::{Role, SettingsError, env_file};

/// The sources of settings, lowest precedence first. They contain secrets, hence no `Debug`.
#[derive(Default)]
pub struct Sources {
    /// Path and assignments of the settings file.
    pub file: Option<(PathBuf, Vec<env_file::Assignment>)>,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// Pairs from the command line.
    pub command_line: Vec<(String, String)>,
    /// The role, which changes some defaults.
    pub role: Role,
}

impl Sources {
    /// Collects the sources of this process: the file named by `config` or `CONFIG_PATH`, else the
    /// role's default file (`.env` here or in the parent folder, as in the Python original); the
    /// environment; and the pairs of the command line.
    pub fn of_process(
        role: Role,
        config: Option<&Path>,
        command_line: Vec<(String, String)>,
    ) -> Result<Self, SettingsError> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = config.map(Path::to_path_buf).or_else(|| {
            let path = environment.get("CONFIG_PATH")?;
            (!path.is_empty()).then(|| PathBuf::from(path))
        });
        let found = named.or_else(|| role.usual_file().map(Path::to_path_buf));
        let file = match found {
            Some(path) => {
                let read = env_file::read(&path).map_err(SettingsError::File)?;
                Some((path, read))
            }
            None => None,
        };
        Ok(Self {
            file,
            environment,
            command_line,
            role,
        })
    }

    /// The effective value of a variable and its source. An empty value counts as unset.
    pub(super) fn find(&self, name: &str) -> Option<(&str, String)> {
        let from_command_line = (self.command_line.iter().rev())
            .find(|(n, _)| n == name)
            .map(|(_, value)| (value.as_str(), "command line".to_owned()));
        let from_environment =
            (self.environment.get(name)).map(|value| (value.as_str(), "environment".to_owned()));
        let from_file = self.file.as_ref().and_then(|(path, assignments)| {
            let last = assignments.iter().rev().find(|a| a.name == name)?;
            Some((last.value.as_str(), path.display().to_string()))
        });
        [from_command_line, from_environment, from_file]
            .into_iter()
            .flatten()
            .find(|(value, _)| !value.trim().is_empty())
    }

    pub(super) fn unknown_names(&self) -> Vec<String> {
        let file = self.file.iter().flat_map(|(_, assignments)| assignments);
        let from_file = file.map(|a| a.name.as_str());
        let from_command_line = self.command_line.iter().map(|(name, _)| name.as_str());
        let mut unknown: Vec<String> = (from_file.chain(from_command_line))
            .filter(|name| variables::find(name).is_none())
            .map(unknown_name)
            .collect();
        unknown.dedup();
        unknown
    }
}

fn unknown_name(name: &str) -> String {
    if variables::OF_THE_PYTHON_ORIGINAL.contains(&name) {
        return format!("{name} is ignored: this server does not use Python");
    }
    let nearest = VARIABLES
        .iter()
        .map(|v| (strsim::jaro_winkler(v.name, name), v.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, nearest)) if likeness > 0.8 => {
            format!("{name} is unknown and ignored; did you mean {nearest}?")
        }
        Some(_) | None => format!("{name} is unknown and ignored"),
    }
}
