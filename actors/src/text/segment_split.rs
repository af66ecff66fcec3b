//! Splits segments at pauses.
//!
//! Whisper's segments run over pauses, and its times are rough. A segment with a pause in it is split into
//! two, with the edges of the speech as their times. The first word after a pause is estimated as the mean
//! of two guesses: whisper's times of words, and a constant number of letters per second of speech. So a
//! subtitle is visible during its speech, and no subtitle spans a silence.

use std::ops::Range;

use crate::domain::chunk::{AudioChunk, SpeechTrack};
use crate::domain::transcript::{Segment, compression_ratio, letters};
use crate::text::word_times;

/// Minimum silence that splits a segment, in seconds: longer than the closure of a consonant, as short as
/// a breath between two sentences.
const LEAST_PAUSE: f64 = 0.4;
/// Silence that is added to a segment on either side, in seconds.
const PADDING: f64 = 0.15;
/// Minimum speech between two pauses, in seconds: less is not a word.
const LEAST_SPEECH: f64 = 0.25;
/// The end of a sentence is preferred to a word that is nearer to the pause by less than this, in seconds.
const SENTENCE_BONUS: f64 = 0.4;
/// The same for a comma, in seconds.
const COMMA_BONUS: f64 = 0.25;

/// The final times of a chunk's segments: splits them at pauses, moves words into speech, and adds some
/// silence around the segments.
pub fn settle(segments: Vec<Segment>, chunk: &AudioChunk) -> Vec<Segment> {
    let speech = &chunk.speech;
    let parts = segments
        .into_iter()
        .flat_map(|segment| split(segment, speech));
    let mut parts: Vec<Segment> = parts.collect();
    for segment in &mut parts {
        word_times::settle(segment, speech);
    }
    if speech.is_known() {
        pad(&mut parts, chunk.duration_seconds());
    }
    parts
}

/// Splits a segment at its pauses. Texts and tokens of the parts add up to those of the segment.
pub fn split(mut segment: Segment, speech: &SpeechTrack) -> Vec<Segment> {
    let stretches = spoken_stretches(&segment, speech);
    let (Some(first), Some(last)) = (stretches.first(), stretches.last()) else {
        return vec![segment];
    };
    (segment.start, segment.end) = (first.start, last.end);
    let pauses = stretches.windows(2).map(|two| two[0].end..two[1].start);
    let pauses: Vec<Range<f64>> = pauses.collect();
    let cuts = cuts(&segment, &pauses, speech);
    if cuts.is_empty() {
        return vec![segment];
    }
    let mut parts = Vec::new();
    let (mut word, mut token, mut start) = (0, 0, segment.start);
    let end = (segment.words.len(), segment.end..segment.end);
    for (next_word, pause) in cuts.into_iter().chain([end]) {
        let words = segment.words[word..next_word].to_vec();
        let count: usize = words.iter().map(|word| word.tokens).sum();
        let next_token = (token + count).min(segment.tokens.len());
        let logprob: f32 = words.iter().map(|word| word.logprob).sum();
        let text: String = words.iter().map(|word| word.text.as_str()).collect();
        let logprobs = segment.logprobs.get(token..next_token);
        parts.push(Segment {
            start,
            end: pause.start,
            tokens: segment.tokens[token..next_token].to_vec(),
            logprobs: logprobs.unwrap_or_default().to_vec(),
            avg_logprob: logprob / count.max(1) as f32,
            compression_ratio: compression_ratio(&text),
            text,
            words,
            ..segment
        });
        (word, token, start) = (next_word, next_token, pause.end);
    }
    parts
}

/// Adds silence around segments, which are in order of time: a word begins before the detector recognizes
/// it, and fades after. Two neighbours share the silence between them.
pub fn pad(segments: &mut [Segment], duration: f64) {
    let mut end_before = 0.0;
    for number in 0..segments.len() {
        let next = segments.get(number + 1).map(|next| next.start);
        let segment = &mut segments[number];
        let own_end = segment.end;
        let before = (segment.start - end_before).max(0.0);
        // The silence before the first and after the last segment is not shared.
        let before = if number == 0 { before } else { before / 2.0 };
        let after = next.map_or(duration - own_end, |next| (next - own_end) / 2.0);
        segment.start -= before.min(PADDING);
        segment.end += after.clamp(0.0, PADDING);
        end_before = own_end;
    }
}

