//! The fallback node (`FALLBACK_URL`): transcribes escalated chunks on another node.
//!
//! Requests go through the client crate, with one retry and a time limit for both tries.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hound::{SampleFormat, WavSpec, WavWriter};
use reqwest::Url;
use stt_actors::domain::chunk::{AudioChunk, SAMPLE_RATE};
use stt_actors::domain::error::FallbackError;
use stt_actors::domain::transcript::{ChunkTranscript, Segment, Word, compression_ratio};
use stt_actors::ports::{FallbackNode, FallbackRequest, FallbackText};
use thiserror::Error;
use tracing::{debug, error, info};
use uttera_stt_client::{
    Audio, Client, Error as ClientError, RetryPolicy, TranscribeOptions, Transcript,
};

use crate::metrics::tls as metrics;
use crate::settings::{Secret, Settings};
use crate::tls::fallback::{FallbackFiles, FallbackPem};
use crate::tls::files::TlsError;
use crate::{language, telemetry};

/// Header that tells a node not to escalate this request. Without it, two nodes that name each other as
/// fallback would escalate forever.
pub const ESCALATED: &str = "x-escalated";

/// The fallback is usually on the same network and connects quickly.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Share of the limit for the first try, so that a hanging try leaves time for the retry.
const FIRST_TRY: f64 = 2.0 / 3.0;
/// Shortest limit that is divided into two tries: below it, one slow answer is better than two that
/// are cut off.
const ENOUGH_FOR_TWO: Duration = Duration::from_secs(10);
/// One retry after a short wait: the request has this node's text already, so a long wait is not worth
/// it.
const RETRY: RetryPolicy = RetryPolicy {
    max_retries: 1,
    base: Duration::from_millis(250),
    cap: Duration::from_millis(250),
    max_retry_after: Duration::from_secs(3),
};

/// Client of the fallback node.
#[derive(Clone, Debug)]
pub struct FallbackServer {
    /// Replaced when the certificates are reloaded.
    client: Arc<ArcSwap<Client>>,
    node: Arc<Node>,
}

/// The settings of the node.
#[derive(Debug)]
struct Node {
    url: Url,
    key: Option<Secret>,
    limit: Duration,
    files: FallbackFiles,
}

/// Why the client cannot be created.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A file of certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address, the key or a certificate is not valid.
    #[error("{0} (FALLBACK_URL, FALLBACK_API_KEY)")]
    Client(#[from] ClientError),
}

impl FallbackServer {
    /// A client of the node that the settings name; `None` if they name none.
    ///
    /// # Errors
    /// The client cannot be created, for example because the key is not valid in a header.
    pub fn of(settings: &Settings) -> Result<Option<Self>, SetupError> {
        let Some(url) = settings.fallback_url.clone() else {
            return Ok(None);
        };
        let node = Node {
            url,
            key: settings.fallback_api_key.clone(),
            limit: settings.fallback_timeout,
            files: FallbackFiles::of(&settings.fallback_tls),
        };
        let pem = node.files.read()?;
        let client = node.client(&pem)?;
        if !node.files.is_empty() {
            pem.record_expiry();
            metrics::record_reload(metrics::Certificates::Fallback, true);
        }
        Ok(Some(Self {
            client: Arc::new(ArcSwap::from_pointee(client)),
            node: Arc::new(node),
        }))
    }

    /// Reads the certificates again, if the settings name any. If anything is wrong with them, the current ones stay in
    /// use.
    pub fn reload(&self) {
        if self.node.files.is_empty() {
            return;
        }
        let made = || {
            let pem = self.node.files.read()?;
            pem.check_now()?;
            Ok::<_, SetupError>((self.node.client(&pem)?, pem))
        };
        let made = made();
        metrics::record_reload(metrics::Certificates::Fallback, made.is_ok());
        match made {
            Ok((client, pem)) => {
                pem.record_expiry();
                self.client.store(Arc::new(client));
                info!("the certificates for the fallback were reloaded");
            }
            Err(reason) => error!(
                %reason,
                "the certificates for the fallback could not be reloaded; the current ones stay in use"
            ),
        }
    }
}

impl Node {
    fn client(&self, pem: &FallbackPem) -> Result<Client, ClientError> {
        let key = self.key.clone().map(Secret::reveal).unwrap_or_default();
        let mut builder = Client::builder(self.url.as_str())
            .api_key(key)
            .header(ESCALATED, "1")
            // Audio and key go to the configured node only, not through a proxy of the environment.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(self.limit)
            // The limit includes the retry.
            .attempt_timeout(first_try(self.limit))
            .retry(RETRY);
        if let Some(authorities) = &pem.ca {
            builder = builder.only_root_certificates(authorities.clone());
        }
        if let Some((certificate, key)) = &pem.pair {
            builder = builder.client_certificate(certificate.clone(), key.clone());
        }
        builder.build()
    }
}

