//! Tests of the chunker with a detector that takes everything loud for speech.

use proptest::prelude::*;

use super::*;

const SECOND: usize = SAMPLE_RATE as usize;
/// Amplitude from which the detector of the tests reports speech.
const LOUD: i16 = 500;

/// Takes frames that are loud for speech.
struct Loudness;

impl DetectSpeech for Loudness {
    fn score(&mut self, block: &[i16]) -> Vec<u8> {
        assert!(block.len() <= BLOCK);
        let frames = block.chunks(SPEECH_FRAME);
        frames
            .map(|frame| if is_loud(frame) { 240 } else { 5 })
            .collect()
    }
}

fn is_loud(frame: &[i16]) -> bool {
    frame.iter().any(|sample| sample.abs() > LOUD)
}

/// `seconds` of a noise of about `amplitude`.
fn noise(seconds: f64, amplitude: i32) -> Vec<i16> {
    let mut state = 12_345_u32;
    (0..(seconds * SECOND as f64) as usize)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) as i32 % (2 * amplitude + 1) - amplitude) as i16
        })
        .collect()
}

/// Speech and silence in turn, of these lengths in seconds.
fn speech_and_silence(seconds: &[f64]) -> Vec<i16> {
    let amplitudes = [3000, 3].into_iter().cycle();
    let parts = seconds.iter().zip(amplitudes);
    parts
        .flat_map(|(seconds, amplitude)| noise(*seconds, amplitude))
        .collect()
}

fn run(mut chunker: Chunker, samples: &[i16], block: usize) -> Vec<AudioChunk> {
    let mut chunks = Vec::new();
    for block in samples.chunks(block) {
        chunks.extend(chunker.push(block));
    }
    chunks.extend(chunker.flush());
    assert_eq!(chunker.settled_samples(), samples.len() as u64);
    chunks
}

/// The chunks of audio in which the detector looks for speech.
fn chunks_of(samples: &[i16], target: u64) -> Vec<AudioChunk> {
    let mut chunker = Chunker::new(Some(Box::new(Loudness)));
    chunker.aim_at(Duration::from_secs(target));
    run(chunker, samples, 4096)
}

/// The lengths in seconds of chunks without voice activity detection.
fn undetected(samples: &[i16]) -> Vec<f64> {
    let mut chunker = Chunker::new(None);
    chunker.aim_at(Duration::from_secs(28));
    let chunks = run(chunker, samples, 4096);
    chunks.iter().map(AudioChunk::duration_seconds).collect()
}

/// Every chunk's stretches, in seconds.
fn seconds(chunks: &[AudioChunk]) -> Vec<Vec<(f64, f64)>> {
    let second = |sample: u64| sample as f64 / SECOND as f64;
    let stretches = |chunk: &AudioChunk| {
        let stretches = chunk.stretches.iter();
        stretches
            .map(|range| (second(range.start), second(range.end)))
            .collect()
    };
    chunks.iter().map(stretches).collect()
}

fn assert_near(found: &[Vec<(f64, f64)>], expected: &[&[(f64, f64)]]) {
    let shape = |lengths: Vec<usize>| lengths;
    let lengths = shape(found.iter().map(Vec::len).collect());
    assert_eq!(
        lengths,
        shape(expected.iter().map(|e| e.len()).collect()),
        "{found:?}"
    );
    for (found, expected) in found
        .iter()
        .flatten()
        .zip(expected.iter().copied().flatten())
    {
        // Frames are 32 ms, and a gap begins and ends somewhere inside of one.
        let near = (found.0 - expected.0).abs() < 0.07 && (found.1 - expected.1).abs() < 0.07;
        assert!(near, "{found:?} is not {expected:?}");
    }
}

#[test]
fn nothing_and_silence_give_no_chunk() {
    assert!(chunks_of(&[], 28).is_empty());
    assert!(chunks_of(&noise(100.0, 3), 28).is_empty());
    assert!(undetected(&[]).is_empty());
}

#[test]
fn what_is_around_the_speech_is_left_out_but_for_a_little() {
    let audio = speech_and_silence(&[0.0, 35.0, 4.0, 35.0]);
    assert_near(&seconds(&chunks_of(&audio, 28)), &[&[(34.52, 39.48)]]);
    // At the edges of the audio there is nothing to pad with.
    let audio = speech_and_silence(&[4.0]);
    assert_near(&seconds(&chunks_of(&audio, 28)), &[&[(0.0, 4.0)]]);
}

