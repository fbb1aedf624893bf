"""Who is let in: a head and a worker as node.sh starts them, asked by a plain HTTP client."""

import http.client
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CLOSED = [
    ("GET", "/api/version"),
    ("GET", "/api/jobs/"),
    ("POST", "/api/jobs/"),
    ("POST", "/api/jobs/some/stop"),
    ("DELETE", "/api/jobs/some"),
    ("PUT", "/api/packages/gcs/some.zip"),
    ("GET", "/api/v0/nodes"),
    ("GET", "/nodes?view=summary"),
    ("GET", "/logs"),
]
OPEN = {"/": b"<!doctype html>", "/api/gcs_healthz": b"success"}
"""The empty page that asks for a token, and whether the head lives: nothing else is told to everybody."""


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_the_dashboard_and_the_jobs_api_refuse_strangers(nodes, method, path):
    assert nodes.get(path, None, method)[0] == 401
    assert nodes.get(path, "0" * 64, method)[0] == 403
    assert nodes.get(path, nodes.token[:-1], method)[0] == 403


def test_whoever_has_the_token_is_served(nodes):
    assert nodes.get("/api/version", nodes.token)[0] == 200


@pytest.mark.parametrize("path", OPEN)
def test_what_everybody_is_told_is_this(nodes, path):
    status, body = nodes.get(path)
    assert status == 200 and OPEN[path] in body and b"node_id" not in body


def test_no_port_of_a_head_or_a_worker_serves_strangers_anything_but_counters(nodes):
    """Every socket that listens, found by looking at the processes: Prometheus counters are the one exception."""
    if "door" not in nodes.started:
        nodes.start("door")
    told = {}
    for host, port in nodes.listening():
        for method, path in (("GET", "/"), ("GET", "/api/version"), ("POST", "/get_or_create_runtime_env")):
            status, body = ask(host, port, method, path)
            if status is not None and status < 400 and (port, path) != (nodes.dashboard, "/"):
                told[port] = body
    assert told  # the exception is there, so the look was not empty
    assert all(body.startswith(b"# HELP") for body in told.values()), told


def test_the_jobs_api_listens_on_this_machine_only(nodes):
    assert {host for host, port in nodes.listening() if port == nodes.dashboard} == {"127.0.0.1"}


@pytest.mark.parametrize("mode", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}])
def test_a_driver_without_the_token_cannot_join(nodes, mode):
    clean = {k: v for k, v in nodes.environment.items() if not k.startswith("RAY_")}
    code = f"import ray; ray.init('127.0.0.1:{nodes.port}'); print('joined', len(ray.nodes()))"
    words = [sys.executable, "-c", code]
    try:
        done = subprocess.run(words, env={**clean, **mode}, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        assert b"joined" not in (error.stdout or b"")
        return
    assert done.returncode != 0 and "joined" not in done.stdout
    assert "Unauthenticated" in done.stderr or "auth" in done.stderr.lower()


def test_ray_job_submit_runs_with_the_token_and_is_refused_without(nodes):
    assert nodes.submit("python", "-c", "print(6 * 7)").returncode == 0
    words = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{nodes.dashboard}", "--", "true"]
    strangers = {k: v for k, v in nodes.environment.items() if not k.startswith("RAY_")}
    done = subprocess.run(words, env=strangers, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "Unauthorized" in done.stdout + done.stderr


def ask(host: str, port: int, method: str, path: str):
    """The status and the beginning of the body; None where the answer is no HTTP (gRPC closes the connection)."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.read(200)
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()
