//! Recognizes prompts that are instructions.
//!
//! Whisper treats a prompt as the text before the audio and continues in its style. Some clients send
//! an instruction, as to a chat model: "Transcribe the audio." It makes the transcript worse, so it is
//! dropped.

/// First words of instructions.
const VERBS: &[&str] = &["transcribe", "transcribing", "transcription"];
/// Words that may come before those.
const FILLERS: &[&str] = &["please", "just", "only", "kindly"];
/// One of these must follow, unless the verb stands alone.
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
/// A longer prompt probably contains names and words to expect.
const MAX_WORDS: usize = 10;

/// Whether a prompt only asks for a transcript.
pub fn is_instruction(prompt: &str) -> bool {
    let letters = prompt.to_lowercase();
    let words = letters.split(|letter: char| !letter.is_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let mut rest = words.iter().skip_while(|word| FILLERS.contains(word));
    let begins = rest.next().is_some_and(|word| VERBS.contains(word));
    let rest: Vec<_> = rest.collect();
    begins
        && words.len() <= MAX_WORDS
        && (rest.is_empty() || rest.iter().any(|word| OBJECTS.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_distinguished_from_prompts() {
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
