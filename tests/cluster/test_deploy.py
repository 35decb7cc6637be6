"""What is deployed on Kubernetes: Kustomize makes it, the published schemas take it, and it keeps its rules."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from cluster.service.limits import ServiceLimits
from tests.deploy import schemas
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    clusters,
    complaints,
    compose,
    one,
    pods,
    ray_jobs,
    render,
    settings,
)
from tests.deploy.network import Peer, fits, reaches

ROOT = DEPLOY.parents[1]
OVERLAYS = sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
UNITS = ("run", "generate", "service")
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)
MIXTURES = [
    (*UNITS, f"nightly/{nights}", "image", f"storage/{storage}", f"sizes/{size}", *own)
    for nights in ("cronjob", "raycronjob")
    for storage in ("s3", "volume")
    for size in ("small", "large")
    for own in ((), ("own-clusters",))
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything at once, on S3 and large."""
    return compose(tmp_path_factory.mktemp("whole"), *UNITS, "nightly/cronjob", "image", "storage/s3", "sizes/large")


def checked(documents) -> list[str]:
    found = [f"{d['kind']} {p}" for d in documents for version in schemas.KUBERNETES for p in schemas.problems(d, version)]
    return found + complaints(documents, LOCK["ray"])


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_is_taken_and_keeps_the_rules(folder):
    documents = render(folder)
    assert checked(documents) == []
    assert all(c["image"].startswith("registry.example/") for pod in pods(documents) for c in pod.spec["containers"])


@pytest.mark.parametrize("components", MIXTURES, ids=" ".join)
def test_every_mixture_of_components_is_taken_and_keeps_the_rules(components, tmp_path):
    assert checked(compose(tmp_path, *components)) == []


BREAKS = {
    "'authOption' was unexpected": lambda d: one(d, "RayCluster")["spec"].update(authOption={"mode": "token"}),
    "required property": lambda d: one(d, "RayCronJob")["spec"].pop("schedule"),
    "is not one of": lambda d: one(d, "RayJob", "run")["spec"].update(submissionMode="HttpMode"),
    "terminationGracePeriod": lambda d: pods([one(d, "RayCluster")])[2].spec.update(terminationGracePeriod=1),
    "replica'": lambda d: one(d, "Deployment")["spec"].update(replica=1),
    "is not of type": lambda d: one(d, "CronJob")["spec"].update(startingDeadlineSeconds="four hours"),
    "asks for no token": lambda d: one(d, "RayCluster")["spec"]["authOptions"].update(mode="disabled"),
    "has Ray 2.59.0": lambda d: one(d, "RayCluster")["spec"].update(rayVersion="2.59.0"),
    "autoscaler may be root": lambda d: one(d, "RayCluster")["spec"]["autoscalerOptions"]["securityContext"].pop("runAsNonRoot"),
    "has capabilities": lambda d: pods([one(d, "CronJob")])[0].containers[0]["securityContext"].pop("capabilities"),
    "may get more rights": lambda d: pods([one(d, "Deployment")])[0].containers[0]["securityContext"].update(privileged=True),
    "writes to its image": lambda d: pods([one(d, "RayCluster")])[0].containers[0]["securityContext"].pop("readOnlyRootFilesystem"),
    "no user other than root": lambda d: pods([one(d, "Deployment")])[0].spec["securityContext"].update(runAsUser=0),
    "no seccomp profile": lambda d: pods([one(d, "RayCluster")])[1].spec["securityContext"].pop("seccompProfile"),
    "has a token of the API": lambda d: pods([one(d, "RayCluster")])[0].spec.pop("automountServiceAccountToken"),
    "has no limits": lambda d: pods([one(d, "Deployment")])[0].containers[0]["resources"].pop("limits"),
    "promised": lambda d: pods([one(d, "RayCluster")])[1].containers[0]["resources"]["requests"].update(memory="1Gi"),
    "without a version": lambda d: pods([one(d, "Deployment")])[0].containers[0].update(image="registry.example:5000/proseco"),
    "says AWS_SECRET": lambda d: pods([one(d, "Deployment")])[0].containers[0].update(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
    "with its values": lambda d: d.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"a": "b"}}),
    "shares what is of its machine": lambda d: pods([one(d, "RayCluster")])[2].spec.update(hostNetwork=True),
    "mounts a folder of its machine": lambda d: pods([one(d, "Deployment")])[0].spec["volumes"].append({"name": "m", "hostPath": {"path": "/"}}),
    "mounts two volumes": lambda d: pods([one(d, "CronJob")])[0].containers[0]["volumeMounts"].extend([{"name": "program", "mountPath": "/a"}] * 2),
    "mounts gone": lambda d: pods([one(d, "Deployment")])[0].containers[0]["volumeMounts"].append({"name": "gone", "mountPath": "/gone"}),
    "names proseco-setting,": lambda d: pods([one(d, "Deployment")])[0].containers[0]["envFrom"][0]["configMapRef"].update(name="proseco-setting"),
}


