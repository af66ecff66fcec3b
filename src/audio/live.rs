//! Live audio: bytes of any PCM format to frames of 16 kHz mono with the probability of speech.

use std::sync::Arc;

use stt_actors::domain::chunk::SPEECH_FRAME;
use stt_actors::domain::live::{PcmEncoding, PcmFormat, SpeechFrame};
use stt_actors::ports::LiveStream;

use super::convert::pcm::{Converter, Encoding, Format};
use super::vad::LiveDetector;
use super::vad::silero::Weights;

/// Probability of speech, in 255ths, where there is no detector: everything counts as speech.
const UNKNOWN: u8 = 255;

/// One stream of live audio.
pub(super) struct LivePcm {
    format: Format,
    converter: Option<Converter>,
    /// `None`: voice activity detection is off.
    detector: Option<LiveDetector>,
    /// Bytes of an incomplete sample.
    bytes: Vec<u8>,
    /// Samples of an incomplete frame.
    samples: Vec<i16>,
}

impl LivePcm {
    /// A new stream; an error text if the format is not one of audio.
    pub(super) fn new(format: PcmFormat, weights: Option<Arc<Weights>>) -> Result<Self, String> {
        let PcmFormat {
            encoding,
            width,
            rate,
            channels,
        } = format;
        let format = Format {
            channels,
            rate,
            encoding: match encoding {
                PcmEncoding::Integer => Encoding::Integer,
                PcmEncoding::Float => Encoding::Float,
                PcmEncoding::ALaw => Encoding::ALaw,
                PcmEncoding::MuLaw => Encoding::MuLaw,
            },
            bytes: width,
            is_big_endian: false,
        };
        if !format.is_known() {
            return Err(format!("samples of {width} bytes"));
        }
        if channels == 0 || !format.can_convert() {
            return Err(format!("{rate} Hz with {channels} channels"));
        }
        Converter::new(format)?;
        Ok(Self {
            format,
            converter: None,
            detector: weights.map(LiveDetector::new),
            bytes: Vec::new(),
            samples: Vec::new(),
        })
    }

    /// Takes the frames that are complete; `all`: and the incomplete one.
    fn frames(&mut self, all: bool) -> Vec<SpeechFrame> {
        let whole = self.samples.len() / SPEECH_FRAME * SPEECH_FRAME;
        let taken = if all { self.samples.len() } else { whole };
        let rest = self.samples.split_off(taken);
        let samples = std::mem::replace(&mut self.samples, rest);
        let frames = samples.chunks(SPEECH_FRAME).map(|samples| SpeechFrame {
            speech: (self.detector.as_mut()).map_or(UNKNOWN, |detector| detector.score(samples)),
            samples: samples.to_vec(),
        });
        frames.collect()
    }
}

impl LiveStream for LivePcm {
    fn push(&mut self, bytes: &[u8]) -> Vec<SpeechFrame> {
        self.bytes.extend_from_slice(bytes);
        let frame = self.format.frame_bytes().max(1) as usize;
        let whole = self.bytes.len() / frame * frame;
        let rest = self.bytes.split_off(whole);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        if self.converter.is_none() {
            // `new` has created one in this format.
            self.converter = Converter::new(self.format).ok();
        }
        if let Some(converter) = &mut self.converter {
            converter.push(&bytes, &mut self.samples);
        }
        self.frames(false)
    }

    fn flush(&mut self) -> Vec<SpeechFrame> {
        // A new one follows, because a resampler keeps the end of its audio until it is finished.
        if let Some(converter) = self.converter.take() {
            converter.finish(&mut self.samples);
        }
        self.bytes.clear();
        self.frames(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(format: PcmFormat) -> LivePcm {
        LivePcm::new(format, None).expect("a stream")
    }

    #[test]
    fn every_width_rate_and_number_of_channels_gives_frames_of_the_right_length() {
        let integer = PcmEncoding::Integer;
        for (encoding, width, rate, channels) in [
            (integer, 2, 16_000, 1),
            (integer, 2, 24_000, 1),
            (integer, 2, 48_000, 2),
            (integer, 1, 22_050, 1),
            (integer, 3, 44_100, 2),
            (integer, 4, 8_000, 1),
            (PcmEncoding::Float, 4, 16_000, 1),
            (PcmEncoding::MuLaw, 1, 8_000, 1),
            (PcmEncoding::ALaw, 1, 8_000, 1),
        ] {
            let format = PcmFormat {
                encoding,
                width,
                rate,
                channels,
            };
            let mut stream = stream(format);
            let bytes = vec![0; format.bytes_per_second() as usize * 2];
            // In pieces that cut samples.
            let mut frames: Vec<_> = (bytes.chunks(997))
                .flat_map(|piece| stream.push(piece))
                .collect();
            assert!(
                frames
                    .iter()
                    .all(|frame| frame.samples.len() == SPEECH_FRAME)
            );
            // A resampler holds back at most a tenth of a second, a mixer of channels a fifth.
            assert!(frames.len() >= 62 - 10, "{format:?}: {}", frames.len());
            frames.extend(stream.flush());
            let samples: usize = frames.iter().map(|frame| frame.samples.len()).sum();
            assert_eq!(samples, 32_000, "{format:?}");
            assert_eq!(stream.flush(), []);
        }
    }

    #[test]
    fn what_is_no_format_of_audio_is_refused_with_the_reason() {
        for (width, rate, channels) in [(0, 16_000, 1), (9, 16_000, 1), (2, 0, 1), (2, 16_000, 0)] {
            let format = PcmFormat {
                width,
                channels,
                ..PcmFormat::mono16(rate)
            };
            assert!(LivePcm::new(format, None).is_err(), "{format:?}");
        }
        let many = PcmFormat {
            channels: 60_000,
            ..PcmFormat::mono16(4_000_000_000)
        };
        assert!(LivePcm::new(many, None).is_err());
    }
}
