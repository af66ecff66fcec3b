//! Times the parts of a model: the spectrogram, the encoder for several lengths, and steps of the decoder with several
//! sequences.
//!
//! ```text
//! cargo run --release -p uttera-whisper-cpu --example measure_parts -- MODEL float|byte THREADS
//! ```
//!
//! Each time is the least of several runs, in ms. Rates count the products of weights and activations: 2 operations for
//! each weight and position. For 8-bit numbers, shares are those of the time that the work would take at the rates
//! printed first: products whose numbers all lie in the nearest caches (those of attention have 16 bits and take twice
//! as long), and reading memory from one end to the other.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rayon::prelude::*;
use whisper_cpu::Model;
use whisper_cpu::decoder::Sequence;
use whisper_cpu::kernels::{PANEL, ROWS, multiply_panel};
use whisper_cpu::linear::{Linear, Precision};
use whisper_cpu::prepared::Prepared;
use whisper_cpu::tail::{STEP, Tail};

/// Runs of each part.
const RUNS: usize = 7;

/// The least time in seconds.
fn least(mut work: impl FnMut()) -> f64 {
    let times = (0..RUNS).map(|_| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Noise as loud as speech: 16 kHz, ±0.1.
fn noise(seconds: f64) -> Vec<f32> {
    let mut state = 1_u64;
    let samples = (0..(seconds * 16_000.0) as usize).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0) * 0.1
    });
    samples.collect()
}

/// What the processor can do with all its threads.
struct Limits {
    /// Products of 8-bit numbers, in operations a second.
    products: f64,
    /// Memory that is read, in bytes a second.
    memory: f64,
}

fn limits(model: &Model, threads: usize) -> Limits {
    let width = 512;
    let rows = vec![1_u8; ROWS * width];
    let panel = vec![1_i8; PANEL * width];
    let (scales, offsets, bias) = ([1.0; PANEL], [0; PANEL], [0.0; PANEL]);
    let rounds = 2000;
    let took = least(|| {
        model.install(|| {
            rayon::broadcast(|_| {
                let rows = std::array::from_fn(|row| &rows[row * width..(row + 1) * width]);
                let mut out = [0.0; ROWS * PANEL];
                for _ in 0..rounds {
                    let factors = (&offsets[..], &scales[..]);
                    multiply_panel(rows, &panel, &[1.0; ROWS], factors, &bias, &mut out, PANEL);
                }
                std::hint::black_box(out);
            });
        });
    });
    let operations = (2 * rounds * ROWS * PANEL * width * threads) as f64;
    // More than the caches hold.
    let memory = vec![1_u64; 64 << 20];
    let read = least(|| {
        let sum: u64 = model.install(|| {
            let parts = memory.par_chunks(1 << 16);
            parts.map(|part| part.iter().sum::<u64>()).sum()
        });
        std::hint::black_box(sum);
    });
    Limits {
        products: operations / took,
        memory: 8.0 * memory.len() as f64 / read,
    }
}

/// Products of the model's shapes alone.
fn products(model: &Model, precision: Precision) {
    let width = model.dimensions.state;
    let weights = noise(width as f64 * width as f64 * 4.0 / 16_000.0 + 1.0);
    let input = noise(1500.0 * width as f64 * 4.0 / 16_000.0 + 1.0);
    for (input_width, output) in [(width, width), (width, 4 * width), (4 * width, width)] {
        let weights = &weights[..input_width * output];
        let layer = Linear::new(weights, None, input_width, precision);
        let rates = [64, 120, 320, 640, 1500].map(|positions| {
            let input = &input[..positions * input_width];
            let took = least(|| model.install(|| drop(layer.apply(input))));
            let operations = 2.0 * (weights.len() * positions) as f64;
            format!("{positions}: {:.0}", operations / took / 1e9)
        });
        println!(
            "products {input_width} to {output}, G/s by positions: {}",
            rates.join(", ")
        );
    }
}

