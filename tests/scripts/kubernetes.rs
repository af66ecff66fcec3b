//! `deploy/kubernetes`: what kubectl builds from it is valid, fits the program and the image, and admits only whom it
//! should.

mod build;
mod crds;
mod network;

use std::collections::BTreeMap;
use std::fs;

use build::{Builder, Manifest, OVERLAYS, Overlay};
use serde_json::{Value, json};
use test_support::repository;
use uttera_stt::settings::variables;
use uttera_stt::settings::{Role, Settings, Sources};

const PROBES: [(&str, &str); 3] = [
    ("startupProbe", "/livez"),
    ("livenessProbe", "/livez"),
    ("readinessProbe", "/readyz"),
];

/// Seconds that the server needs at most to stop, by `TimeoutStopSec` of its unit.
fn stop_seconds() -> u64 {
    let unit = read("systemd/system/uttera-stt.service");
    let line = unit.lines().find_map(|l| l.strip_prefix("TimeoutStopSec="));
    line.expect("a line").parse().expect("a number")
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).expect("a file in UTF-8")
}

/// The paths of the API.
fn paths() -> Value {
    let folder = "src/http/reply/snapshots";
    let name = "uttera_stt__http__reply__openapi__tests__the_document_is_as_it_was.snap";
    let snapshot = read(&format!("{folder}/{name}"));
    let document = snapshot.splitn(3, "---\n").nth(2).expect("a document");
    let document: Value = serde_json::from_str(document).expect("JSON");
    document["paths"].clone()
}

fn role(overlay: &Overlay) -> Role {
    match overlay.role {
        "primary" => Role::Primary,
        "fallback" => Role::Fallback,
        _ => Role::Hotcold,
    }
}

/// The instruction of the Dockerfile's stage for all images.
fn instruction(name: &str) -> String {
    let dockerfile = read("Dockerfile");
    let stage = dockerfile.split(" AS runtime\n").nth(1).expect("a stage");
    let line = stage.lines().find_map(|line| line.strip_prefix(name));
    line.expect("an instruction").trim().to_owned()
}

/// The settings that the server in the pod finds in its environment.
fn environment(manifest: &Manifest) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for pair in instruction("ENV ").split(' ') {
        let (name, value) = pair.split_once('=').expect("NAME=value");
        environment.insert(name.to_owned(), value.to_owned());
    }
    let container = manifest.container();
    let map = &container["envFrom"][0]["configMapRef"]["name"];
    let settings = manifest.named("ConfigMap", map);
    for (name, value) in settings["data"].as_object().expect("settings") {
        let value = value.as_str().expect("a text").to_owned();
        environment.insert(name.clone(), value);
    }
    for variable in container["env"].as_array().expect("variables") {
        let name = variable["name"].as_str().expect("a name").to_owned();
        let value = variable["value"].as_str();
        let secret = &variable["valueFrom"]["secretKeyRef"];
        assert_ne!(value.is_some(), secret.is_object(), "{variable}");
        environment.insert(name, value.unwrap_or("a-key-of-a-secret").to_owned());
    }
    environment
}

#[test]
fn every_overlay_is_valid_with_and_without_the_components() {
    let Some(builder) = Builder::new() else {
        return;
    };
    let components: [&[&str]; 3] = [
        &[],
        &["model-volume", "hpa", "service-monitor"],
        &["keda", "tls"],
    ];
    let mut built = Vec::new();
    for overlay in &OVERLAYS {
        built.extend(components.map(|components| builder.overlay(overlay, components)));
    }
    builder.validate(&built);
}

