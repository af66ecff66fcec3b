//! Builds manifests with kubectl, validates them, and finds objects in them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use test_support::python::{kubectl, kubernetes_validate};
use test_support::repository;

/// Versions of Kubernetes whose schemas the objects must follow: old, in the middle, new.
const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];
/// Objects whose schemas are not part of Kubernetes.
const OTHERS: [&str; 2] = ["ScaledObject", "ServiceMonitor"];

/// An overlay, and what distinguishes it.
pub struct Overlay {
    pub name: &'static str,
    /// The server's role.
    pub role: &'static str,
    /// The name of the Deployment and the Service.
    pub server: &'static str,
    pub image: &'static str,
}

/// All overlays.
pub const OVERLAYS: [Overlay; 4] = [
    Overlay {
        name: "hotcold",
        role: "hotcold",
        server: "uttera-stt",
        image: "uttera-stt",
    },
    Overlay {
        name: "primary",
        role: "primary",
        server: "uttera-stt-primary",
        image: "uttera-stt",
    },
    Overlay {
        name: "fallback",
        role: "fallback",
        server: "uttera-stt-fallback",
        image: "uttera-stt",
    },
    Overlay {
        name: "gpu",
        role: "hotcold",
        server: "uttera-stt-gpu",
        image: "uttera-stt:cuda",
    },
];

/// The programs, and a folder for kustomizations of a user, beside a copy of the project's.
pub struct Builder {
    kubectl: PathBuf,
    validate: PathBuf,
    folder: TempDir,
}

impl Builder {
    /// `None`, with a message, if the programs cannot be had.
    pub fn new() -> Option<Self> {
        let (kubectl, validate) = (kubectl()?, kubernetes_validate()?);
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("uttera-stt/deploy");
        fs::create_dir_all(&target).expect("makes");
        let source = repository().join("deploy/kubernetes");
        run(Command::new("cp").arg("-r").args([&source, &target]));
        Some(Self {
            kubectl,
            validate,
            folder,
        })
    }

    /// Builds an overlay with these components.
    pub fn overlay(&self, overlay: &Overlay, components: &[&str]) -> Manifest {
        let base = "../uttera-stt/deploy/kubernetes";
        let mut text = format!("resources: [{base}/overlays/{}]\n", overlay.name);
        if !components.is_empty() {
            text.push_str("components:\n");
        }
        for component in components {
            writeln!(text, "  - {base}/components/{component}").expect("writes");
        }
        self.write("user/kustomization.yaml", &text);
        self.build("user")
    }

    /// Writes a file of the user.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
        fs::write(path, text).expect("writes");
    }

    /// Builds a folder of the user.
    pub fn build(&self, folder: &str) -> Manifest {
        let folder = self.folder.path().join(folder);
        let kubectl = self.kubectl.join("kubectl");
        let text = run(Command::new(kubectl).arg("kustomize").arg(folder));
        let objects = self.parse(&text);
        Manifest { text, objects }
    }

    /// The documents of a YAML file.
    pub fn parse(&self, text: &str) -> Vec<Value> {
        let file = self.folder.path().join("parsed.yaml");
        fs::write(&file, text).expect("writes");
        let program = "import json, sys, yaml
print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))";
        let python = self.validate.join("python");
        let json = run(Command::new(python).args(["-c", program]).arg(file));
        serde_json::from_str(&json).expect("JSON")
    }

    /// Validates all objects that Kubernetes knows.
    pub fn validate(&self, manifests: &[Manifest]) {
        let documents = manifests
            .iter()
            .flat_map(|built| built.text.split("\n---\n"));
        let known = documents.filter(|document| {
            let is_other = |kind: &&str| document.contains(&format!("\nkind: {kind}\n"));
            !OTHERS.iter().any(is_other)
        });
        let known: Vec<&str> = known.collect();
        let file = self.folder.path().join("validated.yaml");
        fs::write(&file, known.join("\n---\n")).expect("writes");
        for version in VERSIONS {
            let program = self.validate.join("kubernetes-validate");
            let options = ["--strict", "-k", version];
            let report = run_with_errors(Command::new(program).args(options).arg(&file));
            let passed = report.matches(" passed for resource ").count();
            assert_eq!(passed, known.len(), "{report}");
        }
    }

    /// A file of a component.
    pub fn component(&self, file: &str) -> Vec<Value> {
        let folder = repository().join("deploy/kubernetes/components");
        self.parse(&read(&folder.join(file)))
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a command that must succeed without warnings, and returns its output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    assert!(errors.is_empty(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The same for a command that reports on the error output as well.
fn run_with_errors(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let report = [output.stdout, output.stderr].concat();
    let report = String::from_utf8(report).expect("UTF-8");
    assert!(output.status.success(), "{command:?}: {report}");
    report
}

/// What kubectl built.
pub struct Manifest {
    text: String,
    objects: Vec<Value>,
}

impl Manifest {
    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        let objects = self.objects.iter();
        objects.filter(|object| object["kind"] == kind).collect()
    }

    /// The only object of a kind.
    pub fn only(&self, kind: &str) -> &Value {
        let all = self.all(kind);
        assert_eq!(all.len(), 1, "{kind}");
        all[0]
    }

    /// The object of a kind with this name.
    pub fn named(&self, kind: &str, name: &Value) -> &Value {
        let all = self.all(kind);
        let found = all
            .iter()
            .find(|object| object["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The pod of the Deployment.
    pub fn pod(&self) -> &Value {
        &self.only("Deployment")["spec"]["template"]["spec"]
    }

    /// The labels of its pods.
    pub fn pod_labels(&self) -> &Value {
        &self.only("Deployment")["spec"]["template"]["metadata"]["labels"]
    }

    /// The only container of the pod.
    pub fn container(&self) -> &Value {
        let containers = self.pod()["containers"].as_array().expect("containers");
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// A volume of the pod.
    pub fn volume(&self, name: &str) -> &Value {
        let volumes = self.pod()["volumes"].as_array().expect("volumes");
        let found = volumes.iter().find(|volume| volume["name"] == name);
        found.unwrap_or_else(|| panic!("no volume {name}"))
    }
}
