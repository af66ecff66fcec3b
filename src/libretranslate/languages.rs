//! LibreTranslate's language codes, which differ from whisper's for some languages.

use stt_actors::TargetLanguage;

use crate::language;

/// Tells LibreTranslate to detect the language of a text.
pub(super) const DETECT: &str = "auto";

/// Whisper's code and LibreTranslate's, where they differ.
const OTHER_CODES: &[(&str, &str)] = &[("jw", "jv"), ("no", "nb"), ("zh", "zh-Hans")];
/// Languages that LibreTranslate does not have but reads as another one: Nynorsk as Bokmål. This is
/// for sources only, since a client that asks for Nynorsk does not want Bokmål.
const OTHER_SOURCES: &[(&str, &str)] = &[("nn", "nb")];
/// Subtags that select Chinese in traditional characters.
const TRADITIONAL: &[&str] = &["hant", "hk", "mo", "tw"];

/// Parses a client's target language: any name that whisper's languages have, or a code of two or
/// three letters that only LibreTranslate knows (`eo`). Regions are dropped, except those that select
/// one of the two scripts of Chinese (`zh-TW`).
pub fn parse_target(text: &str) -> Option<TargetLanguage> {
    if let Some(known) = language::parse(text) {
        let code = match known.code() {
            "zh" if is_traditional(text) => "zh-Hant",
            code => translated(OTHER_CODES, code),
        };
        return Some(TargetLanguage {
            code: code.to_owned(),
            language: known.code().to_owned(),
        });
    }
    let text = language::without_encoding(text);
    let code = language::primary_subtag(&text).filter(|code| (2..=3).contains(&code.len()))?;
    let is_no_language = language::is_undetermined(code) || language::of_country(code).is_some();
    (!is_no_language).then(|| TargetLanguage {
        code: code.to_owned(),
        language: code.to_owned(),
    })
}

/// LibreTranslate's code of a language that whisper detected.
pub(super) fn source_code(whisper: &str) -> &str {
    let code = translated(OTHER_SOURCES, whisper);
    translated(OTHER_CODES, code)
}

fn translated<'a>(table: &[(&str, &'static str)], code: &'a str) -> &'a str {
    let other = table.iter().find(|(known, _)| *known == code);
    other.map_or(code, |(_, other)| other)
}

fn is_traditional(tag: &str) -> bool {
    let tag = language::without_encoding(tag);
    tag.split(['-', '_'])
        .any(|part| TRADITIONAL.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clients_become_libretranslates_codes() {
        for (text, code, language) in [
            ("de", "de", "de"),
            ("pt-BR", "pt", "pt"),
            ("French", "fr", "fr"),
            ("zh", "zh-Hans", "zh"),
            ("Chinese", "zh-Hans", "zh"),
            ("zh-CN", "zh-Hans", "zh"),
            ("zh-tw", "zh-Hant", "zh"),
            ("zh_Hant_HK", "zh-Hant", "zh"),
            ("zh_TW.UTF-8", "zh-Hant", "zh"),
            ("zho", "zh-Hans", "zh"),
            ("de_DE@euro", "de", "de"),
            ("no", "nb", "no"),
            ("nb-NO", "nb", "no"),
            ("nn", "nn", "nn"),
            ("jv", "jv", "jw"),
            ("iw", "he", "he"),
            (" EO ", "eo", "eo"),
            ("ga-IE", "ga", "ga"),
            ("eo_XX.UTF-8", "eo", "eo"),
        ] {
            let target = parse_target(text).unwrap_or_else(|| panic!("{text} is rejected"));
            assert_eq!(
                (target.code.as_str(), target.language.as_str()),
                (code, language),
                "{text}"
            );
        }
        for text in [
            "", "klingon", "e", "auto", "und", "mul", "C", "d3", "de/../x", "dé",
        ] {
            assert_eq!(parse_target(text), None, "{text}");
        }
    }

    #[test]
    fn languages_that_whisper_detects_have_a_code() {
        assert_eq!(source_code("zh"), "zh-Hans");
        assert_eq!(source_code("nn"), "nb");
        assert_eq!(source_code("es"), "es");
    }

    #[test]
    fn english_is_the_default_and_the_only_target_of_whisper_itself() {
        assert_eq!(parse_target("en-GB"), Some(TargetLanguage::default()));
        assert!(TargetLanguage::default().is_english());
        assert!(!parse_target("eo").expect("a code").is_english());
    }
}