#[async_trait]
impl FallbackNode for FallbackServer {
    async fn transcribe(&self, request: FallbackRequest) -> Result<FallbackText, FallbackError> {
        let FallbackRequest {
            request_id,
            audio,
            language,
            languages,
            prompt,
            temperature,
            hallucination_guard,
            trace,
        } = request;
        let guard = (
            "hallucination_guard".to_owned(),
            hallucination_guard.to_string(),
        );
        let languages = languages.into_iter();
        let languages = languages.map(|code| ("languages[]".to_owned(), code));
        let options = TranscribeOptions {
            language,
            prompt,
            temperature: (temperature > 0.0).then_some(temperature),
            words: true,
            fields: languages.chain([guard]).collect(),
            request_id: Some(request_id.to_string()),
            headers: telemetry::headers(&trace),
            timeout: None,
        };
        let wav = wav(&audio).map_err(|error| FallbackError::BadAnswer(error.to_string()))?;
        let body = Audio::bytes(wav)
            .named("audio.wav")
            .content_type("audio/wav");
        let client = self.client.load_full();
        let reply = client.transcribe(body, &options).await;
        let reply = reply.map_err(|error| self.failure(&error))?;
        debug!(%request_id, chunk = %audio.index, model = reply.model, "the fallback answered");
        Ok(FallbackText {
            model: reply.model.clone().unwrap_or_else(|| "fallback".to_owned()),
            transcript: transcript(reply, &audio),
        })
    }
}

fn first_try(limit: Duration) -> Option<Duration> {
    (limit >= ENOUGH_FOR_TWO).then(|| limit.mul_f64(FIRST_TRY))
}

impl FallbackServer {
    fn failure(&self, error: &ClientError) -> FallbackError {
        match error {
            ClientError::Status(status) => FallbackError::Refused {
                status: status.status,
                message: status.message.clone(),
            },
            ClientError::Timeout { .. } => FallbackError::TimedOut {
                seconds: self.node.limit.as_secs(),
            },
            ClientError::BadReply(_) => FallbackError::BadAnswer(error.to_string()),
            _ => FallbackError::Unreachable(error.to_string()),
        }
    }
}

/// Encodes a chunk as a WAV file.
fn wav(audio: &AudioChunk) -> Result<Vec<u8>, hound::Error> {
    let spec = WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut file, spec)?;
    let mut samples = writer.get_i16_writer(audio.samples.len() as u32);
    for &sample in audio.samples.iter() {
        samples.write_sample(sample);
    }
    samples.flush()?;
    writer.finalize()?;
    Ok(file.into_inner())
}

/// Converts a reply to an engine's result. Servers other than uttera-stt return fewer fields, which get
/// neutral values.
fn transcript(reply: Transcript, audio: &AudioChunk) -> ChunkTranscript {
    let duration = audio.duration_seconds();
    let mean = reply.confidence.unwrap_or(1.0).clamp(1e-6, 1.0).ln() as f32;
    let mut segments: Vec<Segment> = (reply.segments)
        .into_iter()
        .map(|segment| self::segment(segment, mean, duration))
        .collect();
    if segments.is_empty() && !reply.text.trim().is_empty() {
        let whole = uttera_stt_client::Segment {
            end: duration,
            text: format!(" {}", reply.text.trim()),
            ..Default::default()
        };
        segments.push(self::segment(whole, mean, duration));
    }
    ChunkTranscript {
        segments,
        language: (reply.language)
            .and_then(|named| Some(language::parse(&named)?.code().to_owned()))
            .unwrap_or_default(),
        language_probability: reply.language_probability.map(|p| p as f32),
        ..ChunkTranscript::default()
    }
}

/// `mean`: `avg_logprob` for segments that have none.
fn segment(segment: uttera_stt_client::Segment, mean: f32, duration: f64) -> Segment {
    let start = segment.start.clamp(0.0, duration);
    let number = |value: Option<f64>, default: f32| value.map_or(default, |value| value as f32);
    Segment {
        id: 0,
        seek: 0,
        start,
        end: segment.end.clamp(start, duration),
        tokens: segment
            .tokens
            .into_iter()
            .map(|token| token as i32)
            .collect(),
        logprobs: Vec::new(),
        temperature: number(segment.temperature, 0.0),
        avg_logprob: number(segment.avg_logprob, mean),
        compression_ratio: number(segment.compression_ratio, compression_ratio(&segment.text)),
        no_speech_prob: number(segment.no_speech_prob, 0.0),
        words: segment.words.iter().map(word).collect(),
        text: segment.text,
    }
}

