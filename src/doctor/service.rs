//! The systemd unit of the role: installed, enabled and running, for the system or for this user.

use nix::unistd::{User, getuid};
use tokio::process::Command;

use super::commands::{self, Failure};
use super::finding::Finding;
use super::machine::Machine;
use crate::settings::Role;

const CHECK: &str = "service";

/// Whose units they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    System,
    User,
}

/// A unit as systemd knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unit {
    scope: Scope,
    /// The answer to `is-enabled`, such as `enabled` or `disabled`.
    enabled: String,
    /// The answer to `is-active`, such as `active` or `failed`.
    active: String,
}

/// Asks systemd, if this machine was started by it.
pub(super) async fn examine(machine: &Machine, role: Role) -> Vec<Finding> {
    if !machine.has("/run/systemd/system") {
        let what = "not checked: systemd did not start this machine";
        return vec![Finding::note(CHECK, what)];
    }
    let name = name_of(role);
    let mut units = Vec::new();
    for scope in [Scope::System, Scope::User] {
        match unit(scope, name).await {
            Ok(unit) => units.extend(unit),
            Err(Failure::Missing) => {
                return vec![Finding::note(CHECK, "not checked: there is no systemctl")];
            }
            Err(Failure::Other(problem)) => {
                return vec![Finding::note(
                    CHECK,
                    format!("not checked: systemctl: {problem}"),
                )];
            }
        }
    }
    let user = User::from_uid(getuid())
        .ok()
        .flatten()
        .map(|user| user.name);
    let lingers = user.is_some_and(|user| machine.has(&format!("/var/lib/systemd/linger/{user}")));
    decide(name, &units, lingers)
}

fn name_of(role: Role) -> &'static str {
    match role {
        Role::Hotcold => "uttera-stt.service",
        Role::Primary => "uttera-stt-primary.service",
        Role::Fallback => "uttera-stt-fallback.service",
    }
}

/// The unit, if it is installed.
async fn unit(scope: Scope, name: &str) -> Result<Option<Unit>, Failure> {
    let enabled = ask(scope, "is-enabled", name).await?;
    // A unit that is missing, or a user without a session: systemctl prints nothing but an error.
    if matches!(enabled.as_str(), "" | "not-found") {
        return Ok(None);
    }
    let active = ask(scope, "is-active", name).await?;
    Ok(Some(Unit {
        scope,
        enabled,
        active,
    }))
}

async fn ask(scope: Scope, question: &str, name: &str) -> Result<String, Failure> {
    let mut command = Command::new("systemctl");
    if scope == Scope::User {
        command.arg("--user");
    }
    command.args([question, name]);
    // The exit status only repeats the answer.
    Ok(commands::run(command).await?.out)
}

fn decide(name: &str, units: &[Unit], lingers: bool) -> Vec<Finding> {
    if units.is_empty() {
        let what = format!("{name} is not installed");
        return vec![
            Finding::note(CHECK, what)
                .because(
                    "the server does not start with the machine, unless something else starts it",
                )
                .mended_by("the Debian package, or the commands in systemd/uttera-stt.service"),
        ];
    }
    units
        .iter()
        .flat_map(|unit| of_unit(name, unit, lingers))
        .collect()
}

fn of_unit(name: &str, unit: &Unit, lingers: bool) -> Vec<Finding> {
    let (systemctl, journal, whose) = match unit.scope {
        Scope::System => ("sudo systemctl", "journalctl", "of the system"),
        Scope::User => ("systemctl --user", "journalctl --user", "of this user"),
    };
    let what = format!("{name} {whose} is {} and {}", unit.enabled, unit.active);
    let is_enabled = unit.enabled.starts_with("enabled");
    let finding = match unit.active.as_str() {
        "failed" => Finding::error(CHECK, what, "the server has ended with an error").mended_by(
            format!("{journal} -u {name} -n 50; then {systemctl} restart {name}"),
        ),
        _ if !is_enabled => {
            Finding::warning(CHECK, what, "the server does not start with the machine")
                .mended_by(format!("{systemctl} enable --now {name}"))
        }
        "active" | "activating" | "reloading" => Finding::ok(CHECK, what),
        _ => Finding::warning(CHECK, what, "the server does not run")
            .mended_by(format!("{systemctl} start {name}")),
    };
    let stays = (unit.scope == Scope::User && is_enabled && !lingers).then(|| {
        let what = "services of this user end when the user logs out";
        Finding::warning(
            CHECK,
            what,
            "the server runs only while the user is logged in",
        )
        .mended_by("loginctl enable-linger")
    });
    [finding].into_iter().chain(stays).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::machine::MadeUp;
    use super::*;

    fn worst(scope: Scope, enabled: &str, active: &str, lingers: bool) -> Severity {
        let unit = Unit {
            scope,
            enabled: enabled.to_owned(),
            active: active.to_owned(),
        };
        let found = decide("uttera-stt.service", &[unit], lingers);
        found.iter().map(|f| f.severity).max().expect("a finding")
    }

    #[test]
    fn a_unit_should_be_enabled_and_run() {
        let system = Scope::System;
        assert_eq!(worst(system, "enabled", "active", false), Severity::Ok);
        assert_eq!(worst(system, "enabled", "failed", false), Severity::Error);
        assert_eq!(
            worst(system, "enabled", "inactive", false),
            Severity::Warning
        );
        assert_eq!(
            worst(system, "disabled", "active", false),
            Severity::Warning
        );
        assert_eq!(
            worst(system, "disabled", "inactive", false),
            Severity::Warning
        );
    }

    #[test]
    fn a_unit_of_a_user_should_outlive_the_session() {
        let user = Scope::User;
        assert_eq!(worst(user, "enabled", "active", true), Severity::Ok);
        assert_eq!(worst(user, "enabled", "active", false), Severity::Warning);
    }

    #[test]
    fn without_a_unit_there_is_a_note() {
        let found = decide("uttera-stt.service", &[], false);
        assert_eq!(found[0].severity, Severity::Note);
    }

    #[tokio::test]
    async fn a_machine_without_systemd_is_not_checked() {
        let found = examine(&MadeUp::new(&[]).machine(), Role::Hotcold).await;
        assert_eq!(found[0].severity, Severity::Note);
        assert!(found[0].what.starts_with("not checked"), "{found:?}");
    }
}
