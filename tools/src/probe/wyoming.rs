//! One utterance over the Wyoming protocol, sent at the speed of real time as a voice satellite does.

// Measures another process, so that the clock must be the real one.
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Samples per second of the audio.
pub const RATE: u32 = 16_000;
/// Samples per event: 32 ms.
const CHUNK_SAMPLES: usize = 512;
/// Largest data of an event that is read, in bytes.
const MOST_DATA: usize = 1 << 20;

/// The answer to an utterance.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Time from the end of the audio until the text.
    pub delay: Duration,
    /// The text.
    pub text: String,
}

/// Sends 16 kHz mono samples to a Wyoming server, and waits for the text.
///
/// # Errors
/// The server cannot be reached, breaks off or answers with an error.
pub async fn say(address: &str, samples: &[i16], language: Option<&str>) -> anyhow::Result<Heard> {
    let socket = TcpStream::connect(address).await;
    let socket = socket.with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    let (reader, mut writer) = socket.into_split();
    let listening = tokio::spawn(transcript(BufReader::new(reader)));
    let format = json!({"rate": RATE, "width": 2, "channels": 1});
    send(
        &mut writer,
        "transcribe",
        &json!({"language": language}),
        &[],
    )
    .await?;
    send(&mut writer, "audio-start", &format, &[]).await?;
    let begin = Instant::now();
    for (number, chunk) in samples.chunks(CHUNK_SAMPLES).enumerate() {
        // A microphone delivers a chunk when it is over.
        let end = (number * CHUNK_SAMPLES + chunk.len()) as f64 / f64::from(RATE);
        let due = begin + Duration::from_secs_f64(end);
        tokio::time::sleep_until(due.into()).await;
        let bytes: Vec<u8> = chunk
            .iter()
            .flat_map(|sample| sample.to_le_bytes())
            .collect();
        send(&mut writer, "audio-chunk", &format, &bytes).await?;
    }
    send(&mut writer, "audio-stop", &json!({}), &[]).await?;
    let stopped = Instant::now();
    let (at, text) = listening.await??;
    Ok(Heard {
        delay: at.saturating_duration_since(stopped),
        text,
    })
}

/// Reads events until the transcript. Returns when it came.
async fn transcript(mut reader: impl AsyncBufReadExt + Unpin) -> anyhow::Result<(Instant, String)> {
    loop {
        let (kind, data) = receive(&mut reader).await?;
        match kind.as_str() {
            "transcript" => {
                let text = data["text"].as_str().unwrap_or_default().to_owned();
                return Ok((Instant::now(), text));
            }
            "error" => bail!("{}", data["text"].as_str().unwrap_or("an error")),
            _ => {}
        }
    }
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    kind: &str,
    data: &Value,
    payload: &[u8],
) -> anyhow::Result<()> {
    let data = data.to_string();
    let head = json!({
        "type": kind,
        "version": "1.0.0",
        "data_length": data.len(),
        "payload_length": payload.len(),
    });
    let frame = [head.to_string().as_bytes(), b"\n", data.as_bytes(), payload].concat();
    Ok(writer.write_all(&frame).await?)
}

async fn receive(
    reader: &mut (impl AsyncBufReadExt + AsyncRead + Unpin),
) -> anyhow::Result<(String, Value)> {
    let mut line = String::new();
    ensure!(
        reader.read_line(&mut line).await? > 0,
        "the server closed the connection"
    );
    let mut head: Value = serde_json::from_str(&line).context("a head that is no JSON")?;
    let length = |field: &str| head[field].as_u64().unwrap_or(0) as usize;
    let (data_length, payload_length) = (length("data_length"), length("payload_length"));
    ensure!(
        data_length + payload_length <= MOST_DATA,
        "an event of {data_length} and {payload_length} bytes"
    );
    let mut rest = vec![0; data_length + payload_length];
    reader.read_exact(&mut rest).await?;
    let data = if data_length > 0 {
        serde_json::from_slice(&rest[..data_length]).context("data that is no JSON")?
    } else {
        head["data"].take()
    };
    Ok((head["type"].as_str().unwrap_or_default().to_owned(), data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_read_with_their_data_in_both_places() {
        let bytes = b"{\"type\":\"a\",\"data\":{\"x\":1}}\n{\"type\":\"b\",\"data_length\":7,\"payload_length\":2}\n{\"y\":2}PP{\"type\":\"c\"}\n";
        let mut reader = BufReader::new(bytes.as_slice());
        let mut next = async || receive(&mut reader).await.unwrap();
        assert_eq!(next().await, ("a".to_owned(), json!({"x": 1})));
        assert_eq!(next().await, ("b".to_owned(), json!({"y": 2})));
        assert_eq!(next().await, ("c".to_owned(), Value::Null));
        assert!(receive(&mut BufReader::new(&b"GET /\n"[..])).await.is_err());
        let large = b"{\"type\":\"a\",\"data_length\":99999999999}\n";
        assert!(receive(&mut BufReader::new(&large[..])).await.is_err());
    }
}
