"""As much of the Kubernetes API, on 127.0.0.1, as the executor plugin asks for; a pod is a shell on this machine."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Api:
    """What was sent, by names: the bodies of jobs; the pods, which are processes."""

    workdir: Path
    env: dict[str, str]  # of the image
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def create(self, body: dict[str, Any]) -> None:
        """Runs the command of a job's container where the container would: in an empty folder."""
        name, container = body["metadata"]["name"], body["spec"]["template"]["spec"]["containers"][0]
        folder = self.workdir / name
        folder.mkdir(parents=True)
        self.jobs[name] = body
        with (self.workdir / f"{name}.log").open("wb") as log:
            command = [*container["command"], *container["args"]]
            self.pods[name] = subprocess.Popen(command, cwd=folder, env=self.env, stdout=log, stderr=log)

    def status(self, name: str) -> dict[str, int]:
        code = self.pods[name].poll()
        return {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}


@contextmanager
def serving(folder: Path, env: dict[str, str]) -> Iterator[tuple[Api, Path]]:
    """Serves one, whose pods have that environment; yields it, and the client's configuration that leads there."""
    api = Api(folder / "pods", env)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("/jobs"):
                api.create(body)
            self.answer(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0].split("/")
            self.answer({"items": []} if path[-1] == "pods" else {"status": api.status(path[-2])})

        def do_DELETE(self) -> None:
            self.answer({})

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    named = {"cluster": "test", "user": "test"}
    settings = {
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": named}],
        "current-context": "test",
    }
    config = folder / "kubeconfig"
    config.write_text(yaml.safe_dump(settings))
    try:
        yield api, config
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for pod in api.pods.values():
            pod.kill()
            pod.wait()
