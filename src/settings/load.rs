//! Builds [`Settings`] from the sources and checks them.

use super::defaults::jobs_dir;
use super::variables::{self, VARIABLES, Variable};
use super::{
    Device, FallbackTlsSettings, RedisTlsSettings, Role, Secret, Settings, SettingsError, Sources,
};
use crate::{models, redis};

/// Settings with the warnings about them.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Unknown names and settings without effect, one line each.
    pub warnings: Vec<String>,
    /// Each variable with its effective value; secrets hidden.
    pub in_force: Vec<(&'static str, String)>,
}

impl Settings {
    /// Merges the sources.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut settings = Self {
            role: sources.role,
            ..Self::default()
        };
        settings.jobs.folder = jobs_dir(sources.role);
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
                            "{} is set, but has no effect in this version",
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
        check_ports(&settings, sources)?;
        check_pairs(&settings, sources)?;
        warnings.extend(settings.contradictions());
        Ok(Loaded {
            settings,
            warnings,
            in_force,
        })
    }

    /// Warnings about settings that have no effect in combination with others.
    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.rate_limit_burst.is_some() && self.rate_limit_rps.is_none() {
            found.push("RATE_LIMIT_BURST has no effect without RATE_LIMIT_RPS".to_owned());
        }
        if self.metrics_keyed && self.api_keys.is_empty() && self.api_keys_file.is_none() {
            found.push("METRICS_KEYED has no effect without keys".to_owned());
        }
        let workers = self.cold_pool_size.saturating_add(1);
        if let Some(most) = self.max_concurrency.filter(|most| *most > workers) {
            found.push(format!(
                "MAX_CONCURRENCY={most} is more than the {workers} workers that COLD_POOL_SIZE={} allows: it lowers \
                 the number of workers and never raises it",
                self.cold_pool_size
            ));
        }
        if self.fallback_url.is_some() && self.fallback_model.is_some() {
            found.push("FALLBACK_MODEL has no effect: FALLBACK_URL is set".to_owned());
        }
        let is_https = |url: &reqwest::Url| url.scheme() == "https";
        if self.fallback_tls != FallbackTlsSettings::default()
            && !self.fallback_url.as_ref().is_some_and(is_https)
        {
            let text = "FALLBACK_CA and FALLBACK_CERT have no effect without a FALLBACK_URL that begins with https://";
            found.push(text.to_owned());
        }
        let is_encrypted = |url: &Secret| redis::is_encrypted(url);
        if self.redis_tls != RedisTlsSettings::default()
            && !self.redis_url.as_ref().is_some_and(is_encrypted)
        {
            let text = "REDIS_CA and REDIS_CERT have no effect without a REDIS_URL that begins with rediss://";
            found.push(text.to_owned());
        }
        for name in ["WYOMING_LANGUAGES", "WYOMING_NAME", "WYOMING_PARTIALS"] {
            if self.is_set(name) && !self.wyoming.is_on() {
                found.push(format!(
                    "{name} has no effect without WYOMING_PORT or WYOMING_URI"
                ));
            }
        }
        if matches!(self.device, Device::Cuda | Device::Vulkan) && !crate::BUILT_FOR_GPU {
            let text = "DEVICE names a GPU, but this build supports only the CPU, which is used";
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

/// Applies the default of a variable in this role.
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

/// Lets `CT2_SMALL_PATH` and `CT2_MEDIUM_PATH` override `WHISPER_MODEL`, unless the command line sets
/// it.
fn choose_model(settings: &mut Settings, sources: &Sources) {
    let on_command_line = |name: &str| sources.command_line.iter().any(|(set, _)| set == name);
    let Some((name, path)) = variables::ct2_path(settings) else {
        return;
    };
    if !on_command_line("WHISPER_MODEL") || on_command_line(name) {
        settings.whisper_model = path.to_owned();
    }
}

/// Rejects a default language that the model does not support, as far as its name shows that.
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

/// Rejects one port for two protocols on the same address.
fn check_ports(settings: &Settings, sources: &Sources) -> Result<(), SettingsError> {
    let ports = [
        ("PORT", Some(settings.port)),
        ("WYOMING_PORT", settings.wyoming.port),
        ("AGENT_CHECK_PORT", settings.agent_check_port),
    ];
    for (place, (name, port)) in ports.iter().enumerate() {
        // Port 0 means any free port.
        let port = port.filter(|port| *port != 0);
        let taken = ports[..place]
            .iter()
            .find(|(_, other)| port.is_some() && *other == port);
        if let (Some((other, _)), Some((value, origin))) = (taken, sources.find(name)) {
            let usual = if *name == "WYOMING_PORT" {
                "; usual is 10300"
            } else {
                ""
            };
            return Err(SettingsError::Value {
                name: (*name).to_owned(),
                value: value.trim().to_owned(),
                origin,
                allowed: format!("expected a port other than {other}{usual}"),
            });
        }
    }
    Ok(())
}

/// Rejects a setting without the one that it needs: a certificate without its key, demands on clients that nothing would
/// enforce, and jobs that would not be shared.
fn check_pairs(settings: &Settings, sources: &Sources) -> Result<(), SettingsError> {
    let (shares_jobs, uses_s3) = (settings.jobs.shared, settings.jobs.s3.is_used());
    let pairs = [
        ("TLS_CERT", "TLS_KEY"),
        ("TLS_KEY", "TLS_CERT"),
        ("TLS_CLIENT_CA", "TLS_CERT"),
        ("FALLBACK_CERT", "FALLBACK_KEY"),
        ("FALLBACK_KEY", "FALLBACK_CERT"),
        ("REDIS_CERT", "REDIS_KEY"),
        ("REDIS_KEY", "REDIS_CERT"),
    ];
    let shared = shares_jobs.then_some(("JOBS_SHARED", "REDIS_URL"));
    let s3 = uses_s3.then_some(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"));
    for (name, needed) in pairs.into_iter().chain(shared).chain(s3) {
        if let Some((value, origin)) = sources.find(name)
            && sources.find(needed).is_none()
        {
            return Err(SettingsError::Value {
                name: name.to_owned(),
                value: value.trim().to_owned(),
                origin,
                allowed: format!("it needs {needed}, too"),
            });
        }
    }
    Ok(())
}
