//! Finds the sound in a RIFF WAVE file: the data chunks, wherever they are.
//!
//! Headers are not trusted. Recorders that were interrupted leave a length of zero or an old one; programs that
//! stream sound write a header for each piece, and files are joined byte by byte. So sound is everything in and
//! behind a data chunk that is neither another chunk nor another header.
//!
//! Format tags and the extensible layout as in Microsoft's `mmreg.h`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::audio::convert::pcm::{Encoding, Format};

const PCM: u16 = 0x0001;
const IEEE_FLOAT: u16 = 0x0003;
const A_LAW: u16 = 0x0006;
const MU_LAW: u16 = 0x0007;
const EXTENSIBLE: u16 = 0xfffe;

/// The last 14 bytes of the sub-format GUIDs; the first two bytes are the tag.
const SUB_FORMAT_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// Bytes of `RIFF`, a length and `WAVE`.
const HEADER: usize = 12;
/// Bytes of a chunk's name and length.
const CHUNK: usize = 8;
/// A longer format chunk is damaged.
const LONGEST_FORMAT: u32 = 1024;
/// Most RIFF chunks before the first sound; no real file has as many.
const MOST_CHUNKS: usize = 1000;
/// Most data chunks that are looked at to know the length of a file before it is read.
const MOST_MEASURED: usize = 1000;

/// Chunks that often follow the sound. They count as chunks even if the end of the file cuts them.
const USUAL_CHUNKS: [&[u8; 4]; 12] = [
    b"LIST", b"data", b"fmt ", b"fact", b"cue ", b"smpl", b"inst", b"bext", b"iXML", b"id3 ",
    b"ID3 ", b"_PMX",
];

/// The content of a file.
pub(super) enum Content {
    /// Samples that [`Sound`] reads.
    Sound(Sound),
    /// A WAVE header, and no data after it.
    NoData,
    /// Not a WAVE file, or one with other samples.
    Other,
}

/// The sound of a WAVE file, in order.
pub(super) struct Sound {
    file: File,
    file_length: u64,
    /// Where the next bytes are read.
    position: u64,
    is_big_endian: bool,
    format: Option<Format>,
    /// The current data chunk; `None` between data chunks.
    data: Option<Data>,
}

/// The rest of a data chunk.
#[derive(Clone, Copy)]
struct Data {
    end: u64,
    /// Where the next chunk begins.
    next: u64,
}

impl Sound {
    /// Reads the headers up to the first sound.
    pub(super) fn open(file: File) -> io::Result<Content> {
        let mut sound = Self {
            file_length: file.metadata()?.len(),
            file,
            position: 0,
            is_big_endian: false,
            format: None,
            data: None,
        };
        if sound.header_at(0)?.is_none() {
            return Ok(Content::Other);
        }
        Ok(match sound.find_data(MOST_CHUNKS)? {
            Found::Data => Content::Sound(sound),
            Found::End => Content::NoData,
            Found::Unreadable => Content::Other,
        })
    }

    /// The format of the current data chunk.
    pub(super) fn format(&self) -> Option<Format> {
        self.format
    }

    /// The length of all sound in seconds, according to the headers and limited by the size of the file.
    pub(super) fn seconds(&self) -> io::Result<f64> {
        let mut ahead = Self {
            file: self.file.try_clone()?,
            ..*self
        };
        let mut seconds = 0.0;
        for _ in 0..MOST_MEASURED {
            let (Some(data), Some(format)) = (ahead.data, ahead.format) else {
                break;
            };
            let frames = (data.end - ahead.position) / format.frame_bytes().max(1);
            seconds += frames as f64 / f64::from(format.rate.max(1));
            ahead.end_data(data.next);
            ahead.find_data(MOST_CHUNKS)?;
        }
        Ok(seconds)
    }

    /// The next whole frames, at most this many bytes, and their format; `None` at the end. There may be no
    /// frames in between.
    pub(super) fn read(&mut self, most_bytes: usize) -> io::Result<Option<(Format, Vec<u8>)>> {
        if self.data.is_none() {
            self.find_data(usize::MAX)?;
        }
        let (Some(data), Some(format)) = (self.data, self.format) else {
            return Ok(None);
        };
        let frame_bytes = format.frame_bytes().max(1) as usize;
        let most_bytes = (most_bytes / frame_bytes).max(1) * frame_bytes;
        let wanted = (data.end - self.position).min(most_bytes as u64) as usize;
        // Some more bytes, so that a header that begins in this block is seen.
        let mut bytes = self.bytes_at(self.position, wanted + HEADER - 1)?;
        let header = bytes
            .windows(HEADER)
            .position(|window| window[0] == b'R' && is_header(window));
        if let Some(place) = header.filter(|place| *place < wanted) {
            bytes.truncate(place);
            self.end_data(self.position + place as u64);
        } else {
            let is_cut = bytes.len() < wanted;
            bytes.truncate(wanted);
            self.position += bytes.len() as u64;
            if self.position >= data.end || is_cut {
                self.end_data(data.next);
            }
        }
        bytes.truncate(bytes.len() - bytes.len() % frame_bytes);
        Ok(Some((format, bytes)))
    }

    /// Ends the current data chunk; the next chunk is at `position`.
    fn end_data(&mut self, position: u64) {
        self.position = position;
        self.data = None;
    }

