//! The manifests and the Dockerfile: that Kubernetes takes them, that their promises hold (the schema knows neither
//! values of enums nor the rules for sidecars), and that the configuration inside is one that this version runs.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{TempDir, run, tool};
use serde_json::{Value, json};

const MANIFESTS: [&str; 3] = ["standalone.yaml", "sidecar.yaml", "transparent.yaml"];
/// The one whose pod has its traffic captured.
const TRANSPARENT: &str = "transparent.yaml";
/// What captures it, as user 0.
const RULES: &str = "intercept";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(name: &str) -> PathBuf {
    root().join("deploy").join(name)
}

/// The one document of this kind.
fn document(name: &str, kind: &str) -> Value {
    let text = std::fs::read_to_string(manifest(name)).expect("read the manifest");
    let all = text.split("\n---\n").map(|part| serde_yaml::from_str::<Value>(part).expect("YAML of the manifest"));
    let mut found: Vec<Value> = all.filter(|document| document["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{name}: one {kind}");
    found.remove(0)
}

fn pod(name: &str) -> Value {
    document(name, "Deployment")["spec"]["template"]["spec"].clone()
}

fn containers<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    pod[list].as_array().map_or(&[], Vec::as_slice)
}

/// Outrigger's container, and the name of the list that it is in.
fn proxy(pod: &Value) -> (&'static str, Value) {
    ["initContainers", "containers"]
        .into_iter()
        .find_map(|list| containers(pod, list).iter().find(|c| c["name"] == "outrigger").map(|c| (list, c.clone())))
        .expect("a container named outrigger")
}

fn config(name: &str) -> String {
    let map = document(name, "ConfigMap");
    map["data"]["outrigger.yaml"].as_str().expect("outrigger.yaml in the ConfigMap").to_owned()
}

#[test]
fn every_manifest_is_tested() {
    let mut files: Vec<String> = std::fs::read_dir(root().join("deploy"))
        .expect("read deploy/")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    let mut known = MANIFESTS.to_vec();
    known.sort_unstable();
    assert_eq!(files, known);
}

#[test]
fn kubernetes_accepts_the_manifests() {
    for name in MANIFESTS {
        let path = manifest(name);
        run("kubernetes-validate", &["--strict", path.to_str().expect("a path in UTF-8")]);
    }
    // And the judge is awake: it refuses a key that does not exist.
    let dir = TempDir::new("manifest");
    let text = std::fs::read_to_string(manifest("sidecar.yaml")).expect("read the manifest");
    let broken = dir.file("broken.yaml", text.replace("readOnlyRootFilesystem", "readonlyRootFilesystem"));
    let verdict = Command::new(tool("kubernetes-validate")).arg("--strict").arg(broken).output().expect("validate");
    assert!(!verdict.status.success(), "a misspelt key was accepted");
}

#[test]
fn the_sidecar_is_a_native_one() {
    let pod = pod("sidecar.yaml");
    let (list, proxy) = proxy(&pod);
    assert_eq!(list, "initContainers");
    // Enums are not in the schema, and `always` is refused by the server only.
    assert_eq!(proxy["restartPolicy"], "Always");
    assert!(!containers(&pod, "containers").is_empty(), "an application beside it");
}

#[test]
fn traffic_is_captured_before_the_sidecar_starts_and_comes_to_it() {
    let pod = pod(TRANSPARENT);
    let first: Vec<&Value> = containers(&pod, "initContainers").iter().map(|container| &container["name"]).collect();
    assert_eq!(first, [RULES, "outrigger"]);
    let (_, proxy) = proxy(&pod);
    let rules = &containers(&pod, "initContainers")[0];
    assert!(rules.get("restartPolicy").is_none(), "it ends");
    assert_eq!(rules["args"], json!(["intercept", "apply"]));
    assert_eq!(rules["image"], proxy["image"]);
    // Where the rules lead without further flags, and whom they exempt.
    assert_eq!(proxy["securityContext"]["runAsUser"], 1337);
    let config: Value = serde_yaml::from_str(&config(TRANSPARENT)).expect("YAML of the configuration");
    for (mode, port) in [("inbound", 15006), ("outbound", 15001)] {
        let listeners = config["listeners"].as_array().expect("listeners");
        let listener = listeners.iter().find(|listener| listener["mode"] == mode).expect(mode);
        assert!(
            listener["address"].as_str().is_some_and(|address| address.ends_with(&format!(":{port}"))),
            "{listener}"
        );
    }
}

#[test]
fn probes_ask_the_health_address() {
    for name in MANIFESTS {
        let (_, proxy) = proxy(&pod(name));
        for (probe, path) in [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            assert_eq!(proxy[probe]["httpGet"], json!({ "path": path, "port": 15020 }), "{name}: {probe}");
        }
        // Readiness that fails late is traffic to a pod that drains.
        assert_eq!(proxy["readinessProbe"]["failureThreshold"], 1, "{name}");
        // The health address that the probes ask is the default one.
        assert!(!config(name).contains("15020"), "{name}: the configuration leaves health.address alone");
    }
}

