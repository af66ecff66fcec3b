//! `uttera-stt doctor`: examines the machine, the settings and the neighbours, and says what is wrong, why it matters
//! and what mends it. It changes nothing.
//!
//! One module for each subject. Functions that look at the machine take a [`Machine`], and decisions are functions of
//! what was seen, so that tests can make up both. Every check ends within a time limit of its own.
//!
//! | module | checks |
//! |---|---|
//! | `settings` | the settings, keys, models and the registered host, without asking anything else |
//! | `tls` | certificates and keys in files |
//! | `system` | processor, cores, limit on open files, year |
//! | `ffmpeg` | ffmpeg and its decoders |
//! | `models`, `memory`, `disk` | checksums; memory against the model; folders and space |
//! | `gpu` | what this build supports and the machine provides |
//! | `network` | address and port, the address that the node registers |
//! | `neighbours`, `clock` | Redis, LibreTranslate, the fallback; the clock against theirs |
//! | `service` | the systemd unit |
//! | `http`, `commands` | requests and programs with a time limit |
//! | `finding`, `report` | a finding; text, JSON and exit status |

mod clock;
mod commands;
mod disk;
mod ffmpeg;
mod finding;
mod gpu;
mod http;
mod machine;
mod memory;
mod models;
mod neighbours;
mod network;
pub mod report;
mod service;
pub mod settings;
mod system;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub use finding::{Finding, Severity};
pub use machine::Machine;

use crate::audio::DecoderLimits;
use crate::settings::{Loaded, Role};
use memory::Memory;
use settings::WantedModel;

/// Time limit of a check of the machine itself: a network file system or a driver may hang.
const LIMIT: Duration = Duration::from_secs(30);
/// The same with `--full`, which reads files of gigabytes.
const FULL_LIMIT: Duration = Duration::from_secs(600);

/// What to examine.
pub struct Subject {
    /// The settings, or why they cannot be loaded, in one line without secrets.
    pub loaded: Result<Loaded, String>,
    /// The role of the node.
    pub role: Role,
    /// The folder of uploads.
    pub uploads: PathBuf,
    /// Number of open files of a server with this number of connections.
    pub files_needed: fn(u32) -> u64,
    /// Whether large files are read as well.
    pub full: bool,
    /// The machine.
    pub machine: Machine,
}

/// What the checks that block share.
struct Context {
    loaded: Loaded,
    uploads: PathBuf,
    files_needed: fn(u32) -> u64,
    full: bool,
    machine: Machine,
    /// The models that the settings mean on this machine.
    models: Vec<WantedModel>,
    /// The GPU, if inference may use one.
    gpu: Option<gpu::Answer>,
    /// Whether the server runs already.
    is_served: bool,
}

/// Makes all checks.
pub async fn examine(subject: Subject) -> Vec<Finding> {
    let Subject {
        loaded,
        role,
        uploads,
        files_needed,
        full,
        machine,
    } = subject;
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problem) => return without_settings(problem, &machine, role).await,
    };
    let settings = &loaded.settings;
    // First, because other checks depend on the results.
    let (port, gpu) = tokio::join!(
        network::port(settings),
        gpu::ask(settings.device, settings.device_index)
    );
    let vram = gpu.as_ref().and_then(|gpu| Some(gpu.as_ref().ok()?.total));
    let models = settings::wanted(settings, vram);
    let context = Arc::new(Context {
        loaded,
        uploads,
        files_needed,
        full,
        machine,
        models,
        gpu,
        is_served: port.is_served,
    });
    let settings = &context.loaded.settings;
    let decoder = DecoderLimits::default().ffmpeg;
    let of_machine = |name, check: fn(&Context) -> Vec<Finding>| {
        let limit = if full { FULL_LIMIT } else { LIMIT };
        let context = Arc::clone(&context);
        in_background(name, limit, move || check(&context))
    };
    let (of_settings, system, ffmpeg, models, memory, gpu, disk, node_host, neighbours, service) = tokio::join!(
        of_machine("settings", |c| settings::examine(&c.loaded, &c.models)),
        of_machine("system", of_system),
        ffmpeg::examine(&decoder),
        of_machine("checksum", |c| models::examine(
            &c.loaded.settings,
            &c.models,
            c.full
        )),
        of_machine("memory", of_memory),
        of_machine("gpu", of_gpu),
        of_machine("disk", |c| disk::examine(
            &c.loaded.settings,
            &c.models,
            &c.uploads
        )),
        network::node_host(settings, context.is_served),
        neighbours::examine(settings),
        service::examine(&context.machine, role),
    );
    let mut findings = of_settings;
    findings.extend(system);
    findings.push(ffmpeg);
    for group in [models, memory, gpu, disk] {
        findings.extend(group);
    }
    findings.push(port.finding);
    findings.extend(network::wyoming(settings, context.is_served));
    findings.extend(network::container(&context.machine, settings));
    findings.extend(node_host);
    findings.extend(neighbours);
    findings.extend(service);
    findings
}

