//! Real routers for one test: nginx and HAProxy with the configurations of the repository, if they are installed. Each
//! ends when it is dropped.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::client_builder;
use crate::port::{free_port, on_free_port};
use crate::processes::{Process, log_in, start_server};
use crate::repository;
use crate::waiting::until_or_show;

/// Says that a test is skipped, because a program is missing. In continuous integration, where scripts/test has installed
/// all programs, this is a failure.
///
/// # Panics
/// `CI` is set.
pub fn skip(reason: &str) {
    let is_integration = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_integration, "{reason}");
    eprintln!("skipped: {reason} (scripts/test installs it where it can)");
}

/// Whether a program is installed with all that the configuration needs; says so if it is not.
fn is_installed(what: &str, program: &str, file: Option<&str>) -> bool {
    let mut command = Command::new(program);
    let ran = command
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let is_there = ran.status().is_ok_and(|status| status.success());
    let is_installed = is_there && file.is_none_or(|file| Path::new(file).exists());
    if !is_installed {
        skip(&format!("there is no {what}"));
    }
    is_installed
}

/// A running router.
pub struct Router {
    /// The process.
    pub process: Process,
    /// Base URL for clients, without a trailing slash.
    pub url: String,
    /// Base URL of its status.
    pub status_url: String,
    client: Client,
    folder: TempDir,
}

impl Router {
    /// nginx that reads nodes from this Redis; `None` if it is not installed.
    pub async fn nginx(redis_url: &str) -> Option<Self> {
        let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
        Self::nginx_that_trusts(authorities, redis_url).await
    }

    /// nginx that reads nodes from this Redis, whose certificate is of an authority in this file.
    pub async fn nginx_that_trusts(authorities: &Path, redis_url: &str) -> Option<Self> {
        let modules = [
            "/usr/lib/nginx/modules/ngx_http_lua_module.so",
            "/usr/share/lua/5.1/nginx/redis.lua",
            "/usr/share/lua/5.1/nginx/dns/resolver.lua",
        ];
        let missing = modules.into_iter().find(|file| !Path::new(file).exists());
        let file = missing.unwrap_or(modules[0]);
        if !is_installed("nginx with Lua", "nginx", Some(file)) {
            return None;
        }
        let router = Self::start("/readyz", |folder, port, status_port| {
            let path = folder.join("nginx.conf");
            fs::write(
                &path,
                nginx_configuration(folder, authorities, port, status_port),
            )
            .expect("writes");
            let mut command = Command::new("nginx");
            command.arg("-e").arg(folder.join("log"));
            command.arg("-c").arg(path).env("REDIS_URL", redis_url);
            command
        });
        Some(router.await)
    }

    /// HAProxy in front of these nodes (a port, and one of the agent check); `None` if it is not installed.
    pub async fn haproxy(nodes: &[(u16, u16)]) -> Option<Self> {
        if !is_installed("HAProxy", "haproxy", None) {
            return None;
        }
        let router = Self::start("/livez", |folder, port, status_port| {
            let path = folder.join("haproxy.cfg");
            let text = haproxy_configuration(nodes, port, status_port);
            fs::write(&path, text).expect("writes");
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(path);
            command
        });
        Some(router.await)
    }