#[test]
fn settings_ports_and_images_are_those_of_the_program() {
    let Some(builder) = Builder::new() else {
        return;
    };
    for overlay in &OVERLAYS {
        let manifest = builder.overlay(overlay, &[]);
        let environment = environment(&manifest);
        for (name, value) in &environment {
            let variable = variables::find(name);
            let variable = variable.unwrap_or_else(|| panic!("{name} is no setting"));
            assert!(variable.in_effect && variable.default != value, "{name}");
        }
        let sources = Sources {
            environment,
            role: role(overlay),
            ..Sources::default()
        };
        let loaded = Settings::load(&sources).expect("the settings are valid");
        let of_gpu = |warning: &String| warning.starts_with("DEVICE ");
        let warnings = loaded.warnings.iter().filter(|warning| !of_gpu(warning));
        assert_eq!(warnings.count(), 0, "{:?}", loaded.warnings);
        let settings = loaded.settings;
        assert!(settings.host.is_unspecified());

        let container = manifest.container();
        let mut arguments = vec!["serve"];
        if overlay.role != "hotcold" {
            arguments.extend(["--role", overlay.role]);
        }
        assert_eq!(container["args"], json!(arguments));
        // The entry point is the image's.
        assert!(container["command"].is_null());
        let port = json!([{"name": "http", "containerPort": settings.port}]);
        assert_eq!(container["ports"], port);
        let service = manifest.only("Service");
        let port = json!([{"name": "http", "port": settings.port, "targetPort": "http"}]);
        assert_eq!(service["spec"]["ports"], port);
        let exposed = instruction("EXPOSE ");
        let mut exposed = exposed.split(' ');
        assert!(exposed.any(|port| port == settings.port.to_string()));

        let image = container["image"].as_str().expect("a name");
        assert_eq!(image, overlay.image);
        assert!(read("compose.yaml").contains(&format!("image: {image}\n")));
        let stage = image.split_once(':').map_or("cpu", |(_, tag)| tag);
        assert!(read("Dockerfile").contains(&format!("FROM runtime AS {stage}\n")));

        // What the server writes to.
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        let is_mounted = |path: &str| mounts.iter().any(|mount| mount["mountPath"] == path);
        let models = settings.models_dir.parent().expect("a folder");
        assert!(is_mounted(models.to_str().expect("UTF-8")) && is_mounted("/tmp"));
        let uploads = manifest.volume("uploads")["emptyDir"].clone();
        assert_eq!(uploads, json!({"medium": "Memory", "sizeLimit": "1Gi"}));
        assert!(4 * settings.max_upload_bytes <= 1 << 30);
        // Without a Secret with keys, the pod does not start.
        match &settings.api_keys_file {
            Some(file) => {
                let folder = file.parent().expect("a folder");
                assert!(is_mounted(folder.to_str().expect("UTF-8")));
                let secret = &manifest.volume("keys")["secret"];
                let name = match overlay.role {
                    "fallback" => "uttera-stt-fallback-keys",
                    _ => "uttera-stt-keys",
                };
                assert_eq!(secret["secretName"], name);
                assert!(secret["optional"].is_null());
            }
            None => assert!(!settings.api_keys.is_empty()),
        }
    }
}

#[test]
fn the_pod_has_few_rights_and_enough_time() {
    let Some(builder) = Builder::new() else {
        return;
    };
    let user = instruction("USER ");
    let (user, group) = user.split_once(':').expect("two numbers");
    let [user, group] = [user, group].map(|id| id.parse::<u32>().expect("a number"));
    let paths = paths();
    for overlay in &OVERLAYS {
        let manifest = builder.overlay(overlay, &[]);
        let pod = manifest.pod();
        let context = json!({
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": group,
            "fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        assert_eq!(pod["securityContext"], context);
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = manifest.container();
        let context = json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        });
        assert_eq!(container["securityContext"], context);

        for (probe, path) in PROBES {
            let get = &container[probe]["httpGet"];
            assert_eq!(get, &json!({"path": path, "port": "http"}));
            assert!(paths[path]["get"].is_object(), "{path} is in the API");
        }
        let number = |value: &Value| value.as_u64().expect("a number");
        let startup = &container["startupProbe"];
        let patience = number(&startup["periodSeconds"]) * number(&startup["failureThreshold"]);
        // The start period of the image's health check.
        assert!(patience >= 15 * 60, "{patience}");
        let command = &container["lifecycle"]["preStop"]["exec"]["command"];
        let pause = command[1].as_str().expect("seconds").parse::<u64>();
        let grace = number(&pod["terminationGracePeriodSeconds"]);
        assert!(grace >= pause.expect("a number") + stop_seconds());

        let resources = &container["resources"];
        for (kind, amount) in [
            ("requests", "cpu"),
            ("requests", "memory"),
            ("limits", "cpu"),
        ] {
            assert!(resources[kind][amount].is_string(), "{kind} {amount}");
        }
        assert!(resources["limits"]["memory"].is_string());
        let of_gpu = overlay.name == "gpu";
        let gpus = resources["limits"]["nvidia.com/gpu"].as_u64();
        assert_eq!(gpus, of_gpu.then_some(1));
        let present = pod["nodeSelector"]["nvidia.com/gpu.present"].as_str();
        assert_eq!(present, of_gpu.then_some("true"));
        assert_eq!(pod["tolerations"][0]["key"] == "nvidia.com/gpu", of_gpu);
    }
}

#[test]
fn with_tls_the_probes_and_the_settings_use_the_certificate() {
    let Some(builder) = Builder::new() else {
        return;
    };
    for overlay in &OVERLAYS {
        let manifest = builder.overlay(overlay, &["tls"]);
        let environment = environment(&manifest);
        for (name, file) in [("TLS_CERT", "tls.crt"), ("TLS_KEY", "tls.key")] {
            let path = format!("/run/secrets/uttera-stt-tls/{file}");
            assert_eq!(environment[name], path);
        }
        let container = manifest.container();
        for (probe, path) in PROBES {
            let get = json!({"path": path, "port": "http", "scheme": "HTTPS"});
            assert_eq!(container[probe]["httpGet"], get);
        }
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        assert!(mounts.iter().any(|mount| mount["name"] == "tls"));
        let secret = &manifest.volume("tls")["secret"]["secretName"];
        assert_eq!(secret, "uttera-stt-tls");
    }
}

