"""An object store that speaks the S3 protocol, on loopback, in a process of its own.

It is moto's. Two writers at once may both find nothing at a key there, which S3 itself does not let happen, so writes are
taken one by one. It can be told to behave like stores that are worse:

python -m tests.objects PORT [unconditional | lossy]
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from cluster.nodes import free_port
from tests.waiting import until

BUCKET = "rows"
TOP = Path(__file__).parents[1]


@contextlib.contextmanager
def objects(manner: str = "") -> Iterator[dict[str, str]]:
    """Yields the variables by which clients reach it; there is one bucket, named ``BUCKET``."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.objects", str(port), *([manner] if manner else [])]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def made() -> bool:
        assert process.poll() is None, "the object store ended"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"), timeout=5).close()
            return True
        return False

    try:
        until(made, 60)
        yield variables
    finally:
        process.kill()
        process.wait()


def reach(user: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Have this process use such a store, whatever it used before."""
    for name, value in variables.items():
        user.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # they keep the address


def serve(port: int, manner: str) -> None:
    from moto.server import create_backend_app
    from werkzeug.serving import make_server

    app: Any = create_backend_app("s3")
    writes, lost = threading.Lock(), []

    def answer(request: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        if request["REQUEST_METHOD"] != "PUT":
            return list(app(request, respond))
        conditional = "HTTP_IF_NONE_MATCH" in request
        if manner == "unconditional":
            request.pop("HTTP_IF_NONE_MATCH", None)
        with writes:
            if manner == "lossy" and conditional and request["PATH_INFO"] not in lost:
                lost.append(request["PATH_INFO"])
                list(app(request, lambda *_: None))
                respond("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            return list(app(request, respond))

    make_server("127.0.0.1", port, answer, threaded=True).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
