//! A client of the Wyoming protocol that sends exactly what a test says.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::waiting::patiently;
use crate::{Server, model, sample, sample_text, words};

/// The sample with a short command.
pub const COMMAND: &str = "en-command.wav";
/// The setting that opens a port.
pub const PORT: (&str, &str) = ("WYOMING_PORT", "0");
/// Bytes of a chunk of audio, as Home Assistant sends it.
const CHUNK: usize = 2048;

/// An event of the server: its type and data.
pub type Reply = (String, Value);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection.
pub struct WyomingClient {
    stream: BufReader<Box<dyn Stream>>,
}

/// A server with a Wyoming port and the model tiny.en, ready to transcribe.
pub async fn server(settings: &[(&str, &str)]) -> Server {
    let settings = [&[PORT], settings].concat();
    Server::ready(&model("tiny.en").await, &settings).await
}

/// The audio of a sample in the usual format.
pub fn audio(name: &str) -> Vec<u8> {
    Format::USUAL.audio(name)
}

/// Asserts that a text is that of [`COMMAND`].
#[track_caller]
pub fn assert_command(text: &str) {
    assert_eq!(words(text), words(&sample_text(COMMAND)));
}

/// The number of utterances with this outcome.
pub async fn outcomes(server: &Server, outcome: &str) -> f64 {
    let series =
        format!("uttera_stt_live_turns_total{{protocol=\"wyoming\",outcome=\"{outcome}\"}}");
    server.metric(&series).await
}

/// Waits until no live session is open.
pub async fn until_no_session(server: &Server) {
    let none = async || server.metric("uttera_stt_live_sessions").await < 0.5;
    server.until("all sessions have ended", none).await;
}

/// The address of a server's Wyoming socket.
pub async fn address(server: &Server) -> String {
    let line = server.log_line("Wyoming is served on TCP").await;
    let address = line.split("address=").nth(1).expect("an address");
    let address = address.split_whitespace().next().expect("an address");
    address.to_owned()
}

impl WyomingClient {
    /// Connects over TCP.
    pub async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(address(server).await).await;
        Self::over(stream.expect("connects"))
    }

    /// Connects to a unix socket.
    pub async fn connect_unix(path: &Path) -> Self {
        Self::over(UnixStream::connect(path).await.expect("connects"))
    }

    fn over(stream: impl Stream + 'static) -> Self {
        let stream: Box<dyn Stream> = Box::new(stream);
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes. The server may have closed the connection.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = patiently(self.stream.get_mut().write_all(bytes)).await;
    }

    /// Sends nothing more; replies still arrive.
    pub async fn end_sending(&mut self) {
        patiently(self.stream.get_mut().shutdown())
            .await
            .expect("a connection");
    }

    /// Sends an event.
    pub async fn send(&mut self, kind: &str, data: Value, payload: &[u8]) {
        self.send_bytes(&frame(kind, &data, payload)).await;
    }

    /// Sends an event without data.
    pub async fn send_bare(&mut self, kind: &str) {
        self.send(kind, json!({}), &[]).await;
    }

    /// The next event; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Reply> {
        patiently(self.read()).await
    }

    async fn read(&mut self) -> Option<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let head: Value = serde_json::from_str(&line).expect("JSON");
        assert!(head["version"].is_string(), "{head}");
        assert!(head.get("payload_length").is_none(), "{head}");
        let kind = head["type"].as_str().expect("a type").to_owned();
        let length = head["data_length"].as_u64().unwrap_or(0);
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).await.ok()?;
        let data = if data.is_empty() {
            json!({})
        } else {
            serde_json::from_slice(&data).expect("JSON")
        };
        Some((kind, data))
    }

    /// Sends a whole utterance as Home Assistant does.
    pub async fn utter(&mut self, request: Value, format: &Format, audio: &[u8]) {
        self.send("transcribe", request, &[]).await;
        self.send("audio-start", format.data(), &[]).await;
        self.send_audio(format, audio).await;
        self.send("audio-stop", json!({"timestamp": null}), &[])
            .await;
    }

    /// Sends audio in chunks.
    pub async fn send_audio(&mut self, format: &Format, audio: &[u8]) {
        for chunk in audio.chunks(CHUNK / format.frame() * format.frame()) {
            self.send("audio-chunk", format.data(), chunk).await;
        }
    }

    /// The text of the next transcript. Passes over the events of a streamed text.
    pub async fn transcript(&mut self) -> String {
        loop {
            let (kind, data) = self.next().await.expect("a transcript");
            match kind.as_str() {
                "transcript" => return data["text"].as_str().expect("a text").to_owned(),
                "transcript-start" | "transcript-chunk" | "transcript-stop" => {}
                other => panic!("{other}: {data}"),
            }
        }
    }
}

/// The bytes of an event, in the form of the protocol's reference implementation.
pub fn frame(kind: &str, data: &Value, payload: &[u8]) -> Vec<u8> {
    let mut head = json!({"type": kind, "version": "1.10.2"});
    let is_empty = data.as_object().is_some_and(serde_json::Map::is_empty);
    let block = if is_empty {
        String::new()
    } else {
        data.to_string()
    };
    if !block.is_empty() {
        head["data_length"] = block.len().into();
    }
    if !payload.is_empty() {
        head["payload_length"] = payload.len().into();
    }
    let mut bytes = head.to_string().into_bytes();
    bytes.push(b'\n');
    bytes.extend(block.as_bytes());
    bytes.extend(payload);
    bytes
}

/// A format of audio.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Samples per second.
    pub rate: u32,
    /// Bytes of a sample.
    pub width: usize,
    /// Number of channels.
    pub channels: usize,
}

impl Format {
    /// The format that Home Assistant sends.
    pub const USUAL: Self = Self {
        rate: 16_000,
        width: 2,
        channels: 1,
    };

    /// The fields of an event.
    pub fn data(&self) -> Value {
        json!({"rate": self.rate, "width": self.width, "channels": self.channels, "timestamp": null})
    }

    fn frame(&self) -> usize {
        self.width * self.channels
    }

    /// A sample of the repository in this format.
    pub fn audio(&self, name: &str) -> Vec<u8> {
        let encoding = match self.width {
            1 => "u8",
            2 => "s16le",
            3 => "s24le",
            4 => "s32le",
            other => panic!("samples of {other} bytes"),
        };
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-i"])
            .arg(sample(name))
            .args(["-f", encoding, "-ar", &self.rate.to_string()])
            .args(["-ac", &self.channels.to_string(), "-"])
            .stdin(Stdio::null())
            .output()
            .expect("ffmpeg runs");
        assert!(made.status.success());
        made.stdout
    }
}
