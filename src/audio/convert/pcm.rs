//! Uncompressed samples, of WAV files and live audio: linear, floating-point and logarithmic (telephone) encodings of
//! either byte order, any rate and any number of channels.

use stt_actors::domain::chunk::SAMPLE_RATE;

use super::mono::Mono;
use super::resample::{Resampler, can_resample};

/// Most channels; no recorder has as many.
const MOST_CHANNELS: u16 = 64;

/// How a sample is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Linear; a single byte is unsigned.
    Integer,
    Float,
    /// The two logarithmic encodings of ITU-T G.711.
    ALaw,
    MuLaw,
}

/// The format of interleaved samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) channels: u16,
    /// Hz.
    pub(crate) rate: u32,
    pub(crate) encoding: Encoding,
    /// Of one sample.
    pub(crate) bytes: u16,
    pub(crate) is_big_endian: bool,
}

impl Format {
    /// Whether samples of this kind can be read.
    pub(crate) fn is_known(&self) -> bool {
        match self.encoding {
            Encoding::Integer => (1..=4).contains(&self.bytes),
            Encoding::Float => matches!(self.bytes, 4 | 8),
            Encoding::ALaw | Encoding::MuLaw => self.bytes == 1,
        }
    }

    /// Whether the format is one of a recorder, so that converting it takes little memory.
    pub(crate) fn can_convert(&self) -> bool {
        self.channels <= MOST_CHANNELS && can_resample(self.rate)
    }

    /// Bytes of one sample of each channel.
    pub(crate) fn frame_bytes(&self) -> u64 {
        u64::from(self.channels) * u64::from(self.bytes)
    }

    /// Appends samples, full scale 1. An incomplete one at the end is dropped.
    pub(crate) fn read(&self, bytes: &[u8], output: &mut Vec<f32>) {
        let samples = bytes.chunks_exact(usize::from(self.bytes.max(1)));
        match (self.encoding, self.bytes) {
            (Encoding::Integer, 1) => {
                output.extend(samples.map(|sample| (f32::from(sample[0]) - 128.0) / 128.0));
            }
            (Encoding::Integer, bytes) => {
                let unused = 64 - 8 * u32::from(bytes.min(8));
                let scale = 1.0 / (1_u64 << 63) as f32;
                output.extend(
                    samples.map(|sample| (self.bits(sample) << unused) as i64 as f32 * scale),
                );
            }
            (Encoding::Float, 4) => {
                output.extend(samples.map(|sample| f32::from_bits(self.bits(sample) as u32)));
            }
            (Encoding::Float, _) => {
                output.extend(samples.map(|sample| f64::from_bits(self.bits(sample)) as f32));
            }
            (Encoding::ALaw, _) => output.extend(samples.map(|sample| a_law(sample[0]))),
            (Encoding::MuLaw, _) => output.extend(samples.map(|sample| mu_law(sample[0]))),
        }
    }

    /// The bits of one sample as a number.
    fn bits(&self, sample: &[u8]) -> u64 {
        let append = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
        if self.is_big_endian {
            sample.iter().fold(0, append)
        } else {
            sample.iter().rev().fold(0, append)
        }
    }
}

/// Converts samples of one format to 16 kHz mono.
pub(crate) struct Converter {
    format: Format,
    /// `None` for the format that fast clients send, which needs no conversion.
    steps: Option<(Mono, Resampler)>,
}

impl Converter {
    /// A converter for a new stream; an error text if the rate is impossible.
    pub(crate) fn new(format: Format) -> Result<Self, String> {
        let is_plain = format
            == Format {
                channels: 1,
                rate: SAMPLE_RATE,
                encoding: Encoding::Integer,
                bytes: 2,
                is_big_endian: false,
            };
        let steps = if is_plain {
            None
        } else {
            let resampler = Resampler::new(format.rate)
                .map_err(|error| format!("a rate of {} Hz: {error}", format.rate))?;
            let mono = Mono::new(usize::from(format.channels), format.rate);
            Some((mono, resampler))
        };
        Ok(Self { format, steps })
    }

