//! Clients of routers that send one request after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use test_support::http::client;
use test_support::until;
use tokio::task::JoinHandle;

use super::send;

/// Concurrent clients of each router.
pub const CLIENTS: usize = 2;

/// What a client got.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status; 0 without any.
    pub status: u16,
    /// The node that answered.
    pub node: String,
    pub body: String,
}

/// Sends one request.
pub async fn ask(client: &reqwest::Client, url: &str) -> Reply {
    let mut reply = Reply {
        status: 0,
        node: String::new(),
        body: String::new(),
    };
    match send(client, url).await {
        Ok(response) => {
            reply.status = response.status().as_u16();
            let node = response.headers().get("x-node");
            let node = node.and_then(|node| node.to_str().ok());
            reply.node = node.unwrap_or_default().to_owned();
            reply.body = response
                .text()
                .await
                .unwrap_or_else(|error| error.to_string());
        }
        Err(error) => reply.body = error.to_string(),
    }
    reply
}

/// Clients that send one request after the other.
pub struct Load {
    stop: Arc<AtomicBool>,
    replies: Arc<Mutex<Vec<Reply>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the clients of a router.
    pub fn start(url: &str) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            replies: Arc::default(),
            clients: Vec::new(),
        };
        for _ in 0..CLIENTS {
            let (stop, replies, url) = (
                Arc::clone(&load.stop),
                Arc::clone(&load.replies),
                url.to_owned(),
            );
            load.clients.push(tokio::spawn(async move {
                let client = client();
                while !stop.load(Ordering::Relaxed) {
                    let reply = ask(&client, &url).await;
                    let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
                    replies.push(reply);
                }
            }));
        }
        load
    }

    fn replies(&self) -> Vec<Reply> {
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.clone()
    }

    /// How many replies there are.
    pub fn count(&self) -> usize {
        self.replies().len()
    }

    /// Waits for some more replies, of a node if one is named.
    pub async fn more(&self, count: usize, node: Option<&str>) {
        let of_node = |reply: &&Reply| node.is_none_or(|node| reply.node == node);
        let now = || self.replies().iter().filter(of_node).count();
        let before = now();
        until("more replies come", async || now() >= before + count).await;
    }

    /// The replies that are no transcripts; they are forgotten.
    pub fn take_lost(&self) -> Vec<Reply> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = replies.iter().filter(|reply| reply.status != 200).cloned();
        let lost: Vec<_> = lost.collect();
        replies.retain(|reply| reply.status == 200);
        lost
    }

    /// Ends them, and returns the replies.
    pub async fn end(self) -> Vec<Reply> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no panic");
        }
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.clone()
    }
}
