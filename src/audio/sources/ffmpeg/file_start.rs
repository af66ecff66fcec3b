//! Recognises files that lack their beginning: a later part of a stream, without the headers that describe it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes to look at.
const START: usize = 512;

/// The first elements of a Matroska stream in which the header is missing: a cluster, or a part of one.
const CLUSTER: [u8; 4] = [0x1f, 0x43, 0xb6, 0x75];
const SIMPLE_BLOCK: u8 = 0xa3;

/// Flags of an Ogg page: it begins a stream.
const BEGINS_STREAM: u8 = 2;

/// Bytes of a packet of MPEG-TS, and the byte with which each begins.
const TS_PACKET: usize = 188;
const TS_SYNC: u8 = 0x47;

/// What is wrong with a file that could not be decoded, if its beginning is missing.
pub(super) fn what_is_missing(file: &File) -> Option<&'static str> {
    let mut bytes = [0; START];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    recognise(&bytes[..read])
}

fn recognise(start: &[u8]) -> Option<&'static str> {
    let at = |place: usize| start.get(place..place + 4).unwrap_or_default();
    if at(0) == CLUSTER || is_matroska_block(start) {
        Some(
            "it is a part of a WebM or Matroska stream without its beginning (the EBML header and the tracks)",
        )
    } else if [b"moof", b"styp", b"sidx", b"emsg"]
        .iter()
        .any(|name| at(4) == *name)
    {
        Some("it is a fragment of an MP4 stream without its beginning (the initialisation segment)")
    } else if at(0) == b"OggS" && start.get(5).is_some_and(|flags| flags & BEGINS_STREAM == 0) {
        Some("it is a part of an Ogg stream without its beginning (the codec's header)")
    } else if is_transport_stream(start) {
        Some("it is a part of an MPEG transport stream without the tables that name its tracks")
    } else {
        None
    }
}

/// A block of Matroska: its id, a size of one to three bytes, the first track, and a time.
fn is_matroska_block(start: &[u8]) -> bool {
    let Some((&SIMPLE_BLOCK, rest)) = start.split_first() else {
        return false;
    };
    let size = rest.first().map_or(8, |byte| byte.leading_zeros() as usize) + 1;
    size <= 3 && rest.get(size) == Some(&0x81)
}

fn is_transport_stream(start: &[u8]) -> bool {
    let is_packet = |place: usize| start.get(place) == Some(&TS_SYNC);
    (0..TS_PACKET).any(|place| is_packet(place) && is_packet(place + TS_PACKET))
        && (0..TS_PACKET).any(|place| {
            let packets = (place..start.len()).step_by(TS_PACKET);
            packets.clone().count() >= 2 && packets.into_iter().all(is_packet)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(start: &[u8]) -> &'static str {
        let why = recognise(start).unwrap_or("none");
        ["WebM", "MP4", "Ogg", "transport"]
            .into_iter()
            .find(|name| why.contains(name))
            .unwrap_or("none")
    }

    #[test]
    fn parts_of_streams_are_told_from_whole_files_and_other_data() {
        let mut transport = [0; START];
        for place in (100..START).step_by(TS_PACKET) {
            transport[place] = TS_SYNC;
        }
        for (start, expected) in [
            (&[0x1f, 0x43, 0xb6, 0x75, 1, 0xff][..], "WebM"),
            (&[0xa3, 0x41, 0x02, 0x81, 0, 0, 0x80], "WebM"),
            (b"\0\0\0\x18stypmsdh", "MP4"),
            (b"\0\0\x01\0moof", "MP4"),
            (b"OggS\0\0\x10\0", "Ogg"),
            (&transport, "transport"),
            (b"OggS\0\x02\0\0", "none"),
            (b"\0\0\0\x18ftypisom", "none"),
            (b"\x1a\x45\xdf\xa3", "none"),
            (b"Go to the market and get GGGG", "none"),
            (b"", "none"),
        ] {
            assert_eq!(name(start), expected, "{start:x?}");
        }
    }
}
