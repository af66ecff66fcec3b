//! The languages that Whisper knows: the client crate's table, checked against whisper.cpp's own.

pub use uttera_stt_client::language::{
    Language, all, is_undetermined, name_of, of_country, parse, primary_subtag, without_encoding,
};

/// Names at least this similar are one name with a typing error.
const MIN_SIMILARITY: f64 = 0.8;
/// A longer text is no name of a language; comparing it would take long.
const MAX_NAME_BYTES: usize = 32;

/// The language that an unknown name probably means: the one that is spoken in the country with this code,
/// or the one whose English name is almost the same.
pub fn suggestion(text: &str) -> Option<Language> {
    if text.len() > MAX_NAME_BYTES {
        return None;
    }
    let written = without_encoding(text);
    let similarity =
        |language: &Language| strsim::normalized_damerau_levenshtein(language.name(), &written);
    let nearest = || all().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    of_country(text).or_else(|| nearest().filter(|language| similarity(language) >= MIN_SIMILARITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_countries_and_names_with_typing_errors_suggest_a_language() {
        for (text, code) in [
            ("jp", "ja"),
            ("JP", "ja"),
            ("cn", "zh"),
            ("kr_KR.UTF-8", "ko"),
            ("Portugese", "pt"),
            ("engish", "en"),
            ("ukranian", "uk"),
        ] {
            assert_eq!(suggestion(text).map(Language::code), Some(code), "{text}");
        }
        for text in ["", "klingon", "xx", "elvish", "deutsch", &"x".repeat(1000)] {
            assert_eq!(suggestion(text), None, "{text}");
        }
    }

    #[test]
    fn the_table_is_the_one_of_whisper_cpp() {
        assert_eq!(all().count(), 99);
        for (index, language) in all().enumerate() {
            let (code, name) = (language.code(), language.name());
            assert_eq!(whisper_rs::get_lang_id(code), Some(index as i32), "{code}");
            assert_eq!(whisper_rs::get_lang_str_full(index as i32), Some(name));
        }
    }
}
