//! The languages that whisper supports, and the ways in which clients name them.

/// One language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(&'static (&'static str, &'static str));

impl Language {
    /// Whisper's code: ISO 639-1 if the language has one.
    pub fn code(self) -> &'static str {
        self.0.0
    }

    /// The English name in lower case.
    pub fn name(self) -> &'static str {
        self.0.1
    }
}

/// Parses a client's name for a language: `en`, `en-US`, `EN_us`, `English`.
pub fn parse(text: &str) -> Option<Language> {
    let text = text.trim().to_lowercase();
    let mut subtags = text.split(['-', '_']);
    let primary = subtags.next().unwrap_or(&text);
    // Scripts and regions have two to four letters or digits.
    let is_tag = subtags.all(|subtag| {
        (2..=4).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    let code_of = |primary| if is_tag { primary } else { "" };
    let code = OTHER_NAMES
        .iter()
        .find(|(other, _)| *other == text || *other == code_of(primary))
        .map_or(code_of(primary), |(_, code)| code);
    LANGUAGES
        .iter()
        .find(|(known, name)| *known == code || *name == text)
        .map(Language)
}

/// All languages, in whisper's order.
pub fn all() -> impl Iterator<Item = Language> {
    LANGUAGES.iter().map(Language)
}

/// The full English name of a code; the code itself if it is unknown.
pub fn name_of(code: &str) -> &str {
    let known = LANGUAGES.iter().find(|(known, _)| *known == code);
    known.map_or(code, |(_, name)| name)
}

/// Other codes and names in use, with whisper's code.
static OTHER_NAMES: &[(&str, &str)] = &[
    ("burmese", "my"),
    ("castilian", "es"),
    ("fil", "tl"),
    ("flemish", "nl"),
    ("haitian", "ht"),
    ("iw", "he"),
    ("jv", "jw"),
    ("letzeburgesch", "lb"),
    ("mandarin", "zh"),
    ("moldavian", "ro"),
    ("moldovan", "ro"),
    ("nb", "no"),
    ("panjabi", "pa"),
    ("pushto", "ps"),
    ("sinhalese", "si"),
    ("valencian", "ca"),
];

/// Codes and names in whisper's order: the index of a language is its token.
static LANGUAGES: &[(&str, &str)] = &[
    ("en", "english"),
    ("zh", "chinese"),
    ("de", "german"),
    ("es", "spanish"),
    ("ru", "russian"),
    ("ko", "korean"),
    ("fr", "french"),
    ("ja", "japanese"),
    ("pt", "portuguese"),
    ("tr", "turkish"),
    ("pl", "polish"),
    ("ca", "catalan"),
    ("nl", "dutch"),
    ("ar", "arabic"),
    ("sv", "swedish"),
    ("it", "italian"),
    ("id", "indonesian"),
    ("hi", "hindi"),
    ("fi", "finnish"),
    ("vi", "vietnamese"),
    ("he", "hebrew"),
    ("uk", "ukrainian"),
    ("el", "greek"),
    ("ms", "malay"),
    ("cs", "czech"),
    ("ro", "romanian"),
    ("da", "danish"),
    ("hu", "hungarian"),
    ("ta", "tamil"),
    ("no", "norwegian"),
    ("th", "thai"),
    ("ur", "urdu"),
    ("hr", "croatian"),
    ("bg", "bulgarian"),
    ("lt", "lithuanian"),
    ("la", "latin"),
    ("mi", "maori"),
    ("ml", "malayalam"),
    ("cy", "welsh"),
    ("sk", "slovak"),
    ("te", "telugu"),
    ("fa", "persian"),
    ("lv", "latvian"),
    ("bn", "bengali"),
    ("sr", "serbian"),
    ("az", "azerbaijani"),
    ("sl", "slovenian"),
    ("kn", "kannada"),
    ("et", "estonian"),
    ("mk", "macedonian"),
    ("br", "breton"),
    ("eu", "basque"),
    ("is", "icelandic"),
    ("hy", "armenian"),
    ("ne", "nepali"),
    ("mn", "mongolian"),
    ("bs", "bosnian"),
    ("kk", "kazakh"),
    ("sq", "albanian"),
    ("sw", "swahili"),
    ("gl", "galician"),
    ("mr", "marathi"),
    ("pa", "punjabi"),
    ("si", "sinhala"),
    ("km", "khmer"),
    ("sn", "shona"),
    ("yo", "yoruba"),
    ("so", "somali"),
    ("af", "afrikaans"),
    ("oc", "occitan"),
    ("ka", "georgian"),
    ("be", "belarusian"),
    ("tg", "tajik"),
    ("sd", "sindhi"),
    ("gu", "gujarati"),
    ("am", "amharic"),
    ("yi", "yiddish"),
    ("lo", "lao"),
    ("uz", "uzbek"),
    ("fo", "faroese"),
    ("ht", "haitian creole"),
    ("ps", "pashto"),
    ("tk", "turkmen"),
    ("nn", "nynorsk"),
    ("mt", "maltese"),
    ("sa", "sanskrit"),
    ("lb", "luxembourgish"),
    ("my", "myanmar"),
    ("bo", "tibetan"),
    ("tl", "tagalog"),
    ("mg", "malagasy"),
    ("as", "assamese"),
    ("tt", "tatar"),
    ("haw", "hawaiian"),
    ("ln", "lingala"),
    ("ha", "hausa"),
    ("ba", "bashkir"),
    ("jw", "javanese"),
    ("su", "sundanese"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_is_found_by_code_region_and_name() {
        for (code, name) in LANGUAGES {
            let region = format!("{code}-XX");
            for text in [*code, &region, name, &name.to_uppercase()] {
                assert_eq!(parse(text).map(Language::code), Some(*code), "{text}");
            }
            assert_eq!(name_of(code), *name);
        }
    }

    #[test]
    fn clients_name_languages_in_many_ways() {
        for text in ["en", "EN", "en-US", "en_GB", "English", " english "] {
            assert_eq!(parse(text).map(Language::code), Some("en"), "{text}");
        }
        assert_eq!(parse("Castilian").map(Language::code), Some("es"));
        assert_eq!(parse("jv-ID").map(Language::code), Some("jw"));
        assert_eq!(parse("Haitian Creole").map(Language::code), Some("ht"));
        assert_eq!(parse("zh-Hant-TW").map(Language::code), Some("zh"));
        for text in [
            "",
            "xx",
            "klingon",
            "e",
            "\0",
            "ënglish",
            "no-problem",
            "en-",
            "is-*",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
