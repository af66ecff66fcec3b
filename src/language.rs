//! The languages that Whisper knows: the client crate's table, checked against whisper.cpp's own.

pub use uttera_stt_client::language::{Language, all, name_of, parse};

#[cfg(test)]
mod tests {
    use super::*;

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
