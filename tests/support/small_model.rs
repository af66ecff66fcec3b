//! A complete CTranslate2 Whisper folder of the smallest size that the importer accepts, for tests of the parser.
//! Other tests use real folders.

use std::path::Path;

/// Width of the model: one head of 32.
pub const WIDTH: u32 = 32;
/// Number of tokens of an English-only model, including special ones.
pub const VOCABULARY: u32 = 51_864;
/// Number of tokens in the vocabulary file.
pub const TEXT_TOKENS: usize = 50_256;

/// A variable of the file.
#[derive(Clone)]
pub struct Variable {
    /// The name in CTranslate2.
    pub name: String,
    /// The dimensions.
    pub shape: Vec<u32>,
    /// The data type: 0 f32, 1 i8, 2 i16, 3 i32, 4 f16, 5 bf16.
    pub kind: u8,
    /// The values in little-endian order.
    pub data: Vec<u8>,
}

/// The fields of the file, which tests can change.
#[derive(Clone)]
pub struct SmallModel {
    /// The version of the file format.
    pub version: u32,
    /// The name of the kind of model.
    pub spec: String,
    /// The weights.
    pub variables: Vec<Variable>,
    /// Pairs of an alias and the name of its variable.
    pub aliases: Vec<(String, String)>,
}

impl SmallModel {
    /// A valid model with 16-bit floats.
    pub fn new() -> Self {
        let mut model = Self {
            version: 6,
            spec: "WhisperSpec".into(),
            variables: Vec::new(),
            aliases: Vec::new(),
        };
        for (side, positions) in [("encoder", 1500), ("decoder", 448)] {
            model.scalar(&format!("{side}/num_heads"), 1);
            model.halves(
                &format!("{side}/position_encodings/encodings"),
                &[positions, WIDTH],
            );
            model.norm(&format!("{side}/layer_norm"));
            model.layer(side);
        }
        model.halves("encoder/conv1/weight", &[WIDTH, 80, 3]);
        model.halves("encoder/conv1/bias", &[WIDTH]);
        model.halves("encoder/conv2/weight", &[WIDTH, WIDTH, 3]);
        model.halves("encoder/conv2/bias", &[WIDTH]);
        // As in real folders, one of embeddings and output projection is an alias of the other.
        model.halves("decoder/projection/weight", &[VOCABULARY, WIDTH]);
        model.aliases.push((
            "decoder/embeddings/weight".into(),
            "decoder/projection/weight".into(),
        ));
        model
    }

    fn layer(&mut self, side: &str) {
        let prefix = format!("{side}/layer_0");
        self.linear(
            &format!("{prefix}/self_attention/linear_0"),
            3 * WIDTH,
            WIDTH,
        );
        self.linear(&format!("{prefix}/self_attention/linear_1"), WIDTH, WIDTH);
        self.norm(&format!("{prefix}/self_attention/layer_norm"));
        if side == "decoder" {
            self.linear(&format!("{prefix}/attention/linear_0"), WIDTH, WIDTH);
            self.linear(&format!("{prefix}/attention/linear_1"), 2 * WIDTH, WIDTH);
            self.linear(&format!("{prefix}/attention/linear_2"), WIDTH, WIDTH);
            self.norm(&format!("{prefix}/attention/layer_norm"));
        }
        self.linear(&format!("{prefix}/ffn/linear_0"), 4 * WIDTH, WIDTH);
        self.linear(&format!("{prefix}/ffn/linear_1"), WIDTH, 4 * WIDTH);
        self.norm(&format!("{prefix}/ffn/layer_norm"));
        // Keys have no bias; CTranslate2 stores zeros in their place.
        for (name, from) in [
            ("self_attention/linear_0", WIDTH),
            ("attention/linear_1", 0),
        ] {
            if let Some(bias) = self.find(&format!("{prefix}/{name}/bias")) {
                let from = from as usize * 2;
                bias.data[from..from + WIDTH as usize * 2].fill(0);
            }
        }
    }

    fn norm(&mut self, prefix: &str) {
        self.halves(&format!("{prefix}/gamma"), &[WIDTH]);
        self.halves(&format!("{prefix}/beta"), &[WIDTH]);
    }

    fn linear(&mut self, prefix: &str, rows: u32, columns: u32) {
        self.halves(&format!("{prefix}/weight"), &[rows, columns]);
        self.halves(&format!("{prefix}/bias"), &[rows]);
    }

    fn scalar(&mut self, name: &str, value: i16) {
        let data = value.to_le_bytes().to_vec();
        self.variables.push(Variable {
            name: name.into(),
            shape: vec![],
            kind: 2,
            data,
        });
    }

    /// Adds a variable with a different value at each index.
    fn halves(&mut self, name: &str, shape: &[u32]) {
        let count: u32 = shape.iter().product();
        let seed = self.variables.len() as u32 * 31;
        let data = (0..count)
            .flat_map(|i| {
                let value = ((i.wrapping_mul(37) + seed) % 251) as f32 / 256.0 - 0.5;
                half::f16::from_f32(value).to_le_bytes()
            })
            .collect();
        self.variables.push(Variable {
            name: name.into(),
            shape: shape.to_vec(),
            kind: 4,
            data,
        });
    }

    /// A variable, for changes.
    pub fn find(&mut self, name: &str) -> Option<&mut Variable> {
        self.variables
            .iter_mut()
            .find(|variable| variable.name == name)
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_and_headers().0
    }

    /// The file's bytes, and the offsets of all bytes that are not weights.
    pub fn bytes_and_headers(&self) -> (Vec<u8>, Vec<usize>) {
        let mut out = Vec::new();
        let mut headers = Vec::new();
        out.extend(self.version.to_le_bytes());
        string(&mut out, &self.spec);
        out.extend(3u32.to_le_bytes());
        out.extend((self.variables.len() as u32).to_le_bytes());
        headers.extend(0..out.len());
        for variable in &self.variables {
            let start = out.len();
            string(&mut out, &variable.name);
            out.push(variable.shape.len() as u8);
            variable
                .shape
                .iter()
                .for_each(|d| out.extend(d.to_le_bytes()));
            out.push(variable.kind);
            out.extend((variable.data.len() as u32).to_le_bytes());
            headers.extend(start..out.len());
            out.extend(&variable.data);
        }
        let start = out.len();
        out.extend((self.aliases.len() as u32).to_le_bytes());
        for (alias, target) in &self.aliases {
            string(&mut out, alias);
            string(&mut out, target);
        }
        headers.extend(start..out.len());
        (out, headers)
    }

    /// Writes `model.bin` and `vocabulary.txt`.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("model.bin"), self.bytes())?;
        std::fs::write(folder.join("vocabulary.txt"), vocabulary())
    }
}

/// Distinct tokens of printable characters, one per line.
pub fn vocabulary() -> String {
    let tokens: Vec<String> = (0..TEXT_TOKENS).map(|i| format!("Ġt{i}")).collect();
    tokens.join("\n")
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16 + 1).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}
