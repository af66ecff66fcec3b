//! What the NetworkPolicies admit, computed as Kubernetes defines it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::build::{Builder, Manifest, OVERLAYS};

/// Whether labels fulfil `matchLabels`; these must not be empty.
pub fn has_labels(labels: &Value, selector: &Value) -> bool {
    let wanted = selector.as_object().expect("a map");
    assert!(!wanted.is_empty(), "an empty selector matches everything");
    wanted.iter().all(|(name, value)| labels[name] == *value)
}

/// Whether labels fulfil a label selector; an empty one matches everything.
fn is_selected(labels: &Value, selector: &Value) -> bool {
    let by_labels = selector["matchLabels"].as_object();
    let by_expressions = selector["matchExpressions"].as_array();
    let fits = |expression: &Value| {
        assert_eq!(expression["operator"], "In", "{expression}");
        let name = expression["key"].as_str().expect("a key");
        let values = expression["values"].as_array().expect("values");
        values.contains(&labels[name])
    };
    let labelled = by_labels.into_iter().flatten();
    labelled
        .into_iter()
        .all(|(name, value)| labels[name] == *value)
        && by_expressions.into_iter().flatten().all(fits)
}

/// The other end of a connection.
enum Peer {
    /// A pod in the same namespace.
    Neighbour(Value),
    /// A pod in another namespace, by the namespace's labels and its own.
    Elsewhere(Value, Value),
    /// An address that is no pod's.
    Address(IpAddr),
}

impl Peer {
    fn fits(&self, rule: &Value) -> bool {
        let (pods, namespaces) = (&rule["podSelector"], &rule["namespaceSelector"]);
        let pod_fits = |labels| pods.is_null() || is_selected(labels, pods);
        match self {
            Self::Neighbour(labels) => {
                // The tests' own namespace has no labels.
                let is_here = namespaces.is_null() || is_selected(&json!({}), namespaces);
                rule["ipBlock"].is_null() && is_here && pod_fits(labels)
            }
            Self::Elsewhere(namespace, labels) => {
                let is_there = !namespaces.is_null() && is_selected(namespace, namespaces);
                rule["ipBlock"].is_null() && is_there && pod_fits(labels)
            }
            Self::Address(address) => {
                let network = |text: &Value| {
                    let text = text.as_str().expect("a network");
                    text.parse::<IpNet>().expect("a network")
                };
                let block = &rule["ipBlock"];
                let except = block["except"].as_array().into_iter().flatten();
                block["cidr"].is_string()
                    && network(&block["cidr"]).contains(address)
                    && !except.into_iter().any(|net| network(net).contains(address))
            }
        }
    }
}

/// The policy of an overlay's pods.
struct Policy<'a> {
    manifest: &'a Manifest,
    spec: &'a Value,
}

impl<'a> Policy<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        let spec = &manifest.only("NetworkPolicy")["spec"];
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
        assert!(has_labels(
            manifest.pod_labels(),
            &spec["podSelector"]["matchLabels"]
        ));
        Self { manifest, spec }
    }

    /// Whether a peer may connect to this TCP port of the pods.
    fn admits(&self, peer: &Peer, port: u64) -> bool {
        let own = &self.manifest.container()["ports"][0];
        let is_port = |entry: &Value| {
            entry["port"] == port || (entry["port"] == own["name"] && own["containerPort"] == port)
        };
        self.allows("ingress", "from", peer, is_port)
    }

    /// Whether the pods may connect to this port of a peer.
    fn reaches(&self, peer: &Peer, port: u64, protocol: &str) -> bool {
        let is_port = |entry: &Value| {
            entry["port"] == port && entry["protocol"].as_str().unwrap_or("TCP") == protocol
        };
        self.allows("egress", "to", peer, is_port)
    }

    fn allows(
        &self,
        direction: &str,
        side: &str,
        peer: &Peer,
        is_port: impl Fn(&Value) -> bool,
    ) -> bool {
        let rules = self.spec[direction].as_array().expect("rules");
        rules.iter().any(|rule| {
            let list = |name: &str| {
                let entries = rule[name].as_array().filter(|entries| !entries.is_empty());
                entries.expect("a rule without limits").iter()
            };
            list(side).any(|entry| peer.fits(entry)) && list("ports").any(&is_port)
        })
    }
}

fn namespace(name: &str) -> Value {
    json!({"kubernetes.io/metadata.name": name})
}

fn address(text: &str) -> Peer {
    Peer::Address(text.parse().expect("an address"))
}

