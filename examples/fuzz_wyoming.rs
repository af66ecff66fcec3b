//! Fuzzes the reader of Wyoming's frames, on stable Rust:
//!
//! ```text
//! cargo run --release --example fuzz_wyoming -- --seconds 600 [--seed 7]
//! ```
//!
//! Mutates a valid conversation, mostly in its lines, which contain lengths, and reads it in pieces of any size. A panic
//! or an abort ends the run; it prints the seed and the number of the case, which replay it (`--seed S --skip N`).

use std::time::{Duration, Instant};

use clap::Parser;
use uttera_stt::wyoming::fuzzing;

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

const CONVERSATION: &[u8] = b"{\"type\":\"describe\"}\n\
{\"type\":\"transcribe\",\"data\":{\"language\":\"en\",\"context\":{\"prompt\":\"a\"}}}\n\
{\"type\":\"audio-start\",\"version\":\"1.10.2\",\"data_length\":41}\n{\"rate\": 16000, \"width\": 2, \"channels\":1}\
{\"type\":\"audio-chunk\",\"data\":{\"rate\":16000,\"width\":2,\"channels\":1},\"payload_length\":8}\n\x00\x01\x02\x03\x04\x05\x06\x07\
{\"type\":\"audio-stop\",\"data\":{\"timestamp\":null}}\n";

/// Texts that replace a part of the conversation.
const NASTY: [&[u8]; 8] = [
    b"-1",
    b"18446744073709551616",
    b"4194304",
    b"\n",
    b"{",
    b"null",
    b"\"\\ud800\"",
    b"\"payload_length\":9",
];

fn mutate(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = CONVERSATION.to_vec();
    for _ in 0..=random.usize(0..4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.usize(0..bytes.len());
        let end = (at + random.usize(0..16)).min(bytes.len());
        match random.u8(0..6) {
            0 => bytes[at] ^= 1 << random.u8(0..8),
            1 => bytes[at] = random.u8(..),
            2 => drop(bytes.splice(at..end, NASTY[random.usize(0..NASTY.len())].iter().copied())),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            _ => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
        }
    }
    bytes
}

fn main() {
    let options = Options::parse();
    let whole = fuzzing::read(CONVERSATION, 7);
    assert_eq!((whole.kinds.len(), whole.error), (5, None));
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let (mut case, mut accepted) = (options.skip, 0u64);
    while Instant::now() < end {
        // Each case has its own generator, so that it can be replayed alone.
        let mut random =
            fastrand::Rng::with_seed(options.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ case);
        let read = std::panic::catch_unwind(move || {
            let bytes = mutate(&mut random);
            let read = fuzzing::read(&bytes, random.usize(1..300));
            assert!(read.payload <= bytes.len() && read.kinds.len() <= bytes.len());
            read.error.is_none()
        });
        accepted += u64::from(read.unwrap_or_else(|panic| {
            eprintln!("crashed: replay with --seed {} --skip {case}", options.seed);
            std::panic::resume_unwind(panic)
        }));
        case += 1;
    }
    let tried = case - options.skip;
    println!("{tried} cases, {accepted} of them still good, no crash");
}
