//! A real primary and a real fallback.

use reqwest::Response;

use crate::{Server, model};

/// The path with confidence and escalation.
pub const PATH: &str = "/v1/transcribe";
/// With this setting, every text is doubtful.
pub const ALWAYS: (&str, &str) = ("CONF_LOGPROB_THRESHOLD", "1");
/// With these settings, no text is doubtful.
pub const NEVER: [(&str, &str); 2] = [("CONF_LOGPROB_THRESHOLD", "0"), ("MIN_WORDS_FOR_CONF", "0")];
/// `en-command.wav` has fewer words, the other English samples have more.
pub const COMMANDS: [(&str, &str); 2] = [
    ("CONF_LOGPROB_THRESHOLD", "0"),
    ("MIN_WORDS_FOR_CONF", "10"),
];

/// A primary for this fallback. By default it passes everything on.
pub async fn primary(fallback: &Server, settings: &[(&str, &str)]) -> Server {
    let mut all = vec![("FALLBACK_URL", fallback.url.as_str()), ALWAYS];
    all.extend_from_slice(settings);
    Server::ready(&model("tiny.en").await, &all).await
}

/// The fallback.
pub async fn fallback(settings: &[(&str, &str)]) -> Server {
    Server::ready(&model("base").await, settings).await
}

/// A reply's header.
pub fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().expect("ASCII"))
}
