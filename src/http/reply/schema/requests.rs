//! Bodies of requests.

use utoipa::ToSchema;

/// A recording and what is wanted of it. Other fields are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub struct TranscriptionForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// As for transcriptions, and the language that the text shall be in.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub struct TranslationForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// en if not given; others need a LibreTranslate server.
    #[schema(nullable = false)]
    to_language: Option<String>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// As whisper.cpp's server has it: OpenAI's form, and a switch for translating.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub struct InferenceForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// The text shall be in English; false if not given.
    #[schema(nullable = false)]
    translate: Option<bool>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// As clients of a primary and a fallback have it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub struct TierForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    audio: Vec<u8>,
    /// The language spoken; detected if not given.
    #[schema(nullable = false)]
    language: Option<String>,
    /// Words and names to expect.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// 0 (default) to 1.
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    /// `word`: each segment has its words.
    #[schema(nullable = false, rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
}

/// The audio; everything else is in the query.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::parts` reads")]
pub struct AsrForm {
    /// A file in any format that ffmpeg decodes, or samples without a header.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    audio_file: Vec<u8>,
}

/// The form's fields in JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::json_body` reads")]
pub struct TranscriptionJson {
    input_audio: InputAudio,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// The form's fields in JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::json_body` reads")]
pub struct TranslationJson {
    input_audio: InputAudio,
    /// en if not given; others need a LibreTranslate server.
    #[schema(nullable = false)]
    to_language: Option<String>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// A recording as text.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::json_body` reads")]
pub struct InputAudio {
    /// The file in base64.
    #[schema(format = Byte)]
    data: String,
    /// Of no importance: the sound decides.
    #[schema(nullable = false)]
    format: Option<String>,
}

/// What is wanted of a recording.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub struct Options {
    /// Any name is accepted and means the model that is served.
    #[schema(nullable = false)]
    model: Option<String>,
    /// ISO 639-1 (`en`), with a region (`en-US`), or its English name; detected if not given.
    #[schema(nullable = false)]
    language: Option<String>,
    /// Words and names to expect.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// json if not given.
    #[schema(inline, nullable = false)]
    response_format: Option<ResponseFormat>,
    #[schema(minimum = 0, maximum = 1, nullable = false)]
    temperature: Option<f32>,
    /// The text comes as server-sent events while it is made: `transcript.text.delta` and
    /// `transcript.text.done`, then `[DONE]`. With the formats json and text; false if not given.
    #[schema(nullable = false)]
    stream: Option<bool>,
    /// Of verbose_json; segment if not given.
    #[schema(rename = "timestamp_granularities[]", inline, nullable = false)]
    timestamp_granularities: Option<Vec<Granularity>>,
    /// What json tells besides the text.
    #[schema(rename = "include[]", inline, nullable = false)]
    include: Option<Vec<Include>>,
    /// `auto`, or an object of the type `server_vad`; the audio is cut at pauses in any case.
    #[schema(nullable = false)]
    chunking_strategy: Option<String>,
    /// Leave out what does not sound like speech; true if not given.
    #[schema(nullable = false)]
    vad_filter: Option<bool>,
    /// Take out text that the model made up; true if not given.
    #[schema(nullable = false)]
    hallucination_guard: Option<bool>,
    /// More than one language is spoken; false if not given.
    #[schema(nullable = false)]
    multilingual: Option<bool>,
}

/// How the reply is written.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub enum ResponseFormat {
    Json,
    Text,
    VerboseJson,
    Srt,
    Vtt,
}

/// What verbose_json gives times for.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub enum Granularity {
    Segment,
    Word,
}

/// What a reply tells besides the text.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what `http::form` reads")]
pub enum Include {
    Logprobs,
}