@pytest.mark.parametrize("complaint", BREAKS)
def test_what_breaks_a_rule_or_a_schema_is_noticed(complaint, whole):
    documents = copy.deepcopy(whole)
    BREAKS[complaint](documents)
    assert any(re.search(complaint, found) for found in checked(documents)), checked(documents)


def test_the_crds_that_kuberay_publishes_take_it_too(whole):
    """With KUBERAY_CRDS=FOLDER of ray.io_*.yaml, e.g. helm-chart/kuberay-operator/crds of its repository."""
    if "KUBERAY_CRDS" not in os.environ:
        pytest.skip("KUBERAY_CRDS names no folder with KubeRay's CRDs; the fields in tests/deploy/kuberay.yaml were checked instead")
    crds = [yaml.safe_load(path.read_text()) for path in Path(os.environ["KUBERAY_CRDS"]).glob("ray.io_*.yaml")]
    by_kind = {crd["spec"]["names"]["kind"]: schemas.published(crd) for crd in crds}
    for document in (d for d in whole if d["apiVersion"] == "ray.io/v1"):
        assert [e.message for e in by_kind[document["kind"]].iter_errors(document)] == []


def test_a_published_crd_is_read_strictly():
    pod = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    fields = {"pods": {"type": "array", "items": pod}, "more": {"type": "object", "additionalProperties": {"type": "string"}}}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}
    check = schemas.published({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}})
    assert check.is_valid({"spec": {"pods": [{"name": "a"}], "more": {"any": "text"}}})
    for wrong in ({"pod": []}, {"pods": [{"nam": "a", "name": "a"}]}, {"pods": [{}]}, {"more": {"any": 1}}):
        assert not check.is_valid({"spec": wrong})


def test_only_those_who_are_meant_reach_a_pod(whole):
    policies = [d for d in whole if d["kind"] == "NetworkPolicy"]
    by_kind = {pod.where.partition("/")[0]: pod.labels for pod in pods([d for d in whole if d["kind"] in ("Deployment", "CronJob")])}
    head, worker, *_ = (pod.labels for pod in pods([one(whole, "RayCluster")]))
    service, night = by_kind["Deployment"], by_kind["CronJob"]
    operator = {"app.kubernetes.io/name": "kuberay-operator"}
    client = {"proseco-client": "true"}
    may = [
        (Peer(worker), head, 6379), (Peer(head), worker, 41234), (Peer(operator, "kuberay-system"), head, 8265),
        (Peer(client), service, 8000), (Peer({}, "ingress", client), service, 8000),
    ]  # fmt: skip
    may_not = [
        (Peer(), head, 8265), (Peer(worker, "elsewhere"), head, 6379), (Peer(operator), head, 8265), (Peer({}, "kuberay-system"), head, 8265),
        (Peer(operator, "kuberay-system"), head, 6379), (Peer(operator, "kuberay-system"), worker, 8265), (Peer(client), head, 8265),
        (Peer(service), head, 6379), (Peer(), service, 8000), (Peer(client, "elsewhere"), service, 8000), (Peer(client), service, 6379),
        (Peer(worker), service, 8000), (Peer(client), night, 8000), (Peer(worker), {"app": "another"}, 80),
    ]  # fmt: skip
    assert [case for case in may if not reaches(policies, *case)] == []
    assert [case for case in may_not if reaches(policies, *case)] == []
    without = [p for p in policies if p["metadata"]["name"] != "proseco-nobody"]
    assert reaches(without, Peer(worker), {"app": "another"}, 80), "it is the first policy that closes the rest"


