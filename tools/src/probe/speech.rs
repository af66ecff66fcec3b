//! The built-in recordings, which are those of `samples/`.

use bytes::Bytes;

/// A built-in recording and the text spoken in it.
#[derive(Clone, Copy, Debug)]
pub struct Speech {
    /// File name.
    pub name: &'static str,
    /// Content of the file.
    pub audio: &'static [u8],
    /// Length in seconds.
    pub seconds: f64,
    /// ISO 639-1 code.
    pub language: &'static str,
    /// The spoken text.
    pub text: &'static str,
}

impl Speech {
    /// Content of the file, without copying it.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_static(self.audio)
    }

    /// Headerless 16-bit samples at 16 kHz, as Bazarr sends them. Works because the files have the minimal
    /// WAV header.
    pub fn samples(&self) -> Bytes {
        self.bytes().slice(WAV_HEADER_BYTES..)
    }
}

const WAV_HEADER_BYTES: usize = 44;

/// A short command in English.
pub const COMMAND: Speech = Speech {
    name: "en-command.wav",
    audio: include_bytes!("../../../samples/en-command.wav"),
    seconds: 1.784,
    language: "en",
    text: "Turn on the kitchen light.",
};
/// Two sentences in English, seven seconds long.
pub const SENTENCE: Speech = Speech {
    name: "en-sentence.wav",
    audio: include_bytes!("../../../samples/en-sentence.wav"),
    seconds: 7.534,
    language: "en",
    text: "Good morning. The train to the city leaves at half past eight, so please bring a warm coat and something to eat.",
};
/// A sentence in Spanish.
pub const SPANISH: Speech = Speech {
    name: "es-sentence.wav",
    audio: include_bytes!("../../../samples/es-sentence.wav"),
    seconds: 5.093,
    language: "es",
    text: "Hola. Me gusta la música y también me gusta cantar con mis amigos.",
};
/// A sentence in German.
pub const GERMAN: Speech = Speech {
    name: "de-sentence.wav",
    audio: include_bytes!("../../../samples/de-sentence.wav"),
    seconds: 4.460,
    language: "de",
    text: "Guten Tag. Ich komme aus Deutschland und ich wohne in Berlin.",
};
/// A text longer than one window of Whisper, as Opus in Ogg like a voice note.
pub const LONG: Speech = Speech {
    name: "en-long.ogg",
    audio: include_bytes!("../../../samples/en-long.ogg"),
    seconds: 35.72,
    language: "en",
    text: "I live in a small house near the river. In the morning the kettle begins to sing, and someone opens the curtains in the front room. The radio tells us about the weather, and the dog waits by the door. At noon the house is quiet, because everyone is at work or at school. In the afternoon the children come home and play with their friends. They drink some water and ask for something to eat. In the evening we cook dinner together and listen to music. After dinner my father reads a book, and my mother writes a long letter.",
};

/// The beginning of [`LONG`], a compressed file of about this many seconds that does not state its length: whole pages of
/// the Ogg stream.
pub fn beginning_of_long(seconds: f64) -> Speech {
    const GRANULES_OF_A_SECOND: f64 = 48_000.0;
    const HEAD_BYTES: usize = 27;
    let (mut end, mut reached) = (0, 0.0);
    while reached < seconds {
        let page = &LONG.audio[end..];
        let segments = usize::from(page[HEAD_BYTES - 1]);
        let lengths = &page[HEAD_BYTES..HEAD_BYTES + segments];
        let body: usize = lengths.iter().map(|length| usize::from(*length)).sum();
        let granules: [u8; 8] = page[6..14].try_into().expect("eight bytes");
        reached = u64::from_le_bytes(granules) as f64 / GRANULES_OF_A_SECOND;
        end += HEAD_BYTES + segments + body;
    }
    Speech {
        name: "en-beginning.ogg",
        audio: &LONG.audio[..end],
        seconds: reached,
        ..LONG
    }
}

/// A WAV file with two seconds of silence.
pub fn silence() -> Bytes {
    wav(&silence_samples(2.0))
}

/// Silence: 16-bit samples at 16 kHz, all zero.
pub fn silence_samples(seconds: f64) -> Vec<u8> {
    vec![0; (seconds * 16_000.0) as usize * 2]
}

/// A WAV file with these 16-bit samples at 16 kHz.
pub fn wav(samples: &[u8]) -> Bytes {
    let length = samples.len() as u32;
    let mut file = COMMAND.audio[..WAV_HEADER_BYTES].to_vec();
    file[4..8].copy_from_slice(&(length + 36).to_le_bytes());
    file[40..44].copy_from_slice(&length.to_le_bytes());
    file.extend_from_slice(samples);
    file.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_the_long_text_is_whole_pages_of_about_that_length() {
        let beginning = beginning_of_long(7.0);
        assert!((7.0..8.5).contains(&beginning.seconds));
        assert!(LONG.audio[beginning.audio.len()..].starts_with(b"OggS"));
    }

    #[test]
    fn texts_and_lengths_are_those_of_the_samples() {
        let table = include_str!("../../../samples/samples.tsv");
        for speech in [COMMAND, SENTENCE, SPANISH, GERMAN, LONG] {
            let row = table
                .lines()
                .find(|row| row.starts_with(speech.name))
                .unwrap();
            assert_eq!(row.split('\t').nth(1), Some(speech.language));
            assert_eq!(row.split('\t').nth(2), Some(speech.text));
            if speech.name != LONG.name {
                let reader = hound::WavReader::new(speech.audio).unwrap();
                assert_eq!(reader.spec().sample_rate, 16_000);
                let seconds = f64::from(reader.duration()) / 16_000.0;
                assert!((seconds - speech.seconds).abs() < 0.001, "{seconds}");
                assert_eq!(speech.samples().len(), reader.duration() as usize * 2);
            }
        }
    }

    #[test]
    fn silence_is_a_file_of_zeros() {
        let file = silence();
        let mut reader = hound::WavReader::new(file.as_ref()).unwrap();
        assert_eq!(reader.duration(), 32_000);
        assert!(
            reader
                .samples::<i16>()
                .all(|sample| sample.is_ok_and(|sample| sample == 0))
        );
    }
}
