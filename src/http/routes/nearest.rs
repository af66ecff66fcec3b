//! Which path a client probably means by one that does not exist.

/// All paths of the API.
const PATHS: &[&str] = &[
    "/admin/drain",
    "/asr",
    "/detect-language",
    "/docs",
    "/docs/{asset}",
    "/health",
    "/inference",
    "/livez",
    "/metrics",
    "/openapi.json",
    "/readyz",
    "/v1/audio/jobs",
    "/v1/audio/jobs/{id}",
    "/v1/audio/jobs/{id}/events",
    "/v1/audio/jobs/{id}/result",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/health",
    "/v1/metrics",
    "/v1/models",
    "/v1/models/{id}",
    "/v1/realtime",
    "/v1/realtime/client_secrets",
    "/v1/realtime/transcription_sessions",
    "/v1/status",
    "/v1/status/events",
    "/v1/transcribe",
];
/// Paths at least this similar are one path with an error.
const MIN_SIMILARITY: f64 = 0.75;
/// A longer path is not compared, because that would take long.
const MAX_PATH_BYTES: usize = 200;

/// The path that a client probably means. Most often its base URL lacks the `/v1`, has it twice, or has a prefix
/// that a proxy should have removed; then the end of the path is right.
pub fn path(sent: &str) -> Option<&'static str> {
    if sent.len() > MAX_PATH_BYTES {
        return None;
    }
    let sent = sent.to_ascii_lowercase();
    let similarity = |known: &str| strsim::normalized_damerau_levenshtein(known, &sent);
    let has_its_end = PATHS
        .iter()
        .copied()
        .filter(|known| ends_like(&sent, known));
    let nearest = || {
        PATHS
            .iter()
            .copied()
            .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
    };
    has_its_end
        .max_by_key(|known| known.len())
        .or_else(|| nearest().filter(|known| similarity(known) >= MIN_SIMILARITY))
}

/// Whether a path ends like a known one, apart from the latter's `/v1`.
fn ends_like(sent: &str, known: &str) -> bool {
    let end = known.strip_prefix("/v1").unwrap_or(known);
    match end.split_once("/{") {
        Some((parent, _)) => sent
            .rsplit_once('/')
            .is_some_and(|(sent, _)| sent.ends_with(parent)),
        None => sent.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::reply::openapi;

    #[test]
    fn all_paths_of_the_api_are_known() {
        let document = openapi::document(false);
        let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(PATHS.iter().copied().collect::<BTreeSet<_>>(), documented);
    }

    #[test]
    fn a_wrong_path_has_the_right_one_as_its_nearest() {
        for (sent, expected) in [
            ("/audio/transcriptions", "/v1/audio/transcriptions"),
            ("/v1/v1/audio/transcriptions", "/v1/audio/transcriptions"),
            ("/v1/v1/v1/audio/translations", "/v1/audio/translations"),
            (
                "/openai/v1/audio/transcriptions",
                "/v1/audio/transcriptions",
            ),
            ("/V1/Audio/Transcriptions", "/v1/audio/transcriptions"),
            ("/v1/audio/transcription", "/v1/audio/transcriptions"),
            ("/v1/transcriptions", "/v1/audio/transcriptions"),
            ("/v1/audio/translation", "/v1/audio/translations"),
            ("/models", "/v1/models"),
            ("/v1/v1/models", "/v1/models"),
            ("/models/whisper-1", "/v1/models/{id}"),
            ("/api/v1/models/whisper-1", "/v1/models/{id}"),
            ("/transcribe", "/v1/transcribe"),
            ("/status", "/v1/status"),
            ("/status/events", "/v1/status/events"),
            ("/v1/asr", "/asr"),
            ("/v1/livez", "/livez"),
            ("/healthz", "/health"),
            ("/v1/openapi.json", "/openapi.json"),
        ] {
            assert_eq!(path(sent), Some(expected), "{sent}");
        }
        for sent in [
            "/",
            "/v1",
            "/favicon.ico",
            "/v1/chat/completions",
            "/v1/nothing",
            "",
        ] {
            assert_eq!(path(sent), None, "{sent}");
        }
        assert_eq!(path(&"/models".repeat(1000)), None);
    }
}
