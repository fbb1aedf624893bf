"""A Ray cluster of separate nodes on this machine, started by clusters/node.sh, and ways to read the other files."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from ray.thirdparty_files import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds; twenty are enough where nothing else runs


class Strict(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; this refuses them."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate keys {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="session")
def folder():
    return ROOT / "clusters"


@pytest.fixture(scope="session")
def documents():
    """Reads every document of a YAML file."""

    def read(path: Path) -> list[dict]:
        return [d for d in yaml.load_all(path.read_text(), Strict) if d]

    return read


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Nodes:
    """One head and any number of workers, each with a raylet of its own, two tasks' worth of memory and one CPU.

    Every process belongs to this object; ``close`` ends those and no other. The home folder is its own too, so that
    nobody's ~/.ray is read or written.
    """

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: Ray's sockets are named after it
        self.port, self.dashboard = free_port(), free_port()
        self.token = secrets.token_hex(32)
        self.started: dict[str, subprocess.Popen] = {}
        self.names: dict[str, str] = {}  # Ray's own names of the nodes, by ours
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ETHORAY_", "MLFLOW_"))},
            "HOME": str(self.place),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_PORT": str(self.port),
            "RAY_HEAD_IP": "127.0.0.1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "ETHORAY_RUNS": str(self.place / "runs"),
            "ETHORAY_STORE": str(self.place / "store"),
            "OMP_NUM_THREADS": "1",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(PATIENCE),
        }

    def start(self, name: str) -> None:
        """The node "head", or a worker of any other name; returns when it has joined.

        Ray gives a raylet half a minute, which is short where others work too: tried three times.
        """
        for _ in range(2):
            try:
                return self._start(name)
            except RuntimeError:
                self.kill(name)
        return self._start(name)

    def _start(self, name: str) -> None:
        before = self.alive() if self.started else set()
        verb = "head" if name == "head" else "worker"
        mine = [
            f"--temp-dir={self.place}",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}",
        ]
        words = [
            "bash", str(ROOT / "clusters" / "node.sh"), verb, "--block", "--node-ip-address=127.0.0.1",
            "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}",
            f"--metrics-export-port={free_port()}", *(mine if verb == "head" else []),
        ]  # fmt: skip
        with (self.place / f"{name}.log").open("w") as log:
            self.started[name] = subprocess.Popen(
                words, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        end = time.monotonic() + PATIENCE
        while not (joined := self.alive() - before):
            if self.started[name].poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start:\n{(self.place / f'{name}.log').read_text()}")
            time.sleep(0.5)
        (self.names[name],) = joined

    def alive(self) -> set[str]:
        """Ray's names of the nodes that the head knows to be alive; none while there is no head."""
        try:
            status, body = self.get("/api/v0/nodes", self.token)
        except OSError:
            return set()
        found = json.loads(body)["data"]["result"]["result"] if status == 200 else []
        return {node["node_id"] for node in found if node["state"] == "ALIVE"}

    def get(self, path: str, token: str | None = None, method: str = "GET", port: int | None = None):
        """What a plain HTTP client is answered: the status and the body."""
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        body = b"{}" if method in ("POST", "PUT") else None
        url = f"http://127.0.0.1:{port or self.dashboard}{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers, method=method), timeout=20
            ) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def listening(self) -> set[tuple[str, int]]:
        """Where the processes of all nodes listen, as addresses to connect to."""
        sockets = set()
        for process in (p for first in self.started.values() for p in family(first.pid)):
            for found in process.net_connections("inet"):
                if found.status == psutil.CONN_LISTEN:
                    host = found.laddr.ip.removeprefix("::ffff:")
                    sockets.add(("127.0.0.1" if host in ("::", "0.0.0.0") else host, found.laddr.port))
        return sockets

    def submit(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess:
        """``ray job submit -- WORDS``, which waits for the end of the job."""
        command = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{self.dashboard}", "--", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)

    def kill(self, name: str) -> None:
        """End every process of a node without a warning, as when its machine dies."""
        first = self.started.pop(name)
        for process in family(first.pid):
            process.kill()
        first.wait()
        if not self.started:
            self._sweep_out()

    def _sweep_out(self) -> None:
        """End what a node left behind when its first process ended: all that names this cluster's own folder."""
        for process in psutil.process_iter():
            if _of(process, str(self.place)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def close(self) -> None:
        for first in self.started.values():
            first.send_signal(signal.SIGTERM)
        for name in list(self.started):
            try:
                self.started[name].wait(20)
                self.started.pop(name)
            except subprocess.TimeoutExpired:
                self.kill(name)
        self._sweep_out()
        shutil.rmtree(self.place, ignore_errors=True)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _of(process: psutil.Process, place: str) -> bool:
    try:
        return any(place in word for word in process.cmdline())
    except (psutil.Error, OSError):
        return False


@pytest.fixture(scope="module")
def nodes():
    """A head and nothing more; tests add workers with ``nodes.start("name")``."""
    cluster = Nodes()
    try:
        cluster.start("head")
        yield cluster
    finally:
        cluster.close()
