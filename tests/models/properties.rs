//! The parsers end on any bytes, and take no more memory than the bytes allow.
#![allow(clippy::unwrap_used)]

use std::sync::OnceLock;

use proptest::collection::vec;
use proptest::prelude::*;
use test_support::small_model::SmallModel;
use uttera_stt::models::fuzzing;

/// A valid CTranslate2 file and the offsets of its headers.
fn folder() -> &'static (Vec<u8>, Vec<usize>) {
    static FILE: OnceLock<(Vec<u8>, Vec<usize>)> = OnceLock::new();
    FILE.get_or_init(|| SmallModel::new().bytes_and_headers())
}

/// The ggml file converted from it.
fn ggml() -> &'static Vec<u8> {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| fuzzing::import(&folder().0).unwrap())
}

/// Extreme values for lengths and counts.
fn nasty_number() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(i32::MAX as u32),
        Just(i32::MAX as u32 + 1),
        Just(u32::from(u16::MAX)),
        any::<u32>(),
        0..1024u32,
    ]
}

fn overwrite(bytes: &mut [u8], at: usize, value: u32) {
    let end = (at + 4).min(bytes.len());
    bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_no_model(bytes in vec(any::<u8>(), 0..4096)) {
        prop_assert!(fuzzing::import(&bytes).is_err());
        prop_assert!(fuzzing::convert(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_after_a_good_start_are_no_model(bytes in vec(any::<u8>(), 0..4096)) {
        let mut folder = folder().0[..24].to_vec();
        folder.extend(&bytes);
        prop_assert!(fuzzing::import(&folder).is_err());
        let mut file = ggml()[..48].to_vec();
        file.extend(&bytes);
        prop_assert!(fuzzing::convert(&file).is_err());
    }

    #[test]
    fn a_number_changed_in_a_header_is_survived(
        changes in vec((any::<prop::sample::Index>(), nasty_number()), 1..4),
    ) {
        let (bytes, headers) = folder();
        let mut bytes = bytes.clone();
        for (place, value) in changes {
            overwrite(&mut bytes, headers[place.index(headers.len())], value);
        }
        // Some changes leave a valid model, for example in a scalar that is not read.
        if let Ok(file) = fuzzing::import(&bytes) {
            prop_assert!(file.len() <= 4 * bytes.len());
        }
    }

    #[test]
    fn a_number_changed_in_a_ggml_header_is_survived(
        place in 0..2048usize,
        value in nasty_number(),
    ) {
        let mut bytes = ggml().clone();
        // The first part contains the header, the second the filters, the vocabulary and the first tensors.
        let at = if place < 1024 { place % 48 } else { 48 + 80 * 201 * 4 + place };
        overwrite(&mut bytes, at, value);
        let _ = fuzzing::convert(&bytes);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused(cut in any::<prop::sample::Index>()) {
        let bytes = &folder().0;
        prop_assert!(fuzzing::import(&bytes[..cut.index(bytes.len())]).is_err());
        let bytes = ggml();
        prop_assert!(fuzzing::convert(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_text_is_a_vocabulary_or_an_error(text in ".{0,300}", count in 0..64usize) {
        for tokens in fuzzing::vocabulary(&text, count).into_iter().flatten() {
            prop_assert_eq!(tokens.len(), count);
        }
    }
}