#[test]
fn a_short_pause_stays_and_a_long_one_becomes_a_seam() {
    let audio = speech_and_silence(&[3.0, 1.5, 3.0, 6.0, 3.0]);
    let expected: &[&[(f64, f64)]] = &[&[(0.0, 7.98), (13.02, 16.5)]];
    assert_near(&seconds(&chunks_of(&audio, 28)), expected);
}

#[test]
fn after_a_very_long_pause_a_new_chunk_begins() {
    let audio = speech_and_silence(&[3.0, 11.0, 3.0]);
    let expected: &[&[(f64, f64)]] = &[&[(0.0, 3.48)], &[(13.52, 17.0)]];
    assert_near(&seconds(&chunks_of(&audio, 28)), expected);
}

#[test]
fn where_the_language_may_change_every_pause_of_a_second_ends_a_chunk_whatever_the_target() {
    let audio = speech_and_silence(&[3.0, 0.7, 1.0, 1.3, 0.5, 6.0, 3.0, 11.0, 1.0]);
    let expected: &[&[(f64, f64)]] = &[
        &[(0.0, 5.18)],
        &[(5.52, 6.98)],
        &[(12.02, 15.98)],
        &[(26.02, 27.5)],
    ];
    for target in [8, 28] {
        let mut chunker = Chunker::new(Some(Box::new(Loudness))).with_chunks_between_pauses();
        chunker.aim_at(Duration::from_secs(target));
        assert_near(&seconds(&run(chunker, &audio, 4096)), expected);
    }
}

#[test]
fn a_long_pause_ends_a_chunk_that_is_long_enough() {
    let audio = speech_and_silence(&[21.0, 3.0, 5.0]);
    let expected: &[&[(f64, f64)]] = &[&[(0.0, 21.48)], &[(23.52, 29.0)]];
    assert_near(&seconds(&chunks_of(&audio, 28)), expected);
}

#[test]
fn speech_without_end_is_cut_in_its_longest_pause() {
    let audio = speech_and_silence(&[21.0, 0.3, 4.0, 0.6, 20.0]);
    let found = seconds(&chunks_of(&audio, 28));
    assert_near(&found, &[&[(0.0, 25.6)], &[(25.6, 45.9)]]);
    // For short chunks, earlier pauses count.
    let audio = speech_and_silence(&[6.0, 0.3, 2.5, 0.4, 12.0]);
    let found = seconds(&chunks_of(&audio, 8));
    assert!((found[0][0].1 - 9.0).abs() < 0.1, "{found:?}");
}

#[test]
fn a_click_is_no_speech_and_a_short_word_is() {
    let audio = speech_and_silence(&[0.0, 5.0, 0.03, 5.0]);
    assert!(chunks_of(&audio, 28).is_empty());
    let audio = speech_and_silence(&[0.0, 5.0, 0.2, 5.0]);
    assert_near(&seconds(&chunks_of(&audio, 28)), &[&[(4.52, 5.68)]]);
    // Speech in short fragments is speech.
    let audio = speech_and_silence(&[0.0, 5.0, 0.04, 0.2, 0.04, 0.2, 0.04, 5.0]);
    assert_eq!(chunks_of(&audio, 28).len(), 1);
}

#[test]
fn a_word_that_the_end_cuts_off_counts() {
    let audio = speech_and_silence(&[0.0, 5.0, 0.05]);
    assert_eq!(chunks_of(&audio, 28).len(), 1);
}

#[test]
fn a_hum_that_may_be_speech_is_not_waited_for_without_end() {
    let mut gate = SpeechGate::default();
    let doubtful = |probability| Frame {
        samples: Vec::new(),
        probability: Some(probability),
        is_speech: true,
    };
    gate.pass(doubtful(60));
    for _ in 0..1000 {
        gate.pass(doubtful(40));
        assert!(gate.undecided.len() <= SpeechGate::LONGEST_DOUBT);
    }
}

#[test]
fn the_probabilities_come_with_the_samples() {
    let audio = speech_and_silence(&[2.0, 1.0, 2.0]);
    let chunks = chunks_of(&audio, 28);
    let spoken = |start, end| {
        chunks[0]
            .speech
            .seconds_of_speech(start, end)
            .expect("known")
    };
    assert!(spoken(2.1, 2.9) < 1e-9);
    assert!((spoken(0.0, 5.0) - 4.0).abs() < 0.1);
    let mut undetected = Chunker::new(None);
    undetected.push(&audio);
    assert_eq!(undetected.flush()[0].speech, SpeechTrack::default());
}

