//! Writes results to files or to standard output.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::TranscribeArgs;
use crate::render::Format;

/// The extension of files in a format.
pub fn extension(format: Format) -> &'static str {
    match format {
        Format::Json | Format::VerboseJson => "json",
        Format::Text => "txt",
        Format::Srt => "srt",
        Format::Vtt => "vtt",
    }
}

/// The output file for a result; `None`: standard output.
fn target(args: &TranscribeArgs, file: &Path) -> Option<PathBuf> {
    let ending = extension(args.format);
    let target = match &args.output_dir {
        Some(folder) => Some(folder.join(file.file_name()?)),
        None => args.beside.then(|| file.to_path_buf()),
    };
    target.map(|target| target.with_extension(ending))
}

/// Fails if two results would get the same file, or a result that of a source.
pub(super) fn refuse_collisions(args: &TranscribeArgs) -> anyhow::Result<()> {
    let mut taken: BTreeSet<PathBuf> = args.files.iter().cloned().collect();
    for file in &args.files {
        if let Some(target) = target(args, file)
            && !taken.insert(target.clone())
        {
            bail!(
                "{} would be written twice, or over its source",
                target.display()
            );
        }
    }
    Ok(())
}

/// Writes a result to its output file or to standard output.
pub(super) fn write(rendered: &str, args: &TranscribeArgs, file: &Path) -> anyhow::Result<()> {
    let Some(target) = target(args, file) else {
        let mut out = std::io::stdout().lock();
        let newline = if rendered.ends_with('\n') { "" } else { "\n" };
        write!(out, "{rendered}{newline}")?;
        // A full disk must be an error here, because the caller may delete the result on the server next.
        return Ok(out.flush()?);
    };
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    std::fs::write(&target, rendered).with_context(|| format!("{}", target.display()))
}
