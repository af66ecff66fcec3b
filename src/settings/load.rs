//! From the sources to settings to run with.

use super::variables::{self, VARIABLES, Variable};
use super::{Device, Role, Settings, SettingsError, Sources};
use crate::models;

/// Settings and what there is to say about them.
#[derive(Debug)]
pub struct Loaded {
    /// To run with.
    pub settings: Settings,
    /// One line each: unknown names, values without effect.
    pub warnings: Vec<String>,
    /// Each variable with the text that is in force; secrets hidden.
    pub in_force: Vec<(&'static str, String)>,
}

impl Settings {
    /// Puts the sources together.
    ///
    /// # Errors
    /// The first value that cannot be read.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut settings = Self {
            role: sources.role,
            ..Self::default()
        };
        let mut warnings = sources.unknown_names();
        let mut in_force = Vec::new();
        for variable in VARIABLES {
            let found = sources.find(variable.name);
            let text = match &found {
                Some((value, origin)) => {
                    apply(&mut settings, variable, value.trim(), origin)?;
                    settings.set.insert(variable.name);
                    if !variable.in_effect {
                        warnings.push(format!(
                            "{} is set, but this version does not act on it yet",
                            variable.name
                        ));
                    }
                    if variable.secret { "***" } else { value.trim() }
                }
                None => default(&mut settings, variable, sources.role)?,
            };
            in_force.push((variable.name, text.to_owned()));
        }
        choose_model(&mut settings, sources);
        check_default_language(&settings, sources)?;
        warnings.extend(settings.contradictions());
        Ok(Loaded {
            settings,
            warnings,
            in_force,
        })
    }

    /// Settings that have no effect as others are.
    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.rate_limit_burst.is_some() && self.rate_limit_rps.is_none() {
            found.push("RATE_LIMIT_BURST has no effect without RATE_LIMIT_RPS".to_owned());
        }
        if self.metrics_keyed && self.api_keys.is_empty() && self.api_keys_file.is_none() {
            found.push("METRICS_KEYED has no effect without keys".to_owned());
        }
        if self.fallback_url.is_some() && self.fallback_model.is_some() {
            found.push("FALLBACK_MODEL has no effect: FALLBACK_URL is set".to_owned());
        }
        if matches!(self.device, Device::Cuda | Device::Vulkan) && !crate::BUILT_FOR_GPU {
            let text =
                "DEVICE names a GPU, but this build knows the CPU only: inference runs on it";
            found.push(text.to_owned());
        }
        found
    }
}

fn apply(
    settings: &mut Settings,
    variable: &Variable,
    value: &str,
    origin: &str,
) -> Result<(), SettingsError> {
    (variable.read)(settings, value).map_err(|allowed| SettingsError::Value {
        name: variable.name.to_owned(),
        value: if variable.secret { "***" } else { value }.to_owned(),
        origin: origin.to_owned(),
        allowed,
    })
}

/// What holds where nobody says anything, in this role.
fn default(
    settings: &mut Settings,
    variable: &Variable,
    role: Role,
) -> Result<&'static str, SettingsError> {
    let of_role = role.defaults().iter();
    let mut of_role = of_role.filter(|(name, _)| *name == variable.name);
    let Some((_, value)) = of_role.next() else {
        return Ok(variable.default);
    };
    apply(settings, variable, value, &format!("role {role}"))?;
    Ok(value)
}

/// `CT2_SMALL_PATH` and `CT2_MEDIUM_PATH` win over `WHISPER_MODEL`, unless that was said on the command
/// line.
fn choose_model(settings: &mut Settings, sources: &Sources) {
    let said_last = |name: &str| sources.command_line.iter().any(|(said, _)| said == name);
    let Some((name, path)) = variables::ct2_path(settings) else {
        return;
    };
    if !said_last("WHISPER_MODEL") || said_last(name) {
        settings.whisper_model = path.to_owned();
    }
}

/// Refuses a default language that the model does not know, where its name tells.
fn check_default_language(settings: &Settings, sources: &Sources) -> Result<(), SettingsError> {
    let named = models::find(&settings.whisper_model);
    let is_english_only = named.is_some_and(|entry| entry.name.contains(".en"));
    let name = "DEFAULT_LANGUAGE";
    match (&settings.default_language, sources.find(name)) {
        (Some(code), Some((value, origin))) if is_english_only && code != "en" => {
            Err(SettingsError::Value {
                name: name.to_owned(),
                value: value.trim().to_owned(),
                origin,
                allowed: format!(
                    "the model {} (WHISPER_MODEL) knows English only",
                    settings.whisper_model
                ),
            })
        }
        _ => Ok(()),
    }
}
