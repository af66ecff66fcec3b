//! Reads server-sent events as they arrive.

use reqwest::Response;
use serde_json::Value;

use crate::PATIENCE;

/// One element of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `data:` with JSON.
    Event(Value),
    /// `data: [DONE]`.
    Done,
    /// A comment, which keeps proxies from closing the connection.
    Comment(String),
}

/// A streamed reply.
pub struct Events {
    /// The reply, for its headers.
    pub response: Response,
    read: Vec<u8>,
}

impl Events {
    /// Reads the events of a streamed reply.
    pub fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            read: Vec::new(),
        }
    }

    /// The next element; `None` at the end of the body.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.read.drain(..end + 2).collect();
                return Some(parse(
                    std::str::from_utf8(&block).expect("UTF-8").trim_end(),
                ));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let Some(bytes) = chunk.expect("in time").expect("the body goes on") else {
                assert!(self.read.is_empty(), "an event that was cut off");
                return None;
            };
            self.read.extend_from_slice(&bytes);
        }
    }

    /// The next element that is not a comment.
    pub async fn event(&mut self) -> Option<Line> {
        loop {
            match self.next().await {
                Some(Line::Comment(_)) => {}
                other => return other,
            }
        }
    }

    /// Reads to the end. Returns the deltas, and the last event before `[DONE]`.
    pub async fn rest(&mut self) -> (Vec<String>, Value) {
        let mut deltas = Vec::new();
        loop {
            match self.event().await {
                Some(Line::Event(event)) if event["type"] == "transcript.text.delta" => {
                    deltas.push(event["delta"].as_str().expect("text").to_owned());
                }
                Some(Line::Event(done)) if done["type"] == "transcript.text.done" => {
                    assert_eq!(self.event().await, Some(Line::Done));
                    assert_eq!(self.next().await, None);
                    return (deltas, done);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn parse(block: &str) -> Line {
    if let Some(comment) = block.strip_prefix(':') {
        return Line::Comment(comment.trim().to_owned());
    }
    match block.strip_prefix("data: ") {
        Some("[DONE]") => Line::Done,
        Some(data) => Line::Event(serde_json::from_str(data).expect("JSON")),
        None => panic!("no event: {block:?}"),
    }
}
