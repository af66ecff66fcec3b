//! A strict parser of server-sent events, for a complete stream.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::expect::text;

/// A transcript received as events.
#[derive(Debug)]
pub struct Events {
    /// Deltas of the text, in order.
    pub deltas: Vec<Value>,
    /// The last event.
    pub done: Value,
}

impl Events {
    /// Parses deltas, `done` and `[DONE]`, in this order and with nothing after them.
    ///
    /// # Errors
    /// The stream has another form; the message names the first fault.
    pub fn read(body: &str) -> anyhow::Result<Self> {
        let mut data = Vec::new();
        for event in body.replace("\r\n", "\n").split("\n\n") {
            if let Some(value) = data_of(event)? {
                data.push(value);
            }
        }
        let end = data.pop().context("the stream has no event")?;
        ensure!(
            end == "[DONE]",
            "the last event is {end:?} instead of [DONE]"
        );
        let mut events = data
            .iter()
            .map(|event| {
                serde_json::from_str(event).with_context(|| format!("{event:?} is not JSON"))
            })
            .collect::<anyhow::Result<Vec<Value>>>()?;
        if let Some(failed) = events.iter().find(|event| event.get("error").is_some()) {
            bail!("the stream contains an error: {failed}");
        }
        let done = events
            .pop()
            .context("the stream has no event before [DONE]")?;
        let kind = text(&done, "type")?;
        ensure!(
            kind == "transcript.text.done",
            "the last event before [DONE] is {kind}"
        );
        for event in &events {
            let kind = text(event, "type")?;
            ensure!(kind == "transcript.text.delta", "an event is {kind}");
        }
        Ok(Self {
            deltas: events,
            done,
        })
    }

    /// Joins the deltas.
    ///
    /// # Errors
    /// A delta has no text.
    pub fn joined(&self) -> anyhow::Result<String> {
        self.deltas
            .iter()
            .map(|event| text(event, "delta"))
            .collect()
    }
}

/// The data of an event; `None` if the event contains only comments.
fn data_of(event: &str) -> anyhow::Result<Option<String>> {
    let mut data: Option<String> = None;
    for line in event.lines() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() || line.starts_with(':') {
            continue;
        }
        if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            data = Some(match data {
                Some(before) => format!("{before}\n{value}"),
                None => value.to_owned(),
            });
        } else if !["event:", "id:", "retry:"]
            .iter()
            .any(|field| line.starts_with(field))
        {
            let line: String = line.chars().take(80).collect();
            bail!("{line:?} is not a line of an event");
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_comments_and_the_end_are_parsed() {
        let body = ": ping\n\ndata: {\"type\":\"transcript.text.delta\",\"delta\":\"a\"}\n\n\
                    data: {\"type\":\"transcript.text.delta\",\"delta\":\" b\"}\n\n: ping\n\n\
                    data: {\"type\":\"transcript.text.done\",\"text\":\"a b\"}\n\ndata: [DONE]\n\n";
        let events = Events::read(body).unwrap();
        assert_eq!(events.joined().unwrap(), "a b");
        assert_eq!(events.done["text"], "a b");
    }

    #[test]
    fn an_invalid_stream_is_an_error() {
        let done = "data: {\"type\":\"transcript.text.done\",\"text\":\"\"}\n\n";
        for (body, complaint) in [
            ("", "no event"),
            ("<html></html>", "not a line"),
            (done, "instead of [DONE]"),
            ("data: [DONE]\n\n", "before [DONE]"),
            ("data: {\"error\":{}}\n\ndata: [DONE]\n\n", "error"),
            ("data: x\n\ndata: [DONE]\n\n", "not JSON"),
        ] {
            let error = format!("{:#}", Events::read(body).unwrap_err());
            assert!(error.contains(complaint), "{body:?}: {error}");
        }
        let twice = format!("{done}{done}data: [DONE]\n\n");
        assert!(Events::read(&twice).is_err());
    }
}