/// The ranges of a segment that contain words, separated by pauses. A short sound, such as a breath, is
/// not a word.
fn spoken_stretches(segment: &Segment, speech: &SpeechTrack) -> Vec<Range<f64>> {
    let pauses = speech.pauses(segment.start, segment.end, LEAST_PAUSE);
    let starts = std::iter::once(segment.start).chain(pauses.iter().map(|pause| pause.end));
    let ends = pauses.iter().map(|pause| pause.start).chain([segment.end]);
    let is_word = |stretch: &Range<f64>| {
        let spoken = speech.seconds_of_speech(stretch.start, stretch.end);
        spoken.is_some_and(|spoken| spoken >= LEAST_SPEECH)
    };
    let stretches = starts.zip(ends).map(|(start, end)| start..end);
    stretches.filter(is_word).collect()
}

/// For each pause, the index of the word after it. Compares times in seconds of speech since the segment's
/// start.
fn cuts(
    segment: &Segment,
    pauses: &[Range<f64>],
    speech: &SpeechTrack,
) -> Vec<(usize, Range<f64>)> {
    let words = &segment.words;
    let spoken_until = |moment: f64| {
        let spoken = speech.seconds_of_speech(segment.start, moment.max(segment.start));
        spoken.unwrap_or_default()
    };
    let all_spoken = spoken_until(segment.end);
    let all_letters = letters(&segment.text).max(1.0);
    let mut by_letters = Vec::with_capacity(words.len());
    let mut so_far = 0.0;
    for word in words {
        by_letters.push(all_spoken * so_far / all_letters);
        so_far += letters(&word.text);
    }
    let mut cuts: Vec<(usize, Range<f64>)> = Vec::new();
    for pause in pauses {
        let at = spoken_until(pause.start);
        let first = cuts.last().map_or(1, |(word, _)| word + 1);
        let distance = |word: usize| {
            let boundary = f64::midpoint(words[word - 1].end, words[word].start);
            let guess = f64::midpoint(spoken_until(boundary), by_letters[word]);
            (guess - at).abs() - bonus(&words[word - 1].text)
        };
        let nearest = (first..words.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        if let Some(word) = nearest {
            cuts.push((word, pause.clone()));
        }
    }
    cuts
}

/// Bonus for a pause after this word, in seconds.
fn bonus(text: &str) -> f64 {
    match text.chars().next_back() {
        Some('.' | '!' | '?' | ';' | ':' | '…' | '。' | '！' | '？' | '；') => SENTENCE_BONUS,
        Some(',' | '،' | '、' | '，') => COMMA_BONUS,
        Some(_) | None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::transcript::{TokenLogprob, Word};

    /// Words of one token each, with whisper's times.
    fn segment(end: f64, words: &[(&str, f64, f64)]) -> Segment {
        let words: Vec<Word> = (words.iter())
            .map(|(text, start, end)| Word {
                text: format!(" {text}"),
                start: *start,
                end: *end,
                tokens: 1,
                logprob: -0.2,
            })
            .collect();
        let text: String = words.iter().map(|word| word.text.as_str()).collect();
        let logprob = |word: &Word| TokenLogprob {
            bytes: word.text.clone().into_bytes(),
            logprob: word.logprob,
        };
        Segment {
            tokens: (0..words.len() as i32).collect(),
            logprobs: words.iter().map(logprob).collect(),
            words,
            ..Segment::said(0.0, end, &text)
        }
    }

    /// A track of ten seconds with speech at these times.
    fn track(spoken: &[Range<f64>]) -> SpeechTrack {
        let mut values = vec![0; 313];
        for range in spoken {
            values[(range.start / 0.032) as usize..(range.end / 0.032) as usize].fill(250);
        }
        SpeechTrack::new(values)
    }

    fn told(parts: &[Segment]) -> Vec<(String, f64, f64)> {
        let rounded = |seconds: f64| (seconds * 10.0).round() / 10.0;
        let parts = parts.iter();
        parts
            .map(|s| (s.text.clone(), rounded(s.start), rounded(s.end)))
            .collect()
    }

    #[test]
    fn a_segment_is_split_at_a_pause_and_gets_its_edges() {
        // Whisper's times of words are off by half a second.
        let words = [
            ("Good", 0.0, 0.5),
            ("day.", 0.5, 1.5),
            ("Come", 1.6, 2.5),
            ("in.", 2.5, 3.0),
        ];
        let parts = split(segment(3.0, &words), &track(&[0.0..1.0, 2.0..3.0]));
        let expected = [
            (" Good day.".to_owned(), 0.0, 1.0),
            (" Come in.".to_owned(), 2.0, 3.0),
        ];
        assert_eq!(told(&parts), expected);
        assert_eq!(
            (parts[0].tokens.len(), parts[1].tokens.as_slice()),
            (2, &[2, 3][..])
        );
        // Tokens and ratios are those of each part.
        for part in &parts {
            let said: Vec<u8> = part.logprobs.iter().flat_map(|t| t.bytes.clone()).collect();
            assert_eq!(said, part.text.as_bytes());
            assert!((part.compression_ratio - compression_ratio(&part.text)).abs() < 1e-6);
        }
    }

    #[test]
    fn the_end_of_a_sentence_is_preferred_to_a_slightly_nearer_word() {
        let words = [
            ("It", 0.0, 0.4),
            ("ends.", 0.4, 1.0),
            ("So", 1.2, 1.4),
            ("be", 1.5, 2.0),
        ];
        let parts = split(segment(2.5, &words), &track(&[0.0..1.2, 1.7..2.5]));
        assert_eq!(parts[0].text, " It ends.");
    }

    #[test]
    fn segments_share_the_silence_between_them_and_stay_inside_the_audio() {
        let mut segments = [(0.1, 1.0), (1.2, 2.0), (2.0, 3.0), (5.0, 5.95)]
            .map(|(start, end)| Segment::said(start, end, " word"));
        pad(&mut segments, 6.0);
        let times = segments.map(|s| (s.start, s.end));
        let expected = [(0.0, 1.1), (1.1, 2.0), (2.0, 3.15), (4.85, 6.0)];
        for (found, expected) in times.iter().zip(expected) {
            let near = (found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9;
            assert!(near, "{times:?}");
        }
    }

    #[test]
    fn a_breath_after_a_pause_is_not_a_word() {
        let words = [("Good", 0.0, 0.5), ("day.", 0.5, 1.0)];
        let parts = split(segment(3.0, &words), &track(&[0.0..1.0, 2.8..2.9]));
        assert_eq!(told(&parts), [(" Good day.".to_owned(), 0.0, 1.0)]);
        // The same between two pauses.
        let words = [("Good", 0.0, 1.0), ("day.", 1.0, 5.0)];
        let parts = split(
            segment(5.0, &words),
            &track(&[0.0..1.0, 2.4..2.5, 4.0..5.0]),
        );
        let expected = [
            (" Good".to_owned(), 0.0, 1.0),
            (" day.".to_owned(), 4.0, 5.0),
        ];
        assert_eq!(told(&parts), expected);
    }

    #[test]
    fn without_a_pause_or_words_or_a_track_nothing_changes() {
        let words = [("Good", 0.0, 0.5), ("day.", 0.5, 1.5)];
        for speech in [
            track(&[0.0..1.2, 1.4..3.0]),
            track(&[0.0..3.0]),
            SpeechTrack::default(),
        ] {
            let whole = segment(3.0, &words);
            assert_eq!(split(whole.clone(), &speech), [whole]);
        }
        let wordless = segment(3.0, &[]);
        assert_eq!(
            split(wordless.clone(), &track(&[0.0..1.0, 2.0..3.0])),
            [wordless]
        );
        let one = segment(3.0, &[("Hm.", 0.0, 3.0)]);
        assert_eq!(split(one.clone(), &track(&[0.0..1.0, 2.0..3.0])), [one]);
    }

    proptest! {
        #[test]
        fn no_text_is_lost_and_times_increase(
            times in prop::collection::vec(0.0_f64..10.0, 0..12),
            spoken in prop::collection::vec((0.0_f64..9.0, 0.05_f64..1.0), 0..6),
        ) {
            let words: Vec<_> = times.iter().map(|time| ("word", *time, *time + 0.3)).collect();
            let ranges: Vec<_> = spoken.iter().map(|(start, length)| *start..start + length).collect();
            let whole = segment(10.0, &words);
            let parts = split(whole.clone(), &track(&ranges));
            let text: String = parts.iter().map(|part| part.text.as_str()).collect();
            prop_assert_eq!(text, whole.text);
            let tokens: Vec<i32> = parts.iter().flat_map(|part| part.tokens.clone()).collect();
            prop_assert_eq!(tokens, whole.tokens);
            let logprobs: Vec<_> = parts.iter().flat_map(|part| part.logprobs.clone()).collect();
            prop_assert_eq!(logprobs, whole.logprobs);
            let mut last = whole.start;
            for part in &parts {
                prop_assert_eq!(part.tokens.len(), part.logprobs.len());
                prop_assert!(last <= part.start && part.start <= part.end && part.end <= whole.end);
                last = part.end;
            }
        }
    }
}