    /// The format of the samples.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Converts whole samples, and appends what is finished to `output`.
    pub(crate) fn push(&mut self, bytes: &[u8], output: &mut Vec<i16>) {
        let Some((mono, resampler)) = &mut self.steps else {
            let samples = bytes.chunks_exact(2);
            output.extend(samples.map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
            return;
        };
        let mut samples = Vec::with_capacity(bytes.len() / usize::from(self.format.bytes.max(1)));
        self.format.read(bytes, &mut samples);
        let mut mixed =
            Vec::with_capacity(samples.len() / usize::from(self.format.channels.max(1)));
        mono.push(&samples, &mut mixed);
        resampler.push(&mixed, output);
    }

    /// Appends the rest at the end of the stream.
    pub(crate) fn finish(self, output: &mut Vec<i16>) {
        let Some((mut mono, mut resampler)) = self.steps else {
            return;
        };
        let mut mixed = Vec::new();
        mono.finish(&mut mixed);
        resampler.push(&mixed, output);
        resampler.finish(output);
    }
}

/// Sign, exponent and mantissa of a logarithmic byte: 1, 3 and 4 bits.
fn parts(byte: u8) -> (bool, u32, i16) {
    (
        byte & 0x80 != 0,
        u32::from(byte >> 4 & 7),
        i16::from(byte & 15),
    )
}

fn a_law(byte: u8) -> f32 {
    let (is_positive, exponent, mantissa) = parts(byte ^ 0x55);
    let value = match exponent {
        0 => mantissa * 16 + 8,
        _ => (mantissa * 16 + 0x108) << (exponent - 1),
    };
    f32::from(if is_positive { value } else { -value }) / 32_768.0
}

fn mu_law(byte: u8) -> f32 {
    let (is_negative, exponent, mantissa) = parts(!byte);
    let value = ((mantissa * 8 + 0x84) << exponent) - 0x84;
    f32::from(if is_negative { -value } else { value }) / 32_768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(encoding: Encoding, bytes: u16, data: &[u8]) -> Vec<f32> {
        let format = |is_big_endian| Format {
            channels: 1,
            rate: 8000,
            encoding,
            bytes,
            is_big_endian,
        };
        let mut little = Vec::new();
        format(false).read(data, &mut little);
        let swapped: Vec<u8> = data
            .chunks(usize::from(bytes))
            .flat_map(|sample| sample.iter().rev().copied())
            .collect();
        let mut big = Vec::new();
        format(true).read(&swapped, &mut big);
        assert_eq!(little, big, "the two byte orders");
        little
    }

    #[test]
    fn samples_of_every_width_have_the_same_scale() {
        assert_eq!(read(Encoding::Integer, 1, &[0, 128, 192]), [-1.0, 0.0, 0.5]);
        let half: [&[u8]; 3] = [&[0, 0x40], &[0, 0, 0x40], &[0, 0, 0, 0x40]];
        let lowest: [&[u8]; 3] = [&[0, 0x80], &[0, 0, 0x80], &[0, 0, 0, 0x80]];
        for (half, lowest) in half.iter().zip(lowest) {
            let width = half.len() as u16;
            assert_eq!(read(Encoding::Integer, width, half), [0.5]);
            assert_eq!(read(Encoding::Integer, width, lowest), [-1.0]);
        }
        assert_eq!(read(Encoding::Float, 4, &0.25_f32.to_le_bytes()), [0.25]);
        assert_eq!(
            read(Encoding::Float, 8, &(-0.75_f64).to_le_bytes()),
            [-0.75]
        );
    }

    /// Values of the tables in ITU-T G.711, scaled to 16 bits.
    #[test]
    fn telephone_samples_follow_the_recommendation() {
        let to_16_bits = |samples: Vec<f32>| -> Vec<i32> {
            samples
                .iter()
                .map(|sample| (sample * 32_768.0) as i32)
                .collect()
        };
        let mu = read(Encoding::MuLaw, 1, &[0x00, 0x80, 0xff, 0x7f, 0xf0, 0xef]);
        assert_eq!(to_16_bits(mu), [-32_124, 32_124, 0, 0, 120, 132]);
        let a = read(Encoding::ALaw, 1, &[0xaa, 0x2a, 0xd5, 0x55, 0xc5]);
        assert_eq!(to_16_bits(a), [32_256, -32_256, 8, -8, 264]);
    }
}
