"""As much of a Kubernetes API server as Helm asks while it renders: which kinds and Secrets there are."""

import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


@contextmanager
def serving(
    folder: Path, namespace: str, secrets: Collection[str], kinds: Collection[tuple[str, str]]
) -> Iterator[Path]:
    """Yields a kubeconfig. `kinds`: each with its apiVersion, beside namespaces and secrets."""
    answers = _answers(namespace, secrets, kinds)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = answers.get(path)
            missing = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
                "code": 404,
            }
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or missing).encode())

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = folder / "kubeconfig"
    config.write_text(yaml.safe_dump(_config(f"http://127.0.0.1:{server.server_port}")))
    yield config
    server.shutdown()


def _answers(
    namespace: str, secrets: Collection[str], kinds: Collection[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    named: dict[str, set[str]] = {"v1": {"Namespace", "Secret"}}
    for version, kind in kinds:
        named.setdefault(version, set()).add(kind)
    groups = [_group(version) for version in named if "/" in version]
    answers: dict[str, dict[str, Any]] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for version, its_kinds in named.items():
        answers[f"/{'apis' if '/' in version else 'api'}/{version}"] = {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [_resource(kind) for kind in sorted(its_kinds)],
        }
    answers[f"/api/v1/namespaces/{namespace}"] = _object("Namespace", namespace)
    for name in secrets:
        answers[f"/api/v1/namespaces/{namespace}/secrets/{name}"] = _object("Secret", name)
    return answers


def _group(version: str) -> dict[str, Any]:
    group, _, short = version.partition("/")
    named = {"groupVersion": version, "version": short}
    return {"name": group, "versions": [named], "preferredVersion": named}


def _resource(kind: str) -> dict[str, Any]:
    is_in = kind not in ("Namespace", "PriorityClass")
    return {"name": f"{kind.lower()}s", "kind": kind, "namespaced": is_in, "verbs": ["get", "list"]}


def _object(kind: str, name: str) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "v1", "metadata": {"name": name}}


def _config(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
    }
