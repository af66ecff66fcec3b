//! Mixes several channels into one.

/// A channel that was never louder than this (-60 dB of full scale) counts as empty.
const EMPTY_CHANNEL_PEAK: f32 = 0.001;

/// Sums frames and remembers which channels had sound.
///
/// The result is the mean of all channels with sound. So a headset that fills only the left channel, or
/// speech in the centre of six, keeps its level.
pub(crate) struct Mono {
    heard: Vec<bool>,
    sums: Vec<f32>,
}

impl Mono {
    pub(crate) fn new(channels: usize) -> Self {
        Self {
            heard: vec![false; channels],
            sums: Vec::new(),
        }
    }

    pub(crate) fn channels(&self) -> usize {
        self.heard.len()
    }

    /// Number of frames pushed since the last [`mean`](Self::mean).
    pub(crate) fn frames(&self) -> usize {
        self.sums.len()
    }

    /// Adds one sample of each channel, full scale 1.
    pub(crate) fn push_frame(&mut self, frame: impl IntoIterator<Item = f32>) {
        let mut sum = 0.0;
        for (sample, heard) in frame.into_iter().zip(&mut self.heard) {
            // Damaged float samples may be NaN or infinite.
            if sample.is_finite() {
                *heard |= sample.abs() > EMPTY_CHANNEL_PEAK;
                sum += sample;
            }
        }
        self.sums.push(sum);
    }

    /// Adds whole frames.
    pub(crate) fn push(&mut self, interleaved: &[f32]) {
        for frame in interleaved.chunks_exact(self.heard.len().max(1)) {
            self.push_frame(frame.iter().copied());
        }
    }

    /// Returns the mix of the pushed frames. The level drops once when a further channel begins to have
    /// sound, which earlier blocks cannot show.
    pub(crate) fn mean(&mut self) -> Vec<f32> {
        let heard = self.heard.iter().filter(|&&heard| heard).count().max(1);
        let mut mean = std::mem::take(&mut self.sums);
        for sample in &mut mean {
            *sample /= heard as f32;
        }
        mean
    }
}
