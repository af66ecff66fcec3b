//! Tests of the RIFF reader with files made of bytes.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use super::*;

fn chunk(name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = unpadded(name, body);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

fn unpadded(name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn format(tag: u16, channels: u16, bits: u16, container: u16) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(tag.to_le_bytes());
    body.extend(channels.to_le_bytes());
    body.extend(16_000_u32.to_le_bytes());
    body.extend((16_000 * u32::from(channels * container)).to_le_bytes());
    body.extend((channels * container).to_le_bytes());
    body.extend(bits.to_le_bytes());
    body
}

fn extensible(sub_tag: u16, bits: u16, valid_bits: u16) -> Vec<u8> {
    let mut body = format(EXTENSIBLE, 1, bits, bits / 8);
    body.extend(22_u16.to_le_bytes());
    body.extend(valid_bits.to_le_bytes());
    body.extend(4_u32.to_le_bytes());
    body.extend(sub_tag.to_le_bytes());
    body.extend(SUB_FORMAT_TAIL);
    body
}

fn open(bytes: &[u8]) -> Content {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Sound::open(file).unwrap()
}

fn wave(format: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
    bytes.extend(chunk(b"fmt ", format));
    bytes.extend(rest);
    bytes
}

fn is_plain(format: &[u8]) -> bool {
    let file = wave(format, &chunk(b"data", &[0; 4]));
    matches!(open(&file), Content::Sound(_))
}

/// All sound of a file, read in blocks of this size, and its length according to the headers.
fn sound(bytes: &[u8], block: usize) -> (Vec<u8>, f64) {
    let Content::Sound(mut sound) = open(bytes) else {
        panic!("no sound");
    };
    let seconds = sound.seconds().unwrap();
    let mut all = Vec::new();
    while let Some((_, bytes)) = sound.read(block).unwrap() {
        all.extend(bytes);
    }
    (all, seconds)
}

/// Asserts that a file with 8-bit samples has this sound, whatever the size of the blocks.
fn assert_sound(rest: &[u8], expected: &[u8], what: &str) {
    let file = wave(&format(PCM, 1, 8, 1), rest);
    for block in [1, 5, 1000] {
        let (found, _) = sound(&file, block);
        assert_eq!(
            String::from_utf8_lossy(&found),
            String::from_utf8_lossy(expected),
            "{what}, blocks of {block}"
        );
    }
}

#[test]
fn plain_samples_are_told_from_others() {
    for bits in [8, 16, 24, 32] {
        assert!(is_plain(&format(PCM, 2, bits, bits / 8)), "{bits} bit");
        assert!(is_plain(&extensible(PCM, bits, bits)), "{bits} bit");
    }
    for (tag, bits) in [(IEEE_FLOAT, 32), (IEEE_FLOAT, 64), (A_LAW, 8), (MU_LAW, 8)] {
        assert!(
            is_plain(&format(tag, 1, bits, bits / 8)),
            "format tag {tag}"
        );
        assert!(is_plain(&extensible(tag, bits, bits)), "format tag {tag}");
    }
    assert!(!is_plain(&format(PCM, 1, 24, 4)), "24 bits in 4 bytes");
    assert!(!is_plain(&extensible(PCM, 32, 24)), "24 bits in 4 bytes");
    assert!(!is_plain(&format(PCM, 1, 12, 2)), "12 bits");
    assert!(!is_plain(&format(PCM, 0, 16, 2)), "no channels");
    for tag in [2, 0x11, 0x45, 0x55] {
        assert!(!is_plain(&format(tag, 1, 8, 1)), "format tag {tag:#x}");
    }
}

#[test]
fn chunks_around_the_sound_are_no_sound() {
    let odd = [
        chunk(b"LIST", b"odd"),
        chunk(b"data", b"abcde"),
        chunk(b"LIST", b"more"),
    ];
    assert_sound(&odd.concat(), b"abcde", "odd lengths");
    let unpadded = [unpadded(b"data", b"abcde"), chunk(b"LIST", b"more")];
    assert_sound(&unpadded.concat(), b"abcde", "no padding");
    let mut cut = chunk(b"data", b"abcd");
    cut.extend(b"LIST\xff\0\0\0cut off");
    assert_sound(&cut, b"abcd", "a chunk that the end of the file cuts");
    let empty = [
        chunk(b"data", b""),
        chunk(b"LIST", b"more"),
        chunk(b"data", b"abcd"),
    ];
    assert_sound(&empty.concat(), b"abcd", "an empty chunk first");
}

#[test]
fn sound_in_several_chunks_is_joined() {
    let parts = [
        chunk(b"data", b"abc"),
        chunk(b"LIST", b"more"),
        chunk(b"data", b"def"),
        chunk(b"data", b"ghij"),
    ];
    assert_sound(&parts.concat(), b"abcdefghij", "three data chunks");
    let file = wave(&format(PCM, 1, 8, 1), &parts.concat());
    let (_, seconds) = sound(&file, 1000);
    assert!((seconds - 10.0 / 16_000.0).abs() < 1e-9, "{seconds}");
}

#[test]
fn headers_within_the_sound_are_no_sound() {
    let piece = |sound: &[u8]| wave(&format(PCM, 1, 8, 1), &chunk(b"data", sound));
    let joined = [chunk(b"data", b"abcdef"), piece(b"ghi"), piece(b"jklmno")].concat();
    assert_sound(&joined, b"abcdefghijklmno", "joined files");
    // A first header that counts everything, or nothing.
    for claim in [joined.len() as u32 - 8, u32::MAX, 0] {
        let mut claimed = joined.clone();
        claimed[4..8].copy_from_slice(&claim.to_le_bytes());
        assert_sound(
            &claimed,
            b"abcdefghijklmno",
            &format!("a length of {claim}"),
        );
    }
}

#[test]
fn an_old_length_does_not_cut_the_sound() {
    for claim in [0, 4, 7, 1000, u32::MAX] {
        let mut data = chunk(b"data", b"abcdefgh\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89");
        data[4..8].copy_from_slice(&claim.to_le_bytes());
        assert_sound(&data, &data[8..], &format!("a length of {claim}"));
    }
}

#[test]
fn the_format_may_change_and_may_be_big_endian() {
    let mut big = b"RIFX\0\0\0\0WAVEfmt \0\0\0\x10\0\x01\0\x02\0\0\xac\x44".to_vec();
    big.extend(b"\0\x02\xb1\x10\0\x04\0\x10data\0\0\0\x04wxyz");
    let mut file = wave(&format(PCM, 1, 8, 1), &chunk(b"data", b"abcd"));
    file.extend(&big);
    let Content::Sound(mut both) = open(&file) else {
        panic!("no sound");
    };
    let (first, bytes) = both.read(100).unwrap().unwrap();
    assert_eq!(
        (first.rate, first.is_big_endian, &bytes[..]),
        (16_000, false, &b"abcd"[..])
    );
    let (second, bytes) = both.read(100).unwrap().unwrap();
    assert_eq!(
        (second.rate, second.is_big_endian, &bytes[..]),
        (44_100, true, &b"wxyz"[..])
    );
    assert_eq!((second.channels, second.bytes), (2, 2));
    assert!(both.read(100).unwrap().is_none());
    assert!(matches!(open(&big), Content::Sound(_)));
}

#[test]
fn a_header_without_sound_has_no_data() {
    let pcm = format(PCM, 1, 16, 2);
    for rest in [
        &b""[..],
        b"LIST\x1a\0\0\0",
        b"data\0\0\0\0",
        b"data\x08\0\0\0",
    ] {
        assert!(matches!(open(&wave(&pcm, rest)), Content::NoData));
    }
    assert!(matches!(
        open(b"RIFF\0\0\0\0WAVEfmt \x10\0"),
        Content::NoData
    ));
}

#[test]
fn what_is_no_wave_is_other() {
    for bytes in [
        &b""[..],
        b"RIFF",
        b"RIFF\0\0\0\0AVI LIST",
        b"OggS\0\0\0\0\0\0\0\0\0\0",
        b"RF64\xff\xff\xff\xffWAVEds64",
    ] {
        assert!(matches!(open(bytes), Content::Other));
    }
}
