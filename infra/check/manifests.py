"""Kubernetes manifests as they would be applied: built, and checked for what Kubernetes would find too late."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

HERE = Path(__file__).resolve().parent
KUBERAY = HERE.parent / "kuberay"
OVERLAYS = ("local", "gpu", "production")
JOBS = sorted((KUBERAY / "jobs").glob("*.yaml"))
SCHEMAS = ("ray.io_v1.yaml", "monitoring.coreos.com.yaml")

Manifest = dict[str, Any]


def build(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would send.

    Raises:
        ValueError: Kustomize refused; with its message.
    """
    command = ["kubectl", "kustomize", str(KUBERAY / "overlays" / overlay)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"overlay {overlay}: {ran.stderr.strip()}")
    return list(yaml.safe_load_all(ran.stdout))


def load_jobs() -> list[Manifest]:
    """The jobs that are created by hand."""
    return [yaml.safe_load(path.read_text()) for path in JOBS]


def title(manifest: Manifest) -> str:
    """Kind and name, for messages."""
    metadata = manifest["metadata"]
    return f"{manifest['kind']} {metadata.get('name') or metadata['generateName']}"


def unknown_fields(manifests: list[Manifest]) -> list[str]:
    """Unknown fields in resources of Ray's and Prometheus' operators, by their schemas next to this file."""
    schemas: Manifest = {}
    for name in SCHEMAS:
        schemas |= yaml.safe_load((HERE / name).read_text())["kinds"]
    wrong = []
    for manifest in manifests:
        if schema := schemas.get(manifest["kind"]):
            for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest["spec"]):
                where = ".".join(str(part) for part in error.absolute_path)
                wrong.append(f"{title(manifest)}: spec.{where}: {error.message}")
    return wrong


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template in them, with the name of what holds it."""
    for manifest in manifests:
        for path, node in _walk(manifest.get("spec", {}), ""):
            if "template" in path.rsplit(".", 1)[-1].lower() and "containers" in node.get("spec", {}):
                yield f"{title(manifest)}{path}", node


def as_plain(manifests: list[Manifest]) -> list[Manifest]:
    """The pod templates inside Ray's resources as PodTemplates, whose schema is Kubernetes' own."""
    ours = [manifest for manifest in manifests if manifest["apiVersion"] == "ray.io/v1"]
    return [
        {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": f"template-{number}"},
            "template": node,
        }
        for number, (_, node) in enumerate(pod_templates(ours))
    ]


def missing_references(manifests: list[Manifest], secrets: dict[str, dict[str, str]]) -> list[str]:
    """Secrets, ConfigMaps, their keys, accounts and volumes that a pod names and nothing makes.

    Args:
        secrets: name -> key -> value of the Secrets that are created separately.
    """
    known: dict[str, dict[str, set[str]]] = {
        "ConfigMap": {},
        "ServiceAccount": {},
        "PersistentVolumeClaim": {},
    }
    for manifest in manifests:
        known.setdefault(manifest["kind"], {})[manifest["metadata"]["name"]] = set(manifest.get("data", {}))
    known["Secret"] = {name: set(data) for name, data in secrets.items()}
    wrong = []
    for where, template in pod_templates(manifests):
        for kind, name, key in _references(template["spec"]):
            if name not in known[kind]:
                wrong.append(f"{where}: nothing makes the {kind} {name}")
            elif key is not None and key not in known[kind][name]:
                wrong.append(f"{where}: the {kind} {name} has no key {key}")
    return wrong


def _references(spec: Manifest) -> Iterator[tuple[str, str, str | None]]:
    """(kind, name, key) of everything that a pod's spec names."""
    kinds = {
        "secretKeyRef": "Secret",
        "secretRef": "Secret",
        "secret": "Secret",
        "configMapKeyRef": "ConfigMap",
        "configMapRef": "ConfigMap",
        "configMap": "ConfigMap",
    }
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"], None
    for path, node in _walk(spec, ""):
        last = path.rsplit(".", 1)[-1]
        if last == "persistentVolumeClaim":
            yield "PersistentVolumeClaim", node["claimName"], None
        if last in kinds:
            name = node.get("name") or node["secretName"]
            keys = [item["key"] for item in node.get("items", [])] or [node.get("key")]
            for key in keys:
                yield kinds[last], name, key


def _walk(node: Any, path: str) -> Iterator[tuple[str, Manifest]]:
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from _walk(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _walk(value, f"{path}[{index}]")
