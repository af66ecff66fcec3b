//! Prompts that are no prompts.
//!
//! Whisper takes a prompt for what was said before, and repeats it or goes on in its manner. Some clients
//! send an instruction, as they would to a chat model: "Transcribe the audio." That does harm here, so it
//! is dropped.

/// What instructions begin with.
const VERBS: &[&str] = &["transcribe", "transcribing", "transcription"];
/// What may stand before.
const POLITE: &[&str] = &["please", "just", "only", "kindly"];
/// What an instruction speaks of.
const OBJECTS: &[&str] = &[
    "audio",
    "clip",
    "file",
    "it",
    "message",
    "recording",
    "speech",
    "this",
    "voice",
];
/// A longer text tells more than to transcribe: names and words to expect, perhaps.
const MOST_WORDS: usize = 10;

/// Whether a prompt is nothing but the instruction to transcribe.
pub fn is_instruction(prompt: &str) -> bool {
    let letters = prompt.to_lowercase();
    let words = letters.split(|letter: char| !letter.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let mut rest = words.iter().skip_while(|word| POLITE.contains(word));
    let begins = rest.next().is_some_and(|word| VERBS.contains(word));
    let rest: Vec<_> = rest.collect();
    begins
        && words.len() <= MOST_WORDS
        && (rest.is_empty() || rest.iter().any(|word| OBJECTS.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_told_from_a_prompt() {
        for text in [
            "Transcribe the audio.",
            "transcribe",
            "Please transcribe this voice message in English.",
            " TRANSCRIBE IT! ",
            "Transcribing the recording",
        ] {
            assert!(is_instruction(text), "{text}");
        }
        for text in [
            "",
            "Hello,",
            "Uttera, Redis, nginx",
            "the audio was transcribed by",
            "Transcribe: a talk about the history of audio engineering in Berlin with Anna",
            "Transcription factors bind DNA.",
        ] {
            assert!(!is_instruction(text), "{text}");
        }
    }
}