def test_the_service_leads_to_its_pods_and_they_have_time_to_end(whole):
    (pod,) = pods([one(whole, "Deployment")])
    (container,) = pod.containers
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = one(whole, "Service")["spec"]
    assert fits({"matchLabels": service["selector"]}, pod.labels)
    assert fits(one(whole, "PodDisruptionBudget")["spec"]["selector"], pod.labels)
    probes = [container[name]["httpGet"]["port"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {service["ports"][0]["targetPort"], *probes} <= ports.keys()
    assert f"--port={ports['http']}" in container["args"]
    leaving = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod.spec["terminationGracePeriodSeconds"] > leaving + ServiceLimits().grace_s + 30
    selectors = [set(d["spec"]["selector"].items()) for d in whole if d["kind"] == "Service"]
    assert not any(s <= set(pod.labels.items()) for s in selectors for pod in pods([one(whole, "RayCluster")]))


def test_a_job_that_is_stopped_has_time_to_close_what_it_holds(whole):
    stop_s = int(settings(whole, "proseco-settings")["RAY_JOB_STOP_WAIT_TIME_S"])
    assert stop_s == 60
    assert all(pod.spec["terminationGracePeriodSeconds"] > stop_s for pod in pods([one(whole, "RayCluster")]))
    head = pods([one(whole, "RayCluster")])[0].containers[0]
    assert {"configMapRef": {"name": "proseco-settings"}} in head["envFrom"], "the head stops jobs, and reads it there"


def test_the_token_of_the_api_server_is_the_autoscalers_alone(whole):
    head, *workers = pods([one(whole, "RayCluster")])
    ray, autoscaler = head.containers
    with_token = {v["name"] for v in head.spec["volumes"] if any("serviceAccountToken" in s for s in v.get("projected", {}).get("sources", []))}
    assert {m["name"] for m in autoscaler["volumeMounts"]} & with_token
    assert not {m["name"] for m in ray["volumeMounts"]} & with_token
    assert not [v for pod in workers for v in pod.spec["volumes"] if "projected" in v]


def test_rays_own_autoscaler_reads_the_groups_as_they_are_meant(whole):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr as read

    groups = read(one(whole, "RayCluster"))["available_node_types"]
    wanted = {name: {k: v for k, v in group["resources"].items() if k != "memory"} for name, group in groups.items()}
    assert wanted == {"headgroup": {"CPU": 0}, "cpu": {"CPU": 4}, "gpu": {"CPU": 8, "GPU": 1}}
    assert [(g["min_workers"], g["max_workers"]) for g in groups.values()] == [(0, 0), (0, 8), (0, 8)]


@pytest.mark.parametrize("own", [(), ("own-clusters",)], ids=["one cluster", "own clusters"])
def test_jobs_are_of_a_shape_that_the_operator_takes(own, tmp_path):
    documents = compose(tmp_path, "run", "generate", "nightly/raycronjob", "image", "storage/volume", "sizes/small", *own)
    known = {d["metadata"]["name"] for d in documents if d["kind"] == "RayCluster"}
    jobs = ray_jobs(documents)
    assert jobs.keys() == {"run", "generate", "nightly"}
    for name, spec in jobs.items():
        assert re.fullmatch("[a-z]([-a-z0-9]{0,30}[a-z0-9])?", name), "a night adds eleven characters, and 47 there may be"
        assert spec["submissionMode"] == "HTTPMode"
        assert "submitterPodTemplate" not in spec
        if own:
            assert "clusterSelector" not in spec
            assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == (2, True)
        else:
            assert spec["clusterSelector"]["ray.io/cluster"] in known
            assert not {"rayClusterSpec", "backoffLimit", "ttlSecondsAfterFinished", "activeDeadlineSeconds"} & spec.keys()
    assert len(clusters(documents)) == (len(jobs) if own else 1)
    if own:
        plain = compose(tmp_path, "image", "storage/volume", "sizes/small")
        assert known == set()
        assert all(spec == one(plain, "RayCluster")["spec"] for _, spec in clusters(documents)), "with all that changes it"


def test_nights_come_one_at_a_time_and_never_twice(whole, tmp_path):
    cron = one(whole, "CronJob")["spec"]
    assert (cron["concurrencyPolicy"], cron["timeZone"]) == ("Forbid", "Etc/UTC")
    assert 0 < cron["startingDeadlineSeconds"] < 86400
    assert {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= cron.keys()
    (pod,) = pods([one(whole, "CronJob")])
    variables = {v["name"]: v.get("value") for v in pod.containers[0]["env"]}
    assert float(variables["NIGHT_S"]) < cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86400
    template = one(whole, "RayCronJob", variables["NIGHT_TEMPLATE"])["spec"]
    assert template["suspend"], "else both make it"
    assert template["schedule"] == cron["schedule"]
    alone = compose(tmp_path, "nightly/raycronjob", "storage/volume")
    assert not one(alone, "RayCronJob")["spec"]["suspend"]
    assert {d["kind"] for d in alone} & {"CronJob", "Role", "ServiceAccount"} == set()


def test_versions_are_those_of_the_project(whole):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {c["image"].rpartition(":")[2] for pod in pods(whole) for c in pod.spec["containers"]} == {project}


def test_no_secret_is_in_the_repository():
    names = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
    secret = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|^ *auth_token: *\S|^kind: Secret$", re.MULTILINE)
    found = [name for name in names.splitlines() if (ROOT / name).is_file() and secret.search((ROOT / name).read_bytes())]
    assert found == []
    for told in (b"kind: Secret\n", b"AKIA" + b"A" * 16, b"-----BEGIN RSA " + b"PRIVATE KEY"):
        assert secret.search(told)
