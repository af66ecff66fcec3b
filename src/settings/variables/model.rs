//! The model and its decoding options.

use std::path::PathBuf;

use super::{Variable, row};
use crate::engine::EngineChoice;
use crate::language;
use crate::settings::VadModel;
use crate::settings::read::{flag, number, threads};

pub const ROWS: &[Variable] = &[
    row(
        "WHISPER_MODEL",
        "auto",
        "A catalogue name, a ggml file or a CTranslate2 folder.",
        |s, v| {
            v.clone_into(&mut s.whisper_model);
            Ok(())
        },
    ),
    row(
        "XDG_CACHE_HOME",
        "",
        "The models folder is `whisper` inside this folder.",
        |s, v| {
            s.models_dir = PathBuf::from(v).join("whisper");
            Ok(())
        },
    ),
    row("WHISPER_FP16", "1", "0: use 32-bit weights.", |s, v| {
        s.whisper_fp16 = flag(v)?;
        Ok(())
    }),
    row(
        "VAD_MODEL",
        "silero",
        "Voice activity detection: silero, off, or a file with Silero's weights.",
        |s, v| {
            s.vad_model = match v {
                "silero" => VadModel::Silero,
                "off" => VadModel::Off,
                file => VadModel::File(PathBuf::from(file)),
            };
            Ok(())
        },
    ),
    // The alias precedes WHISPER_THREADS, so that the latter wins.
    row(
        "CPU_THREADS",
        "",
        "Another name for WHISPER_THREADS.",
        threads,
    ),
    row(
        "WHISPER_THREADS",
        "",
        "CPU threads per worker, at most one per core.",
        threads,
    ),
    row(
        "WHISPER_BEAM_SIZE",
        "1",
        "Beam width of the decoder, 1 to 8; 1: greedy decoding.",
        |s, v| {
            s.beam_size = number(v, 1, 8, "a number from 1 to 8")?;
            Ok(())
        },
    ),
    row(
        "ENGINE",
        "auto",
        "Implementation of Whisper: native (CPUs only), or whisper.cpp; auto: native on a CPU, whisper.cpp on a GPU.",
        |s, v| {
            s.engine = match v {
                "auto" => EngineChoice::Auto,
                "native" => EngineChoice::Native,
                "whisper.cpp" => EngineChoice::WhisperCpp,
                _ => return Err("expected auto, native or whisper.cpp".to_owned()),
            };
            Ok(())
        },
    ),
    row(
        "DEFAULT_LANGUAGE",
        "",
        "Language of requests that name none; empty: detect it.",
        |s, v| {
            s.default_language = if language::is_undetermined(v) {
                None
            } else {
                let language = language::parse(v).ok_or("expected a language code such as en")?;
                Some(language.code().to_owned())
            };
            Ok(())
        },
    ),
];
