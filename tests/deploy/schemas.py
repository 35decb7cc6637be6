"""Are manifests what Kubernetes and KubeRay take? Unknown fields are errors, as they would be dropped in silence."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

KUBERNETES = ("1.32", "1.37")
"""The oldest and the newest that the manifests are for."""
FIELDS: dict[str, dict[str, str]] = yaml.safe_load((Path(__file__).parent / "kuberay.yaml").read_text())
PLAIN = ("string", "integer", "number", "boolean")
DEFINITIONS = "https://kubernetes.io/api/_definitions.json"


def problems(document: Mapping[str, Any], version: str) -> list[str]:
    """What is wrong with an object, each with its path."""
    return list(found(json.dumps(document), version))


@functools.cache  # many manifests hold the same objects
def found(text: str, version: str) -> list[str]:
    document = json.loads(text)
    if document["apiVersion"] == "ray.io/v1":
        errors = kuberay(document["kind"], version).iter_errors(document)
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []


@functools.cache
def kuberay(kind: str, version: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/$defs/{kind}", "$defs": {name: of_type(fields) for name, fields in FIELDS.items()}}
    return jsonschema.Draft202012Validator(schema, registry=definitions(version))


@functools.cache
def definitions(version: str) -> Registry:
    """Pod templates and their like, as Kubernetes publishes them."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    contents = json.loads((folder / "_definitions.json").read_text())
    return Resource.from_contents(contents) @ Registry()


def of_type(fields: Mapping[str, str]) -> dict[str, Any]:
    """The JSON Schema of one type of ``kuberay.yaml``."""
    return {
        "type": "object",
        "properties": {name.removesuffix("!"): of_field(kind) for name, kind in fields.items()},
        "required": [name.removesuffix("!") for name in fields if name.endswith("!")],
        "additionalProperties": False,
    }


def of_field(kind: str) -> dict[str, Any]:
    if kind.startswith("{"):
        return {"type": "object", "additionalProperties": of_field(kind[1:-1])}
    if kind.startswith("["):
        return {"type": "array", "items": of_field(kind[1:-1])}
    if kind.startswith("k8s "):
        return {"$ref": f"{DEFINITIONS}#/$defs/{kind[4:]}"}
    if kind.startswith("="):
        return {"enum": kind[1:].split("|")}
    return {"type": kind} if kind in PLAIN else {"$ref": f"#/$defs/{kind}"}


def published(crd: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """Checks objects by a CRD that KubeRay publishes, and takes no field that it does not know."""
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    return jsonschema.Draft202012Validator(strict(version["schema"]["openAPIV3Schema"]))


def strict(schema: Any) -> Any:
    """A structural schema that refuses the fields that an API server would drop."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    open_to_more = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not open_to_more:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    return made
