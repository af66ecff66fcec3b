//! The decoder on a small model with random weights.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use whisper_cpu::Model;
use whisper_cpu::decoder::{Audio, Sequence};
use whisper_cpu::decoding::{Begun, Decoded, MOST_TOKENS, Opening, Sampling, Task};
use whisper_cpu::linear::Precision;
use whisper_cpu::rules::Rules;
use whisper_cpu::vocabulary::Token;

const WIDTH: u32 = 64;
const VOCABULARY: u32 = 51_865;
const MELS: u32 = 80;
const AUDIO_POSITIONS: u32 = 1500;
const TEXT_POSITIONS: u32 = 448;

/// Random numbers between −1 and 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}

/// A model file in the making.
struct File {
    bytes: Vec<u8>,
    random: Random,
}

impl File {
    fn numbers(&mut self, numbers: &[u32]) {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.bytes.extend(bytes);
    }

    /// A tensor of random numbers of this size around a centre.
    fn tensor(&mut self, name: &str, shape: &[u32], size: f32, centre: f32) {
        self.numbers(&[shape.len() as u32, name.len() as u32, 0]);
        let reversed: Vec<u32> = shape.iter().rev().copied().collect();
        self.numbers(&reversed);
        self.bytes.extend(name.bytes());
        for _ in 0..shape.iter().product::<u32>() {
            let value = centre + size * self.random.next();
            self.bytes.extend(value.to_le_bytes());
        }
    }

    fn norm(&mut self, name: &str) {
        self.tensor(&format!("{name}.weight"), &[WIDTH], 0.2, 1.0);
        self.tensor(&format!("{name}.bias"), &[WIDTH], 0.2, 0.0);
    }

    fn linear(&mut self, name: &str, output: u32, input: u32) {
        let size = (3.0 / input as f32).sqrt();
        self.tensor(&format!("{name}.weight"), &[output, input], size, 0.0);
        if !name.ends_with("key") {
            self.tensor(&format!("{name}.bias"), &[output], 0.1, 0.0);
        }
    }

    fn attention(&mut self, name: &str) {
        for part in ["query", "key", "value", "out"] {
            self.linear(&format!("{name}.{part}"), WIDTH, WIDTH);
        }
        self.norm(&format!("{name}_ln"));
    }

    fn block(&mut self, name: &str) {
        self.attention(&format!("{name}.attn"));
        self.linear(&format!("{name}.mlp.0"), 4 * WIDTH, WIDTH);
        self.linear(&format!("{name}.mlp.2"), WIDTH, 4 * WIDTH);
        self.norm(&format!("{name}.mlp_ln"));
    }
}

fn write_model(path: &Path) {
    let mut file = File {
        bytes: b"lmgg".to_vec(),
        random: Random(1),
    };
    let (heads, layers) = (1, 1);
    file.numbers(&[
        VOCABULARY,
        AUDIO_POSITIONS,
        WIDTH,
        heads,
        layers,
        TEXT_POSITIONS,
        WIDTH,
        heads,
        layers,
        MELS,
        0,
    ]);
    file.numbers(&[MELS, 201]);
    for _ in 0..MELS * 201 {
        file.numbers(&[0.01_f32.to_bits()]);
    }
    file.numbers(&[2, 1]);
    file.bytes.extend(b"a");
    file.numbers(&[2]);
    file.bytes.extend(b" b");
    for (name, input) in [("encoder.conv1", MELS), ("encoder.conv2", WIDTH)] {
        file.tensor(&format!("{name}.weight"), &[WIDTH, input, 3], 0.1, 0.0);
        file.tensor(&format!("{name}.bias"), &[WIDTH], 0.1, 0.0);
    }
    let positions = [AUDIO_POSITIONS, WIDTH];
    file.tensor("encoder.positional_embedding", &positions, 0.5, 0.0);
    file.block("encoder.blocks.0");
    file.norm("encoder.ln_post");
    let tokens = [VOCABULARY, WIDTH];
    file.tensor("decoder.token_embedding.weight", &tokens, 0.5, 0.0);
    let positions = [TEXT_POSITIONS, WIDTH];
    file.tensor("decoder.positional_embedding", &positions, 0.5, 0.0);
    file.block("decoder.blocks.0");
    file.attention("decoder.blocks.0.cross_attn");
    file.norm("decoder.ln");
    std::fs::write(path, file.bytes).expect("writes");
}

/// A loaded model, and audio that it has encoded.
struct Setting {
    model: Model,
    rules: Rules,
    audio: Arc<Audio>,
    stop: AtomicBool,
}

fn setting(precision: Precision) -> Setting {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.bin");
    write_model(&path);
    let model = Model::load(&path, Some(precision), 2).expect("loads");
    let stop = AtomicBool::new(false);
    let mut random = Random(7);
    let samples: Vec<f32> = (0..16_000).map(|_| random.next() * 0.1).collect();
    let audio = model.listen(&samples, 50, None, &stop).expect("goes on");
    Setting {
        rules: Rules::new(&model.vocabulary),
        model,
        audio,
        stop,
    }
}

