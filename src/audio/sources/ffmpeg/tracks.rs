//! The choice between several audio tracks: the one that ffmpeg chooses (the default track, or the one with the
//! most channels), unless it cannot be decoded, or is silent while another one is not.

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::error::DecodeError;

use super::log::FfmpegLog;
use crate::audio::sources::Block;

/// A track that is silent for this long (a minute) at its beginning counts as silent, in samples.
const SILENT_TRACK: u64 = 60 * SAMPLE_RATE as u64;
/// Quieter samples (-60 dB of full scale) count as silence.
const SILENT_SAMPLE: u16 = 33;

/// The choice for one file.
#[derive(Default)]
pub(super) struct TrackChoice {
    /// The tracks in the order in which they are tried, once the file is described.
    tracks: Vec<usize>,
    is_described: bool,
    /// The place of the current track.
    current: usize,
    is_decided: bool,
    /// The beginning of the current track, which is silent so far.
    held: Vec<Block>,
    held_samples: u64,
    /// The first track that was decoded without an error.
    decodable: Option<usize>,
    first_error: Option<DecodeError>,
}

/// What becomes of blocks.
pub(super) enum Taken {
    /// They belong to the sound of the file.
    Blocks(Vec<Block>),
    /// The track is silent so far.
    Silence,
    /// The track is silent for so long that another one is tried.
    TooMuchSilence,
}

impl TrackChoice {
    /// The track to decode; `None` leaves the choice to ffmpeg.
    pub(super) fn track(&self) -> Option<usize> {
        self.tracks.get(self.current).copied()
    }

    /// Reads the tracks from the first log.
    pub(super) fn describe(&mut self, log: &FfmpegLog) {
        if !std::mem::replace(&mut self.is_described, true) {
            self.tracks = log.tracks();
            self.is_decided = self.tracks.len() <= 1;
        }
    }

    /// Whether the current track is the one whose sound is used.
    pub(super) fn is_decided(&self) -> bool {
        self.is_decided
    }

    /// Takes blocks of the current track.
    pub(super) fn take(&mut self, mut blocks: Vec<Block>) -> Taken {
        if self.is_decided {
            return Taken::Blocks(blocks);
        }
        self.is_decided = blocks.iter().any(is_loud);
        self.held_samples += blocks.iter().map(Block::samples).sum::<u64>();
        self.held.append(&mut blocks);
        if self.is_decided {
            Taken::Blocks(std::mem::take(&mut self.held))
        } else if self.held_samples < SILENT_TRACK {
            Taken::Silence
        } else {
            Taken::TooMuchSilence
        }
    }

    /// Goes on to the next track, after a silent one or one with an error. If all others are silent too, the first
    /// one is used.
    ///
    /// # Errors
    /// No track can be decoded.
    pub(super) fn next(&mut self, error: Option<DecodeError>) -> Result<(), DecodeError> {
        self.held.clear();
        self.held_samples = 0;
        match error {
            Some(error @ (DecodeError::Unavailable(_) | DecodeError::Stalled { .. })) => {
                return Err(error);
            }
            Some(error) => drop(self.first_error.get_or_insert(error)),
            None => drop(self.decodable.get_or_insert(self.current)),
        }
        self.current += 1;
        if self.current < self.tracks.len() {
            return Ok(());
        }
        self.is_decided = true;
        match (self.decodable, self.first_error.take()) {
            (Some(first), _) => self.current = first,
            (None, Some(error)) => return Err(error),
            (None, None) => self.current = 0,
        }
        Ok(())
    }
}

fn is_loud(block: &Block) -> bool {
    match block {
        Block::Samples(samples) => samples
            .iter()
            .any(|sample| sample.unsigned_abs() > SILENT_SAMPLE),
        Block::Gap(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: usize = SAMPLE_RATE as usize;

    fn several() -> TrackChoice {
        let mut log = FfmpegLog::default();
        log.feed(
            b"[info] Input #0, matroska,webm, from 'file:/dev/stdin':\n\
            [info]   Stream #0:1: Audio: aac (LC), 16000 Hz, mono\n\
            [info]   Stream #0:2: Audio: aac (LC), 16000 Hz, mono\n\
            [info]   Stream #0:5: Audio: opus, 48000 Hz, mono (default)\n\
            [info]   Stream #0:5 -> #0:0 (opus (native) -> pcm_s16le (native))\n",
        );
        let mut choice = TrackChoice::default();
        assert_eq!(choice.track(), None, "ffmpeg chooses");
        choice.describe(&log);
        assert_eq!(choice.track(), Some(5));
        choice
    }

    fn silence(seconds: usize) -> Vec<Block> {
        vec![Block::Samples(vec![30; seconds * SECOND])]
    }

    fn damaged() -> DecodeError {
        DecodeError::Undecodable("damaged".into())
    }

    #[test]
    fn a_track_with_sound_is_used_with_the_silence_before_it() {
        let mut choice = several();
        assert!(matches!(choice.take(silence(59)), Taken::Silence));
        let sound = vec![Block::Gap(5), Block::Samples(vec![-400; 10])];
        let Taken::Blocks(blocks) = choice.take(sound) else {
            panic!("it is loud");
        };
        let samples: u64 = blocks.iter().map(Block::samples).sum();
        assert_eq!(samples, 59 * SECOND as u64 + 15);
        assert!(
            matches!(choice.take(silence(100)), Taken::Blocks(_)),
            "it is decided"
        );
    }

    #[test]
    fn after_a_silent_minute_or_an_error_the_next_track_is_tried() {
        let mut choice = several();
        assert!(matches!(choice.take(silence(61)), Taken::TooMuchSilence));
        assert_eq!(choice.next(None), Ok(()));
        assert_eq!(choice.track(), Some(1));
        assert!(
            matches!(choice.take(silence(30)), Taken::Silence),
            "counted anew"
        );
        assert_eq!(choice.next(Some(damaged())), Ok(()));
        assert_eq!(choice.track(), Some(2));
        assert!(matches!(
            choice.take(vec![Block::Samples(vec![99])]),
            Taken::Blocks(_)
        ));
    }

    #[test]
    fn if_all_are_silent_the_first_one_that_can_be_decoded_is_used() {
        let mut choice = several();
        assert_eq!(choice.next(Some(damaged())), Ok(()));
        assert_eq!(choice.next(None), Ok(()));
        assert_eq!(choice.next(None), Ok(()));
        assert_eq!((choice.track(), choice.is_decided()), (Some(1), true));
        assert!(matches!(choice.take(silence(100)), Taken::Blocks(_)));
    }

    #[test]
    fn errors_of_all_tracks_and_of_the_server_are_errors() {
        let mut choice = several();
        assert_eq!(choice.next(Some(damaged())), Ok(()));
        assert_eq!(
            choice.next(Some(DecodeError::Empty("nothing".into()))),
            Ok(())
        );
        assert_eq!(
            choice.next(Some(DecodeError::Empty("nothing".into()))),
            Err(damaged())
        );
        let stalled = DecodeError::Stalled { seconds: 1 };
        assert_eq!(several().next(Some(stalled.clone())), Err(stalled));
    }

    #[test]
    fn a_single_track_is_used_in_any_case() {
        let mut choice = TrackChoice::default();
        choice.describe(&FfmpegLog::default());
        assert!(choice.is_decided());
    }
}
