//! Decodes audio in any format for measurements, with ffmpeg.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Decodes a file to 16 kHz mono and applies a gain.
///
/// # Errors
/// ffmpeg is missing or cannot decode the file.
pub fn decode(file: &Path, gain_db: f64) -> anyhow::Result<Vec<i16>> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-af", &format!("volume={gain_db}dB")])
        .args(["-ac", "1", "-ar", "16000", "-f", "s16le", "-"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run ffmpeg")?;
    ensure!(
        output.status.success(),
        "{} cannot be decoded",
        file.display()
    );
    let pairs = output.stdout.chunks_exact(2);
    Ok(pairs
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect())
}