#[test]
fn selectors_match_the_pods_of_their_own_overlay_only() {
    let Some(builder) = Builder::new() else {
        return;
    };
    let built = OVERLAYS.each_ref().map(|overlay| {
        let components = ["hpa", "model-volume", "service-monitor"];
        builder.overlay(overlay, &components)
    });
    for (index, manifest) in built.iter().enumerate() {
        let deployment = manifest.only("Deployment");
        let name = &deployment["metadata"]["name"];
        assert_eq!(name, OVERLAYS[index].server);
        let spec = |kind: &str, pointer: &str| {
            let object = manifest.only(kind);
            let found = object.pointer(pointer);
            found.unwrap_or_else(|| panic!("{kind} {pointer}")).clone()
        };
        let selectors = [
            spec("Deployment", "/spec/selector/matchLabels"),
            spec("Service", "/spec/selector"),
            spec("PodDisruptionBudget", "/spec/selector/matchLabels"),
            spec("NetworkPolicy", "/spec/podSelector/matchLabels"),
            spec("ServiceMonitor", "/spec/selector/matchLabels"),
            manifest.pod()["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].clone(),
        ];
        for (other, others) in built.iter().enumerate() {
            let labels = others.pod_labels();
            // A ServiceMonitor selects services.
            let service = &others.only("Service")["metadata"]["labels"];
            assert_eq!(service, labels);
            for selector in &selectors {
                let matches = network::has_labels(labels, selector);
                assert_eq!(matches, index == other, "{selector} and {labels}");
            }
        }
        let budget = spec("PodDisruptionBudget", "/spec/maxUnavailable");
        assert_eq!(budget, 1);
        assert_eq!(
            &spec("HorizontalPodAutoscaler", "/spec/scaleTargetRef/name"),
            name
        );
        assert_eq!(&spec("PersistentVolumeClaim", "/metadata/name"), name);
        let claim = json!({"claimName": name});
        assert_eq!(manifest.volume("models")["persistentVolumeClaim"], claim);
        assert!(manifest.volume("models")["emptyDir"].is_null());
        assert_eq!(
            spec("Deployment", "/spec/strategy"),
            json!({"type": "Recreate"})
        );
    }
}

#[test]
fn the_examples_of_the_page_build_and_are_valid() {
    let Some(builder) = Builder::new() else {
        return;
    };
    let page = read("docs/install/kubernetes.md");
    let mut folders = Vec::new();
    for block in page.split("```yaml\n# ").skip(1) {
        let block = block.split("```").next().expect("an end");
        let (file, text) = block.split_once('\n').expect("a first line");
        builder.write(file, text);
        folders.push(file.strip_suffix("/kustomization.yaml").expect("a folder"));
    }
    for folder in ["stt", "tiers"] {
        assert!(folders.contains(&folder), "{folders:?}");
        builder.write(&format!("{folder}/keys"), "home 0123456789abcdef0123\n");
        builder.write(&format!("{folder}/fallback-key"), "0123456789abcdef0123\n");
        builder.write(
            &format!("{folder}/fallback-keys"),
            "primary 0123456789abcdef0123\n",
        );
    }
    let home = builder.build("stt");
    let map = home.container()["envFrom"][0]["configMapRef"]["name"].clone();
    assert_eq!(
        home.named("ConfigMap", &map)["data"]["DEFAULT_LANGUAGE"],
        "de"
    );
    let secret = &home.volume("keys")["secret"]["secretName"];
    assert!(home.named("Secret", secret)["data"]["keys"].is_string());

    let tiers = builder.build("tiers");
    let deployments = tiers.all("Deployment");
    assert_eq!(deployments.len(), 2);
    for deployment in deployments {
        let pod = &deployment["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        let keys = volumes.iter().find(|volume| volume["name"] == "keys");
        let keys = &keys.expect("a volume of keys")["secret"]["secretName"];
        assert!(tiers.named("Secret", keys)["data"]["keys"].is_string());
        let variables = pod["containers"][0]["env"].as_array().expect("variables");
        let mut sent = variables.iter().map(|v| &v["valueFrom"]["secretKeyRef"]);
        let sent = sent.find(|key| key.is_object());
        let is_primary = deployment["metadata"]["name"] == "uttera-stt-primary";
        assert_eq!(sent.is_some(), is_primary);
        if let Some(key) = sent {
            let secret = tiers.named("Secret", &key["name"]);
            assert!(secret["data"]["key"].is_string(), "{key}");
        }
    }
    builder.validate(&[home, tiers]);
}
