//! Which texts of a transcript are translated, and what becomes of its segments.

use std::sync::Arc;

use crate::domain::error::TranslatorError;
use crate::domain::transcript::{Segment, Transcript, compression_ratio};
use crate::domain::translation::TargetLanguage;
use crate::ports::TranslatorRequest;

/// Whisper's code for Chinese, whose two scripts are separate target languages.
const CHINESE: &str = "zh";

/// The call that a transcript needs. `None` if it has no text, or is in the target language already.
/// `source`: the translator's code of the language spoken; `None` if each segment may be in a
/// language of its own.
pub(super) fn request(
    transcript: &Transcript,
    request_id: Arc<str>,
    source: Option<String>,
    target: &TargetLanguage,
) -> Option<TranslatorRequest> {
    let spoken = transcript.segments.iter().filter_map(spoken);
    let texts: Vec<String> = spoken.map(str::to_owned).collect();
    let is_translated = source
        .as_ref()
        .is_some_and(|source| is_same(&transcript.language, source, target));
    (!texts.is_empty() && !is_translated).then(|| TranslatorRequest {
        request_id,
        texts,
        source,
        target: target.code.clone(),
    })
}

fn is_same(language: &str, source: &str, target: &TargetLanguage) -> bool {
    source == target.code || (language == target.language && language != CHINESE)
}

/// The trimmed text of a segment; `None` if it is blank.
fn spoken(segment: &Segment) -> Option<&str> {
    Some(segment.text.trim()).filter(|text| !text.is_empty())
}

/// Replaces the texts of all segments that are not blank. Segments keep their times and
/// probabilities; tokens and words belong to the original text and are removed.
///
/// # Errors
/// The translator returned too many or too few texts.
pub(super) fn replace(
    segments: &mut [Segment],
    translated: Vec<String>,
    target: &TargetLanguage,
) -> Result<(), TranslatorError> {
    let segments = segments
        .iter_mut()
        .filter(|segment| spoken(segment).is_some());
    let segments: Vec<&mut Segment> = segments.collect();
    if segments.len() != translated.len() {
        return Err(TranslatorError::Malformed(
            "it has too many or too few texts",
        ));
    }
    // Like whisper's own text: a blank before each segment, so that joined segments read well.
    let blank = if has_blanks(target) { " " } else { "" };
    for (segment, text) in segments.into_iter().zip(translated) {
        segment.text = format!("{blank}{}", text.trim());
        segment.compression_ratio = compression_ratio(&segment.text);
        segment.tokens.clear();
        segment.logprobs.clear();
        segment.words.clear();
    }
    Ok(())
}

/// Whether the language separates words by blanks.
fn has_blanks(target: &TargetLanguage) -> bool {
    !matches!(target.language.as_str(), "ja" | CHINESE)
}