fn task(prompt: Vec<Token>) -> Task {
    Task {
        language: Some(50_259),
        translate: false,
        prompt,
        timestamps: true,
        heads: vec![(0, 0)],
    }
}

impl Setting {
    fn begun(&self, task: &Task, opening: Option<&Opening>) -> Begun<'_> {
        let audio = (&self.audio, opening);
        Begun::new(&self.model, &self.rules, audio, task, &self.stop).expect("goes on")
    }
}

fn warm(seed: u64) -> Sampling {
    Sampling {
        temperature: 0.5,
        seed,
    }
}

fn tokens(decoded: &Decoded) -> Vec<Token> {
    decoded.choices.iter().map(|choice| choice.token).collect()
}

#[test]
fn texts_that_are_decoded_together_are_those_that_are_decoded_alone() {
    for precision in [Precision::Float, Precision::Byte] {
        let setting = setting(precision);
        let begun = setting.begun(&task(Vec::new()), None);
        let ways = [
            Sampling::GREEDY,
            warm(1),
            warm(2),
            warm(3),
            warm(4),
            warm(5),
        ];
        let together = begun.sample(&ways).expect("goes on");
        let mut different = std::collections::HashSet::new();
        for (way, text) in ways.iter().zip(&together) {
            let alone = begun.sample(&[*way]).expect("goes on").remove(0);
            assert_eq!(tokens(text), tokens(&alone), "{precision:?}");
            assert!((text.mean_logprob - alone.mean_logprob).abs() < 1e-3);
            let weights = &text.observed[0].weights;
            assert_eq!(weights.len(), text.read * 50);
            different.insert(tokens(text));
        }
        assert!(different.len() > 3, "{different:?}");
    }
}

#[test]
fn a_beam_of_one_is_greedy_and_a_wide_one_is_no_less_probable() {
    let setting = setting(Precision::Byte);
    let begun = setting.begun(&task(Vec::new()), None);
    let greedy = begun
        .sample(&[Sampling::GREEDY])
        .expect("goes on")
        .remove(0);
    let one = begun.beam(1).expect("goes on");
    assert_eq!(tokens(&one), tokens(&greedy));
    let five = begun.beam(5).expect("goes on");
    assert!(five.mean_logprob >= greedy.mean_logprob - 1e-3);
}

#[test]
fn an_opening_that_the_language_was_detected_with_is_continued() {
    let setting = setting(Precision::Byte);
    let task = task(Vec::new());
    let opening = Opening::new(&setting.model, &setting.audio, &task.heads);
    let languages = opening.languages(&setting.model);
    assert_eq!(languages.len(), 99);
    assert!((languages.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    let greedy = [Sampling::GREEDY];
    let continued = setting.begun(&task, Some(&opening)).sample(&greedy);
    let anew = setting.begun(&task, None).sample(&greedy);
    let (continued, anew) = (&continued.expect("goes on")[0], &anew.expect("goes on")[0]);
    assert_eq!(tokens(continued), tokens(anew));
    assert_eq!((continued.before, continued.read), (anew.before, anew.read));
    assert!((continued.no_speech - anew.no_speech).abs() < 1e-5);
}

#[test]
fn a_long_prompt_and_an_endless_text_fit_into_the_decoders_positions() {
    let setting = setting(Precision::Byte);
    let begun = setting.begun(&task(vec![65; 500]), None);
    // Random weights never find the end.
    let hot = Sampling {
        temperature: 1.0,
        seed: 3,
    };
    let decoded = begun.sample(&[hot]).expect("goes on").remove(0);
    assert_eq!(decoded.before, MOST_TOKENS + 3);
    assert!(decoded.read <= TEXT_POSITIONS as usize, "{}", decoded.read);
    assert!(decoded.ended || decoded.read > 440, "{}", decoded.read);
}

#[test]
fn a_prompt_that_is_read_at_once_is_the_prompt_that_is_read_token_by_token() {
    let setting = setting(Precision::Byte);
    let prompt: Vec<Token> = (100..137).collect();
    let mut whole = Sequence::new(setting.audio.clone(), &[]);
    let at_once = setting.model.step(&mut [(&mut whole, &prompt)]).remove(0);
    let mut pieces = Sequence::new(setting.audio.clone(), &[]);
    let mut last = Vec::new();
    for token in &prompt {
        last = setting
            .model
            .step(&mut [(&mut pieces, &[*token][..])])
            .remove(0);
    }
    for (a, b) in at_once.iter().zip(&last) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}

#[test]
fn a_set_stop_flag_ends_the_work() {
    let setting = setting(Precision::Byte);
    let begun = setting.begun(&task(Vec::new()), None);
    setting
        .stop
        .store(true, std::sync::atomic::Ordering::Release);
    assert!(begun.sample(&[Sampling::GREEDY]).is_none());
    assert!(begun.beam(3).is_none());
    assert!(
        setting
            .model
            .listen(&vec![0.0; 16_000], 50, None, &setting.stop)
            .is_none()
    );
}
