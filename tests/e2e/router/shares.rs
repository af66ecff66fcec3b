//! How nginx shares the work between nodes of different speed. Their engines take a fixed time for each request, so that
//! the shares do not depend on the machine.

use std::collections::BTreeMap;
use std::time::Duration;

use test_support::null_engine::NullEngine;
use test_support::redis_server::RedisServer;
use test_support::routers::Router;

use super::load::Load;

/// The time that the engine of a fast node takes for a request, and that of the slow one: long compared with everything
/// else that a request needs.
const WORK: Duration = Duration::from_millis(250);
const SLOW_WORK: Duration = Duration::from_millis(750);
/// Requests after which the shares are compared.
const REQUESTS: usize = 60;

/// Starts a node with an engine that takes a fixed time for each request.
fn node(work: Duration, redis: &RedisServer) -> NullEngine {
    let work = work.as_millis().to_string();
    NullEngine::start(&["--redis", &redis.url(), "--work-millis", &work])
}

#[tokio::test]
async fn a_slow_node_gets_less_work_and_equal_ones_get_equal_shares() {
    let redis = RedisServer::start().await;
    let nodes = [WORK, WORK, SLOW_WORK].map(|work| node(work, &redis));
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
    // A node's id in Redis is its address.
    let id = |node: &NullEngine| node.url.replace("http://", "");
    let share = |node: &NullEngine| shares.get(&id(node)).copied().unwrap_or_default();
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
