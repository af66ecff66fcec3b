//! Reads packets of samples with their times: Matroska with PCM, as ffmpeg writes it to a pipe.
//!
//! Of the format (RFC 9559), only the elements that such a stream needs are read: the number of channels, the
//! time of each cluster, and blocks without lacing.

use thiserror::Error;

// Element ids, with their length marker.
const SEGMENT: u64 = 0x1853_8067;
const TRACKS: u64 = 0x1654_ae6b;
const TRACK_ENTRY: u64 = 0xae;
const AUDIO: u64 = 0xe1;
const CHANNELS: u64 = 0x9f;
const CLUSTER: u64 = 0x1f43_b675;
const CLUSTER_TIME: u64 = 0xe7;
const BLOCK_GROUP: u64 = 0xa0;
const BLOCK: u64 = 0xa1;
const SIMPLE_BLOCK: u64 = 0xa3;

/// A larger element is no audio of a decoder.
const LARGEST_ELEMENT: usize = 64 << 20;

/// Samples that belong together, and their time in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Milliseconds since the beginning of the file; before the first sound, they are negative.
    pub(super) time: i64,
    /// Interleaved.
    pub(super) samples: Vec<i16>,
}

/// The stream is not what ffmpeg was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unexpected data")]
pub(super) struct Malformed;

/// The reader of one stream.
#[derive(Debug, Default)]
pub(super) struct PacketReader {
    /// Bytes of the next element, as far as they have arrived.
    pending: Vec<u8>,
    channels: usize,
    cluster_time: i64,
}

impl PacketReader {
    /// The number of channels, known before the first packet.
    pub(super) fn channels(&self) -> usize {
        self.channels
    }

    /// Adds bytes, and returns the packets that are complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Packet>, Malformed> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        let mut packets = Vec::new();
        while let Some(length) = self.element(rest, &mut packets)? {
            rest = &rest[length..];
        }
        self.pending = rest.to_vec();
        Ok(packets)
    }

    /// Reads the element at the start of `bytes` and returns its length; `None` if it is incomplete. Only the
    /// headers of elements that contain others are read, so that their contents follow.
    fn element(
        &mut self,
        bytes: &[u8],
        packets: &mut Vec<Packet>,
    ) -> Result<Option<usize>, Malformed> {
        let Some((id, id_length)) = number(bytes, true)? else {
            return Ok(None);
        };
        let Some((size, size_length)) = number(&bytes[id_length..], false)? else {
            return Ok(None);
        };
        let header = id_length + size_length;
        if matches!(
            id,
            SEGMENT | TRACKS | TRACK_ENTRY | AUDIO | CLUSTER | BLOCK_GROUP
        ) {
            return Ok(Some(header));
        }
        let size = usize::try_from(size).map_err(|_| Malformed)?;
        if size > LARGEST_ELEMENT {
            return Err(Malformed);
        }
        let Some(body) = bytes.get(header..header + size) else {
            return Ok(None);
        };
        match id {
            CHANNELS => self.channels = unsigned(body) as usize,
            CLUSTER_TIME => self.cluster_time = unsigned(body) as i64,
            BLOCK | SIMPLE_BLOCK => packets.push(self.packet(body)?),
            _ => {}
        }
        Ok(Some(header + size))
    }

    fn packet(&self, block: &[u8]) -> Result<Packet, Malformed> {
        let (_track, length) = number(block, false)?.ok_or(Malformed)?;
        let Some([high, low, _flags, samples @ ..]) = block.get(length..) else {
            return Err(Malformed);
        };
        if self.channels == 0 {
            return Err(Malformed);
        }
        let samples = samples.chunks_exact(2);
        Ok(Packet {
            time: self
                .cluster_time
                .saturating_add(i64::from(i16::from_be_bytes([*high, *low]))),
            samples: samples
                .map(|two| i16::from_le_bytes([two[0], two[1]]))
                .collect(),
        })
    }
}

/// A number of variable length and the length; `None` if it is incomplete. An id includes its `marker`.
fn number(bytes: &[u8], marker: bool) -> Result<Option<(u64, usize)>, Malformed> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    let length = first.leading_zeros() as usize + 1;
    if length > 8 {
        return Err(Malformed);
    }
    let value = bytes.get(..length).map(unsigned);
    let mask = if marker {
        u64::MAX
    } else {
        (1_u64 << (7 * length)) - 1
    };
    Ok(value.map(|value| (value & mask, length)))
}

fn unsigned(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn element(id: &[u8], body: &[u8]) -> Vec<u8> {
        let size = 0x1000_0000 | body.len() as u32;
        [id, &size.to_be_bytes(), body].concat()
    }

    fn block(time: i16, samples: &[i16]) -> Vec<u8> {
        let mut body = vec![0x81];
        body.extend(time.to_be_bytes());
        body.push(0x80);
        body.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        body
    }

    fn stream() -> Vec<u8> {
        let audio = element(&[0xe1], &element(&[0x9f], &[2]));
        let tracks = element(&[0x16, 0x54, 0xae, 0x6b], &element(&[0xae], &audio));
        let first = [
            element(&[0xe7], &[0]),
            element(&[0xa3], &block(-25, &[1, -2])),
            element(&[0xec], &[0; 300]),
            element(&[0xa3], &block(3, &[3, 4, 5, 6])),
        ];
        let group = element(&[0xa0], &element(&[0xa1], &block(7, &[-32_768, 32_767])));
        let second = [element(&[0xe7], &[1, 0]), group];
        let unknown_size = [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        [
            element(&[0x1a, 0x45, 0xdf, 0xa3], b"header"),
            [&[0x18, 0x53, 0x80, 0x67][..], &unknown_size].concat(),
            tracks,
            element(&[0x1f, 0x43, 0xb6, 0x75], &first.concat()),
            [&[0x1f, 0x43, 0xb6, 0x75][..], &unknown_size].concat(),
            second.concat(),
        ]
        .concat()
    }

    #[test]
    fn packets_are_read_however_the_bytes_arrive() {
        let expected = [
            (-25, vec![1, -2]),
            (3, vec![3, 4, 5, 6]),
            (263, vec![-32_768, 32_767]),
        ];
        let expected = expected.map(|(time, samples)| Packet { time, samples });
        for size in [1, 2, 7, 1000] {
            let mut reader = PacketReader::default();
            let parts = stream();
            let parts = parts.chunks(size).map(|part| reader.feed(part).unwrap());
            let packets: Vec<Packet> = parts.flatten().collect();
            assert_eq!(packets, expected, "{size} bytes at a time");
            assert_eq!(reader.channels(), 2);
        }
    }

    #[test]
    fn a_stream_that_ends_early_gives_what_is_complete() {
        let stream = stream();
        let mut reader = PacketReader::default();
        assert_eq!(reader.feed(&stream[..stream.len() - 1]).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_such_stream_is_an_error_and_takes_no_memory() {
        assert_eq!(PacketReader::default().feed(&[0; 100]), Err(Malformed));
        let huge = [0xec, 0x08, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(PacketReader::default().feed(&huge), Err(Malformed));
        let without_channels = element(&[0xa3], &block(0, &[1]));
        assert_eq!(
            PacketReader::default().feed(&without_channels),
            Err(Malformed)
        );
        let short = element(&[0xa3], &[0x81, 0]);
        assert_eq!(PacketReader::default().feed(&short), Err(Malformed));
    }
}
