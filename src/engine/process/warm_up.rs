//! The clip that an engine must transcribe before it counts as ready: a sample of the repository, compiled
//! into the program.

use std::sync::Arc;

use stt_actors::domain::chunk::AudioChunk;
use stt_actors::domain::transcript::Task;
use stt_actors::ports::ChunkRequest;

/// 16 kHz mono, 16 bit: "Turn on the kitchen light."
static SAMPLE: &[u8] = include_bytes!("../../../samples/en-command.wav");

/// The clip as a chunk request. It names the language, so that the encoder runs only once.
///
/// # Errors
/// The sample is not a WAV of that format, which a test excludes.
pub fn clip() -> Result<ChunkRequest, hound::Error> {
    let samples: Vec<i16> = hound::WavReader::new(SAMPLE)?
        .into_samples()
        .collect::<Result<_, _>>()?;
    Ok(ChunkRequest {
        request_id: Arc::from("warm-up"),
        audio: AudioChunk::contiguous(0, 0, Arc::from(samples)),
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clip_is_speech_of_the_right_format() {
        let reader = hound::WavReader::new(SAMPLE).expect("a WAV");
        assert_eq!(
            (reader.spec().sample_rate, reader.spec().channels),
            (16_000, 1)
        );
        let clip = clip().expect("reads");
        assert!(clip.audio.duration_seconds() > 1.0);
        assert!(clip.audio.samples.iter().any(|sample| *sample > 1000));
    }
}
