//! CTranslate2 (faster-whisper) folders turned into ggml files: `index` reads the table of `model.bin`, `rows` its
//! weights, `vocabulary` the tokens, and `import` writes the result.

pub(super) mod import;
pub(super) mod index;
pub(super) mod rows;
pub(super) mod vocabulary;
