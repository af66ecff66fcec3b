//! Generated WAV files.

use std::path::Path;

use hound::{Sample, SampleFormat, WavSpec, WavWriter};

/// The format of a WAV file with integer samples.
pub fn spec(channels: u16, sample_rate: u32, bits_per_sample: u16) -> WavSpec {
    WavSpec {
        channels,
        sample_rate,
        bits_per_sample,
        sample_format: SampleFormat::Int,
    }
}

/// Writes samples with interleaved channels.
pub fn write_wav<S: Sample>(path: &Path, spec: WavSpec, samples: impl IntoIterator<Item = S>) {
    let mut writer = WavWriter::create(path, spec).expect("the file can be made");
    for sample in samples {
        writer.write_sample(sample).expect("the disk has room");
    }
    writer.finalize().expect("the disk has room");
}

/// Writes 16-bit samples at 16 kHz, in one channel.
pub fn write_speech(path: &Path, samples: impl IntoIterator<Item = i16>) {
    write_wav(path, spec(1, 16_000, 16), samples);
}

/// Writes silence as [`write_speech`] writes samples.
pub fn write_silence(path: &Path, milliseconds: usize) {
    write_speech(path, std::iter::repeat_n(0, milliseconds * 16));
}

/// Writes a tone of 500 Hz at half of full scale, the same in all channels.
pub fn write_tone(path: &Path, spec: WavSpec, seconds: u32) {
    let frames = (0..spec.sample_rate * seconds).map(|frame| {
        let time = f64::from(frame) / f64::from(spec.sample_rate);
        0.5 * (time * 500.0 * std::f64::consts::TAU).sin()
    });
    let values = frames.flat_map(|value| std::iter::repeat_n(value, usize::from(spec.channels)));
    let full_scale = (1_i64 << (spec.bits_per_sample - 1)) as f64;
    match spec.sample_format {
        SampleFormat::Float => write_wav(path, spec, values.map(|value| value as f32)),
        SampleFormat::Int => write_wav(path, spec, values.map(|value| (value * full_scale) as i32)),
    }
}
