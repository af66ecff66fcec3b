//! The tensors of a Whisper model: names, shapes and number formats, derived from its dimensions.
//!
//! The list has three uses: the import writes these tensors, the check of a ggml file compares with them, and
//! a test derives the sizes of the published files. whisper.cpp expects exactly these tensors.

use crate::models::error::FormatError;

/// Samples of mel spectrogram frames the encoder sees per window (30 s).
pub(crate) const AUDIO_CONTEXT: u32 = 1500;
/// Width of one attention head in every Whisper model.
pub(crate) const HEAD_WIDTH: u32 = 64;
/// Size of the smallest vocabulary of a multilingual model, special tokens included.
pub(crate) const MULTILINGUAL_VOCABULARY: u32 = 51_865;
/// Most dimensions of a tensor.
pub(crate) const MOST_DIMENSIONS: u32 = 4;

/// The dimensions of a model, in the order of the ggml header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Tokens, special ones included.
    pub n_vocab: u32,
    /// Encoder positions (1500 for 30 s).
    pub n_audio_ctx: u32,
    /// Encoder width.
    pub n_audio_state: u32,
    /// Encoder attention heads.
    pub n_audio_head: u32,
    /// Encoder blocks.
    pub n_audio_layer: u32,
    /// Decoder positions (448).
    pub n_text_ctx: u32,
    /// Decoder width, always the encoder's.
    pub n_text_state: u32,
    /// Decoder attention heads.
    pub n_text_head: u32,
    /// Decoder blocks.
    pub n_text_layer: u32,
    /// Mel bands, 80 or 128.
    pub n_mels: u32,
}

impl Dimensions {
    /// Whether the model supports languages other than English (whisper.cpp's rule).
    pub fn is_multilingual(&self) -> bool {
        self.n_vocab >= MULTILINGUAL_VOCABULARY
    }

    /// Number of byte-level BPE tokens, which come before the special ones.
    pub(crate) fn text_tokens(&self) -> usize {
        if self.is_multilingual() {
            50_257
        } else {
            50_256
        }
    }

    /// Fails on dimensions that no Whisper model has; whisper.cpp would abort or allocate without limit.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let limits = [
            ("n_vocab", self.n_vocab, 50_258, 200_000),
            ("n_audio_ctx", self.n_audio_ctx, 1, 16_384),
            ("n_audio_state", self.n_audio_state, 32, 8192),
            ("n_audio_head", self.n_audio_head, 1, 256),
            ("n_audio_layer", self.n_audio_layer, 1, 128),
            ("n_text_ctx", self.n_text_ctx, 1, 16_384),
            ("n_text_state", self.n_text_state, 32, 8192),
            ("n_text_head", self.n_text_head, 1, 256),
            ("n_text_layer", self.n_text_layer, 1, 128),
            ("n_mels", self.n_mels, 1, 512),
        ];
        for (name, value, least, most) in limits {
            if !(least..=most).contains(&value) {
                return Err(FormatError::Invalid(format!(
                    "{name} is {value}, which no Whisper model has"
                )));
            }
        }
        if self.n_audio_state != self.n_text_state {
            return Err(FormatError::invalid("encoder and decoder differ in width"));
        }
        if !self.n_audio_state.is_multiple_of(self.n_audio_head)
            || !self.n_text_state.is_multiple_of(self.n_text_head)
        {
            return Err(FormatError::invalid(
                "the width is not a multiple of the number of heads",
            ));
        }
        Ok(())
    }
}

/// How whisper.cpp expects a tensor to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A weight matrix: the model's own type, possibly quantised.
    Weight,
    /// A convolution kernel: 16-bit floats, or 32-bit in an all-float32 model; never quantised.
    Kernel,
    /// Biases, norms and positional embeddings: always 32-bit floats.
    Float,
}

/// One tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// Name as in the ggml file.
    pub(crate) name: String,
    /// Dimensions, outermost first (the ggml file stores them innermost first).
    pub(crate) shape: Vec<u64>,
    /// Storage rule.
    pub(crate) role: Role,
}

/// All tensors, in the order in which this program writes them.
pub(crate) fn tensors(dimensions: &Dimensions) -> Vec<TensorSpec> {
    let mut list = List::default();
    let n = u64::from(dimensions.n_audio_state);
    let positional = "positional_embedding";
    list.float(
        format!("encoder.{positional}"),
        &[u64::from(dimensions.n_audio_ctx), n],
    );
    list.kernel("encoder.conv1", n, u64::from(dimensions.n_mels));
    list.kernel("encoder.conv2", n, n);
    for layer in 0..dimensions.n_audio_layer {
        list.block(&format!("encoder.blocks.{layer}"), n, false);
    }
    list.norm("encoder.ln_post", n);
    list.float(
        format!("decoder.{positional}"),
        &[u64::from(dimensions.n_text_ctx), n],
    );
    list.weight(
        "decoder.token_embedding".into(),
        u64::from(dimensions.n_vocab),
        n,
    );
    for layer in 0..dimensions.n_text_layer {
        list.block(&format!("decoder.blocks.{layer}"), n, true);
    }
    list.norm("decoder.ln", n);
    list.0
}

#[derive(Default)]
struct List(Vec<TensorSpec>);

impl List {
    fn push(&mut self, name: String, shape: &[u64], role: Role) {
        self.0.push(TensorSpec {
            name,
            shape: shape.to_vec(),
            role,
        });
    }

    fn float(&mut self, name: String, shape: &[u64]) {
        self.push(name, shape, Role::Float);
    }

    fn weight(&mut self, prefix: String, rows: u64, columns: u64) {
        self.push(prefix + ".weight", &[rows, columns], Role::Weight);
    }

    fn linear(&mut self, prefix: &str, rows: u64, columns: u64) {
        self.weight(prefix.to_owned(), rows, columns);
        self.float(format!("{prefix}.bias"), &[rows]);
    }

    fn norm(&mut self, prefix: &str, n: u64) {
        self.float(format!("{prefix}.weight"), &[n]);
        self.float(format!("{prefix}.bias"), &[n]);
    }

    /// A convolution over time, width 3. Its bias has a second dimension of 1 in ggml files.
    fn kernel(&mut self, prefix: &str, outputs: u64, inputs: u64) {
        self.push(
            format!("{prefix}.weight"),
            &[outputs, inputs, 3],
            Role::Kernel,
        );
        self.float(format!("{prefix}.bias"), &[outputs, 1]);
    }

    fn attention(&mut self, prefix: &str, n: u64) {
        self.linear(&format!("{prefix}.query"), n, n);
        // Whisper's keys have no bias.
        self.weight(format!("{prefix}.key"), n, n);
        self.linear(&format!("{prefix}.value"), n, n);
        self.linear(&format!("{prefix}.out"), n, n);
    }

    fn block(&mut self, prefix: &str, n: u64, cross: bool) {
        self.attention(&format!("{prefix}.attn"), n);
        self.norm(&format!("{prefix}.attn_ln"), n);
        if cross {
            self.attention(&format!("{prefix}.cross_attn"), n);
            self.norm(&format!("{prefix}.cross_attn_ln"), n);
        }
        self.linear(&format!("{prefix}.mlp.0"), 4 * n, n);
        self.linear(&format!("{prefix}.mlp.2"), n, 4 * n);
        self.norm(&format!("{prefix}.mlp_ln"), n);
    }
}
