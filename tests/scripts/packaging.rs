//! The systemd units, and `deploy/portable/install.sh`. `scripts/release --check` tests them in a whole system.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use test_support::{program, repository};

const SYSTEM_UNITS: [&str; 3] = ["uttera-stt", "uttera-stt-primary", "uttera-stt-fallback"];
/// Settings in which the system units may differ.
const OWN: [&str; 3] = ["Description=", "After=network-online.target", "ExecStart="];
/// Files of the archive that the script copies as they are.
const SHARED: [&str; 4] = [
    "share/man/man1/uttera-stt.1",
    "share/bash-completion/completions/uttera-stt",
    "share/zsh/site-functions/_uttera-stt",
    "share/fish/vendor_completions.d/uttera-stt.fish",
];

fn system_unit(name: &str) -> PathBuf {
    repository().join(format!("systemd/system/{name}.service"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_system_units_differ_only_in_what_they_run() {
    let common = |name| {
        let text = read(&system_unit(name));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter(|line| !OWN.iter().any(|own| line.starts_with(own)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = common(SYSTEM_UNITS[0]);
    assert!(first.contains(&"Type=notify".to_owned()), "{first:?}");
    for unit in &SYSTEM_UNITS[1..] {
        assert_eq!(common(unit), first, "{unit}");
    }
}

#[test]
fn the_sandbox_of_the_system_units_is_tight() {
    for unit in SYSTEM_UNITS {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--no-pager", "--offline=true", "--threshold=25"]);
        let Ok(output) = command.arg(system_unit(unit)).output() else {
            eprintln!("skipped: systemd-analyze is not installed");
            return;
        };
        assert!(output.status.success(), "{unit}: {output:?}");
    }
}

/// The program is not installed here, so that another one stands in for it.
#[test]
fn systemd_has_no_complaint_about_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut units: Vec<_> = SYSTEM_UNITS
        .map(|name| ("--system", system_unit(name)))
        .into();
    units.push((
        "--user",
        repository().join("systemd/user/uttera-stt.service"),
    ));
    for (manager, unit) in units {
        let lines = read(&unit);
        let lines = lines.lines().map(|line| match line {
            line if line.starts_with("ExecStart=") => "ExecStart=/bin/true\n".to_owned(),
            line => format!("{line}\n"),
        });
        let copy = folder.path().join(unit.file_name().expect("a name"));
        fs::write(&copy, lines.collect::<String>()).expect("writes");
        let mut command = Command::new("systemd-analyze");
        command.args([manager, "verify", "--man=no"]).arg(&copy);
        let Ok(output) = command.env("XDG_RUNTIME_DIR", folder.path()).output() else {
            eprintln!("skipped: systemd-analyze is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{manager} {unit:?}: {said}"
        );
    }
}

/// An unpacked archive, and the home of a user for whom systemd runs no services.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let archive = stage.path("archive");
        for file in SHARED {
            let target = archive.join(file);
            fs::create_dir_all(target.parent().expect("a parent")).expect("makes");
            fs::write(target, file).expect("writes");
        }
        for folder in ["bin", "config", "systemd"] {
            fs::create_dir_all(archive.join(folder)).expect("makes");
        }
        let copies = [
            ("deploy/portable/install.sh", "install.sh"),
            ("config/uttera-stt.env", "config/uttera-stt.env"),
            (
                "systemd/user/uttera-stt.service",
                "systemd/uttera-stt.service",
            ),
        ];
        for (from, to) in copies {
            fs::copy(repository().join(from), archive.join(to)).expect("copies");
        }
        fs::copy(program(), archive.join("bin/uttera-stt")).expect("copies");
        fs::create_dir(stage.path("home")).expect("makes");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.path("home").join(name)
    }

    fn install(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.path("archive/install.sh"));
        command.args(arguments).env("HOME", self.path("home"));
        for name in [
            "XDG_DATA_HOME",
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
            "DBUS_SESSION_BUS_ADDRESS",
        ] {
            command.env_remove(name);
        }
        // No service of the user who runs the tests is touched.
        command.env("XDG_RUNTIME_DIR", self.path("no-such-folder"));
        command.output().expect("runs")
    }

    fn installs(&self, arguments: &[&str]) -> String {
        let output = self.install(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The files in the home, with their sizes.
    fn files(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path("home")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("reads") {
                let path = entry.expect("an entry").path();
                let metadata = fs::symlink_metadata(&path).expect("metadata");
                if metadata.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path, metadata.len());
                }
            }
        }
        found
    }
}

#[test]
fn the_archive_installs_twice_and_uninstalls() {
    let stage = Stage::new();
    let output = stage.installs(&[]);
    assert!(
        output.contains("systemctl --user enable --now uttera-stt"),
        "{output}"
    );
    let unit = stage.home(".local/share/systemd/user/uttera-stt.service");
    let installed = stage.home(".local/bin/uttera-stt");
    let starts = format!("ExecStart={} serve", installed.display());
    assert!(read(&unit).contains(&starts), "{}", read(&unit));
    let settings = stage.home(".config/uttera-stt.env");
    fs::write(&settings, "PORT=9105\n").expect("writes");
    let before = stage.files();
    assert_eq!(before.len(), SHARED.len() + 3, "{before:?}");

    stage.installs(&[]);
    assert_eq!(stage.files(), before);
    assert_eq!(read(&settings), "PORT=9105\n");

    let output = stage.installs(&["--uninstall"]);
    assert!(output.contains("kept: "), "{output}");
    assert_eq!(stage.files().into_keys().collect::<Vec<_>>(), [settings]);
}

#[test]
fn another_prefix_is_used_and_named_in_the_unit() {
    let stage = Stage::new();
    let prefix = stage.home("opt");
    let prefix = prefix.to_str().expect("UTF-8");
    stage.installs(&["--prefix", prefix]);
    assert!(stage.home("opt/bin/uttera-stt").exists());
    let unit = read(&stage.home(".local/share/systemd/user/uttera-stt.service"));
    assert!(
        unit.contains(&format!("ExecStart={prefix}/bin/uttera-stt serve")),
        "{unit}"
    );
}

#[test]
fn a_prefix_that_a_unit_cannot_name_is_rejected() {
    let stage = Stage::new();
    for prefix in ["/tmp/100%", "/tmp/a b", "opt"] {
        let output = stage.install(&["--prefix", prefix]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            error.starts_with(&format!("error: --prefix {prefix}: ")),
            "{error}"
        );
    }
    assert_eq!(stage.files().len(), 0);
}

#[test]
fn a_program_that_does_not_run_is_not_installed() {
    let stage = Stage::new();
    fs::write(
        stage.path("archive/bin/uttera-stt"),
        "#!/bin/sh\necho 'no AVX2' >&2\nexit 1\n",
    )
    .expect("writes");
    let output = stage.install(&[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(error, "error: the program does not run here: no AVX2\n");
    assert_eq!(stage.files().len(), 0);
}
