//! Listens with a server, over OpenAI's realtime socket.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use futures::{SinkExt, StreamExt};
use reqwest::Url;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;

use super::{ListenArgs, Printer, Source};
use crate::cli::server_key::server_key;
use crate::shutdown::StopSignals;

/// Options for the server.
#[derive(Clone, Debug, Args)]
pub(super) struct ServerArgs {
    /// Use this server: uttera-stt, or another with OpenAI's realtime transcription. The key comes from the environment
    /// variable UTTERA_API_KEY, never from the command line.
    #[arg(long)]
    url: Option<Url>,
    /// Environment variable with the server's key, in place of UTTERA_API_KEY.
    #[arg(long, value_name = "NAME", requires = "url")]
    api_key_env: Option<String>,
    /// Model name in the requests, for servers with several models.
    #[arg(
        long,
        value_name = "NAME",
        requires = "url",
        default_value = "whisper-1"
    )]
    ask_for: String,
}

impl ServerArgs {
    pub(super) fn is_named(&self) -> bool {
        self.url.is_some()
    }

    /// The address of the socket.
    fn address(&self) -> anyhow::Result<Url> {
        let mut url = self.url.clone().context("no --url")?;
        let scheme = match url.scheme() {
            "http" | "ws" => "ws",
            "https" | "wss" => "wss",
            other => bail!("--url: expected http or https, not {other}"),
        };
        let path = url.path().trim_end_matches('/').to_owned();
        let base = path.strip_suffix("/v1").unwrap_or(&path);
        url.set_path(&format!("{base}/v1/realtime"));
        url.set_query(Some("intent=transcription"));
        if url.set_scheme(scheme).is_err() {
            bail!("--url: expected an address of a server");
        }
        Ok(url)
    }
}

/// The turns of the session.
#[derive(Debug, Default)]
struct Turns {
    /// Turns whose text is awaited.
    open: BTreeSet<String>,
    /// Whether the audio has ended.
    ended: bool,
    /// Whether the server has answered the last commit.
    answered: bool,
}

impl Turns {
    fn are_done(&self) -> bool {
        self.ended && self.answered && self.open.is_empty()
    }

    /// Takes an event of the server.
    fn take(&mut self, event: &Value, printer: &mut Printer) -> anyhow::Result<()> {
        const TRANSCRIPTION: &str = "conversation.item.input_audio_transcription";
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let item = text("item_id");
        match text("type") {
            "input_audio_buffer.committed" => {
                self.open.insert(item.to_owned());
                self.answered |= self.ended;
            }
            kind if kind.strip_prefix(TRANSCRIPTION) == Some(".delta") => {
                printer.delta(item, text("delta"))?;
            }
            kind if kind.strip_prefix(TRANSCRIPTION) == Some(".completed") => {
                self.open.remove(item);
                printer.completed(item, text("transcript"))?;
            }
            kind if kind.strip_prefix(TRANSCRIPTION) == Some(".failed") => {
                self.open.remove(item);
                let message = event["error"]["message"].as_str();
                printer.failed(item, message.unwrap_or("the server gives no reason"));
            }
            "error" => {
                let error = &event["error"];
                // The last turn ended with a silence of its own.
                let is_nothing_left = error["code"] == "input_audio_buffer_commit_empty";
                if self.ended && is_nothing_left {
                    self.answered = true;
                } else {
                    bail!(
                        "the server: {}",
                        error["message"].as_str().unwrap_or("an error")
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) async fn listen(args: &ListenArgs, signals: StopSignals) -> anyhow::Result<()> {
    let address = args.server.address()?;
    let mut request = address.as_str().into_client_request()?;
    let key = server_key(args.server.api_key_env.as_deref())?;
    if !key.is_empty() {
        let value = format!("Bearer {key}").parse().context("the key")?;
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let (socket, _response) = tokio_tungstenite::connect_async(request)
        .await
        .with_context(|| format!("cannot open {address}"))?;
    let (mut sink, mut stream) = socket.split();
    sink.send(text(&configuration(args))).await?;
    let mut source = Source::open(args, signals)?;
    eprintln!("listening; Ctrl-C ends");
    let mut printer = Printer::new(args.json);
    let mut turns = Turns::default();
    while !turns.are_done() {
        tokio::select! {
            samples = source.next() => {
                let event = if let Some(samples) = samples? {
                    json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(samples)})
                } else {
                    turns.ended = true;
                    json!({"type": "input_audio_buffer.commit"})
                };
                sink.send(text(&event)).await?;
            }
            message = stream.next() => match message.context("the server closed the connection")?? {
                Message::Text(body) => turns.take(&serde_json::from_str(&body)?, &mut printer)?,
                Message::Close(reason) => {
                    let reason = reason.map(|frame| frame.reason.to_string());
                    bail!("the server closed the connection: {}", reason.unwrap_or_default());
                }
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
    // The server may be faster.
    let _ = sink.close().await;
    Ok(())
}

fn text(event: &Value) -> Message {
    Message::Text(event.to_string().into())
}

/// The options of the session.
fn configuration(args: &ListenArgs) -> Value {
    json!({
        "type": "session.update",
        "session": {
            "type": "transcription",
            "audio": {"input": {
                "format": {"type": "audio/pcm", "rate": args.rate()},
                "transcription": {
                    "model": args.server.ask_for,
                    "language": args.language,
                    "prompt": args.prompt,
                },
                "turn_detection": {"type": "server_vad", "silence_duration_ms": args.silence},
            }},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> anyhow::Result<String> {
        let server = ServerArgs {
            url: Some(url.parse().expect("a URL")),
            api_key_env: None,
            ask_for: String::new(),
        };
        Ok(server.address()?.into())
    }

    #[test]
    fn the_socket_is_below_the_base_url_with_or_without_its_version() {
        for (url, socket) in [
            (
                "http://node:9005",
                "ws://node:9005/v1/realtime?intent=transcription",
            ),
            (
                "http://node:9005/v1/",
                "ws://node:9005/v1/realtime?intent=transcription",
            ),
            (
                "https://api.test/stt/v1",
                "wss://api.test/stt/v1/realtime?intent=transcription",
            ),
        ] {
            assert_eq!(address(url).expect("an address"), socket);
        }
        assert!(address("ftp://node").is_err());
    }

    #[test]
    fn the_end_waits_for_the_answer_to_the_last_commit_and_for_all_texts() {
        let mut turns = Turns::default();
        let mut printer = Printer::Lines;
        let mut take = |turns: &mut Turns, event: Value| turns.take(&event, &mut printer);
        let committed = json!({"type": "input_audio_buffer.committed", "item_id": "a"});
        let completed = json!({"type": "conversation.item.input_audio_transcription.completed",
            "item_id": "a", "transcript": ""});
        take(&mut turns, committed.clone()).expect("taken");
        turns.ended = true;
        assert!(!turns.are_done());
        let empty = json!({"type": "error", "error": {"code": "input_audio_buffer_commit_empty"}});
        take(&mut turns, empty.clone()).expect("the expected answer");
        assert!(!turns.are_done());
        take(&mut turns, completed).expect("taken");
        assert!(turns.are_done());
        let mut turns = Turns::default();
        assert!(
            take(&mut turns, empty).is_err(),
            "before the end, it is an error"
        );
    }
}
