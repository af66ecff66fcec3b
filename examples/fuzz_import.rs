//! Fuzzes all parsers of model files, on stable Rust:
//!
//! ```text
//! cargo run --release --example fuzz_import -- --seconds 600 [--seed 7]
//! ```
//!
//! Mutates a small valid CTranslate2 file, the ggml file converted from it, and vocabularies, and passes
//! them to the parsers. A panic, an abort or an excessive allocation ends the run; it prints the seed and the
//! number of the case, which replay it (`--seed S --skip N`). Mutations prefer the headers, which contain
//! lengths and counts: flipped bits, numbers at the limits of arithmetic, cuts, repetitions.

use std::time::{Duration, Instant};

use clap::Parser;
use test_support::small_model::SmallModel;
use uttera_stt::models::fuzzing;

#[derive(Debug, Parser)]
struct Options {
    /// Duration of the run, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seed of all cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first case.
    #[arg(long, default_value_t = 0)]
    skip: u64,
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and equal on all machines.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A valid input and the offsets at which a change has most effect.
struct Seed {
    bytes: Vec<u8>,
    headers: Vec<usize>,
}

const NASTY: [u32; 9] = [
    0,
    1,
    2,
    255,
    65_535,
    65_536,
    i32::MAX as u32,
    i32::MAX as u32 + 1,
    u32::MAX,
];

fn mutate(seed: &Seed, random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.bytes.clone();
    for _ in 0..=random.below(4) {
        let at = seed.headers[random.below(seed.headers.len())].min(bytes.len().saturating_sub(4));
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 | 3 if bytes.len() >= 4 => {
                let value = NASTY[random.below(NASTY.len())];
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            4 if bytes.len() >= 4 => {
                let old =
                    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                let new = old.wrapping_add(random.below(5) as u32).wrapping_sub(2);
                bytes[at..at + 4].copy_from_slice(&new.to_le_bytes());
            }
            5 => bytes.truncate(at + random.below(64)),
            6 => {
                let end = (at + random.below(64)).min(bytes.len());
                let part = bytes[at.min(end)..end].to_vec();
                let place = seed.headers[random.below(seed.headers.len())].min(bytes.len());
                bytes.splice(place..place, part);
            }
            _ => {
                let end = (at + random.below(16)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
        }
    }
    bytes
}

/// The headers of a ggml file: its beginning, and the surroundings of every tensor's name.
fn ggml_headers(bytes: &[u8]) -> Vec<usize> {
    let preamble = 48 + 8 + 80 * 201 * 4;
    let mut headers: Vec<usize> = (0..56).chain(preamble..preamble + 64).collect();
    for marker in [b"encoder.".as_slice(), b"decoder.".as_slice()] {
        for (at, window) in bytes.windows(marker.len()).enumerate() {
            if window == marker {
                headers.extend(at.saturating_sub(28)..at + 8);
            }
        }
    }
    headers
}

fn main() {
    let options = Options::parse();
    let (bytes, headers) = SmallModel::new().bytes_and_headers();
    let ggml = fuzzing::import(&bytes).expect("the small model is well-formed");
    fuzzing::convert(&ggml).expect("what the import writes can be read");
    let folder = Seed { bytes, headers };
    let file = Seed {
        headers: ggml_headers(&ggml),
        bytes: ggml,
    };
    let text = r#"{"model":{"vocab":{"a":0,"Ġb":1,"":2,"Ã©":3}}}["a","Ġb"]"#
        .as_bytes()
        .to_vec();
    let words = Seed {
        headers: (0..text.len()).collect(),
        bytes: text,
    };
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let (mut case, mut accepted) = (options.skip, 0u64);
    while Instant::now() < end {
        // Each case has its own generator, so that it can be replayed alone.
        let mut random = Random(options.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ case);
        let good = one_case([&folder, &file, &words], &mut random).unwrap_or_else(|panic| {
            eprintln!("crashed: replay with --seed {} --skip {case}", options.seed);
            std::panic::resume_unwind(panic)
        });
        accepted += u64::from(good);
        case += 1;
    }
    let tried = case - options.skip;
    println!("{tried} cases, {accepted} of them still good models, no crash");
}

/// Runs one case and returns whether the input was accepted, or the panic that it caused.
fn one_case(seeds: [&Seed; 3], random: &mut Random) -> std::thread::Result<bool> {
    let [folder, file, words] = seeds;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match random.below(8) {
        0..4 => fuzzing::import(&mutate(folder, random)).is_ok(),
        4..7 => fuzzing::convert(&mutate(file, random)).is_ok(),
        _ => {
            let text = mutate(words, random);
            let text = String::from_utf8_lossy(&text);
            let count = random.below(6);
            fuzzing::vocabulary(&text, count).iter().any(Result::is_ok)
        }
    }))
}
