"""Manifests as ``kubectl apply`` would send them, the pods in them, and the rules that they keep."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "cluster" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
Document = dict[str, Any]
GIVEN = {"proseco-credentials", "proseco-api-keys", "kube-root-ca.crt"}
"""What pods name and somebody else makes: Secrets, whose values are in no file, and Kubernetes' own."""
RAY_NODE = {"headGroupSpec": "head", "workerGroupSpecs": "worker"}


def render(folder: Path) -> list[Document]:
    """What Kustomize makes of a folder."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; with it the manifests are rendered and held against their schemas")
    told = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    return [document for document in yaml.safe_load_all(told.stdout) if document]


def compose(folder: Path, *components: str) -> list[Document]:
    """What Kustomize makes of the base with components, in a copy of all manifests below ``folder``."""
    copy = folder / "kubernetes"
    if not copy.exists():
        shutil.copytree(KUBERNETES, copy)
    made = copy / "overlays" / "-".join(components).replace("/", "-")
    made.mkdir()
    plain = {"namespace": "proseco", "resources": ["../../base"], "components": [f"../../components/{c}" for c in components]}
    (made / "kustomization.yaml").write_text(yaml.safe_dump(plain))
    return render(made)


@dataclass(frozen=True)
class Pod:
    """A template of pods."""

    where: str
    labels: dict[str, str]
    spec: dict[str, Any]
    more: tuple[dict[str, Any], ...] = ()
    """Containers that the operator adds, as far as the manifest says what they are."""

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"], *self.more]


def pods(documents: Sequence[Document]) -> list[Pod]:
    """All templates of pods, those of Ray with the labels that the operator gives them."""
    return [pod for document in documents for pod in below(document, f"{document['kind']}/{document['metadata']['name']}")]


def below(value: Any, where: str, group: str = "", more: tuple[dict[str, Any], ...] = ()) -> Iterator[Pod]:
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from below(entry, f"{where}.{number}", group, more)
    if not isinstance(value, dict):
        return
    if isinstance(spec := value.get("spec"), dict) and "containers" in spec:
        labels = dict(value.get("metadata", {}).get("labels", {}))
        if group:
            labels |= {"ray.io/node-type": RAY_NODE[group]}
        yield Pod(where, labels, spec, more if group == "headGroupSpec" else ())
        return
    more = (value["autoscalerOptions"] | {"name": "autoscaler"},) if "autoscalerOptions" in value else more
    for key, entry in value.items():
        yield from below(entry, f"{where}.{key}", key if key in RAY_NODE else group, more)


def clusters(documents: Sequence[Document]) -> list[tuple[str, dict[str, Any]]]:
    """Every specification of a Ray cluster, and where it stands."""
    found = []
    for document in documents:
        name, spec = f"{document['kind']}/{document['metadata']['name']}", document.get("spec", {})
        if document["kind"] == "RayCluster":
            found.append((name, spec))
        for job in [spec, spec.get("jobTemplate", {})]:
            if "rayClusterSpec" in job:
                found.append((name, job["rayClusterSpec"]))
    return found


def ray_jobs(documents: Sequence[Document]) -> dict[str, dict[str, Any]]:
    """Specifications of RayJobs by name, also of those that are still to be made."""
    made = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "RayJob"}
    return made | {d["metadata"]["name"]: d["spec"]["jobTemplate"] for d in documents if d["kind"] == "RayCronJob"}


def one(documents: Sequence[Document], kind: str, name: str = "") -> Document:
    (found,) = [d for d in documents if d["kind"] == kind and (not name or re.fullmatch(f"{name}(-[a-z0-9]{{10}})?", d["metadata"]["name"]))]
    return found


def settings(documents: Sequence[Document], *names: str) -> dict[str, str]:
    """Variables that ConfigMaps give to pods."""
    return {k: v for name in names for k, v in one(documents, "ConfigMap", name)["data"].items()}


def complaints(documents: Sequence[Document], ray: str) -> list[str]:
    """What breaks a rule. ``ray`` is the version that the project is locked to."""
    found = [c for pod in pods(documents) for rule in (unconfined, unsized, untold, unmounted) for c in rule(pod)]
    found += [c for pod in pods(documents) for c in unknown(pod, documents)]
    for where, spec in clusters(documents):
        if spec.get("authOptions", {}).get("mode") != "token" or spec["authOptions"].get("enableK8sTokenAuth"):
            found.append(f"{where} asks for no token")
        if spec.get("rayVersion") != ray:
            found.append(f"{where} has Ray {spec.get('rayVersion')}, and the image {ray}")
    found += [f"{d['metadata']['name']} is a Secret with its values" for d in documents if d["kind"] == "Secret"]
    return found


def unconfined(pod: Pod) -> Iterator[str]:
    """May it do more than compute, and write to what it mounts?"""
    whole = pod.spec.get("securityContext", {})
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{pod.where} has no seccomp profile"
    if not (whole.get("runAsNonRoot") and whole.get("runAsUser") and whole.get("fsGroup")):
        yield f"{pod.where} says no user other than root"
    if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield f"{pod.where} shares what is of its machine"
    if any("hostPath" in volume for volume in pod.spec.get("volumes", [])):
        yield f"{pod.where} mounts a folder of its machine"
    if pod.spec.get("automountServiceAccountToken", True) and pod.spec.get("serviceAccountName") != "proseco-nightly":
        yield f"{pod.where} has a token of the API server"
    for container in pod.containers:
        own, name = container.get("securityContext", {}), f"{pod.where} {container['name']}"
        if not own.get("runAsNonRoot") or own.get("runAsUser") == 0:
            yield f"{name} may be root"
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may get more rights"
        if own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} has capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name} writes to its image"


def unsized(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        given = container.get("resources", {})
        for kind in ("requests", "limits"):
            if not {"cpu", "memory"} <= given.get(kind, {}).keys():
                yield f"{pod.where} {container['name']} has no {kind}"
        if given.get("requests", {}).get("memory") != given.get("limits", {}).get("memory"):
            yield f"{pod.where} {container['name']} may be ended for memory that it was promised"


def untold(pod: Pod) -> Iterator[str]:
    """Is it not said which image, or what is secret said in the open?"""
    for container in pod.spec["containers"]:
        tag = container.get("image", "").rpartition("/")[2].partition("@")[0].partition(":")[2]
        if not ("@sha256:" in container.get("image", "") or tag) or tag == "latest":
            yield f"{pod.where} {container['name']} has an image without a version"
        for variable in container.get("env", []):
            if "value" in variable and re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]):
                yield f"{pod.where} {container['name']} says {variable['name']}"


def unmounted(pod: Pod) -> Iterator[str]:
    names = {volume["name"] for volume in pod.spec.get("volumes", [])}
    for container in pod.containers:
        mounts = container.get("volumeMounts", [])
        for mount in mounts:
            if mount["name"] not in names:
                yield f"{pod.where} {container['name']} mounts {mount['name']}, which there is not"
        if len({mount["mountPath"] for mount in mounts}) < len(mounts):
            yield f"{pod.where} {container['name']} mounts two volumes at one place"


def unknown(pod: Pod, documents: Sequence[Document]) -> Iterator[str]:
    """Names of other objects that are not there."""
    there = {document["metadata"]["name"] for document in documents} | GIVEN
    for name in names_in(pod.spec):
        if name not in there:
            yield f"{pod.where} names {name}, which there is not"


def names_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from names_in(entry)
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key in ("secretName", "claimName", "serviceAccountName"):
                yield entry
            elif key in ("configMapRef", "secretRef", "configMap"):
                yield entry["name"]
            else:
                yield from names_in(entry)
