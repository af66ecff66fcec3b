//! How nginx shares the work between nodes of different speed. Their engines take a fixed time for each request, so that
//! the shares do not depend on the machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use test_support::built;
use test_support::redis_server::RedisServer;
use test_support::routers::Router;

use super::load::Load;

/// The time that the engine of a fast node takes for a request, and that of the slow one: long compared with everything
/// else that a request needs.
const WORK: Duration = Duration::from_millis(250);
const SLOW_WORK: Duration = Duration::from_millis(750);
/// Requests after which the shares are compared.
const REQUESTS: usize = 60;

/// A node with an engine that takes a fixed time for each request.
struct FixedNode {
    process: Child,
    /// Its id in Redis, and its address.
    id: String,
}

impl FixedNode {
    fn start(work: Duration, redis: &RedisServer) -> Self {
        let mut process = Command::new(built("examples/null_engine"))
            .args(["--port", "0", "--redis", &redis.url()])
            .args(["--work-millis", &work.as_millis().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the example is built");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let url = lines.map_while(Result::ok);
        let url = url.into_iter().find(|line| line.starts_with("http://"));
        let id = url.expect("its address").replace("http://", "");
        Self { process, id }
    }
}

impl Drop for FixedNode {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_slow_node_gets_less_work_and_equal_ones_get_equal_shares() {
    let redis = RedisServer::start().await;
    let nodes = [WORK, WORK, SLOW_WORK].map(|work| FixedNode::start(work, &redis));
    let Some(nginx) = Router::nginx(&redis.url()).await else {
        return;
    };
    let all_accept = async || {
        let status = nginx.status().await;
        let nodes = status["nodes"].as_array().into_iter().flatten();
        nodes
            .filter(|node| node["accepts_requests"] == true)
            .count()
            == 3
    };
    nginx.until("nginx uses all nodes", all_accept).await;
    // Enough clients that no node is ever idle.
    let loads = [0; 6].map(|_| Load::start(&nginx.url));
    loads_have(&loads, REQUESTS).await;
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    let replies = futures::future::join_all(loads.map(Load::end)).await;
    for reply in replies.into_iter().flatten() {
        assert_eq!(reply.status, 200, "{reply:?}");
        *shares.entry(reply.node).or_default() += 1;
    }
    let share = |node: &FixedNode| shares.get(&node.id).copied().unwrap_or_default();
    let [one, two, slow] = [&nodes[0], &nodes[1], &nodes[2]].map(share);
    eprintln!("shares: {one} and {two} of the fast nodes, {slow} of the slow one");
    // By speed, they are 3 : 3 : 1.
    assert!(slow > 0, "the slow node has no share");
    for (fast, other) in [(one, two), (two, one)] {
        assert!(slow * 3 < fast * 2, "{shares:?}");
        assert!(fast < other * 2, "{shares:?}");
    }
}

/// Waits until the clients have this many replies in all.
async fn loads_have(loads: &[Load], count: usize) {
    test_support::until("enough replies", async || {
        loads.iter().map(Load::count).sum::<usize>() >= count
    })
    .await;
}
