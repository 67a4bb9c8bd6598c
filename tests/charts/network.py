"""What a set of network policies lets through: Kubernetes' rules, written down once more in plain Python.

A pod that no policy of a direction selects is open in that direction; one that some select takes what any of them
allows. A connection needs the way out of the one and the way into the other.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

Policies = list[dict[str, Any]]


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: dict[str, str] = field(hash=False)


def connects(policies: Policies, source: Pod, target: Pod | str, port: int, protocol: str = "TCP") -> bool:
    """Whether `source` reaches `target`, a pod or an address, at `port`."""
    out = _direction(policies, source, "Egress", target, port, protocol)
    return out and (isinstance(target, str) or _direction(policies, target, "Ingress", source, port, protocol))


def _direction(policies: Policies, pod: Pod, direction: str, peer: Pod | str, port: int, protocol: str) -> bool:
    chosen = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    if not chosen:
        return True
    peers = "to" if direction == "Egress" else "from"
    rules = [rule for policy in chosen for rule in policy["spec"].get(direction.lower()) or []]
    return any(_rule(rule, peers, pod.namespace, peer, port, protocol) for rule in rules)


def _rule(rule: dict[str, Any], peers: str, namespace: str, peer: Pod | str, port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    fits = not ports or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)
    return fits and (not rule.get(peers) or any(_peer(entry, namespace, peer) for entry in rule[peers]))


def _peer(entry: dict[str, Any], namespace: str, peer: Pod | str) -> bool:
    if isinstance(peer, str):
        return "ipBlock" in entry and in_block(entry["ipBlock"], peer)
    if "ipBlock" in entry:  # a pod's address is not known here
        return False
    there = {"kubernetes.io/metadata.name": peer.namespace}
    inside = (
        _selects(entry["namespaceSelector"], there) if "namespaceSelector" in entry else peer.namespace == namespace
    )
    return inside and _selects(entry.get("podSelector", {}), peer.labels)


def in_block(block: dict[str, Any], address: str) -> bool:
    """Whether an ipBlock holds the address."""
    ip = ipaddress.ip_address(address)
    return ip in ipaddress.ip_network(block["cidr"]) and all(
        ip not in ipaddress.ip_network(e) for e in block.get("except", [])
    )


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
        if expression["operator"] == "Exists" and value is None:
            return False
    return True
