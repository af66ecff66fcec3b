//! Word error rate: the library's own.

#![allow(unused_imports, reason = "each test binary uses its own part")]

pub use uttera_stt::probe::word_error_rate::{Score, align, normalise};
