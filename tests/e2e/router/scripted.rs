//! Nodes whose answers a test chooses, for what real nodes do too rarely.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use test_support::redis_server::RedisServer;
use test_support::routers::Router;
use tokio::io::AsyncWriteExt;
use wiremock::matchers::{any, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

/// A node that answers every request as its test says.
pub struct ScriptedNode {
    /// Its name in Redis.
    pub name: &'static str,
    server: MockServer,
    agent_port: u16,
    agent_line: Arc<Mutex<&'static str>>,
    accepts: Arc<Mutex<bool>>,
    records: AtomicU64,
}

impl ScriptedNode {
    /// Starts one on 127.0.0.1.
    pub async fn start(
        name: &'static str,
        answer: impl Fn(&Request) -> ResponseTemplate + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), name, answer).await
    }

    /// Starts one on this address.
    pub async fn start_on(
        address: IpAddr,
        name: &'static str,
        answer: impl Fn(&Request) -> ResponseTemplate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("binds");
        let server = MockServer::builder().listener(listener).start().await;
        let accepts = Arc::new(Mutex::new(true));
        let accepting = Arc::clone(&accepts);
        let health = move |_: &Request| {
            let accepts = *accepting.lock().unwrap_or_else(PoisonError::into_inner);
            let health = json!({"status": "ok", "routing": {"accepts_requests": accepts}});
            ResponseTemplate::new(200).set_body_json(health)
        };
        for probe in ["/health", "/livez", "/readyz"] {
            let mock = Mock::given(path(probe)).respond_with(health.clone());
            mock.mount(&server).await;
        }
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let agent_line = Arc::new(Mutex::new("up 100% ready\n"));
        let agent_port = answer_agent_checks(Arc::clone(&agent_line)).await;
        Self {
            name,
            server,
            agent_port,
            agent_line,
            accepts,
            records: AtomicU64::default(),
        }
    }

    /// Its port, and that of its agent check.
    pub fn ports(&self) -> (u16, u16) {
        (self.server.address().port(), self.agent_port)
    }

    /// Writes its record, with these changes, as a new one.
    pub fn register(&self, redis: &RedisServer, changes: &Value) {
        let accepts = *self.accepts.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.records.fetch_add(1, Ordering::Relaxed);
        let mut record = json!({"load_score": 0.1, "accepts_requests": accepts, "host": "127.0.0.1",
            "port": self.ports().0, "version": "1", "ts": number});
        let fields = record.as_object_mut().expect("an object");
        fields.extend(changes.as_object().cloned().unwrap_or_default());
        let key = format!("stt:nodes:{}", self.name);
        let _: () = redis.ask(&["SET", &key, &record.to_string()]);
    }

    /// From now on it accepts no work.
    pub fn fill(&self) {
        *self.accepts.lock().unwrap_or_else(PoisonError::into_inner) = false;
        *self
            .agent_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = "drain\n";
    }

    /// How many requests it has got, without probes.
    pub async fn requests(&self) -> usize {
        let probes = ["/health", "/livez", "/readyz"];
        let requests = self.server.received_requests().await.unwrap_or_default();
        let others = requests.iter().map(|request| request.url.path());
        others.filter(|path| !probes.contains(path)).count()
    }
}

/// Answers each connection to a port with a line.
async fn answer_agent_checks(line: Arc<Mutex<&'static str>>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let line = *line.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = stream.write_all(line.as_bytes()).await;
        }
    });
    port
}

/// What the router for nginx knows of a node; null if it does not know it.
pub async fn known(nginx: &Router, node: &str) -> Value {
    let status = nginx.status().await;
    let nodes = status["nodes"].as_array().expect("a list").clone();
    let found = nodes.into_iter().find(|known| known["id"] == node);
    found.unwrap_or(Value::Null)
}

/// Waits until nginx knows these nodes and no others.
pub async fn until_known(nginx: &Router, names: &[&str]) {
    let knows = async || {
        let status = nginx.status().await;
        let nodes = status["nodes"].as_array().expect("a list");
        let known: Vec<_> = nodes
            .iter()
            .filter_map(|node| node["id"].as_str())
            .collect();
        known == names
    };
    nginx.until(&format!("it knows {names:?}"), knows).await;
}

/// Waits until all these nodes are in one state for HAProxy.
pub async fn until_state(haproxy: &Router, state: &str) {
    let all = async || {
        let states = haproxy.states().await;
        !states.is_empty() && states.iter().all(|(found, _)| found.starts_with(state))
    };
    haproxy.until(&format!("all nodes are {state}"), all).await;
}
