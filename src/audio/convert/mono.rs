//! Many channels to one.

/// A channel that was never louder than this, of full scale 1 (-60 dB), is an empty one.
const EMPTY_CHANNEL_PEAK: f32 = 0.001;

/// Sums up frames, and remembers which channels had sound.
///
/// What comes out is the mean of all channels that had any: of a headset that fills only the left one,
/// or of speech in the middle of six, nothing is lost.
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

    /// Frames that were taken and not given out yet.
    pub(crate) fn frames(&self) -> usize {
        self.sums.len()
    }

    /// Takes one sample of each channel, full scale 1.
    pub(crate) fn push_frame(&mut self, frame: impl IntoIterator<Item = f32>) {
        let mut sum = 0.0;
        for (sample, heard) in frame.into_iter().zip(&mut self.heard) {
            // Damaged float samples may be no numbers.
            if sample.is_finite() {
                *heard |= sample.abs() > EMPTY_CHANNEL_PEAK;
                sum += sample;
            }
        }
        self.sums.push(sum);
    }

    /// Takes whole frames.
    pub(crate) fn push(&mut self, interleaved: &[f32]) {
        for frame in interleaved.chunks_exact(self.heard.len().max(1)) {
            self.push_frame(frame.iter().copied());
        }
    }

    /// Gives out what was taken. Channels cannot be told from one block alone, so that the level drops
    /// once when another one sets in.
    pub(crate) fn mean(&mut self) -> Vec<f32> {
        let heard = self.heard.iter().filter(|&&heard| heard).count().max(1);
        let mut mean = std::mem::take(&mut self.sums);
        for sample in &mut mean {
            *sample /= heard as f32;
        }
        mean
    }
}
