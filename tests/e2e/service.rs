//! The server as a service: what it reports to systemd, and the health check of containers.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use test_support::command_line::{err, out, run};
use test_support::model;
use test_support::processes::signal;
use test_support::server::Server;

/// A socket in place of systemd's, and what arrived there.
struct Systemd {
    socket: UnixDatagram,
    seen: Vec<String>,
}

impl Systemd {
    /// Reads messages until one contains this line.
    fn until(&mut self, line: &str) {
        let mut buffer = [0; 4096];
        loop {
            let read = self.socket.recv(&mut buffer);
            let read = read.unwrap_or_else(|error| panic!("{line}: {error}; {:?}", self.seen));
            let message = String::from_utf8_lossy(&buffer[..read]).into_owned();
            let is_it = message.lines().any(|found| found == line);
            self.seen.push(message);
            if is_it {
                return;
            }
            // The watchdog is fed ten times a second.
            assert!(self.seen.len() < 1000, "{line}: {:?}", self.seen);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_notified_of_readiness_life_reloads_and_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("binds");
    // Only a failure takes so long.
    let limit = Duration::from_secs(120);
    socket.set_read_timeout(Some(limit)).expect("sets it");
    let mut systemd = Systemd {
        socket,
        seen: Vec::new(),
    };
    let model = model("tiny.en").await;
    let path = path.to_str().expect("UTF-8");
    let settings = [
        ("NOTIFY_SOCKET", path),
        ("WATCHDOG_USEC", "300000"),
        ("DRAIN_GRACE_SECONDS", "30"),
    ];
    let server = Server::start(&model, &settings).await;
    systemd.until("READY=1");
    let ready = "STATUS=ready, model tiny.en";
    let last = systemd.seen.last().expect("a message");
    assert!(last.lines().any(|line| line == ready), "{last}");
    assert!(server.get("/readyz").await.status().is_success());
    systemd.until("WATCHDOG=1");
    systemd.until("WATCHDOG=1");

    signal(server.pid(), "HUP");
    systemd.until("RELOADING=1");
    systemd.until("READY=1");
    signal(server.pid(), "TERM");
    systemd.until("STOPPING=1");
    // 30 s of a drain, and 20 s for the workers and the last responses.
    let last = systemd.seen.last().expect("a message");
    let time = "EXTEND_TIMEOUT_USEC=50000000";
    assert!(last.lines().any(|line| line == time), "{last}");
}

#[tokio::test]
async fn a_health_check_asks_the_server_of_the_settings_or_of_the_address() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let port = server.url.rsplit(':').next().expect("a port").to_owned();
    let of_settings = format!("PORT={port}");
    let output = run(folder.path(), &["healthcheck", "--set", &of_settings]);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    let output = run(folder.path(), &["healthcheck", "--url", &server.url]);
    assert_eq!(out(&output), "ready\n");

    let url = server.url.clone();
    drop(server);
    let output = run(folder.path(), &["healthcheck", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).starts_with("not ready: "), "{}", out(&output));
}

#[test]
fn the_manual_and_the_completions_name_the_subcommands() {
    let folder = tempfile::tempdir().expect("a folder");
    let texts = [
        &["manual"][..],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
    ];
    for arguments in texts {
        let output = run(folder.path(), arguments);
        assert!(output.status.success(), "{}", err(&output));
        for subcommand in ["serve", "transcribe", "healthcheck"] {
            assert!(out(&output).contains(subcommand), "{arguments:?}");
        }
    }
}
