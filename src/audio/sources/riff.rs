//! Reads enough of a RIFF WAVE header to choose the source for a file.
//!
//! Format tags and the extensible layout as in Microsoft's `mmreg.h`.

use std::io::{self, BufRead, ErrorKind, Seek};

const PCM: u16 = 0x0001;
const IEEE_FLOAT: u16 = 0x0003;
const EXTENSIBLE: u16 = 0xfffe;

/// The last 14 bytes of the sub-format GUIDs of PCM and float; the first two bytes are the tag.
const SUB_FORMAT_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// Most RIFF chunks before the samples; no real file has as many.
const MOST_CHUNKS: usize = 1000;

/// The content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Plain samples of 8, 16, 24 or 32 bit, or 32 bit float.
    Pcm(Data),
    /// A WAVE header, and no data after it.
    NoData,
    /// Not a WAVE file, or one with other samples or an implausible length.
    Other,
}

/// The relevant parts of a plain header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) channels: u16,
    /// Hz.
    pub(super) rate: u32,
}

/// Reads the header from the start of a file.
pub(super) fn layout(file: &mut (impl BufRead + Seek)) -> io::Result<Layout> {
    match read_layout(file) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Layout::NoData),
        result => result,
    }
}

fn read_layout(file: &mut (impl BufRead + Seek)) -> io::Result<Layout> {
    let mut head = [0; 12];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Layout::Other),
        result => result?,
    }
    if &head[..4] != b"RIFF" || &head[8..] != b"WAVE" {
        return Ok(Layout::Other);
    }
    let mut format = None;
    for _ in 0..MOST_CHUNKS {
        let mut chunk = [0; 8];
        file.read_exact(&mut chunk)?;
        let length = u32_at(&chunk, 4);
        match &chunk[..4] {
            b"data" if length == 0 && file.fill_buf()?.is_empty() => return Ok(Layout::NoData),
            b"data" => return Ok(format.map_or(Layout::Other, |format| with_data(format, length))),
            b"fmt " if (16..=1024).contains(&length) => {
                let mut body = vec![0; length as usize];
                file.read_exact(&mut body)?;
                file.seek_relative(i64::from(length % 2))?;
                match plain_format(&body) {
                    None => return Ok(Layout::Other),
                    plain => format = plain,
                }
            }
            // Chunks are padded to an even length.
            _ => file.seek_relative(i64::from(length) + i64::from(length % 2))?,
        }
    }
    Ok(Layout::Other)
}

/// Channels and rate, if hound reads samples of this kind correctly. It misreads samples that do not fill
/// their container (24 bits in 4 bytes), so those do not count as plain.
fn plain_format(body: &[u8]) -> Option<(u16, u32)> {
    let (channels, rate) = (u16_at(body, 2), u32_at(body, 4));
    let (frame_bytes, bits) = (u16_at(body, 12), u16_at(body, 14));
    let mut tag = u16_at(body, 0);
    if tag == EXTENSIBLE {
        let valid_bits = (body.len() >= 40).then(|| u16_at(body, 18))?;
        if body[26..40] != SUB_FORMAT_TAIL || (valid_bits != 0 && valid_bits != bits) {
            return None;
        }
        tag = u16_at(body, 24);
    }
    let known = match tag {
        PCM => matches!(bits, 8 | 16 | 24 | 32),
        IEEE_FLOAT => bits == 32,
        _ => false,
    };
    let fills = u32::from(channels) * u32::from(bits / 8) == u32::from(frame_bytes);
    (known && fills && channels > 0 && rate > 0).then_some((channels, rate))
}

fn with_data((channels, rate): (u16, u32), length: u32) -> Layout {
    // Writers that cannot seek back leave the largest number or zero there.
    if length == u32::MAX || length == 0 {
        return Layout::Other;
    }
    Layout::Pcm(Data { channels, rate })
}

fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from_le_bytes([bytes[place], bytes[place + 1]])
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from(u16_at(bytes, place)) | u32::from(u16_at(bytes, place + 2)) << 16
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn chunk(name: &[u8], body: &[u8]) -> Vec<u8> {
        let mut bytes = name.to_vec();
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
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

    fn wave(format: &[u8], rest: &[u8]) -> Layout {
        let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
        bytes.extend(chunk(b"fmt ", format));
        bytes.extend(rest);
        layout(&mut Cursor::new(bytes)).unwrap()
    }

    fn is_plain(format: &[u8]) -> bool {
        matches!(wave(format, &chunk(b"data", &[0; 4])), Layout::Pcm(_))
    }

    #[test]
    fn plain_samples_are_told_from_others() {
        for bits in [8, 16, 24, 32] {
            assert!(is_plain(&format(PCM, 2, bits, bits / 8)), "{bits} bit");
            assert!(is_plain(&extensible(PCM, bits, bits)), "{bits} bit");
        }
        assert!(is_plain(&format(IEEE_FLOAT, 1, 32, 4)));
        assert!(is_plain(&extensible(IEEE_FLOAT, 32, 32)));
        assert!(!is_plain(&format(IEEE_FLOAT, 1, 64, 8)));
        assert!(!is_plain(&format(PCM, 1, 24, 4)), "24 bits in 4 bytes");
        assert!(!is_plain(&extensible(PCM, 32, 24)), "24 bits in 4 bytes");
        assert!(!is_plain(&format(PCM, 0, 16, 2)), "no channels");
        for tag in [2, 6, 7, 0x11, 0x45, 0x55] {
            assert!(!is_plain(&format(tag, 1, 8, 1)), "format tag {tag:#x}");
        }
    }

    #[test]
    fn chunks_of_odd_length_before_the_sound_are_skipped() {
        let mut rest = chunk(b"LIST", b"odd");
        rest.extend(chunk(b"data", &[0; 6]));
        let expected = Layout::Pcm(Data {
            channels: 1,
            rate: 16_000,
        });
        assert_eq!(wave(&format(PCM, 1, 16, 2), &rest), expected);
    }

    #[test]
    fn a_header_without_sound_has_no_data() {
        let pcm = format(PCM, 1, 16, 2);
        assert_eq!(wave(&pcm, b""), Layout::NoData);
        assert_eq!(wave(&pcm, b"LIST\x1a\0\0\0"), Layout::NoData);
        assert_eq!(wave(&pcm, b"data\0\0\0\0"), Layout::NoData);
    }

    #[test]
    fn the_length_of_a_live_stream_is_not_believed() {
        for claim in [b"data\xff\xff\xff\xffsound", b"data\0\0\0\0sound"] {
            assert_eq!(wave(&format(PCM, 1, 8, 1), claim), Layout::Other);
        }
    }

    #[test]
    fn what_is_no_wave_is_other() {
        for bytes in [
            &b""[..],
            b"RIFF",
            b"RIFF\0\0\0\0AVI LIST",
            b"OggS\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(layout(&mut Cursor::new(bytes)).unwrap(), Layout::Other);
        }
    }
}
