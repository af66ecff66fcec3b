//! Reading server-sent events strictly, as a whole that has ended.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::expect::text;

/// A transcript that came as events.
#[derive(Debug)]
pub struct Events {
    /// The pieces of text, in order.
    pub deltas: Vec<Value>,
    /// The last event.
    pub done: Value,
}

impl Events {
    /// Reads deltas, `done` and `[DONE]`, in that order and nothing after.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(body: &str) -> anyhow::Result<Self> {
        let mut data = Vec::new();
        for event in body.replace("\r\n", "\n").split("\n\n") {
            if let Some(value) = data_of(event)? {
                data.push(value);
            }
        }
        let end = data.pop().context("there is no event")?;
        ensure!(end == "[DONE]", "the last event is {end:?}, not [DONE]");
        let mut events = data
            .iter()
            .map(|event| {
                serde_json::from_str(event).with_context(|| format!("{event:?} is no JSON"))
            })
            .collect::<anyhow::Result<Vec<Value>>>()?;
        if let Some(failed) = events.iter().find(|event| event.get("error").is_some()) {
            bail!("an error came: {failed}");
        }
        let done = events.pop().context("there is no event before [DONE]")?;
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

    /// The deltas joined.
    ///
    /// # Errors
    /// One has no text.
    pub fn joined(&self) -> anyhow::Result<String> {
        self.deltas
            .iter()
            .map(|event| text(event, "delta"))
            .collect()
    }
}

/// The data of an event; `None` for one of comments only.
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
            bail!("{line:?} is no line of an event");
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_comments_and_the_end_are_read() {
        let body = ": ping\n\ndata: {\"type\":\"transcript.text.delta\",\"delta\":\"a\"}\n\n\
                    data: {\"type\":\"transcript.text.delta\",\"delta\":\" b\"}\n\n: ping\n\n\
                    data: {\"type\":\"transcript.text.done\",\"text\":\"a b\"}\n\ndata: [DONE]\n\n";
        let events = Events::read(body).unwrap();
        assert_eq!(events.joined().unwrap(), "a b");
        assert_eq!(events.done["text"], "a b");
    }

    #[test]
    fn what_is_no_stream_is_told() {
        let done = "data: {\"type\":\"transcript.text.done\",\"text\":\"\"}\n\n";
        for (body, complaint) in [
            ("", "no event"),
            ("<html></html>", "no line"),
            (done, "not [DONE]"),
            ("data: [DONE]\n\n", "before [DONE]"),
            ("data: {\"error\":{}}\n\ndata: [DONE]\n\n", "error"),
            ("data: x\n\ndata: [DONE]\n\n", "no JSON"),
        ] {
            let error = format!("{:#}", Events::read(body).unwrap_err());
            assert!(error.contains(complaint), "{body:?}: {error}");
        }
        let twice = format!("{done}{done}data: [DONE]\n\n");
        assert!(Events::read(&twice).is_err());
    }
}