#[test]
fn the_policies_admit_clients_and_monitoring_and_to_a_fallback_only_primaries() {
    let Some(builder) = Builder::new() else {
        return;
    };
    let built = OVERLAYS
        .each_ref()
        .map(|overlay| builder.overlay(overlay, &[]));
    let pods = |name: &str| {
        let index = OVERLAYS.iter().position(|overlay| overlay.name == name);
        built[index.expect("an overlay")].pod_labels().clone()
    };
    let mut labelled = namespace("ingress");
    labelled["uttera-stt-clients"] = json!("true");
    let disguised = pods("primary");
    let none = json!({});
    // The peer, and whether it is a client, a primary, or the monitoring.
    let peers = [
        ("a pod", Peer::Neighbour(json!({"app": "chat"})), "client"),
        (
            "a hotcold server",
            Peer::Neighbour(pods("hotcold")),
            "client",
        ),
        ("a primary", Peer::Neighbour(pods("primary")), "primary"),
        ("a fallback", Peer::Neighbour(pods("fallback")), "client"),
        (
            "an ingress",
            Peer::Elsewhere(labelled, none.clone()),
            "client",
        ),
        (
            "Prometheus",
            Peer::Elsewhere(namespace("monitoring"), none.clone()),
            "monitoring",
        ),
        (
            "another namespace",
            Peer::Elsewhere(namespace("other"), none),
            "",
        ),
        (
            "a primary of another namespace",
            Peer::Elsewhere(namespace("other"), disguised),
            "",
        ),
        ("the network", address("192.168.1.7"), ""),
        ("the internet", address("203.0.113.9"), ""),
    ];
    for (overlay, manifest) in OVERLAYS.iter().zip(&built) {
        let policy = Policy::of(manifest);
        let port = manifest.container()["ports"][0]["containerPort"].as_u64();
        let port = port.expect("a port");
        for (name, peer, kind) in &peers {
            let expected = match *kind {
                "primary" | "monitoring" => true,
                "client" => overlay.name != "fallback",
                _ => false,
            };
            assert_eq!(
                policy.admits(peer, port),
                expected,
                "{name} to {}",
                overlay.name
            );
            for other in [22, 9090, 10300, 6379] {
                assert!(!policy.admits(peer, other), "{name} to port {other}");
            }
        }
    }
}

#[test]
fn the_servers_reach_names_models_and_their_fallback_only() {
    let Some(builder) = Builder::new() else {
        return;
    };
    let fallback = builder.overlay(&OVERLAYS[2], &[]);
    let dns = Peer::Elsewhere(namespace("kube-system"), json!({"k8s-app": "kube-dns"}));
    for overlay in &OVERLAYS {
        let manifest = builder.overlay(overlay, &[]);
        let policy = Policy::of(&manifest);
        for (peer, port, protocol, expected) in [
            (&dns, 53, "UDP", true),
            (&dns, 53, "TCP", true),
            (&dns, 443, "TCP", false),
            (&address("169.254.20.10"), 53, "UDP", true),
            (&address("203.0.113.9"), 443, "TCP", true),
            (&address("2001:db8::9"), 443, "TCP", true),
            (&address("203.0.113.9"), 80, "TCP", false),
            (&address("203.0.113.9"), 443, "UDP", false),
            // Neither other machines of the network nor the cloud's metadata.
            (&address("192.168.1.7"), 443, "TCP", false),
            (&address("10.0.0.1"), 443, "TCP", false),
            (&address("169.254.169.254"), 443, "TCP", false),
            (&address("fd00::1"), 443, "TCP", false),
        ] {
            let reaches = policy.reaches(peer, port, protocol);
            assert_eq!(reaches, expected, "{} to {port}/{protocol}", overlay.name);
        }
        let neighbour = Peer::Neighbour(fallback.pod_labels().clone());
        let may = overlay.name == "primary";
        assert_eq!(
            policy.reaches(&neighbour, 8082, "TCP"),
            may,
            "{}",
            overlay.name
        );
        assert!(!policy.reaches(&Peer::Neighbour(json!({})), 8082, "TCP"));
    }
    // The address of the fallback is its service.
    let primary = builder.overlay(&OVERLAYS[1], &[]);
    let url = &primary.only("ConfigMap")["data"]["FALLBACK_URL"];
    let service = fallback.only("Service");
    let name = service["metadata"]["name"].as_str().expect("a name");
    let port = &service["spec"]["ports"][0]["port"];
    assert_eq!(url, &format!("http://{name}:{port}"));
}
