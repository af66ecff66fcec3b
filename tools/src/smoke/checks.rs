//! The checks: health, metrics, and the transcript of each item.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::items::Item;
use crate::probe::server::{Reply, Server};
use crate::probe::transcript::{Endpoint, Failure, FailureKind, Transcript};
use uttera_stt_client::language;

/// Checks `/health` and returns a summary of what the server reports.
///
/// # Errors
/// The server does not answer or reports a problem.
pub async fn health(server: &Server) -> anyhow::Result<String> {
    let mut reply = server.send(server.get("/health")).await?;
    if reply.status == 404 {
        reply = server.send(server.get("/v1/health")).await?;
    }
    let body = reply.good_json()?;
    ensure!(
        body.is_object(),
        "the body is not an object: {}",
        reply.beginning()
    );
    ensure!(body["ok"] != Value::Bool(false), "`ok` is false: {body}");
    let told = ["status", "ok", "model", "version"].into_iter();
    let told = told.filter_map(|key| Some(format!("{key} {}", plain(body.get(key)?)?)));
    Ok(told.collect::<Vec<_>>().join(", "))
}

/// A value for people: a text without its quotes.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Checks `/metrics` and returns the number of Prometheus series; `None` if the server has no such page.
///
/// # Errors
/// The page is not valid.
pub async fn metrics(server: &Server) -> anyhow::Result<Option<usize>> {
    let reply = server.send(server.get("/metrics")).await?;
    if reply.status == 404 {
        return Ok(None);
    }
    reply.ensure_status(200)?;
    series(&reply).map(Some)
}

fn series(reply: &Reply) -> anyhow::Result<usize> {
    let lines = reply.text()?.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let value = line.rsplit(' ').next().unwrap_or_default();
        let number: Result<f64, _> = value.parse();
        let shown = || crate::probe::client::beginning(line.as_bytes());
        number.with_context(|| format!("a line without a value: {}", shown()))?;
        count += 1;
    }
    ensure!(count > 0, "the page contains no series");
    Ok(count)
}

/// Whether a server has an endpoint, judged by its answer to a GET of a path that accepts only POST.
///
/// # Errors
/// The server does not answer.
pub async fn is_there(server: &Server, endpoint: Endpoint) -> anyhow::Result<bool> {
    let reply = server.send(server.get(endpoint.path())).await?;
    Ok(reply.status != 404)
}

/// Checks that a transcript matches the recording and its language.
///
/// # Errors
/// The transcript or its language does not match, or there is no transcript.
pub fn judge(item: &Item, answer: &Result<Transcript, Failure>) -> anyhow::Result<()> {
    let transcript = match answer {
        Ok(transcript) => transcript,
        Err(failure) if failure.kind == FailureKind::Status(401) => {
            bail!("{failure}; is the key right (UTTERA_API_KEY)?")
        }
        Err(failure) => bail!("{failure}"),
    };
    item.recording.ensure_heard(&transcript.text)?;
    let (Some(expected), Some(told)) = (&item.expected_language, &transcript.language) else {
        return Ok(());
    };
    ensure!(
        language::parse(told) == language::parse(expected),
        "the reported language is {told:?} instead of {expected:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::probe::recording::Recording;
    use crate::probe::speech::COMMAND;

    use super::*;

    fn item() -> Item {
        Item {
            name: "short".to_owned(),
            recording: Recording::from(COMMAND),
            expected_language: Some("en".to_owned()),
        }
    }

    fn answer(text: &str, language: Option<&str>) -> Transcript {
        Transcript {
            text: text.to_owned(),
            language: language.map(str::to_owned),
            ..Transcript::default()
        }
    }

    #[test]
    fn words_and_language_must_be_right() {
        for language in [None, Some("en"), Some("english"), Some("English")] {
            judge(&item(), &Ok(answer(COMMAND.text, language))).unwrap();
        }
        let wrong = judge(&item(), &Ok(answer(COMMAND.text, Some("german")))).unwrap_err();
        assert!(wrong.to_string().contains("\"german\" instead of \"en\""));
        let wrong = judge(&item(), &Ok(answer("Thanks for watching!", Some("en")))).unwrap_err();
        assert!(wrong.to_string().contains("not what is said"));
    }

    #[test]
    fn a_rejected_key_is_reported_with_the_variable_for_keys() {
        let refused = |status| {
            Err(Failure {
                kind: FailureKind::Status(status),
                message: "no".to_owned(),
            })
        };
        let told = |status| judge(&item(), &refused(status)).unwrap_err().to_string();
        assert_eq!(told(401), "no; is the key right (UTTERA_API_KEY)?");
        assert_eq!(told(503), "no");
    }

    #[test]
    fn series_are_counted_and_other_pages_fail() {
        let page = |body: &'static str| Reply {
            status: 200,
            headers: reqwest::header::HeaderMap::new(),
            body: body.into(),
        };
        let text = "# HELP a b\n# TYPE a gauge\na 1\nb{c=\"d e\"} NaN\n\n";
        assert_eq!(series(&page(text)).unwrap(), 2);
        series(&page("<html>\n<body>no</body>")).unwrap_err();
        series(&page("# only\n")).unwrap_err();
    }
}
