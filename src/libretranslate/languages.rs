//! LibreTranslate's names for languages: its codes are not always whisper's.

use crate::language;

/// Has LibreTranslate find out by itself what it is given.
pub(super) const DETECT: &str = "auto";

/// Whisper's code and LibreTranslate's, where they differ.
const OTHER_CODES: &[(&str, &str)] = &[("jw", "jv"), ("no", "nb"), ("zh", "zh-Hans")];
/// LibreTranslate has no Nynorsk. What it reads as Bokmål it understands; nobody who asks for the
/// one wants the other.
const OTHER_SOURCES: &[(&str, &str)] = &[("nn", "nb")];
/// Parts of a tag that say that Chinese is written in traditional characters.
const TRADITIONAL: &[&str] = &["hant", "hk", "mo", "tw"];

/// A language to translate to, any that LibreTranslate may have: more than whisper knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// LibreTranslate's.
    code: String,
    /// Whisper's where it knows the language, else LibreTranslate's.
    language: String,
}

impl Target {
    /// The language that a client means: named as whisper's are, or a code of two or three letters
    /// that only LibreTranslate knows (`eo`). Regions are dropped, but for those that tell the two
    /// ways of writing Chinese apart (`zh-TW`).
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(known) = language::parse(text) {
            let code = match known.code() {
                "zh" if is_traditional(text) => "zh-Hant",
                code => translated(OTHER_CODES, code),
            };
            return Some(Self {
                code: code.to_owned(),
                language: known.code().to_owned(),
            });
        }
        let text = text.trim().to_ascii_lowercase();
        let mut subtags = text.split(['-', '_']);
        let primary = subtags.next().unwrap_or_default();
        let is_code = (2..=3).contains(&primary.len())
            && primary.bytes().all(|byte| byte.is_ascii_lowercase())
            && subtags.all(|subtag| (2..=4).contains(&subtag.len()));
        is_code.then(|| Self {
            code: primary.to_owned(),
            language: primary.to_owned(),
        })
    }

    /// As LibreTranslate is asked for it.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// As in a transcript.
    pub fn language(&self) -> &str {
        &self.language
    }

    /// Whether whisper itself can translate to it.
    pub fn is_english(&self) -> bool {
        self.code == "en"
    }

    /// Whether words are parted by blanks.
    pub(super) fn has_blanks(&self) -> bool {
        !matches!(self.language.as_str(), "ja" | "zh")
    }
}

impl Default for Target {
    /// English, as at OpenAI.
    fn default() -> Self {
        Self {
            code: "en".to_owned(),
            language: "en".to_owned(),
        }
    }
}

/// LibreTranslate's code of a language that whisper heard.
pub(super) fn source_code(whisper: &str) -> &str {
    let code = translated(OTHER_SOURCES, whisper);
    translated(OTHER_CODES, code)
}

fn translated<'a>(table: &[(&str, &'static str)], code: &'a str) -> &'a str {
    let other = table.iter().find(|(known, _)| *known == code);
    other.map_or(code, |(_, other)| other)
}

fn is_traditional(tag: &str) -> bool {
    let tag = tag.trim().to_ascii_lowercase();
    tag.split(['-', '_'])
        .any(|part| TRADITIONAL.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_names_become_libretranslates_codes() {
        for (text, code, language) in [
            ("de", "de", "de"),
            ("pt-BR", "pt", "pt"),
            ("French", "fr", "fr"),
            ("zh", "zh-Hans", "zh"),
            ("Chinese", "zh-Hans", "zh"),
            ("zh-CN", "zh-Hans", "zh"),
            ("zh-tw", "zh-Hant", "zh"),
            ("zh_Hant_HK", "zh-Hant", "zh"),
            ("no", "nb", "no"),
            ("nb-NO", "nb", "no"),
            ("nn", "nn", "nn"),
            ("jv", "jv", "jw"),
            ("iw", "he", "he"),
            (" EO ", "eo", "eo"),
            ("ga-IE", "ga", "ga"),
        ] {
            let target = Target::parse(text).unwrap_or_else(|| panic!("{text} is refused"));
            assert_eq!(
                (target.code(), target.language()),
                (code, language),
                "{text}"
            );
        }
        for text in ["", "klingon", "e", "auto", "d3", "de/../x", "dé"] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_language_that_whisper_hears_has_a_code() {
        assert_eq!(source_code("zh"), "zh-Hans");
        assert_eq!(source_code("nn"), "nb");
        assert_eq!(source_code("es"), "es");
    }

    #[test]
    fn english_is_the_default_and_the_only_one_that_whisper_can() {
        assert_eq!(Target::parse("en-GB"), Some(Target::default()));
        assert!(Target::default().is_english());
        assert!(!Target::parse("eo").expect("a code").is_english());
    }
}
