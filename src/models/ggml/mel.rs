//! The mel filter bank that every ggml Whisper file carries.
//!
//! CTranslate2 folders do not contain it, so the import computes it: triangular filters on Slaney's mel scale
//! (linear below 1 kHz, logarithmic above), each normalised to unit area, for 16 kHz audio and a 400-point
//! FFT. Definition: Slaney, *Auditory Toolbox* (1998), as in librosa's `filters.mel(sr=16000, n_fft=400,
//! norm="slaney")`, which Whisper was trained with.

/// Frequency bins of a 400-point FFT of real input.
pub(crate) const FREQUENCY_BINS: usize = 201;

const SAMPLE_RATE_HZ: f64 = 16_000.0;
/// Width of one mel in the linear part of Slaney's scale.
const HZ_PER_MEL: f64 = 200.0 / 3.0;
/// Frequency at which the scale becomes logarithmic, in Hz.
const BREAK_HZ: f64 = 1000.0;
const BREAK_MEL: f64 = BREAK_HZ / HZ_PER_MEL;

/// Step of the logarithmic part: 27 mels span a factor of 6.4.
fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < BREAK_HZ {
        hz / HZ_PER_MEL
    } else {
        BREAK_MEL + (hz / BREAK_HZ).ln() / log_step()
    }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < BREAK_MEL {
        mel * HZ_PER_MEL
    } else {
        BREAK_HZ * ((mel - BREAK_MEL) * log_step()).exp()
    }
}

/// The filter bank as `bands` rows of [`FREQUENCY_BINS`] weights, row by row.
///
/// `bands` is 80 for the older models and 128 for large-v3 and turbo. As in librosa, the area normalisation
/// is applied to weights that are already rounded to 32 bits, so that the result agrees in every bit.
pub(crate) fn filter_bank(bands: usize) -> Vec<f32> {
    let top_mel = hz_to_mel(SAMPLE_RATE_HZ / 2.0);
    let step = top_mel / (bands + 1) as f64;
    let mut edges: Vec<f64> = (0..bands + 2).map(|i| mel_to_hz(i as f64 * step)).collect();
    edges[bands + 1] = mel_to_hz(top_mel);
    let bin_hz = SAMPLE_RATE_HZ / 2.0 / (FREQUENCY_BINS - 1) as f64;
    let mut bank = Vec::with_capacity(bands * FREQUENCY_BINS);
    for band in edges.windows(3) {
        let (low, centre, high) = (band[0], band[1], band[2]);
        let area = 2.0 / (high - low);
        for bin in 0..FREQUENCY_BINS {
            let hz = bin as f64 * bin_hz;
            let rising = -(low - hz) / (centre - low);
            let falling = (high - hz) / (high - centre);
            // A weight of -0 stays one, as in the published files. The clamp compares 32-bit numbers, because
            // optimised code can lose the sign of a zero between a comparison and a conversion.
            let least = if falling < rising {
                falling as f32
            } else {
                rising as f32
            };
            let weight = if least < 0.0 { 0.0 } else { least };
            bank.push((f64::from(weight) * area) as f32);
        }
    }
    bank
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn digest(bank: &[f32]) -> String {
        let bytes: Vec<u8> = bank
            .iter()
            .flat_map(|weight| weight.to_le_bytes())
            .collect();
        crate::models::checksum::hex(&Sha256::digest(bytes))
    }

    /// Band, bin and weight, read out of the `mel_filters.npz` of openai-whisper 20250625.
    fn assert_weights(bank: &[f32], reference: &[(usize, usize, f32)]) {
        for &(band, bin, weight) in reference {
            let ours = bank[band * FREQUENCY_BINS + bin];
            assert!(
                (ours - weight).abs() < 1e-9,
                "band {band} bin {bin}: {ours} for {weight}"
            );
        }
    }

    #[test]
    fn eighty_bands_are_the_filters_whisper_was_trained_with() {
        let bank = filter_bank(80);
        assert_eq!(bank.len(), 80 * FREQUENCY_BINS);
        assert_weights(
            &bank,
            &[
                (0, 1, 0.024_862_595),
                (0, 2, 0.0),
                (20, 20, 0.013_890_394),
                (40, 43, 0.014_735_566),
                (60, 93, 0.006_591_093),
                (79, 193, 0.003_141_313_3),
                (79, 199, 0.000_448_759),
            ],
        );
        assert_eq!(
            digest(&bank),
            "4f2701b1d287d74a0dc9871026e9519d98cb76426615f2539b0d151a0ae4ec2e"
        );
    }

    #[test]
    fn hundred_and_twenty_eight_bands_are_those_of_large_v3() {
        let bank = filter_bank(128);
        assert_weights(
            &bank,
            &[
                (0, 1, 0.012_373_987),
                (32, 19, 0.021_493_567),
                (64, 43, 0.018_091_518),
                (96, 93, 0.008_479_104),
                (127, 195, 0.005_041_601_6),
            ],
        );
        assert_eq!(
            digest(&bank),
            "2a5f9822897750e047c85dea37cc268d3be0ecfd23c28a5f10da129d99d05afe"
        );
    }
}
