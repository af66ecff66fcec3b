//! The content type of subtitles: their own, or plain text where `Accept` asks for it. Some clients choose how
//! to read a reply by its content type, and know no type of subtitles.

use actix_web::HttpRequest;
use actix_web::http::header::{Accept, Header, Quality};

/// The content type of a text without structure.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// The content type for a reply whose own type is `own`, according to the request's `Accept`.
pub fn content_type(request: &HttpRequest, own: &'static str) -> &'static str {
    let is_text = !own.starts_with("application/json");
    let asks_for_plain = || {
        let accept = Accept::parse(request).ok()?;
        Some(wish(&accept, PLAIN_TEXT)? > wish(&accept, own)?)
    };
    if is_text && asks_for_plain().unwrap_or(false) {
        PLAIN_TEXT
    } else {
        own
    }
}

/// How much a client wants a content type: the quality of the most specific range that contains it, and of equal
/// qualities the more specific one. `None` if the content type is none.
fn wish(accept: &Accept, content_type: &str) -> Option<(Quality, usize)> {
    let (kind, subtype) = content_type.split(';').next()?.split_once('/')?;
    let specificity = |range: &str| {
        let (its_kind, its_subtype) = range.split_once('/')?;
        match (its_kind, its_subtype) {
            ("*", "*") => Some(1),
            (_, "*") if its_kind.eq_ignore_ascii_case(kind) => Some(2),
            _ if its_kind.eq_ignore_ascii_case(kind)
                && its_subtype.eq_ignore_ascii_case(subtype) =>
            {
                Some(3)
            }
            _ => None,
        }
    };
    let matching = accept
        .iter()
        .filter_map(|item| Some((specificity(item.item.essence_str())?, item.quality)));
    let most_specific = matching.max_by_key(|(specificity, _)| *specificity);
    Some(
        most_specific.map_or((Quality::MIN, 0), |(specificity, quality)| {
            (quality, specificity)
        }),
    )
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::ACCEPT;
    use actix_web::test::TestRequest;

    use super::*;
    use crate::render::Format;

    #[test]
    fn subtitles_are_plain_text_where_accept_asks_for_it() {
        for (accept, srt, vtt) in [
            ("text/plain", true, true),
            ("TEXT/PLAIN", true, true),
            ("text/plain, */*", true, true),
            ("application/json, text/plain, */*", true, true),
            ("text/*", true, false),
            (
                "text/plain;q=0.5, application/x-subrip;q=0.1, text/vtt",
                true,
                false,
            ),
            ("*/*", false, false),
            ("", false, false),
            ("application/json", false, false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false, false),
            ("text/plain, application/x-subrip, text/vtt", false, false),
            ("text/plain;q=0.5, */*", false, false),
            ("text/plain;q=0, */*", false, false),
            ("nonsense", false, false),
        ] {
            let request = TestRequest::default()
                .insert_header((ACCEPT, accept))
                .to_http_request();
            let is_plain =
                |format: Format| content_type(&request, format.content_type()) == PLAIN_TEXT;
            assert_eq!(
                (is_plain(Format::Srt), is_plain(Format::Vtt)),
                (srt, vtt),
                "{accept}"
            );
            assert!(
                is_plain(Format::Text) && !is_plain(Format::Json),
                "{accept}"
            );
        }
        let request = TestRequest::default().to_http_request();
        assert_eq!(content_type(&request, "text/vtt"), "text/vtt");
    }
}