fn word(word: &uttera_stt_client::Word) -> Word {
    Word {
        // Engines put a blank before each word.
        text: format!(" {}", word.word.trim_start()),
        start: word.start,
        end: word.end.max(word.start),
        tokens: 1,
        logprob: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stt_actors::{Trace, TraceContext};
    use wiremock::matchers::path;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;

    fn chunk() -> AudioChunk {
        AudioChunk::contiguous(0, 0, Arc::from(vec![3; 32_000]))
    }

    fn request() -> FallbackRequest {
        FallbackRequest {
            request_id: Arc::from("r1"),
            audio: chunk(),
            language: Some("es".to_owned()),
            languages: Vec::new(),
            prompt: None,
            temperature: 0.0,
            hallucination_guard: true,
            trace: Trace {
                context: Some(TraceContext {
                    parent: Arc::from("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                    state: Some(Arc::from("vendor=1")),
                }),
                ..Trace::default()
            },
        }
    }

    /// Escalates one chunk to a node that answers with these statuses. Returns the requests that the
    /// node got, and the outcome.
    async fn ask(
        statuses: &[u16],
    ) -> (Vec<wiremock::Request>, Result<FallbackText, FallbackError>) {
        let node = MockServer::start().await;
        for status in statuses {
            let reply = r#"{"text":"Hola","language":"Spanish","model":"larger"}"#;
            let reply = ResponseTemplate::new(*status).set_body_raw(reply, "application/json");
            let mock = Mock::given(path("/v1/transcribe")).respond_with(reply);
            mock.up_to_n_times(1).mount(&node).await;
        }
        let mut settings = Settings::default();
        settings.fallback_url = Some(node.uri().parse().expect("an address"));
        settings.fallback_api_key = Some("between-us".into());
        let server = FallbackServer::of(&settings).expect("made");
        let outcome = server.expect("named").transcribe(request()).await;
        (node.received_requests().await.expect("recorded"), outcome)
    }

    #[tokio::test]
    async fn a_failed_try_is_repeated_once() {
        let (asked, outcome) = ask(&[503, 200]).await;
        let text = outcome.expect("the second try");
        assert_eq!(
            (text.model.as_str(), text.transcript.language.as_str()),
            ("larger", "es")
        );
        assert_eq!(asked.len(), 2);
        for request in &asked {
            assert_eq!(request.headers["authorization"], "Bearer between-us");
            assert_eq!(request.headers["x-request-id"], "r1");
            let parent = request.headers["traceparent"].to_str().expect("ASCII");
            assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
            assert_eq!(request.headers["tracestate"], "vendor=1");
            assert!(request.headers.contains_key(ESCALATED));
            let body = String::from_utf8_lossy(&request.body);
            assert!(body.contains("RIFF") && body.contains("name=\"language\""));
        }
        let (asked, outcome) = ask(&[503, 503, 200]).await;
        let refused = matches!(outcome, Err(FallbackError::Refused { status: 503, .. }));
        assert!(refused, "{outcome:?}");
        assert_eq!(asked.len(), 2);
        // An invalid request stays invalid, so there is no retry.
        let (asked, outcome) = ask(&[400, 200]).await;
        assert!(outcome.is_err());
        assert_eq!(asked.len(), 1);
    }

    #[test]
    fn a_chunk_round_trips_through_its_wav_file() {
        let file = wav(&chunk()).expect("written");
        let mut reader = hound::WavReader::new(Cursor::new(file)).expect("a file");
        assert_eq!(reader.spec().sample_rate, SAMPLE_RATE);
        let samples = reader.samples::<i16>().map(|sample| sample.expect("one"));
        assert_eq!(samples.collect::<Vec<_>>(), vec![3; 32_000]);
    }

    #[test]
    fn a_reply_with_text_only_becomes_one_segment() {
        let reply = Transcript {
            text: "Hello there".to_owned(),
            confidence: Some(0.5),
            ..Transcript::default()
        };
        let text = transcript(reply, &chunk());
        let [only] = &text.segments[..] else {
            panic!("{text:?}");
        };
        assert_eq!(
            (only.text.as_str(), only.end.to_bits()),
            (" Hello there", 2.0_f64.to_bits())
        );
        assert!((only.avg_logprob.exp() - 0.5).abs() < 1e-6);
        let silence = transcript(Transcript::default(), &chunk());
        assert_eq!(silence.segments, []);
    }

    #[test]
    fn times_outside_the_audio_are_clamped() {
        let wild = uttera_stt_client::Segment {
            start: -1.0,
            end: 99.0,
            text: " x".to_owned(),
            ..Default::default()
        };
        let segment = segment(wild, 0.0, 2.0);
        assert_eq!(
            (segment.start.to_bits(), segment.end.to_bits()),
            (0, 2.0_f64.to_bits())
        );
    }
}
