"""The manifests of clusters/kuberay, without a cluster.

The CRDs of KubeRay are in no package index, so fields that RayCluster and RayJob have in KubeRay 1.6 are listed here
from its API reference, by hand; the pod templates inside them, and all other manifests, are held against
Kubernetes' own schema (package kubernetes-validate, skipped where it is absent).
"""

import shutil
import subprocess

import pytest
import yaml

HAND = {  # kind or part: (required, optional) fields
    "RayCluster": ({"apiVersion", "kind", "metadata", "spec"}, set()),
    "RayClusterSpec": (
        {"headGroupSpec"},
        {"rayVersion", "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "headServiceAnnotations"}
        | {"workerGroupSpecs", "suspend"},
    ),
    "AuthOptions": (set(), {"mode", "secretName", "enableK8sTokenAuth"}),
    "AutoscalerOptions": (
        set(),
        {"resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts", "securityContext"}
        | {"idleTimeoutSeconds", "upscalingMode"},
    ),
    "HeadGroupSpec": ({"template"}, {"serviceType", "headService", "enableIngress", "rayStartParams"}),
    "WorkerGroupSpec": (
        {"groupName", "template"},
        {"replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "scaleStrategy"},
    ),
    "RayJob": ({"apiVersion", "kind", "metadata", "spec"}, set()),
    "RayJobSpec": (
        set(),
        {"activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "jobId"}
        | {"clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML"}
        | {"submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "suspend"}
        | {"ttlSecondsAfterFinished", "shutdownAfterJobFinishes"},
    ),
}
RAY_START = {"dashboard-host", "num-gpus", "num-cpus", "memory", "object-store-memory", "resources", "block"}
SECRETS = {"auth_token", "postgres_password", "s3_user", "s3_password"}


@pytest.fixture(scope="module")
def manifests(folder, documents):
    found = [d for path in sorted((folder / "kuberay").glob("*.yaml")) for d in documents(path)]
    return [d for d in found if d["kind"] != "Kustomization"]


def fields(part: str, document: dict) -> None:
    required, optional = HAND[part]
    assert required <= set(document) <= required | optional, f"{part}: {sorted(document)}"


def of(manifests, kind: str) -> list[dict]:
    return [d for d in manifests if d["kind"] == kind]


def pods(manifests) -> list[tuple[str, dict]]:
    """Every pod template with the name of what it is in."""
    found = [
        (d["metadata"]["name"], d["spec"]["template"]) for k in ("Deployment", "StatefulSet") for d in of(manifests, k)
    ]
    for cluster in of(manifests, "RayCluster"):
        found.append(("head", cluster["spec"]["headGroupSpec"]["template"]))
        found += [(group["groupName"], group["template"]) for group in cluster["spec"]["workerGroupSpecs"]]
    return found + [("submitter", job["spec"]["submitterPodTemplate"]) for job in of(manifests, "RayJob")]


def containers(template: dict) -> list[dict]:
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def test_what_kuberay_knows_is_what_is_written(manifests):
    (cluster,), (job,) = of(manifests, "RayCluster"), of(manifests, "RayJob")
    spec = cluster["spec"]
    fields("RayCluster", cluster)
    fields("RayClusterSpec", spec)
    fields("AuthOptions", spec["authOptions"])
    fields("AutoscalerOptions", spec["autoscalerOptions"])
    fields("HeadGroupSpec", spec["headGroupSpec"])
    for group in spec["workerGroupSpecs"]:
        fields("WorkerGroupSpec", group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert set(group["rayStartParams"]) <= RAY_START
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    fields("RayJob", job)
    fields("RayJobSpec", job["spec"])
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    assert job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_kubernetes_accepts_the_rest(manifests):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    version = validator.latest_version()
    for document in manifests:
        if document["apiVersion"] != "ray.io/v1":
            validator.validate(document, version, strict=True)
    for name, template in pods(manifests):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}
        validator.validate(pod, version, strict=True)


def test_kustomize_builds_it_with_an_image_of_yours(folder):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(folder / "kuberay")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = [d for d in yaml.safe_load_all(done.stdout) if d]
    assert all(d["metadata"].get("namespace") == "ethoray" for d in built if d["kind"] != "Namespace")
    images = {c["image"] for _, template in pods(built) for c in containers(template)}
    assert "registry.example.org/ethoray:0.1.0" in images and "ethoray" not in images


def test_tokens_are_on_and_the_dashboard_has_no_public_address(manifests):
    (cluster,) = of(manifests, "RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "ethoray"}
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not of(manifests, "Ingress")
    assert all(s["spec"].get("type", "ClusterIP") == "ClusterIP" for s in of(manifests, "Service"))


def test_secrets_are_the_user_s_and_stand_in_no_manifest(manifests):
    assert not of(manifests, "Secret")
    used = set()
    for name, template in pods(manifests):
        for variable in (v for c in containers(template) for v in c.get("env", [])):
            secret = any(word in variable["name"] for word in ("PASSWORD", "TOKEN", "SECRET", "ACCESS_KEY"))
            assert secret == ("valueFrom" in variable), (name, variable)
            if secret:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "ethoray"
                used.add(variable["valueFrom"]["secretKeyRef"]["key"])
    assert used == SECRETS  # auth_token is also what authOptions.secretName means


def test_no_container_is_root_or_may_become_it(manifests):
    for name, template in pods(manifests):
        assert template["spec"]["securityContext"]["runAsNonRoot"], name
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            if name != "head":  # the scaling process beside the head asks the API server
                assert template["spec"]["automountServiceAccountToken"] is False


def test_images_have_versions(manifests):
    for _, template in pods(manifests):
        for container in containers(template):
            image = container["image"]
            assert image == "ethoray" or (":" in image and not image.endswith(":latest"))


def test_nothing_is_reachable_unless_a_rule_says_so(manifests):
    policies = {p["metadata"]["name"]: p["spec"] for p in of(manifests, "NetworkPolicy")}
    assert policies.pop("nobody") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name in ("ray-head", "mlflow", "postgres", "objects"):
        (rule,) = policies[name]["ingress"]
        assert rule["from"] and [p["port"] for p in rule["ports"]]
    assert policies["ray"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}]


def test_who_is_let_in_exists_and_is_called_on_that_port(manifests):
    labels = [template.get("metadata", {}).get("labels", {}) for _, template in pods(manifests)]
    ports = {s["metadata"]["name"]: s["spec"]["ports"][0]["port"] for s in of(manifests, "Service")}
    for policy in of(manifests, "NetworkPolicy"):
        app = policy["spec"]["podSelector"].get("matchLabels", {}).get("app")
        if app:
            assert {"app": app} in labels
            assert policy["spec"]["ingress"][0]["ports"][0]["port"] == ports[app]