    /// Starts a process and waits until it answers at `path`, with any status.
    async fn start(path: &str, command: impl Fn(&Path, u16, u16) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // A kept connection breaks with the worker process of nginx that has it.
        let client = client_builder().pool_max_idle_per_host(0).build();
        let client = client.expect("a client");
        let (process, port, status_port) = on_free_port(async |port| {
            let status_port = free_port();
            let mut command = command(folder.path(), port, status_port);
            let url = format!("http://127.0.0.1:{port}{path}");
            let answers = async |_: &Process| client.get(&url).send().await.is_ok();
            let output = folder.path().join("output");
            let started = start_server(&mut command, &output, answers).await;
            started.map(|process| (process, port, status_port))
        })
        .await;
        Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
            status_url: format!("http://127.0.0.1:{status_port}"),
            client,
            folder,
        }
    }

    /// Its log.
    pub fn log(&self) -> String {
        ["log", "output"]
            .map(|name| log_in(&self.folder.path().join(name)))
            .concat()
    }

    /// The status of the router for nginx.
    pub async fn status(&self) -> Value {
        let request = self.client.get(format!("{}/status", self.status_url));
        request
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON")
    }

    /// The states of HAProxy's servers: of each node its state and its weight, such as `UP` and `100`.
    pub async fn states(&self) -> Vec<(String, String)> {
        let request = self.client.get(format!("{}/;csv", self.status_url));
        let text = request.send().await.expect("an answer").text().await;
        let text = text.expect("a body");
        let names: Vec<_> = text.lines().next().unwrap_or_default().split(',').collect();
        let place = |name: &str| names.iter().position(|found| *found == name);
        let columns = ["status", "weight"].map(|name| place(name).expect("a column"));
        let nodes = text.lines().filter(|line| line.starts_with("nodes,node-"));
        let values = nodes.map(|line| {
            let fields: Vec<_> = line.split(',').collect();
            columns.map(|place| fields.get(place).copied().unwrap_or_default().to_owned())
        });
        values.map(|[state, weight]| (state, weight)).collect()
    }

    /// Waits until a condition holds; a panic shows the log.
    pub async fn until(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        until_or_show(what, condition, || self.log()).await;
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // SIGTERM, so that nginx ends its workers.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            crate::signal(self.process.id(), "TERM");
        }
        let _ = self.process.wait();
    }
}

fn nginx_configuration(folder: &Path, authorities: &Path, port: u16, status_port: u16) -> String {
    let ours = repository().join("config/nginx");
    let text = fs::read_to_string(ours.join("uttera-stt.conf")).expect("it is there");
    let lua = ours.join("lua");
    let mut text = text.replace("/etc/nginx/uttera-stt-lua", lua.to_str().expect("UTF-8"));
    for (known, new) in [
        (
            "listen 80 default_server;",
            format!("listen 127.0.0.1:{port};"),
        ),
        ("listen [::]:80 default_server;", String::new()),
        (
            "listen 127.0.0.1:9080;",
            format!("listen 127.0.0.1:{status_port};"),
        ),
        (
            "lua_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;",
            format!("lua_ssl_trusted_certificate {};", authorities.display()),
        ),
    ] {
        assert!(text.contains(known), "the configuration lacks {known}");
        text = text.replace(known, &new);
    }
    let folder = folder.display();
    // The temporary folders are needed at the start only: nothing is buffered on disk.
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
        .concat();
    let user = if nix::unistd::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        "load_module modules/ndk_http_module.so;\nload_module modules/ngx_http_lua_module.so;\n\
         daemon off;\n{user}\nworker_processes 2;\npid {folder}/pid;\nerror_log {folder}/log info;\n\
         events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{temporary}\n{text}\n}}\n"
    )
}

fn haproxy_configuration(nodes: &[(u16, u16)], port: u16, status_port: u16) -> String {
    let path = repository().join("config/haproxy/haproxy.cfg");
    let text = fs::read_to_string(path).expect("it is there");
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.trim() {
            "bind :80" => lines.push(format!("    bind 127.0.0.1:{port}")),
            "bind 127.0.0.1:9081" => lines.push(format!("    bind 127.0.0.1:{status_port}")),
            server if server.starts_with("server ") => {}
            _ => lines.push(line.to_owned()),
        }
        if line.trim_start().starts_with("default-server ") {
            let server = |(number, (port, agent_port)): (usize, &(u16, u16))| {
                format!(
                    "    server node-{} 127.0.0.1:{port} agent-port {agent_port}",
                    number + 1
                )
            };
            lines.extend(nodes.iter().enumerate().map(server));
        }
    }
    lines.join("\n") + "\n"
}