/// The checks that need no settings.
async fn without_settings(problem: String, machine: &Machine, role: Role) -> Vec<Finding> {
    let error = Finding::error("settings", problem, "the server does not start")
        .mended_by("correct this setting, then uttera-stt check-config");
    let decoder = DecoderLimits::default().ffmpeg;
    let (system, ffmpeg, service) = tokio::join!(
        in_background("system", LIMIT, || system::examine(None)),
        ffmpeg::examine(&decoder),
        service::examine(machine, role),
    );
    let mut findings = vec![error];
    findings.extend(system);
    findings.push(ffmpeg);
    findings.extend(service);
    findings
}

fn of_system(context: &Context) -> Vec<Finding> {
    let settings = &context.loaded.settings;
    let mut findings = system::examine(settings.whisper_threads);
    let needed = (context.files_needed)(settings.max_connections);
    findings.push(system::open_files(needed));
    findings
}

/// Memory where the model of this node runs.
fn of_memory(context: &Context) -> Vec<Finding> {
    let settings = &context.loaded.settings;
    let gpu = context.gpu.as_ref().and_then(|gpu| gpu.as_ref().ok());
    let gpu = gpu.map(|gpu| Memory {
        free: gpu.free,
        total: gpu.total,
    });
    let own = context.models.first();
    let found = own
        .and_then(|own| memory::examine(&context.machine, settings, own, gpu, context.is_served));
    found.into_iter().collect()
}

fn of_gpu(context: &Context) -> Vec<Finding> {
    let device = context.loaded.settings.device;
    gpu::examine(
        &context.machine,
        gpu::Build::THIS,
        device,
        context.gpu.as_ref(),
    )
}

/// Makes a check that blocks, off the runtime's threads. A check that hangs is left behind.
async fn in_background(
    name: &'static str,
    limit: Duration,
    check: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    let problem = match timeout(limit, tokio::task::spawn_blocking(check)).await {
        Ok(Ok(findings)) => return findings,
        Ok(Err(_)) => "the check itself failed, which is a bug of uttera-stt".to_owned(),
        Err(_) => format!("the check did not end within {} s", limit.as_secs()),
    };
    let why = "a disk, a network file system or a driver does not answer, and the server would wait for it, too";
    vec![Finding::warning(name, problem, why).mended_by("dmesg | tail, for messages of the kernel")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_hangs_is_left_behind() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let hangs = move || {
            let _ = ended.recv();
            Vec::new()
        };
        let found = in_background("disk", Duration::from_millis(1), hangs).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity, Severity::Warning);
        drop(end);
    }

    #[tokio::test]
    async fn settings_that_cannot_be_loaded_are_a_finding_among_others() {
        let subject = Subject {
            loaded: Err("PORT=many is invalid".to_owned()),
            role: Role::Hotcold,
            uploads: PathBuf::from("/nowhere"),
            files_needed: u64::from,
            full: false,
            machine: Machine::under(PathBuf::from("/nowhere")),
        };
        let found = Box::pin(examine(subject)).await;
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found[0].what, "PORT=many is invalid");
        let checks: Vec<&str> = found.iter().map(|finding| finding.check).collect();
        for check in ["cpu", "ffmpeg", "service"] {
            assert!(checks.contains(&check), "{check} in {checks:?}");
        }
    }
}
