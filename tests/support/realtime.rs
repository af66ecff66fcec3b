//! A client of realtime transcription, frame by frame.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
pub use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::samples::sample;
use crate::server::Server;
use crate::waiting::patiently;

/// How the events of text begin.
pub const TRANSCRIPTION: &str = "conversation.item.input_audio_transcription";

/// A connection.
pub struct Realtime {
    socket: WebSocketStream<TcpStream>,
    /// The sub-protocol that the server chose.
    pub protocol: Option<String>,
}

/// The refusal of a connection.
#[derive(Debug)]
pub struct Refused {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Value,
}

impl Realtime {
    /// Connects to this path with these headers.
    pub async fn connect(
        server: &Server,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Refused> {
        Self::connect_to(&server.url, path, headers).await
    }

    /// Connects to this path of the server with this base URL.
    pub async fn connect_to(
        url: &str,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Refused> {
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let stream = TcpStream::connect(address).await.expect("connects");
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .expect("a request");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a value");
            request.headers_mut().append(*name, value);
        }
        match patiently(client_async(request, stream)).await {
            Ok((socket, response)) => {
                let protocol = response.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|name| name.to_str().expect("ASCII").to_owned());
                Ok(Self { socket, protocol })
            }
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(Refused {
                    status: response.status().as_u16(),
                    body: serde_json::from_slice(body).unwrap_or_default(),
                })
            }
            Err(error) => panic!("the connection failed: {error}"),
        }
    }

    /// A session in the current shape, with 16 kHz audio and these rules for turns.
    pub async fn session(server: &Server, turns: Value) -> Self {
        let path = "/v1/realtime?intent=transcription";
        let mut client = Self::connect(server, path, &[]).await.expect("connects");
        client.event("session.created").await;
        client.configure(json!({"turn_detection": turns})).await;
        client
    }

    /// Changes the audio's configuration: 16 kHz and these fields. Returns the session that the server reports.
    pub async fn configure(&mut self, mut input: Value) -> Value {
        if input["format"].is_null() {
            input["format"] = json!({"type": "audio/pcm", "rate": 16_000});
        }
        let session = json!({"type": "transcription", "audio": {"input": input}});
        self.send(json!({"type": "session.update", "session": session}))
            .await;
        self.event("session.updated").await["session"].take()
    }

    /// Sends an event.
    pub async fn send(&mut self, event: Value) {
        self.send_message(Message::text(event.to_string())).await;
    }

    /// Sends a message.
    pub async fn send_message(&mut self, message: Message) {
        patiently(self.socket.send(message)).await.expect("sends");
    }

    /// Sends audio, in events of a tenth of a second at 16 kHz.
    pub async fn append(&mut self, audio: &[u8]) {
        for block in audio.chunks(3200) {
            let audio = BASE64_STANDARD.encode(block);
            self.send(json!({"type": "input_audio_buffer.append", "audio": audio}))
                .await;
        }
    }

    /// Ends the turn.
    pub async fn commit(&mut self) {
        self.send(json!({"type": "input_audio_buffer.commit"}))
            .await;
    }

    /// The next event.
    pub async fn next(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("no event: {other:?}"),
        }
    }

    /// The next event, which must be of this type.
    pub async fn event(&mut self, kind: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event["type"], kind, "{event}");
        let id = event["event_id"].as_str().expect("an id");
        assert!(id.starts_with("event_"), "{event}");
        event
    }

    /// The events up to the first of this type.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let is_last = event["type"] == kind;
            assert!(is_last || event["type"] != "error", "{event}");
            events.push(event);
            if is_last {
                return events;
            }
        }
    }

    /// The text of the next turn, and all events up to it. Its deltas are checked.
    pub async fn turn(&mut self) -> (String, Vec<Value>) {
        let events = self.until(&format!("{TRANSCRIPTION}.completed")).await;
        let done = events.last().expect("one");
        let text = done["transcript"].as_str().expect("a text").to_owned();
        let deltas = events.iter().filter(|event| {
            event["type"] == format!("{TRANSCRIPTION}.delta") && event["item_id"] == done["item_id"]
        });
        let deltas: String = deltas
            .map(|event| event["delta"].as_str().expect("a text"))
            .collect();
        assert_eq!(deltas.is_empty(), text.is_empty(), "{events:?}");
        (text, events)
    }

    /// The error that the server answers with.
    pub async fn error(&mut self) -> Value {
        self.event("error").await["error"].take()
    }

    /// Reads until the server closes the connection, and returns why.
    pub async fn closed(&mut self) -> (u16, String, Vec<Value>) {
        let mut events = Vec::new();
        loop {
            match self.message().await {
                Some(Message::Text(text)) => {
                    events.push(serde_json::from_str(&text).expect("JSON"));
                }
                Some(Message::Close(Some(CloseFrame { code, reason }))) => {
                    // The connection ends as well.
                    assert!(self.message().await.is_none());
                    return (code.into(), reason.to_string(), events);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Cuts the connection without a word.
    pub fn cut(self) {
        let stream = self.socket.into_inner();
        // A reset in place of an end.
        stream.set_zero_linger().expect("a socket");
        drop(stream);
    }

    /// The next message that is none of the pings.
    async fn message(&mut self) -> Option<Message> {
        loop {
            match patiently(self.socket.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }
}

/// A sample's audio as signed 16 bit at 16 kHz, with a silence of this many milliseconds after it.
pub fn speech(name: &str, silence_millis: usize) -> Vec<u8> {
    let mut reader = hound::WavReader::open(sample(name)).expect("a WAV file");
    assert_eq!(reader.spec().sample_rate, 16_000);
    let samples = reader.samples::<i16>().map(|sample| sample.expect("reads"));
    samples
        .chain(std::iter::repeat_n(0, silence_millis * 16))
        .flat_map(i16::to_le_bytes)
        .collect()
}

/// A sample's audio in one of ffmpeg's raw formats, with a second and a half of silence after it.
pub fn converted(name: &str, rate: u32, format: &str) -> Vec<u8> {
    let made = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(sample(name))
        .args(["-af", "apad=pad_dur=1.5", "-ar", &rate.to_string()])
        .args(["-f", format, "-"])
        .output()
        .expect("ffmpeg runs");
    assert!(made.status.success(), "{made:?}");
    made.stdout
}
