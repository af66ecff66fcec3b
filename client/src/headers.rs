//! Headers of a reply.

use std::time::Duration;

use reqwest::header::HeaderMap;

/// The reply's headers that are specific to this server. A header that is missing or malformed is `None`
/// or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerHeaders {
    /// `X-Req-Id` or `X-Request-Id`.
    pub request_id: Option<String>,
    /// `X-Route`: the lanes that did the work.
    pub route: Option<String>,
    /// `X-Queue-Position`, at admission.
    pub queue_position: Option<u64>,
    /// `X-Queue-Eta-Ms`, at admission.
    pub queue_eta: Option<Duration>,
    /// `X-Queue-Wait-ms`.
    pub queue_wait: Option<Duration>,
    /// `X-Primary-Infer-ms`.
    pub primary_infer: Option<Duration>,
    /// `X-Fallback-Infer-ms`.
    pub fallback_infer: Option<Duration>,
    /// `X-Total-ms`.
    pub total: Option<Duration>,
    /// `X-Fallback-Used`.
    pub fallback_used: Option<bool>,
    /// `X-Final-Model`.
    pub final_model: Option<String>,
    /// `X-Conf-Below`: the confidence tests that the primary's text failed (`logprob`, `langprob`,
    /// `min_words`).
    pub conf_below: Vec<String>,
    /// `X-Lang-Check-Applicable`: whether the language's probability was tested.
    pub lang_check_applicable: Option<bool>,
    /// `X-Translation-Mode`.
    pub translation_mode: Option<String>,
    /// `X-Error-Type`.
    pub error_type: Option<String>,
    /// `X-Error-Message`.
    pub error_message: Option<String>,
    /// `X-Fallback-Error`: why the fallback failed. Successful replies may have it too.
    pub fallback_error: Option<String>,
}

impl ServerHeaders {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            (!value.is_empty()).then(|| value.to_owned())
        };
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let milliseconds = |name: &str| number(name).map(Duration::from_millis);
        let flag = |name: &str| text(name)?.parse::<bool>().ok();
        let names = text("x-conf-below").unwrap_or_default();
        let names = names.split(',').map(str::trim);
        Self {
            request_id: text("x-req-id").or_else(|| text("x-request-id")),
            route: text("x-route"),
            queue_position: number("x-queue-position"),
            queue_eta: milliseconds("x-queue-eta-ms"),
            queue_wait: milliseconds("x-queue-wait-ms"),
            primary_infer: milliseconds("x-primary-infer-ms"),
            fallback_infer: milliseconds("x-fallback-infer-ms"),
            total: milliseconds("x-total-ms"),
            fallback_used: flag("x-fallback-used"),
            final_model: text("x-final-model"),
            conf_below: names.filter(|n| !n.is_empty()).map(str::to_owned).collect(),
            lang_check_applicable: flag("x-lang-check-applicable"),
            translation_mode: text("x-translation-mode"),
            error_type: text("x-error-type"),
            error_message: text("x-error-message"),
            fallback_error: text("x-fallback-error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_promised_and_nonsense_is_as_none() {
        let mut headers = HeaderMap::new();
        let pairs = [
            ("x-request-id", "r1"),
            ("x-queue-wait-ms", "12"),
            ("x-primary-infer-ms", "many"),
            ("x-fallback-used", "true"),
            ("x-lang-check-applicable", "yes"),
            ("x-conf-below", "logprob, min_words,"),
            ("x-final-model", ""),
        ];
        for (name, value) in pairs {
            headers.insert(name, value.parse().expect("a header"));
        }
        let expected = ServerHeaders {
            request_id: Some("r1".to_owned()),
            queue_wait: Some(Duration::from_millis(12)),
            fallback_used: Some(true),
            conf_below: vec!["logprob".to_owned(), "min_words".to_owned()],
            ..ServerHeaders::default()
        };
        assert_eq!(ServerHeaders::of(&headers), expected);
    }
}