/// Makes the target language that of the transcript. The probability belonged to the language spoken.
pub(super) fn set_language(transcript: &mut Transcript, target: &TargetLanguage) {
    transcript.language.clone_from(&target.language);
    transcript.language_probability = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::transcript::{Route, Timings};

    fn segment(text: &str) -> Segment {
        Segment {
            id: 0,
            seek: 0,
            start: 1.0,
            end: 2.0,
            text: text.to_owned(),
            tokens: vec![7],
            logprobs: Vec::new(),
            temperature: 0.0,
            avg_logprob: -0.25,
            compression_ratio: 9.0,
            no_speech_prob: 0.01,
            words: Vec::new(),
        }
    }

    fn transcript(language: &str, texts: &[&str]) -> Transcript {
        Transcript {
            segments: texts.iter().map(|text| segment(text)).collect(),
            language: language.to_owned(),
            language_probability: Some(0.9),
            removed: Vec::new(),
            duration: 2.0,
            model: "base".to_owned(),
            route: Route::Hot,
            timings: Timings::default(),
            escalation: None,
        }
    }

    fn target(code: &str, language: &str) -> TargetLanguage {
        TargetLanguage {
            code: code.to_owned(),
            language: language.to_owned(),
        }
    }

    /// The texts of the call and their language.
    fn called(
        transcript: &Transcript,
        source: Option<&str>,
        target: &TargetLanguage,
    ) -> Option<(Vec<String>, Option<String>)> {
        let request = request(transcript, "r1".into(), source.map(str::to_owned), target)?;
        assert_eq!(request.target, target.code);
        Some((request.texts, request.source))
    }

    #[test]
    fn a_call_has_the_trimmed_texts_of_all_segments_that_are_not_blank() {
        let transcript = transcript("es", &[" hola ", "  ", "", "señor"]);
        let texts = vec!["hola".to_owned(), "señor".to_owned()];
        let german = target("de", "de");
        let call = called(&transcript, Some("es"), &german);
        assert_eq!(call, Some((texts.clone(), Some("es".to_owned()))));
        assert_eq!(called(&transcript, None, &german), Some((texts, None)));
    }

    #[test]
    fn no_call_is_made_without_text_or_in_the_target_language() {
        let english = TargetLanguage::default();
        for texts in [&[][..], &[" "]] {
            let silence = transcript("es", texts);
            assert_eq!(called(&silence, Some("es"), &english), None);
            assert_eq!(called(&silence, None, &english), None);
        }
        let said = transcript("en", &["yes"]);
        assert_eq!(called(&said, Some("en"), &english), None);
        // Another segment may be in another language.
        assert!(called(&said, None, &english).is_some());
        // The translator reads Nynorsk as Bokmål.
        let nynorsk = transcript("nn", &["ja"]);
        assert_eq!(called(&nynorsk, Some("nb"), &target("nb", "no")), None);
        let javanese = transcript("jw", &["iya"]);
        assert_eq!(called(&javanese, Some("jv"), &target("jv", "jw")), None);
    }

    #[test]
    fn the_two_scripts_of_chinese_are_two_target_languages() {
        let chinese = transcript("zh", &["谢谢"]);
        let source = Some("zh-Hans");
        assert_eq!(called(&chinese, source, &target("zh-Hans", "zh")), None);
        assert!(called(&chinese, source, &target("zh-Hant", "zh")).is_some());
    }

    #[test]
    fn segments_keep_their_times_and_lose_tokens_and_words() {
        let mut translated = transcript("es", &[" hola", " ", " señor"]);
        let texts = vec![" Hello ".to_owned(), "sir".to_owned()];
        replace(&mut translated.segments, texts, &target("en", "en")).expect("as many");
        let texts: Vec<&str> = (translated.segments.iter())
            .map(|segment| segment.text.as_str())
            .collect();
        assert_eq!(texts, [" Hello", " ", " sir"]);
        let [first, blank, _] = &translated.segments[..] else {
            panic!("{translated:?}");
        };
        assert_eq!(
            (first.start.to_bits(), first.tokens.len()),
            (1.0_f64.to_bits(), 0)
        );
        assert!(first.compression_ratio < 9.0);
        assert_eq!(blank, &segment(" "));
    }

    #[test]
    fn japanese_and_chinese_have_no_blanks_between_segments() {
        for (code, language) in [("ja", "ja"), ("zh-Hant", "zh")] {
            let mut segments = [segment(" hola")];
            let target = target(code, language);
            replace(&mut segments, vec!["x".to_owned()], &target).expect("as many");
            assert_eq!(segments[0].text, "x");
        }
    }

    #[test]
    fn too_many_or_too_few_texts_are_an_error_and_change_nothing() {
        for count in [0, 2] {
            let mut segments = [segment(" hola")];
            let texts = vec!["x".to_owned(); count];
            let result = replace(&mut segments, texts, &TargetLanguage::default());
            assert!(matches!(result, Err(TranslatorError::Malformed(_))));
            assert_eq!(segments, [segment(" hola")]);
        }
    }

    #[test]
    fn the_target_language_becomes_that_of_the_transcript() {
        let mut transcript = transcript("es", &[]);
        set_language(&mut transcript, &target("zh-Hant", "zh"));
        assert_eq!(transcript.language, "zh");
        assert_eq!(transcript.language_probability, None);
    }
}
