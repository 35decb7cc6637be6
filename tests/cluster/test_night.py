"""What the CronJob runs: a RayJob for each night, made once, waited for, stopped where it takes too long."""

from __future__ import annotations

import json
import threading
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from cluster.deploy.kubernetes.components.nightly.cronjob import night
from tests.deploy import schemas
from tests.deploy.manifests import KUBERNETES, compose, one

JOB = "nightly-29402010"
RAYJOB = f"/apis/ray.io/v1/namespaces/proseco/rayjobs/{JOB}"
SCHEDULED = "2026-11-26T01:30:00Z"


class Server(ThreadingHTTPServer):
    """An API server, as far as a night goes."""

    def __init__(self, template: dict[str, Any]):
        super().__init__(("127.0.0.1", 0), Handler)
        annotations = {night.SCHEDULED: SCHEDULED}
        self.objects: dict[str, dict[str, Any]] = {
            "/apis/ray.io/v1/namespaces/proseco/raycronjobs/nightly": template,
            f"/apis/batch/v1/namespaces/proseco/jobs/{JOB}": {"metadata": {"name": JOB, "uid": "u-1", "annotations": annotations}},
        }
        self.asked: list[str] = []
        self.failing = 0
        """So many answers are errors of the server."""
        self.coming: list[dict[str, str]] = []
        """What the status of the RayJob is next."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, body: Any = None) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body or {}).encode())

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        if self.headers["Authorization"] != "Bearer of-the-account":
            return self.answer(401)
        if self.server.failing:
            self.server.failing -= 1
            return self.answer(500)
        found = self.server.objects.get(self.path)
        if self.path == RAYJOB and found and self.server.coming:
            found["status"] = self.server.coming.pop(0)
        return self.answer(200, found) if found else self.answer(404)

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = f"{self.path}/{made['metadata']['name']}"
        if path in self.server.objects:
            return self.answer(409)
        made["metadata"]["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.server.objects[path] = made
        return self.answer(201, made)

    def do_DELETE(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.objects.pop(self.path)
        self.answer(200)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> dict[str, Any]:
    return one(compose(tmp_path_factory.mktemp("night"), "nightly/cronjob", "storage/volume"), "RayCronJob")


@pytest.fixture
def server(template) -> Iterator[Server]:
    with Server(json.loads(json.dumps(template))) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def api(server, tmp_path) -> night.Api:
    (tmp_path / "token").write_text("of-the-account")
    return night.Api(f"http://127.0.0.1:{server.server_port}", "proseco", tmp_path)


def test_a_night_is_made_of_the_template_for_the_day_that_was_scheduled(api, server, template):
    night.begin(api, "nightly", JOB)
    made = server.objects[RAYJOB]
    assert made["spec"]["entrypoint"] == f"{template['spec']['jobTemplate']['entrypoint']} --date 2026-11-26"
    assert {k: v for k, v in made["spec"].items() if k != "entrypoint"} == {
        k: v for k, v in template["spec"]["jobTemplate"].items() if k != "entrypoint"
    }
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Job", "u-1"), "it goes when the Job does"
    assert [p for version in schemas.KUBERNETES for p in schemas.problems(made, version)] == []


def test_one_that_somebody_made_by_hand_is_for_today(template):
    made = night.rayjob(template, {"metadata": {"name": "by-hand", "uid": "u-2"}})
    assert made["spec"]["entrypoint"] == template["spec"]["jobTemplate"]["entrypoint"]


def test_a_second_pod_makes_no_second_night(api, server, capsys):
    night.begin(api, "nightly", JOB)
    night.begin(api, "nightly", JOB)
    assert len([path for path in server.objects if "/rayjobs/" in path]) == 1
    assert "was begun before" in capsys.readouterr().out


@pytest.mark.parametrize(("deployment", "job", "well"), [("Complete", "SUCCEEDED", True), ("Complete", "STOPPED", False), ("Failed", "FAILED", False)])
def test_it_waits_for_the_end_also_where_the_api_server_is_away_for_a_while(api, server, deployment, job, well, capsys):
    night.begin(api, "nightly", JOB)
    server.failing = 2
    server.coming = [{}, {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, {"jobDeploymentStatus": deployment, "jobStatus": job}]
    assert night.wait(api, JOB, 60.0, poll_s=0.01) is well
    told = capsys.readouterr().out
    assert told.count("does not answer") == 2
    assert told.index("Running RUNNING") < told.index(f"{deployment} {job}")
    assert RAYJOB in server.objects


def test_a_night_that_takes_too_long_is_stopped(api, server):
    night.begin(api, "nightly", JOB)
    server.coming = [{"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}] * 99
    assert not night.wait(api, JOB, 1.0, poll_s=0.05)
    assert server.asked[-1] == f"DELETE {RAYJOB}"
    assert RAYJOB not in server.objects


def test_what_it_may_not_do_is_told_at_once(api, server, tmp_path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        night.wait(api, JOB, 60.0, poll_s=0.01)
    (tmp_path / "token").write_text("of-another")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        night.begin(api, "nightly", JOB)


def test_it_asks_for_no_more_than_its_role_allows(api, server):
    night.begin(api, "nightly", JOB)
    night.wait(api, JOB, -1.0)
    (role,) = [d for d in yaml.safe_load_all((KUBERNETES / "components/nightly/cronjob/access.yaml").read_text()) if d["kind"] == "Role"]
    allowed = {(group, kind, verb) for rule in role["rules"] for group in rule["apiGroups"] for kind in rule["resources"] for verb in rule["verbs"]}
    verbs = {"GET": "get", "POST": "create", "DELETE": "delete"}
    asked = {(path.split("/")[2], path.split("/")[6], verbs[method]) for method, path in (line.split() for line in server.asked)}
    assert asked == allowed
