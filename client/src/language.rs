//! The languages that whisper supports, and the ways in which clients name them.

mod tables;

use tables::{COUNTRIES, LANGUAGES, OTHER_NAMES, UNDETERMINED};

/// Whisper's code, the code of ISO 639-3, and the English name in lower case.
type Row = (&'static str, &'static str, &'static str);

/// One language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Language(&'static Row);

impl Language {
    /// Whisper's code: ISO 639-1 if the language has one.
    pub fn code(self) -> &'static str {
        self.0.0
    }

    /// The code of ISO 639-3, which is also that of ISO 639-2 for terminology.
    pub fn three_letter_code(self) -> &'static str {
        self.0.1
    }

    /// The English name in lower case.
    pub fn name(self) -> &'static str {
        self.0.2
    }
}

/// Parses a client's name for a language: a code of ISO 639 (`en`, `eng`), a language tag (`en-US`,
/// `zh-Hant-TW`, `en-u-ca-gregory`), a POSIX locale (`en_US.UTF-8`, `de_DE@euro`), or the English name.
pub fn parse(text: &str) -> Option<Language> {
    let text = without_encoding(text);
    let code = primary_subtag(&text).unwrap_or_default();
    let code = OTHER_NAMES
        .iter()
        .find(|(other, _)| *other == text || *other == code)
        .map_or(code, |(_, code)| code);
    all().find(|known| {
        [known.code(), known.three_letter_code()].contains(&code) || known.name() == text
    })
}

/// Whether a client names no particular language, so that it has to be detected: `auto`, the codes of ISO
/// 639 for undetermined and multiple languages, and the POSIX locales without a language.
pub fn is_undetermined(text: &str) -> bool {
    let text = without_encoding(text);
    // The name `C` is too short for a subtag.
    let code = primary_subtag(&text).unwrap_or(&text);
    UNDETERMINED.contains(&code)
}

/// The language that a client probably means by the code of a country: Japanese for `jp`.
pub fn of_country(text: &str) -> Option<Language> {
    let text = without_encoding(text);
    let country = primary_subtag(&text)?;
    let (_, code) = COUNTRIES.iter().find(|(known, _)| *known == country)?;
    all().find(|language| language.code() == *code)
}

/// The first subtag of a language tag or a POSIX locale in lower case, which is the code of the language.
/// `None` if the text has another form.
pub fn primary_subtag(text: &str) -> Option<&str> {
    let end = text.find(['-', '_']).unwrap_or(text.len());
    let (primary, rest) = text.split_at(end);
    let is_alphanumeric = |subtag: &&str| subtag.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let subtags = rest.split(['-', '_']).skip(1);
    // A single letter or digit begins an extension, which says nothing about the language.
    let mut subtags = subtags.take_while(|subtag| subtag.len() != 1 || !is_alphanumeric(subtag));
    // Scripts and regions have two to four letters or digits, and variants after them up to eight.
    let is_region = subtags
        .next()
        .is_none_or(|first| (2..=4).contains(&first.len()) && is_alphanumeric(&first));
    let is_tag =
        is_region && subtags.all(|next| (2..=8).contains(&next.len()) && is_alphanumeric(&next));
    let is_code =
        (2..=4).contains(&primary.len()) && primary.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_tag && is_code).then_some(primary)
}

/// The text in lower case, without the encoding and the modifier that a POSIX locale has at its end.
pub fn without_encoding(text: &str) -> String {
    let text = text.trim();
    let end = text.find(['.', '@']).unwrap_or(text.len());
    text[..end].to_lowercase()
}

/// All languages, in whisper's order.
pub fn all() -> impl Iterator<Item = Language> {
    LANGUAGES.iter().map(Language)
}

/// The full English name of a code; the code itself if it is unknown.
pub fn name_of(code: &str) -> &str {
    let known = all().find(|known| known.code() == code);
    match known {
        Some(known) => known.name(),
        None => code,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_language_is_found_by_its_codes_with_a_region_and_by_name() {
        for (code, iso3, name) in LANGUAGES {
            let forms = [
                (*code).to_owned(),
                (*iso3).to_owned(),
                iso3.to_uppercase(),
                format!("{code}-XX"),
                format!("{code}_XX.UTF-8"),
                format!("{iso3}-Latn-XX"),
                (*name).to_owned(),
                name.to_uppercase(),
            ];
            for text in forms {
                assert_eq!(parse(&text).map(Language::code), Some(*code), "{text}");
                assert!(!is_undetermined(&text), "{text}");
            }
            assert_eq!(name_of(code), *name);
        }
    }

    #[test]
    fn a_code_or_a_name_means_one_language_only() {
        let mut known: Vec<&str> = Vec::new();
        for (code, iso3, name) in LANGUAGES {
            // Hawaiian has one code only, and Lao a code that is its name.
            let of_language = BTreeSet::from([*code, *iso3, *name]);
            known.extend(of_language);
        }
        known.extend(OTHER_NAMES.iter().map(|(name, _)| *name));
        known.extend(COUNTRIES.iter().map(|(name, _)| *name));
        known.extend(UNDETERMINED);
        known.sort_unstable();
        let count = known.len();
        known.dedup();
        assert_eq!(known.len(), count);
        for (name, code) in OTHER_NAMES {
            assert_eq!(parse(name).map(Language::code), Some(*code), "{name}");
        }
        for (country, code) in COUNTRIES {
            assert_eq!(parse(country), None, "{country}");
            let meant = of_country(country).map(Language::code);
            assert_eq!(meant, Some(*code), "{country}");
        }
    }

    #[test]
    fn clients_name_languages_in_many_ways() {
        for text in [
            "en",
            "EN",
            "en-US",
            "en_GB",
            "English",
            " english ",
            "eng",
            "en_US.UTF-8",
            "en_US.utf8",
            "en_IE@euro",
            "en_IE.ISO-8859-15@euro",
            "en-u-ca-gregory",
            "en-US-u-hc-h23-x-private",
            "en-Latn-GB-oxendict",
            "ENG_US",
        ] {
            assert_eq!(parse(text).map(Language::code), Some("en"), "{text}");
        }
        for (text, code) in [
            ("Castilian", "es"),
            ("jv-ID", "jw"),
            ("Haitian Creole", "ht"),
            ("zh-Hant-TW", "zh"),
            ("cmn-Hans-CN", "zh"),
            ("in", "id"),
            ("ji", "yi"),
            ("iw_IL.UTF-8", "he"),
            ("ger", "de"),
            ("deu-1996", "de"),
            ("sr_RS@latin", "sr"),
            ("ca-ES-valencia", "ca"),
            ("haw-US", "haw"),
        ] {
            assert_eq!(parse(text).map(Language::code), Some(code), "{text}");
        }
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
            "tlh",
            "e1",
            "en-US-",
            "en--US",
            ".UTF-8",
            "@euro",
            "-u-ca-gregory",
            "en-US-abcdefghi",
        ] {
            assert_eq!(parse(text), None, "{text}");
            assert!(!is_undetermined(text), "{text}");
        }
    }

    #[test]
    fn undetermined_and_multiple_languages_are_no_language() {
        for text in [
            "auto",
            "AUTO",
            "und",
            "mul",
            " und-Latn ",
            "C",
            "C.UTF-8",
            "POSIX",
        ] {
            assert!(is_undetermined(text), "{text}");
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
