//! Where FLAC files begin and end, because a file may consist of several that were joined byte by byte. Decoders
//! lose the sound around a header in the middle.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The beginning of a FLAC file: its mark, and the type and length of the first block, without the bit that
/// says whether it is the last one.
const FLAC_MARK: &[u8; 4] = b"fLaC";
const FLAC_FIRST_BLOCK: [u8; 4] = [0, 0, 0, 34];

/// Bytes that tell whether a file begins.
const BEGINNING: usize = 8;
/// Bytes per read.
const BLOCK: usize = 1 << 20;
/// Most files that are told apart.
const MOST_PARTS: usize = 1000;

/// The files of which a large FLAC file consists; none if it is no FLAC file or only one. Blocks, for as long as
/// reading all of it takes.
pub(super) fn joined_files(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut beginning = vec![0; BLOCK];
    let read = file.read_at(&mut beginning, 0)?;
    if !is_flac(&beginning[tag_length(&beginning[..read])..read]) {
        return Ok(Vec::new());
    }
    let length = file.metadata()?.len();
    let mut starts = Vec::new();
    let mut position = 0;
    let mut block = vec![0; BLOCK + BEGINNING - 1];
    while position < length && starts.len() < MOST_PARTS {
        let read = file.read_at(&mut block, position)?;
        if read < BEGINNING {
            break;
        }
        let places = (0..=read - BEGINNING).filter(|place| is_flac(&block[*place..read]));
        starts.extend(places.map(|place| position + place as u64));
        position += (read - BEGINNING + 1) as u64;
    }
    if starts.len() < 2 {
        return Ok(Vec::new());
    }
    let ends = starts.iter().skip(1).copied().chain([length]);
    Ok(starts
        .iter()
        .zip(ends)
        .map(|(start, end)| *start..end)
        .collect())
}

/// Splits joined FLAC files, because the decoder loses the sound around a header in the middle. Joined MP3 files
/// need no splitting.
pub(super) fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let start = tag_length(bytes);
    if !is_flac(&bytes[start..]) {
        return vec![bytes];
    }
    let mut starts: Vec<usize> = vec![start];
    starts.extend((start + 1..bytes.len()).filter(|place| is_flac(&bytes[*place..])));
    let next = starts.iter().skip(1).copied();
    let ends = next
        .map(|next| before_tag(&bytes[..next]))
        .chain([bytes.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &bytes[*start..end])
        .collect()
}

pub(super) fn is_flac(bytes: &[u8]) -> bool {
    bytes.len() >= 8
        && bytes.starts_with(FLAC_MARK)
        && [bytes[4] & 0x7f, bytes[5], bytes[6], bytes[7]] == FLAC_FIRST_BLOCK
}

/// The length of an ID3v2 tag at the start of `bytes`; 0 without one.
pub(super) fn tag_length(bytes: &[u8]) -> usize {
    const HEADER: usize = 10;
    if bytes.len() < HEADER || !bytes.starts_with(b"ID3") {
        return 0;
    }
    // Seven bits in each byte.
    let size = bytes[6..HEADER]
        .iter()
        .fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
    (HEADER + size).min(bytes.len())
}

/// The length of `bytes` without an ID3v2 tag at its end, which belongs to the next file.
fn before_tag(bytes: &[u8]) -> usize {
    let tags =
        (0..bytes.len().saturating_sub(3)).filter(|place| bytes[*place..].starts_with(b"ID3"));
    let ends_here = |place: &usize| place + tag_length(&bytes[*place..]) == bytes.len();
    tags.rev().find(ends_here).unwrap_or(bytes.len())
}

/// The length of a FLAC file's metadata.
pub(super) fn metadata_length(bytes: &[u8]) -> usize {
    let mut place = FLAC_MARK.len();
    while let Some([kind, length @ ..]) =
        bytes.get(place..).and_then(|rest| rest.first_chunk::<4>())
    {
        let length = length
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        place += 4 + length;
        if kind & 0x80 != 0 {
            break;
        }
    }
    place
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn flac(rest: &[u8]) -> Vec<u8> {
        [b"fLaC\x80\0\0\x22", &[0; 34][..], rest].concat()
    }

    #[test]
    fn joined_flac_is_split_at_its_headers_and_without_tags() {
        let (first, second) = (flac(b"frames with fLaC in them"), flac(b"more frames"));
        let tag = b"ID3\x04\0\0\0\0\0\x05title";
        let joined = [&first[..], &second, tag, &first].concat();
        assert_eq!(parts(&joined), [&first[..], &second, &first]);
        let tagged = [&tag[..], &first].concat();
        assert_eq!(parts(&tagged), [&first[..]]);
        let other = [&b"\xff\xfb\x90\0"[..], &first].concat();
        assert_eq!(parts(&other), [&other[..]]);
    }

    #[test]
    fn metadata_and_tags_are_measured_even_if_they_are_cut_off() {
        let whole = flac(b"frames");
        assert_eq!(metadata_length(&whole), whole.len() - 6);
        let two = [b"fLaC\0\0\0\x22", &[0; 34][..], b"\x84\0\0\x03abcframes"].concat();
        assert_eq!(metadata_length(&two), two.len() - 6);
        assert!(metadata_length(b"fLaC\0\0") == 4);
        assert_eq!(tag_length(b"ID3\x04\0\0\0\0\x02\x01"), 10);
        assert_eq!(
            tag_length(&[&b"ID3\x04\0\0\0\0\x02\x01"[..], &[0; 500]].concat()),
            267
        );
        assert_eq!(tag_length(b"ID3"), 0);
    }

    #[test]
    fn joined_files_are_found_across_blocks() {
        let first = flac(&vec![0; BLOCK - 46]);
        let second = flac(&vec![0; 3 * BLOCK]);
        let found = |parts: &[&[u8]]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&parts.concat()).unwrap();
            joined_files(&file).unwrap()
        };
        // The second one begins in the last bytes of a block.
        let (a, b) = (first.len() as u64, second.len() as u64);
        assert_eq!(
            found(&[&first, &second, &first]),
            [0..a, a..a + b, a + b..2 * a + b]
        );
        assert!(found(&[&second]).is_empty());
        assert!(found(&[b"RIFF", &first, &first]).is_empty());
        assert!(found(&[b"fLa"]).is_empty());
    }
}