    /// Reads chunks up to the next data chunk with sound.
    fn find_data(&mut self, most_chunks: usize) -> io::Result<Found> {
        for _ in 0..most_chunks {
            if let Some(is_big_endian) = self.header_at(self.position)? {
                self.is_big_endian = is_big_endian;
                self.position += HEADER as u64;
                continue;
            }
            let Some((name, length)) = self.chunk_at(self.position)? else {
                return Ok(Found::End);
            };
            let body = self.position + CHUNK as u64;
            match &name {
                b"data" if self.format.is_none() => return Ok(Found::Unreadable),
                b"data" => {
                    let data = self.data_of(body, length)?;
                    if data.end > body {
                        self.position = body;
                        self.data = Some(data);
                        return Ok(Found::Data);
                    }
                    self.position = data.next;
                }
                b"fmt " if (16..=LONGEST_FORMAT).contains(&length) => {
                    let bytes = self.bytes_at(body, length as usize)?;
                    if bytes.len() < length as usize {
                        return Ok(Found::End);
                    }
                    self.format = read_format(&bytes, self.is_big_endian);
                    if self.format.is_none() {
                        return Ok(Found::Unreadable);
                    }
                    self.position = self.after(body, length)?;
                }
                _ => self.position = self.after(body, length)?,
            }
        }
        Ok(Found::Unreadable)
    }

    /// The extent of the sound that begins at `start` and has this length according to its header.
    fn data_of(&self, start: u64, length: u32) -> io::Result<Data> {
        let end = start + u64::from(length);
        if end < self.file_length {
            let next = self.after(start, length)?;
            if next >= self.file_length || self.is_chunk(next)? {
                return Ok(Data { end, next });
            }
        }
        // The header was written before the sound was complete, or the file is cut off.
        Ok(Data {
            end: self.file_length,
            next: self.file_length,
        })
    }

    /// The position after a chunk's body. Chunks are padded to an even length, but not by all programs.
    fn after(&self, body: u64, length: u32) -> io::Result<u64> {
        let end = body + u64::from(length);
        let is_padded = length % 2 == 1 && (self.is_chunk(end + 1)? || !self.is_chunk(end)?);
        Ok(end + u64::from(is_padded))
    }

    /// Whether a chunk or a header begins here, rather than sound.
    fn is_chunk(&self, position: u64) -> io::Result<bool> {
        if self.header_at(position)?.is_some() {
            return Ok(true);
        }
        let Some((name, length)) = self.chunk_at(position)? else {
            return Ok(false);
        };
        let fits = position + CHUNK as u64 + u64::from(length) <= self.file_length;
        let is_name = name.iter().all(|byte| (b' '..=b'~').contains(byte));
        Ok(is_name && (fits || USUAL_CHUNKS.contains(&&name)))
    }

    /// Whether a WAVE header begins here: the byte order of what follows.
    fn header_at(&self, position: u64) -> io::Result<Option<bool>> {
        let bytes = self.bytes_at(position, HEADER)?;
        Ok((bytes.len() == HEADER && is_header(&bytes)).then(|| bytes[3] == b'X'))
    }

    /// The name and the length of the chunk at this position.
    fn chunk_at(&self, position: u64) -> io::Result<Option<([u8; 4], u32)>> {
        let bytes = self.bytes_at(position, CHUNK)?;
        let Some((name, length)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        Ok((length.len() == 4).then(|| (*name, number(length, self.is_big_endian))))
    }

    /// Up to `count` bytes; fewer at the end of the file.
    fn bytes_at(&self, position: u64, count: usize) -> io::Result<Vec<u8>> {
        let count = (count as u64).min(self.file_length.saturating_sub(position)) as usize;
        let mut bytes = vec![0; count];
        let mut read = 0;
        while read < count {
            match self
                .file
                .read_at(&mut bytes[read..], position + read as u64)
            {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// What [`Sound::find_data`] found.
enum Found {
    Data,
    /// The end of the file.
    End,
    /// Samples that are not read here, or no sensible file.
    Unreadable,
}

fn is_header(bytes: &[u8]) -> bool {
    (bytes.starts_with(b"RIFF") || bytes.starts_with(b"RIFX")) && &bytes[8..] == b"WAVE"
}

/// The content of a format chunk, if [`Format`] describes samples of this kind. Samples that do not fill their
/// bytes (24 bits in 4 bytes) are left to ffmpeg.
fn read_format(body: &[u8], is_big_endian: bool) -> Option<Format> {
    let u16_at = |place: usize| number(&body[place..place + 2], is_big_endian) as u16;
    let (channels, rate) = (u16_at(2), number(&body[4..8], is_big_endian));
    let (frame_bytes, bits) = (u16_at(12), u16_at(14));
    let mut tag = u16_at(0);
    if tag == EXTENSIBLE {
        let valid_bits = (body.len() >= 40).then(|| u16_at(18))?;
        if body[26..40] != SUB_FORMAT_TAIL || (valid_bits != 0 && valid_bits != bits) {
            return None;
        }
        tag = u16_at(24);
    }
    let encoding = match tag {
        PCM => Encoding::Integer,
        IEEE_FLOAT => Encoding::Float,
        A_LAW => Encoding::ALaw,
        MU_LAW => Encoding::MuLaw,
        _ => return None,
    };
    let format = Format {
        channels,
        rate,
        encoding,
        bytes: bits / 8,
        is_big_endian,
    };
    let fills = format.frame_bytes() == u64::from(frame_bytes) && bits % 8 == 0;
    (format.is_known() && fills && channels > 0 && rate > 0).then_some(format)
}

fn number(bytes: &[u8], is_big_endian: bool) -> u32 {
    let append = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
    if is_big_endian {
        bytes.iter().fold(0, append)
    } else {
        bytes.iter().rev().fold(0, append)
    }
}

#[cfg(test)]
mod tests;