/// Loads the model once more, from a file that was prepared.
fn loading_prepared(model: &Model, path: &Path, tail: &Tail, threads: usize) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    let key = [0; 32];
    model
        .prepare(file.as_file_mut(), &key, tail)
        .expect("writes");
    let took = least(|| {
        let prepared = Prepared::open(file.path(), &key).expect("opens");
        Model::load_prepared(path, &prepared, threads).expect("loads");
    });
    println!("loaded in {:.0} ms, prepared", took * 1e3);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, precision, threads] = &arguments[..] else {
        panic!("expected a model, a precision and a number of threads");
    };
    let precision = match precision.as_str() {
        "byte" => Precision::Byte,
        _ => Precision::Float,
    };
    let threads = threads.parse().expect("a number of threads");
    let begin = Instant::now();
    let model = Model::load(Path::new(path), Some(precision), threads).expect("loads");
    println!("loaded in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    let tail = Tail::measure(&model, &[&noise(3.0)]);
    println!("tail in {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);

    if precision == Precision::Byte {
        loading_prepared(&model, Path::new(path), &tail, threads);
    }

    let limits = limits(&model, threads);
    println!(
        "limits: {:.0} G/s in products of 8-bit numbers, {:.1} GB/s from memory",
        limits.products / 1e9,
        limits.memory / 1e9
    );
    products(&model, precision);
    let dimensions = model.dimensions;
    let (width, layers) = (dimensions.state, dimensions.audio_layers);
    let stop = AtomicBool::new(false);
    let samples = noise(30.0);
    let took = least(|| drop(model.mel.spectrogram(&samples[..32_000])));
    println!("spectrogram of 2 s: {:.2} ms", took * 1e3);
    for (positions, tail) in [
        (64, Some(&tail)),
        (120, Some(&tail)),
        (320, Some(&tail)),
        (640, Some(&tail)),
        (1500, None),
    ] {
        let samples = &samples[..positions * 320];
        let took = least(|| {
            model.listen(samples, positions, tail, &stop);
        });
        // Attention, feed-forward networks, and the decoder's keys and values.
        let weights = width * width * (12 * layers + 2 * dimensions.text_layers);
        let operations = 2.0 * weights as f64 * positions as f64;
        let keys = tail.map_or(positions, |_| positions + (1500 - positions).div_ceil(STEP));
        let attention = (4 * positions * keys * width * layers) as f64;
        let ideal = (operations + 2.0 * attention) / limits.products;
        println!(
            "encoder, {positions} positions: {:.1} ms, {:.0} G/s in products with weights, {:.0} % of the limit",
            took * 1e3,
            operations / took / 1e9,
            100.0 * ideal / took
        );
    }

    let start = model.vocabulary.special.start;
    let next = [start];
    let weights = width * (dimensions.vocabulary + width * 14 * dimensions.text_layers);
    for (positions, tail) in [(216, Some(&tail)), (1500, None)] {
        let audio = model
            .listen(&samples[..positions * 320], positions, tail, &stop)
            .expect("goes on");
        for columns in [1, 2, 4, 5, 8] {
            let mut sequences: Vec<Sequence> = (0..columns)
                .map(|_| Sequence::new(audio.clone(), &[]))
                .collect();
            let took = model.install(|| {
                least(|| {
                    let mut steps: Vec<_> = sequences
                        .iter_mut()
                        .map(|sequence| (sequence, &next[..]))
                        .collect();
                    model.step(&mut steps);
                })
            });
            // The audio's keys and values have 16 bits.
            let keys = tail.map_or(positions, |_| positions + (1500 - positions).div_ceil(STEP));
            let read = weights + 4 * keys * width * dimensions.text_layers;
            println!(
                "step with {columns} sequences, {positions} positions: {:.2} ms, {:.1} G weights/s, {:.0} % of the limit",
                took * 1e3,
                weights as f64 / took / 1e9,
                100.0 * read as f64 / limits.memory / took
            );
        }
    }
    let audio = model
        .listen(&samples[..64_000], 216, Some(&tail), &stop)
        .expect("goes on");
    for tokens in [4, 32, 128] {
        let prompt = vec![start; tokens];
        let took = least(|| {
            let mut sequence = Sequence::new(audio.clone(), &[]);
            model.step(&mut [(&mut sequence, &prompt)]);
        });
        println!("prompt of {tokens} tokens: {:.2} ms", took * 1e3);
    }
}
