//! The bodies of requests.

use utoipa::ToSchema;

/// Audio and options. Other fields are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub struct TranscriptionForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// As for transcriptions. `stream` has no effect.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub struct JobForm {
    /// The audio, in any format that ffmpeg decodes. Up to 20 parts of this name make a job each.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// Where the end of each job is reported.
    #[schema(nullable = false)]
    callback_url: Option<String>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// As for transcriptions, with the language of the translation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub struct TranslationForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// The language of the text; default `en`. Others need a LibreTranslate server.
    #[schema(nullable = false)]
    to_language: Option<String>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// The form of whisper.cpp's server: OpenAI's form with a switch for translation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub struct InferenceForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// Translate to English; default false.
    #[schema(nullable = false)]
    translate: Option<bool>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// The form of a primary and a fallback.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub struct TierForm {
    /// The audio, in any format that ffmpeg decodes.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    audio: Vec<u8>,
    /// The spoken language; detected by default.
    #[schema(nullable = false)]
    language: Option<String>,
    /// Words and names to expect.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// 0 (default) to 1.
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    /// `word` adds the words to each segment.
    #[schema(nullable = false, rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
}

/// The audio. The options are in the query.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `http::body` reads")]
pub struct AsrForm {
    /// The audio, in any format that ffmpeg decodes, or as samples without a header.
    #[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
    audio_file: Vec<u8>,
}

/// The fields of the form as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::json` reads")]
pub struct TranscriptionJson {
    input_audio: InputAudio,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// The fields of the form as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::json` reads")]
pub struct TranslationJson {
    input_audio: InputAudio,
    /// The language of the text; default `en`. Others need a LibreTranslate server.
    #[schema(nullable = false)]
    to_language: Option<String>,
    #[serde(flatten)]
    #[schema(inline)]
    options: Options,
}

/// Audio in base64.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::json` reads")]
pub struct InputAudio {
    /// The audio file in base64.
    #[schema(format = Byte)]
    data: String,
    /// Ignored: ffmpeg detects the format.
    #[schema(nullable = false)]
    format: Option<String>,
}

/// The options of a transcription.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub struct Options {
    /// Any name is accepted and stands for the served model.
    #[schema(nullable = false)]
    model: Option<String>,
    /// A code of ISO 639 (`en`, `eng`), a tag or locale (`en-US`, `en_US.UTF-8`), or the English name; detected by
    /// default.
    #[schema(nullable = false)]
    language: Option<String>,
    /// The languages among which the spoken one is detected; all by default. Without effect with `language`.
    #[schema(rename = "languages[]", nullable = false)]
    languages: Option<Vec<String>>,
    /// Words and names to expect.
    #[schema(nullable = false)]
    prompt: Option<String>,
    /// Default `json`.
    #[schema(inline, nullable = false)]
    response_format: Option<ResponseFormat>,
    #[schema(minimum = 0, maximum = 1, nullable = false)]
    temperature: Option<f32>,
    /// Send the text as server-sent events during transcription: `transcript.text.delta` and
    /// `transcript.text.done`, then `[DONE]`. Ignored with other formats than json and text; default false.
    #[schema(nullable = false)]
    stream: Option<bool>,
    /// For verbose_json; default `segment`.
    #[schema(rename = "timestamp_granularities[]", inline, nullable = false)]
    timestamp_granularities: Option<Vec<Granularity>>,
    /// Additional content: `logprobs` of json and verbose_json, `segments` of a streamed reply.
    #[schema(rename = "include[]", inline, nullable = false)]
    include: Option<Vec<Include>>,
    /// `auto`, or an object of the type `server_vad`. Without effect: the audio is always cut at pauses.
    #[schema(nullable = false)]
    chunking_strategy: Option<String>,
    /// Skip audio without speech; default true.
    #[schema(nullable = false)]
    vad_filter: Option<bool>,
    /// Remove hallucinated text; default true.
    #[schema(nullable = false)]
    hallucination_guard: Option<bool>,
    /// The audio has more than one language; default false.
    #[schema(nullable = false)]
    multilingual: Option<bool>,
}

/// The format of the reply.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub enum ResponseFormat {
    Json,
    Text,
    VerboseJson,
    Srt,
    Vtt,
}

/// The parts with times in verbose_json.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub enum Granularity {
    Segment,
    Word,
}

/// Additional content of a reply.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes what `body::form` reads")]
pub enum Include {
    Logprobs,
    Segments,
}
