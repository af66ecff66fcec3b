//! Errors of the segments' times.

use serde_json::Value;

use crate::utterances::Utterance;

/// Prints the mean errors.
pub fn print_off(off: &[Vec<f64>; 2]) {
    if off[0].is_empty() {
        return;
    }
    println!(
        "  segment edges are off by {:.3} s from the edges of the recordings, by {:.3} s from those of \
         the speech in them (median {:.3} s)",
        mean(&off[0]),
        mean(&off[1]),
        median(&off[1]),
    );
}

/// Start and end of the sound in a recording: where it exceeds a level 25 dB below the one that a twentieth
/// of the recording exceeds.
fn speech_edges(utterance: &Utterance, samples: &[i16]) -> (f64, f64) {
    const FRAME: usize = 160;
    let place = |seconds: f64| ((seconds * 16_000.0) as usize).min(samples.len());
    let frames = samples[place(utterance.start)..place(utterance.end)].chunks_exact(FRAME);
    let powers: Vec<f64> = frames
        .map(|frame| frame.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / FRAME as f64)
        .collect();
    let mut sorted = powers.clone();
    sorted.sort_by(f64::total_cmp);
    let loud = sorted.get(powers.len() * 95 / 100).copied().unwrap_or(0.0) * 10_f64.powf(-2.5);
    let first = powers.iter().position(|power| *power >= loud).unwrap_or(0);
    let last = powers.iter().rposition(|power| *power >= loud).unwrap_or(0);
    let second = |frame: usize| utterance.start + (frame * FRAME) as f64 / 16_000.0;
    (second(first), second(last + 1))
}

/// Distance, in seconds, from each edge of each utterance to the nearest edge of a segment: for the edges of
/// the recording, and for those of the speech in it.
pub fn times_off(utterances: &[Utterance], samples: &[i16], answer: &Value) -> [Vec<f64>; 2] {
    let segments = answer["segments"].as_array().cloned().unwrap_or_default();
    let edges =
        |name: &str| -> Vec<f64> { segments.iter().filter_map(|s| s[name].as_f64()).collect() };
    let (starts, ends) = (edges("start"), edges("end"));
    let nearest = |edges: &[f64], to: f64| {
        let distances = edges.iter().map(|edge| (edge - to).abs());
        distances.fold(f64::INFINITY, f64::min)
    };
    let mut off = [const { Vec::new() }; 2];
    for utterance in utterances.iter().filter(|u| u.start.is_finite()) {
        let (start, end) = speech_edges(utterance, samples);
        off[0].extend([
            nearest(&starts, utterance.start),
            nearest(&ends, utterance.end),
        ]);
        off[1].extend([nearest(&starts, start), nearest(&ends, end)]);
    }
    off
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