#[test]
fn without_detection_thirty_seconds_are_one_chunk_and_silence_is_kept() {
    assert_eq!(undetected(&noise(30.0, 3000)), [30.0]);
    assert_eq!(undetected(&noise(0.05, 3000)), [0.05]);
    let all: f64 = undetected(&noise(100.0, 3)).iter().sum();
    assert!((all - 100.0).abs() < 1e-9);
}

#[test]
fn without_detection_the_cut_is_in_the_middle_of_the_longest_quiet() {
    let mut audio = noise(22.0, 3000);
    audio.extend(noise(1.2, 20));
    audio.extend(noise(4.0, 3000));
    audio.extend(noise(0.4, 20));
    audio.extend(noise(12.0, 3000));
    let first = undetected(&audio)[0];
    assert!((first - 22.6).abs() < 0.07, "cut at {first} s");
    // Beneath a constant offset as well.
    for sample in &mut audio {
        *sample += 8000;
    }
    let first = undetected(&audio)[0];
    assert!((first - 22.6).abs() < 0.07, "cut at {first} s");
}

#[test]
fn a_short_tail_is_avoided() {
    let mut audio = noise(29.6, 3000);
    audio.extend(noise(0.4, 600));
    audio.extend(noise(0.2, 3000));
    let lengths = undetected(&audio);
    assert!(lengths.len() == 2 && lengths[1] > 0.9, "{lengths:?}");
}

#[test]
fn the_memory_is_a_chunk_and_little_more_however_long_the_audio() {
    for detector in [None, Some(Box::new(Loudness) as Box<dyn DetectSpeech>)] {
        let mut chunker = Chunker::new(detector);
        let block = speech_and_silence(&[3.3, 2.5, 0.7, 1.4]);
        for _ in 0..60 {
            chunker.push(&block);
            let held = chunker.length() + chunker.gate.undecided.len();
            assert!(held <= frames(31_500), "{held} frames");
            assert!(chunker.pending.capacity() <= 2 * BLOCK);
        }
        assert_eq!(chunker.pushed_samples(), 60 * block.len() as u64);
    }
}

prop_compose! {
    /// Speech and silence in turn, some of it very short, up to about two minutes.
    fn any_audio()(lengths in prop::collection::vec(
        prop_oneof![0.0..0.3_f64, 0.3..3.0_f64, 3.0..35.0_f64], 0..10,
    )) -> Vec<i16> {
        speech_and_silence(&lengths)
    }
}

