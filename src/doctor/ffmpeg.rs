//! ffmpeg: whether it is there, its version and its decoders.

use std::path::Path;

use tokio::process::Command;

use super::commands::{self, Failure};
use super::finding::Finding;

const CHECK: &str = "ffmpeg";

/// The codecs of voice notes, recordings and videos, each with the decoders that do.
const CODECS: [(&str, &[&str]); 5] = [
    ("opus", &["opus", "libopus"]),
    ("aac", &["aac", "libfdk_aac", "aac_fixed"]),
    ("mp3", &["mp3", "mp3float"]),
    ("flac", &["flac"]),
    ("vorbis", &["vorbis", "libvorbis"]),
];

const INSTALL: &str = "sudo apt-get install ffmpeg";

/// Asks this ffmpeg: a path, or a name to find in `PATH`.
pub(super) async fn examine(program: &Path) -> Finding {
    let version = match ask(program, "-version").await {
        Ok(text) => version(&text),
        Err(finding) => return finding,
    };
    match ask(program, "-decoders").await {
        Ok(text) => of_decoders(&version, &text),
        Err(finding) => finding,
    }
}

async fn ask(program: &Path, question: &str) -> Result<String, Finding> {
    let mut command = Command::new(program);
    // The same environment as the server's decoders have.
    command.args(["-hide_banner", question]).env_clear().envs(
        ["PATH", "LD_LIBRARY_PATH"]
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    let why =
        "the server decodes every file with it that is neither plain WAV nor short FLAC or MP3";
    let problem = match commands::run(command).await {
        Ok(ended) if ended.succeeded => return Ok(ended.out),
        Ok(_) => format!("ffmpeg {question} fails"),
        Err(Failure::Missing) => "ffmpeg is not in PATH".to_owned(),
        Err(Failure::Other(problem)) => format!("ffmpeg cannot be used: {problem}"),
    };
    Err(Finding::error(CHECK, problem, why).mended_by(INSTALL))
}

/// The version in `ffmpeg version 5.1.6-0+deb12u1 Copyright …`.
fn version(text: &str) -> String {
    let word = text.split_whitespace().nth(2);
    word.unwrap_or("of unknown version").to_owned()
}

fn of_decoders(version: &str, text: &str) -> Finding {
    let decoders = decoders(text);
    let missing: Vec<&str> = (CODECS.iter())
        .filter(|(_, known)| !known.iter().any(|name| decoders.contains(name)))
        .map(|(codec, _)| *codec)
        .collect();
    if missing.is_empty() {
        let codecs = CODECS.map(|(codec, _)| codec).join(", ");
        return Finding::ok(CHECK, format!("ffmpeg {version} decodes {codecs}"));
    }
    let missing = missing.join(", ");
    Finding::warning(
        CHECK,
        format!("ffmpeg {version} cannot decode {missing}"),
        "files and voice notes with these codecs are rejected",
    )
    .mended_by(INSTALL)
}

/// The second word of each line below the legend, which ends with dashes.
fn decoders(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|line| !line.contains("---"));
    lines
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    const LIST: &str = "\
Decoders:
 V..... = Video
 A..... = Audio
 ------
 V....D 4xm                  4X Movie
 A....D flac                 FLAC (Free Lossless Audio Codec)
 A....D mp3float             MP3 (MPEG audio layer 3) (codec mp3)
 A....D libopus              libopus Opus (codec opus)
 A....D vorbis               Vorbis
";

    #[test]
    fn a_missing_decoder_is_named_and_another_of_the_same_codec_does() {
        let finding = of_decoders("7.1", LIST);
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.what, "ffmpeg 7.1 cannot decode aac");
        let all = format!("{LIST} A....D aac   AAC (Advanced Audio Coding)\n");
        let finding = of_decoders("7.1", &all);
        assert_eq!(finding.severity, Severity::Ok, "{finding:?}");
    }

    #[test]
    fn the_version_is_the_third_word() {
        assert_eq!(
            version("ffmpeg version 5.1.6-0+deb12u1 Copyright"),
            "5.1.6-0+deb12u1"
        );
        assert_eq!(version(""), "of unknown version");
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error_with_the_command_that_installs_it() {
        let finding = examine(Path::new("/nowhere/ffmpeg")).await;
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(finding.fix.as_deref(), Some(INSTALL));
    }
}
