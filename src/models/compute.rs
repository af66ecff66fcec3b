//! The number formats a model's weights can have (`COMPUTE_TYPE`, `models convert --type`).

use std::fmt;
use std::str::FromStr;

use super::error::ModelError;

/// How the large weight matrices are stored, and so how the engine computes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComputeType {
    /// 32-bit floats (`WHISPER_FP16=0`).
    Float32,
    /// 16-bit floats: what the published files hold.
    Float16,
    /// 8 bits per weight, in blocks of 32 with one scale (ggml's `q8_0`).
    Int8,
    /// 5.5 bits a weight (blocks of 32, scale).
    Q5_0,
    /// 6 bits a weight (blocks of 32, scale and minimum).
    Q5_1,
    /// 4.5 bits a weight (blocks of 32, scale).
    Q4_0,
    /// 5 bits a weight (blocks of 32, scale and minimum).
    Q4_1,
}

impl ComputeType {
    /// All types, most precise first.
    pub const ALL: [Self; 7] = [
        Self::Float32,
        Self::Float16,
        Self::Int8,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_1,
        Self::Q4_0,
    ];

    /// The accepted spellings, for messages.
    pub const SPELLINGS: &'static str =
        "float32 (f32), float16 (f16), int8 (q8_0), q5_1, q5_0, q4_1, q4_0";

    /// The short name used in file names (`ggml-base-q8_0.bin`) and by ggml's tools.
    pub fn file_suffix(self) -> &'static str {
        match self {
            Self::Float32 => "f32",
            Self::Float16 => "f16",
            Self::Int8 => "q8_0",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        }
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Int8 => "int8",
            other => other.file_suffix(),
        })
    }
}

impl FromStr for ComputeType {
    type Err = ModelError;

    /// Accepts the contract's spellings, ggml's, and CTranslate2's mixed `int8_…` types, in any case.
    fn from_str(text: &str) -> Result<Self, ModelError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "float32" | "f32" | "fp32" => Ok(Self::Float32),
            "float16" | "f16" | "fp16" => Ok(Self::Float16),
            // With CTranslate2 the suffix is the type of the activations, which ggml chooses itself.
            "int8" | "q8_0" | "int8_float32" | "int8_float16" | "int8_bfloat16" => Ok(Self::Int8),
            "q5_0" => Ok(Self::Q5_0),
            "q5_1" => Ok(Self::Q5_1),
            "q4_0" => Ok(Self::Q4_0),
            "q4_1" => Ok(Self::Q4_1),
            _ => Err(ModelError::UnknownComputeType {
                value: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_back_from_its_own_names() {
        for compute in ComputeType::ALL {
            assert_eq!(compute.to_string().parse::<ComputeType>().unwrap(), compute);
            assert_eq!(
                compute.file_suffix().parse::<ComputeType>().unwrap(),
                compute
            );
        }
    }

    #[test]
    fn an_unknown_type_is_refused_with_the_list_of_known_ones() {
        let message = "int4".parse::<ComputeType>().unwrap_err().to_string();
        assert!(
            message.contains("int4") && message.contains("q5_1"),
            "{message}"
        );
    }
}
