//! Machines of one test, each in a network namespace and with a cable to a switch that the test can pull.
//!
//! The test itself runs in a namespace of its own, so that it changes nothing on the machine: [`enter`] starts it again
//! there. That needs root, or a kernel that allows user namespaces.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::waiting::until;

/// Names a file that the test writes once it runs in its namespace.
const INSIDE: &str = "UTTERA_TEST_NAMESPACE";
/// The switch, a bridge of the kernel; the test is connected to it.
const SWITCH: &str = "switch";
/// The address of the test.
pub const OWN_ADDRESS: &str = "10.77.0.1";

/// Whether this process runs in the namespace of its test. If not, runs the test of this name there, to its end; without
/// namespaces on this machine, it only says so.
pub fn enter(test: &str) -> bool {
    if let Ok(file) = std::env::var(INSIDE) {
        std::fs::write(file, "").expect("writes");
        return true;
    }
    // Another user becomes no root, but keeps the rights over the new namespace.
    let options: &[&str] = if nix::unistd::geteuid().is_root() {
        &["--net"]
    } else {
        &["--map-current-user", "--keep-caps", "--net"]
    };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(options).stdin(Stdio::null());
        command
    };
    let tried = unshare()
        .args(["ip", "link", "add", SWITCH, "type", "bridge"])
        .output();
    let reason = match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason {
        eprintln!("skipped: no network namespace can be made here: {reason}");
        return false;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("inside");
    let mut command = unshare();
    command.arg(std::env::current_exe().expect("a test has a path"));
    command.args(["--exact", test, "--nocapture"]);
    let status = command.env(INSIDE, &inside).status().expect("unshare runs");
    assert!(status.success(), "the test failed in its namespace");
    assert!(inside.exists(), "no test has the name {test}");
    false
}

/// A switch for the machines.
pub struct Switch(());

impl Switch {
    /// Makes it, in the namespace of the test.
    pub fn new() -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "`enter` comes first");
        ip(None, &["link", "set", "lo", "up"]);
        ip(None, &["link", "add", SWITCH, "type", "bridge"]);
        let address = format!("{OWN_ADDRESS}/24");
        ip(None, &["address", "add", &address, "dev", SWITCH]);
        ip(None, &["link", "set", SWITCH, "up"]);
        Self(())
    }

    /// A machine with the number `number`, from 1 to 200, connected to the switch.
    pub async fn machine(&self, number: u8) -> Machine {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "infinity"]);
        let holder = holder.stdin(Stdio::null()).spawn().expect("unshare runs");
        let pid = holder.id().to_string();
        let machine = Machine {
            address: format!("10.77.0.{}", number + 1),
            port: format!("port{number}"),
            holder,
        };
        let namespace = |pid: &str| std::fs::read_link(Path::new("/proc").join(pid).join("ns/net"));
        let own = namespace("self").expect("a namespace");
        until("the machine has its namespace", async || {
            namespace(&pid).is_ok_and(|of_machine| of_machine != own)
        })
        .await;
        let pair = ["type", "veth", "peer", "name", "cable", "netns", &pid];
        ip(None, &[&["link", "add", &machine.port][..], &pair].concat());
        ip(None, &["link", "set", &machine.port, "master", SWITCH]);
        machine.plug_in();
        ip(Some(&machine), &["link", "set", "lo", "up"]);
        let address = format!("{}/24", machine.address);
        ip(
            Some(&machine),
            &["address", "add", &address, "dev", "cable"],
        );
        ip(Some(&machine), &["link", "set", "cable", "up"]);
        machine
    }
}

/// A machine. It ends when it is dropped, but not the processes on it.
pub struct Machine {
    /// Its address.
    pub address: String,
    /// Its port of the switch.
    port: String,
    /// The process that keeps its namespace.
    holder: Child,
}

impl Machine {
    /// A command to which the program and its arguments are added, and which runs them on this machine.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.holder.id().to_string();
        command.args(["--target", &pid, "--net"]);
        command
    }

    /// Disconnects it from the switch.
    pub fn pull_cable(&self) {
        ip(None, &["link", "set", &self.port, "down"]);
    }

    /// Connects it again.
    pub fn plug_in(&self) {
        ip(None, &["link", "set", &self.port, "up"]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs `ip`, on a machine or in the namespace of the test.
fn ip(machine: Option<&Machine>, arguments: &[&str]) {
    let mut command = match machine {
        Some(machine) => {
            let mut command = machine.command();
            command.arg("ip");
            command
        }
        None => Command::new("ip"),
    };
    let ran = command.args(arguments).output().expect("ip is installed");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "ip {arguments:?}: {said}");
}