#[test]
fn drain_needs_no_hook_and_has_the_time() {
    for name in MANIFESTS {
        let (_, proxy) = proxy(&pod(name));
        assert!(proxy.get("lifecycle").is_none(), "{name}: no preStop");
        let config: Value = serde_yaml::from_str(&config(name)).expect("YAML of the configuration");
        let drain = config["runtime"]["drainTimeout"].as_str().expect("a drainTimeout");
        let drain: u64 = drain.strip_suffix('s').and_then(|n| n.parse().ok()).expect("whole seconds");
        let grace = pod(name)["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
        assert!(grace >= drain + 10, "{name}: {grace}s of grace for {drain}s of drain");
    }
}

#[test]
fn containers_are_confined() {
    for name in MANIFESTS {
        let pod = pod(name);
        let all = ["initContainers", "containers"].into_iter().flat_map(|list| containers(&pod, list));
        for container in all {
            let context = &container["securityContext"];
            let at = format!("{name}: {}", container["name"]);
            let rules = name == TRANSPARENT && container["name"] == RULES;
            assert_eq!(context["runAsNonRoot"], !rules, "{at}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{at}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{at}");
            let mut capabilities = json!({ "drop": ["ALL"] });
            if rules {
                capabilities["add"] = json!(["NET_ADMIN"]);
            }
            assert_eq!(context["capabilities"], capabilities, "{at}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{at}");
            assert!(container["resources"]["requests"]["cpu"].is_string(), "{at}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{at}");
            // Throttled to a share of a CPU, every request waits for the next period.
            assert!(container["resources"]["limits"].get("cpu").is_none(), "{at}");
        }
        let (_, proxy) = proxy(&pod);
        assert_eq!(proxy["securityContext"]["runAsUser"], 1337, "{name}: the uid of the image");
    }
}

#[test]
fn the_configuration_inside_is_valid_and_live() {
    for name in MANIFESTS {
        let dir = TempDir::new("configmap");
        dir.file("outrigger.yaml", config(name));
        let check = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(["check", "--config"])
            .arg(dir.path())
            .output()
            .expect("run outrigger check");
        assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stderr));

        let pod = pod(name);
        let (_, proxy) = proxy(&pod);
        let mounts = proxy["volumeMounts"].as_array().expect("volume mounts");
        let mount = mounts.iter().find(|mount| mount["mountPath"] == "/etc/outrigger").expect("the configuration");
        assert!(mount.get("subPath").is_none(), "{name}: a subPath never follows its ConfigMap");
        let args = proxy["args"].as_array().expect("arguments");
        assert_eq!(args[..3], ["run", "--config", "/etc/outrigger"], "{name}");
        let volumes = pod["volumes"].as_array().expect("volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("the volume");
        assert_eq!(volume["configMap"]["name"], document(name, "ConfigMap")["metadata"]["name"], "{name}");
    }
}

#[test]
fn the_service_leads_to_the_listener() {
    for name in MANIFESTS {
        let service = document(name, "Service");
        let deployment = document(name, "Deployment");
        assert_eq!(service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"], "{name}");
        let target = &service["spec"]["ports"][0]["targetPort"];
        let (_, proxy) = proxy(&pod(name));
        if name == TRANSPARENT {
            let pod = pod(name);
            let application = containers(&pod, "containers")[0]["ports"][0]["name"].clone();
            assert_eq!(*target, application, "{name}: captured on the way to the application");
            continue;
        }
        let ports = proxy["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == *target).expect("the port that the Service names");
        let config: Value = serde_yaml::from_str(&config(name)).expect("YAML of the configuration");
        let address = config["listeners"][0]["address"].as_str().expect("a listener").to_owned();
        assert!(address.ends_with(&format!(":{}", port["containerPort"])), "{name}: {address}");
    }
}

#[test]
fn the_image_is_the_binary_alone() {
    let text = std::fs::read_to_string(root().join("Dockerfile")).expect("read the Dockerfile");
    let words: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for arg in ["ARG BUILDER=", "ARG RUNTIME=scratch"] {
        assert!(words.iter().any(|line| line.starts_with(arg)), "{arg}");
    }
    let last = words.iter().rposition(|line| line.starts_with("FROM ")).expect("a stage");
    let stage = &words[last..];
    assert_eq!(stage[0], "FROM ${RUNTIME}");
    let copies: Vec<_> = stage.iter().filter(|line| line.starts_with("COPY") || line.starts_with("ADD")).collect();
    assert_eq!(copies, [&"COPY --from=build /out/outrigger /outrigger"]);
    assert!(!stage.iter().any(|line| line.starts_with("RUN")), "nothing can be run on an empty root");
    // Numeric, as the kubelet can prove runAsNonRoot for numbers only.
    assert!(stage.contains(&"USER 1337:1337"));
    assert!(stage.contains(&r#"ENTRYPOINT ["/outrigger"]"#));
}
