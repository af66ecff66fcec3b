//! Names: which files are recordings, and where their results go.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Endings of audio and video files that ffmpeg reads.
const RECORDINGS: [&str; 56] = [
    "3g2", "3ga", "3gp", "aac", "ac3", "aif", "aifc", "aiff", "alac", "amr", "ape", "asf", "au",
    "avi", "caf", "divx", "dts", "eac3", "f4v", "flac", "flv", "m2ts", "m4a", "m4b", "m4v", "mka",
    "mkv", "mov", "mp2", "mp3", "mp4", "mpeg", "mpg", "mpga", "mts", "mxf", "oga", "ogg", "ogm",
    "ogv", "opus", "ra", "rm", "rmvb", "snd", "spx", "tta", "ts", "vob", "w64", "wav", "weba",
    "webm", "wma", "wmv", "wv",
];

/// Whether a file is a recording by its ending: one of [`RECORDINGS`], or one that the user named. Hidden files are none,
/// because programs write incomplete files under hidden names.
pub fn is_recording(name: &OsStr, more: &[String]) -> bool {
    let ending = Path::new(name).extension().and_then(OsStr::to_str);
    let is_one = |ending: &str| {
        let mut endings = RECORDINGS
            .into_iter()
            .chain(more.iter().map(String::as_str));
        endings.any(|known| known.eq_ignore_ascii_case(ending))
    };
    !name.as_encoded_bytes().starts_with(b".") && ending.is_some_and(is_one)
}

/// The file for the result of a recording. If other recordings differ from it only in the ending (`shares_stem`), its own
/// ending stays in the name.
pub fn result(out: &Path, name: &OsStr, extension: &str, shares_stem: bool) -> PathBuf {
    let mut result = out.join(name);
    if shares_stem {
        result.as_mut_os_string().push(".");
        result.as_mut_os_string().push(extension);
    } else {
        result.set_extension(extension);
    }
    result
}

/// The file for the reason why there is no result.
pub fn failure(result: &Path) -> PathBuf {
    let mut name = result.as_os_str().to_owned();
    name.push(".error");
    name.into()
}

/// Whether there is a result, or the reason why there is none.
///
/// # Errors
/// The file system cannot tell.
pub fn has_result(result: &Path) -> io::Result<bool> {
    let is_there = |file: &Path| match file.try_exists() {
        // There is no file whose name the file system does not take.
        Err(error) if error.kind() == io::ErrorKind::InvalidFilename => Ok(false),
        is_there => is_there,
    };
    Ok(is_there(result)? || is_there(&failure(result))?)
}

/// Writes a file whole or not at all.
///
/// # Errors
/// The folder cannot be made, or the disk is full.
pub fn write(target: &Path, text: &str) -> anyhow::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(".uttera-stt-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    // The server deletes its copy next.
    file.as_file().sync_all()?;
    file.persist(target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_result_has_the_name_of_its_recording() {
        let name = |file: &str, shares| result(Path::new("out"), OsStr::new(file), "srt", shares);
        assert_eq!(name("a.b.mp3", false), Path::new("out/a.b.srt"));
        assert_eq!(name("a.b.mp3", true), Path::new("out/a.b.mp3.srt"));
        let failed = failure(&name("a.mp3", false));
        assert_eq!(failed, Path::new("out/a.srt.error"));
    }

    #[test]
    fn recordings_have_the_ending_of_audio_or_video() {
        let more = ["dss".to_owned()];
        for name in ["a.mp3", "A.WAV", "a.b.mkv", "a.DSS"] {
            assert!(is_recording(OsStr::new(name), &more), "{name}");
        }
        assert!(is_recording(OsStr::from_bytes(b"\xff.ogg"), &more));
        for name in [
            ".hidden.mp3",
            "a.mp3.part",
            "a.srt",
            "poster.jpg",
            "readme",
            "mp3",
        ] {
            assert!(!is_recording(OsStr::new(name), &more), "{name}");
        }
    }
}