/// Frames that the gate takes for speech, by its own rules.
fn frames_with_speech(audio: &[i16]) -> Vec<usize> {
    let mut gate = SpeechGate::default();
    let frames = audio.chunks(SPEECH_FRAME).map(|samples| Frame {
        samples: Vec::new(),
        probability: Some(if is_loud(samples) { 240 } else { 5 }),
        is_speech: true,
    });
    let mut decided: Vec<Frame> = frames.flat_map(|frame| gate.pass(frame)).collect();
    decided.extend(gate.flush());
    let numbered = decided.iter().enumerate();
    numbered
        .filter(|(_, frame)| frame.is_speech)
        .map(|(number, _)| number)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_hold_all_speech_never_overlap_and_never_exceed_30_seconds(
        audio in any_audio(), target in 8_u64..=28,
    ) {
        let chunks = chunks_of(&audio, target);
        let mut covered = vec![false; audio.len().div_ceil(SPEECH_FRAME)];
        let mut end = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            prop_assert_eq!(chunk.index, ChunkIndex::Whole(index));
            prop_assert!(chunk.samples.len() <= 30 * SECOND);
            let mut at = 0;
            for stretch in chunk.stretches.iter() {
                prop_assert!(end <= stretch.start && stretch.start < stretch.end);
                let (start, length) = (stretch.start as usize, (stretch.end - stretch.start) as usize);
                // Cutting copies samples: each sample of the chunk equals the one at its place in the stream.
                prop_assert_eq!(&chunk.samples[at..at + length], &audio[start..start + length]);
                at += length;
                end = stretch.end;
                covered[start / SPEECH_FRAME..(end as usize).div_ceil(SPEECH_FRAME)].fill(true);
            }
            prop_assert_eq!(at, chunk.samples.len());
        }
        for frame in frames_with_speech(&audio) {
            prop_assert!(covered[frame], "speech at {} s is lost", frame * SPEECH_FRAME / SECOND);
        }
    }

    #[test]
    fn a_wanted_length_that_changes_on_the_way_loses_nothing(
        audio in any_audio(), targets in prop::collection::vec(8_u64..=28, 1..8), detected in any::<bool>(),
    ) {
        let detector: Box<dyn DetectSpeech> = Box::new(Loudness);
        let mut chunker = Chunker::new(detected.then_some(detector));
        let mut chunks = Vec::new();
        for (turn, block) in audio.chunks(100_000).enumerate() {
            chunker.aim_at(Duration::from_secs(targets[turn % targets.len()]));
            chunks.extend(chunker.push(block));
        }
        chunks.extend(chunker.flush());
        let mut covered = vec![!detected; audio.len().div_ceil(SPEECH_FRAME)];
        let mut end = 0;
        for range in chunks.iter().flat_map(|chunk| chunk.stretches.iter()) {
            prop_assert!(end <= range.start && range.start < range.end);
            end = range.end;
            covered[range.start as usize / SPEECH_FRAME..(end as usize).div_ceil(SPEECH_FRAME)].fill(true);
        }
        prop_assert!(chunks.iter().all(|chunk| chunk.samples.len() <= 30 * SECOND));
        prop_assert!(frames_with_speech(&audio).iter().all(|frame| covered[*frame]));
    }

    #[test]
    fn the_sizes_of_blocks_make_no_difference(
        audio in any_audio(), target in 8_u64..=28, block in 1..60_000_usize, detected in any::<bool>(),
    ) {
        let chunker = || {
            let detector: Box<dyn DetectSpeech> = Box::new(Loudness);
            let mut chunker = Chunker::new(detected.then_some(detector));
            chunker.aim_at(Duration::from_secs(target));
            chunker
        };
        let whole = audio.len().max(1);
        prop_assert_eq!(run(chunker(), &audio, block), run(chunker(), &audio, whole));
    }

    #[test]
    fn without_detection_every_sample_is_in_exactly_one_chunk(
        audio in any_audio(), target in 8_u64..=28,
    ) {
        let mut chunker = Chunker::new(None);
        chunker.aim_at(Duration::from_secs(target));
        let chunks = run(chunker, &audio, 10_000);
        let joined: Vec<i16> = chunks.iter().flat_map(|chunk| chunk.samples.iter().copied()).collect();
        prop_assert_eq!(joined, audio);
        for chunk in &chunks {
            prop_assert!(chunk.stretches.len() == 1 && chunk.samples.len() <= 30 * SECOND);
        }
    }
}

/// Speech around a gap, with the gap skipped or as samples.
fn with_gap(mut chunker: Chunker, gap: usize, is_skipped: bool) -> Vec<AudioChunk> {
    chunker.aim_at(Duration::from_secs(28));
    let speech = &noise(1.7, 3000)[1..];
    let mut chunks = chunker.push(speech);
    chunks.extend(if is_skipped {
        chunker.skip(gap as u64)
    } else {
        chunker.push(&vec![0; gap])
    });
    chunks.extend(chunker.push(speech));
    chunks.extend(chunker.flush());
    assert_eq!(chunker.settled_samples(), (2 * speech.len() + gap) as u64);
    chunks
}

#[test]
fn a_gap_is_cut_as_the_same_time_of_silence_is() {
    for gap in [0, 1, 100, 511, 8000, 40_001, 200_000, 1_000_000] {
        let chunker = || Chunker::new(Some(Box::new(Loudness)));
        assert_eq!(
            with_gap(chunker(), gap, true),
            with_gap(chunker(), gap, false),
            "{gap} samples"
        );
    }
}

#[test]
fn a_gap_costs_nothing_even_without_voice_activity_detection() {
    let year = 365 * 24 * 3600 * SECOND;
    for detector in [None, Some(Box::new(Loudness) as Box<dyn DetectSpeech>)] {
        let chunks = with_gap(Chunker::new(detector), year, true);
        assert_eq!(chunks.len(), 2);
        let transcribed: f64 = chunks.iter().map(AudioChunk::duration_seconds).sum();
        assert!(transcribed < 5.0, "{transcribed} s");
        let second = chunks[1].start_sample() as f64 / SECOND as f64;
        let begin = 1.7 + (year / SECOND) as f64;
        assert!((begin - 0.6..begin).contains(&second), "{second} s");
    }
}
