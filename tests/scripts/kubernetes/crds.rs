//! Objects whose schemas are not part of Kubernetes: the fields that matter.

use std::fs;

use serde_json::{Value, json};
use test_support::repository;

use super::build::{Builder, OVERLAYS};
use super::network::has_labels;

const METRIC: &str = "uttera_stt_load_score";

fn is_exported(metric: &str) -> bool {
    let series = repository().join("tests/e2e/snapshots/e2e__metrics__series.snap");
    let series = fs::read_to_string(series).expect("a snapshot");
    series.lines().any(|line| line == metric)
}

#[test]
fn autoscalers_follow_a_metric_that_the_server_exports() {
    let Some(builder) = Builder::new() else {
        return;
    };
    assert!(is_exported(METRIC));
    for overlay in &OVERLAYS {
        let hpa = builder.overlay(overlay, &["hpa"]);
        let hpa = &hpa.only("HorizontalPodAutoscaler")["spec"];
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": overlay.server});
        assert_eq!(hpa["scaleTargetRef"], target);
        let pods = &hpa["metrics"][0]["pods"];
        assert_eq!(pods["metric"]["name"], METRIC);
        assert_eq!(
            pods["target"],
            json!({"type": "AverageValue", "averageValue": "250m"})
        );

        let keda = builder.overlay(overlay, &["keda"]);
        let keda = keda.only("ScaledObject");
        assert_eq!(keda["apiVersion"], "keda.sh/v1alpha1");
        assert_eq!(
            keda["spec"]["scaleTargetRef"],
            json!({"name": overlay.server})
        );
        let (least, most) = (
            &keda["spec"]["minReplicaCount"],
            &keda["spec"]["maxReplicaCount"],
        );
        assert_eq!([least, most], [&hpa["minReplicas"], &hpa["maxReplicas"]]);
        let trigger = &keda["spec"]["triggers"][0];
        assert_eq!(trigger["type"], "prometheus");
        assert_eq!(trigger["metricType"], "AverageValue");
        let metadata = &trigger["metadata"];
        let query = format!("sum({METRIC}{{service=\"{}\"}})", overlay.server);
        assert_eq!(metadata["query"], query);
        // Values of the metadata are texts.
        assert_eq!(metadata["threshold"], "0.25");
        let address = metadata["serverAddress"].as_str().expect("an address");
        assert!(address.starts_with("http://") && address.contains(".monitoring."));
    }
    // The adapter offers the metric of each pod.
    let rules = builder.component("hpa/adapter-rule.yaml");
    let rule = &rules[0]["rules"]["custom"][0];
    let query = rule["seriesQuery"].as_str().expect("a query");
    assert!(query.starts_with(&format!("{METRIC}{{")), "{query}");
    assert_eq!(
        rule["resources"]["overrides"]["pod"],
        json!({"resource": "pod"})
    );
}

#[test]
fn a_service_monitor_finds_the_port_of_its_service() {
    let Some(builder) = Builder::new() else {
        return;
    };
    for overlay in &OVERLAYS {
        let manifest = builder.overlay(overlay, &["service-monitor"]);
        let monitor = manifest.only("ServiceMonitor");
        assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
        assert_eq!(monitor["metadata"]["name"], overlay.server);
        let service = manifest.only("Service");
        let selector = &monitor["spec"]["selector"]["matchLabels"];
        assert!(has_labels(&service["metadata"]["labels"], selector));
        let endpoint = &monitor["spec"]["endpoints"][0];
        assert_eq!(endpoint["port"], service["spec"]["ports"][0]["name"]);
        let path = endpoint["path"].as_str().expect("a path");
        assert!(super::paths()[path]["get"].is_object());
        let none = Value::Null;
        assert_eq!(monitor["spec"]["namespaceSelector"], none);
    }
}
