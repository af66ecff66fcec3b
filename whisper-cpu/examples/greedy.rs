//! Transcribes WAV files (16 kHz, mono, 16 bit) and says how long each part took.
//!
//! `greedy MODEL float|byte THREADS POSITIONS FILE…`; POSITIONS 0 stands for the audio and 5 s more, 1 for the mean tail of the
//! other files.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use whisper_cpu::Model;
use whisper_cpu::decoding::{Begun, Opening, Sampling, Task};
use whisper_cpu::linear::Precision;
use whisper_cpu::rules::Rules;
use whisper_cpu::tail::{Tail, positions};

fn samples(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("reads");
    let pairs = bytes[44..].chunks_exact(2);
    pairs
        .map(|two| f32::from(i16::from_le_bytes([two[0], two[1]])) / 32_768.0)
        .collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| arguments[place].parse::<usize>().expect("a number");
    let precision = if arguments[1] == "byte" {
        Precision::Byte
    } else {
        Precision::Float
    };
    let begin = Instant::now();
    let model = Model::load(Path::new(&arguments[0]), precision, number(2)).expect("loads");
    println!("loaded in {:.3} s", begin.elapsed().as_secs_f64());
    let stop = AtomicBool::new(false);
    let rules = Rules::new(&model.vocabulary);
    let special = model.vocabulary.special;
    for file in &arguments[4..] {
        let samples = samples(file);
        let tail = (number(3) == 1).then(|| {
            let others: Vec<Vec<f32>> = arguments[4..]
                .iter()
                .filter(|other| *other != file)
                .map(|other| self::samples(other))
                .collect();
            let others: Vec<&[f32]> = others.iter().map(Vec::as_slice).collect();
            Tail::measure(&model, &others)
        });
        let positions = match number(3) {
            1 => positions(samples.len()),
            0 => (samples.len().div_ceil(320) + 256)
                .next_multiple_of(64)
                .min(1500),
            given => given,
        };
        let begin = Instant::now();
        let audio = model
            .listen(&samples, positions, tail.as_ref(), &stop)
            .expect("goes on");
        let encoded = begin.elapsed().as_secs_f64();
        let language = special.multilingual.then(|| {
            let all = Opening::new(&model, &audio, &[]).languages(&model);
            let best = all
                .iter()
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(b.1))
                .expect("languages");
            special.language(best.0 as u32).expect("a language")
        });
        for timestamps in [false, true] {
            let task = Task {
                language,
                translate: false,
                prompt: Vec::new(),
                timestamps,
                heads: Vec::new(),
            };
            let begin = Instant::now();
            let begun = Begun::new(&model, &rules, (&audio, None), &task, &stop);
            let decoded = begun.and_then(|begun| begun.sample(&[Sampling::GREEDY]));
            let decoded = &decoded.expect("goes on")[0];
            let seconds = begin.elapsed().as_secs_f64();
            let texts =
                decoded
                    .choices
                    .iter()
                    .map(|choice| match special.timestamp(choice.token) {
                        Some(time) => format!("<{:.2}>", f64::from(time) * 0.02),
                        None => String::from_utf8_lossy(model.vocabulary.bytes(choice.token))
                            .into_owned(),
                    });
            println!(
                "{file}: {} [{positions} positions, encoder {encoded:.3} s, {} tokens, {:.1} ms each, {:.3}, {:.2e}]",
                texts.collect::<String>(),
                decoded.choices.len(),
                seconds * 1000.0 / (decoded.choices.len() + 2) as f64,
                decoded.mean_logprob,
                decoded.no_speech,
            );
        }
    }
}
