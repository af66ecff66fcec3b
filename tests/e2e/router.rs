//! Routers in front of real nodes, with a real Redis: nginx with our Lua code, and HAProxy with the agent check.

mod agent_check;
mod cut_off;
mod faults;
mod load;
mod passing;
mod records;
mod repeating;
mod rules;
mod scripted;
mod shares;
mod workers;

use reqwest::Response;
use test_support::port::free_port;
use test_support::redis_server::RedisServer;
use test_support::{Server, form, model, sample};

/// The recording that requests send.
const COMMAND: &str = "en-command.wav";

/// A node behind routers. It can be started again on the same ports.
struct Node {
    server: Server,
    name: String,
    port: u16,
    agent_port: u16,
}

impl Node {
    /// Starts one, which registers itself, and waits until it can transcribe.
    async fn start(number: usize, redis: &RedisServer) -> Self {
        let (port, agent_port) = (free_port(), free_port());
        let name = format!("node-{number}");
        let server = start(&name, port, agent_port, redis).await;
        Self {
            server,
            name,
            port,
            agent_port,
        }
    }

    /// Starts it again after its process has ended.
    async fn start_again(&mut self, redis: &RedisServer) {
        self.server = start(&self.name, self.port, self.agent_port, redis).await;
    }

    /// Kills it at once.
    fn kill(&mut self) {
        self.server.child.kill().expect("it is running");
        let _ = self.server.child.wait();
    }
}

async fn start(name: &str, port: u16, agent_port: u16, redis: &RedisServer) -> Server {
    let settings = [
        ("PORT", &*port.to_string()),
        ("AGENT_CHECK_PORT", &*agent_port.to_string()),
        ("REDIS_URL", &*redis.url()),
        ("NODE_ID", name),
        ("NODE_HOST", "127.0.0.1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.2"),
        // A node is full with a minute of work, and not with the few commands of these tests.
        ("ROUTING_DRAIN_CAP_SECONDS", "60"),
        ("TRUSTED_PROXIES", "127.0.0.1"),
        // Time for the routers of a slow machine.
        ("DRAIN_DELAY_SECONDS", "10"),
    ];
    Server::ready(&model("tiny.en").await, &settings).await
}

/// Sends the command to a router.
async fn send(client: &reqwest::Client, url: &str) -> reqwest::Result<Response> {
    let request = client.post(format!("{url}/v1/audio/transcriptions"));
    request.multipart(form(&sample(COMMAND), &[])).send().await
}
