"""What network policies let through, by the rules of Kubernetes for ingress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A pod, and the namespace that it is in."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "proseco"
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def fits(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert not selector.get("matchExpressions"), "none is used"
    return selector.get("matchLabels", {}).items() <= labels.items()


def comes_from(source: Mapping[str, Any], peer: Peer, namespace: str) -> bool:
    """Is a pod one of those that an entry of ``from`` names?"""
    assert "ipBlock" not in source, "none is used"
    if "namespaceSelector" in source:
        labels = {"kubernetes.io/metadata.name": peer.namespace, **peer.namespace_labels}
        if not fits(source["namespaceSelector"], labels):
            return False
    elif peer.namespace != namespace:
        return False
    return fits(source.get("podSelector", {}), peer.labels)


def reaches(policies: Sequence[Mapping[str, Any]], peer: Peer, target: Mapping[str, str], port: int) -> bool:
    """May a pod open a connection to a port of one with the labels ``target``?"""
    chosen = [p for p in policies if fits(p["spec"]["podSelector"], target) and "Ingress" in p["spec"]["policyTypes"]]
    if not chosen:
        return True
    for policy in chosen:
        for rule in policy["spec"].get("ingress", []):
            ports = [entry["port"] for entry in rule.get("ports", [])]
            anybody = not rule.get("from")
            if (anybody or any(comes_from(s, peer, policy["metadata"]["namespace"]) for s in rule["from"])) and (not ports or port in ports):
                return True
    return False
