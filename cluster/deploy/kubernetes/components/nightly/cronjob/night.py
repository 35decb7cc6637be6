"""Make the RayJob of a night from its template, and wait until it has ended.

A CronJob runs it, with the standard library alone. The RayJob has the name of the CronJob's Job, so that a pod that takes
the place of another goes on waiting for the same RayJob; and it is the Job's, so that it goes when the Job does.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
ENDED = ("Complete", "Failed", "ValidationFailed")
POLL_S = 15.0


@dataclass(frozen=True)
class Api:
    """The API server of the cluster, as far as one namespace goes."""

    server: str
    namespace: str
    account: Path = ACCOUNT
    """Folder of the service account's token."""

    def ask(self, method: str, group: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request. Raises urllib.error.HTTPError where it is refused."""
        url = f"{self.server}/apis/{group}/namespaces/{self.namespace}/{path}"
        # The token is renewed while this waits.
        headers = {"Authorization": f"Bearer {(self.account / 'token').read_text()}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self.trust()) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def trust(self) -> ssl.SSLContext | None:
        if self.server.startswith("http:"):
            return None
        return ssl.create_default_context(cafile=str(self.account / "ca.crt"))


def rayjob(template: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The RayJob of a night.

    Args:
        template: a RayCronJob.
        job: of the CronJob. It says for which day, unless somebody made it by hand.
    """
    spec = dict(template["spec"]["jobTemplate"])
    owner = job["metadata"]
    scheduled = owner.get("annotations", {}).get(SCHEDULED, "")
    if scheduled:
        spec["entrypoint"] += f" --date {scheduled[:10]}"
    metadata = {
        "name": owner["name"],
        "labels": template["metadata"].get("labels", {}),
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}],
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def begin(api: Api, template: str, job: str) -> None:
    """Make the RayJob, unless it is there already."""
    made = rayjob(
        api.ask("GET", "ray.io/v1", f"raycronjobs/{template}"), api.ask("GET", "batch/v1", f"jobs/{job}")
    )
    try:
        api.ask("POST", "ray.io/v1", "rayjobs", made)
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        print(f"{job} was begun before", flush=True)
    else:
        print(f"{job}: {made['spec']['entrypoint']}", flush=True)


def wait(api: Api, job: str, limit_s: float, poll_s: float = POLL_S) -> bool:
    """Wait for the end of a RayJob. Returns whether it went well.

    One that takes longer than the limit is deleted: then the operator has its command stopped, which closes what it holds.
    """
    told = ""
    while True:
        try:
            found = api.ask("GET", "ray.io/v1", f"rayjobs/{job}")
        except (urllib.error.URLError, TimeoutError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404):
                raise
            print(f"the API server does not answer: {error}", flush=True)
            time.sleep(poll_s)
            continue
        status = found.get("status", {})
        words = " ".join(filter(None, (status.get("jobDeploymentStatus"), status.get("jobStatus"), status.get("message"))))
        if words != told:
            told = words
            print(f"{job}: {words}", flush=True)
        if status.get("jobDeploymentStatus") in ENDED:
            return bool(status.get("jobStatus") == "SUCCEEDED")
        begun = datetime.fromisoformat(found["metadata"]["creationTimestamp"])
        if (datetime.now(UTC) - begun).total_seconds() > limit_s:
            print(f"{job} has had its {limit_s:g} s, and is stopped", flush=True)
            api.ask("DELETE", "ray.io/v1", f"rayjobs/{job}")
            return False
        time.sleep(poll_s)


def main() -> int:
    api = Api("https://kubernetes.default.svc", os.environ["NAMESPACE"])
    begin(api, os.environ["NIGHT_TEMPLATE"], os.environ["JOB"])
    return 0 if wait(api, os.environ["JOB"], float(os.environ["NIGHT_S"])) else 1


if __name__ == "__main__":
    sys.exit(main())
