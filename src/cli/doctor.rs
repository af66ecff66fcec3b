//! `uttera-stt doctor`: prints what it finds about the machine, the settings and the neighbours.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Args;

use crate::doctor::{self, Finding, Machine, Severity, Subject, report};
use crate::http::{UploadStore, files_needed};
use crate::settings::{Loaded, Role};

/// Options of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Role of the node; it sets the default port, address, settings file and unit.
    #[arg(long, value_enum, default_value_t)]
    pub role: Role,
    /// Print the findings as JSON: an array of objects with check, severity, what, why and fix.
    #[arg(long)]
    json: bool,
    /// Verify the checksums of large models, too.
    #[arg(long)]
    full: bool,
}

/// Makes all checks and prints the findings. The exit status is 0 (nothing worse than a note), 1 (warnings) or 2
/// (errors).
pub async fn doctor(args: DoctorArgs, loaded: anyhow::Result<Loaded>) -> anyhow::Result<ExitCode> {
    let examination = doctor::examine(Subject {
        loaded: loaded.map_err(|error| format!("{error:#}")),
        role: args.role,
        uploads: UploadStore::default_parent(),
        files_needed,
        full: args.full,
        machine: Machine::here(),
    });
    let findings = Box::pin(examination).await;
    let text = if args.json {
        report::json(&findings)
    } else {
        report::text(&findings)
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader closed the pipe, as in `doctor | head`.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    Ok(ExitCode::from(report::exit_status(&findings)))
}

/// `check-config`: prints warnings and notes about the settings.
///
/// # Errors
/// The settings do not work; all errors, one line each.
pub fn check_config(loaded: &Loaded) -> anyhow::Result<()> {
    let findings = doctor::settings::examine_alone(loaded);
    let (errors, others): (Vec<Finding>, Vec<Finding>) = (findings.into_iter())
        .filter(|finding| finding.severity != Severity::Ok)
        .partition(|finding| finding.severity == Severity::Error);
    for Finding { severity, what, .. } in others {
        println!("{}: {what}", report::name(severity));
    }
    let errors: Vec<String> = errors.into_iter().map(|error| error.what).collect();
    anyhow::ensure!(errors.is_empty(), "{}", errors.join("\nerror: "));
    println!("the settings are valid");
    Ok(())
}
