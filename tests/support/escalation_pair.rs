//! A primary node and its fallback, both real.

use reqwest::Response;

use crate::{Server, model};

/// The endpoint of escalation.
pub const PATH: &str = "/v1/transcribe";
/// Every text is less certain than this.
pub const ALWAYS: (&str, &str) = ("CONF_LOGPROB_THRESHOLD", "1");
/// Every text is more certain than this.
pub const NEVER: [(&str, &str); 2] = [("CONF_LOGPROB_THRESHOLD", "0"), ("MIN_WORDS_FOR_CONF", "0")];
/// `en-command.wav` has fewer words, the other English samples have more.
pub const COMMANDS: [(&str, &str); 2] = [
    ("CONF_LOGPROB_THRESHOLD", "0"),
    ("MIN_WORDS_FOR_CONF", "10"),
];

/// A primary for this fallback. Unless the settings say otherwise, it escalates every text.
pub async fn primary(fallback: &Server, settings: &[(&str, &str)]) -> Server {
    let mut all = vec![("FALLBACK_URL", fallback.url.as_str()), ALWAYS];
    // However slow the machine is, the fallback answers.
    all.push(("FALLBACK_TIMEOUT_S", "600"));
    all.extend_from_slice(settings);
    Server::ready(&model("tiny.en").await, &all).await
}

/// A fallback.
pub async fn fallback(settings: &[(&str, &str)]) -> Server {
    Server::ready(&model("base").await, settings).await
}

/// A reply's header.
pub fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().expect("ASCII"))
}
