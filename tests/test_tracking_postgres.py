"""The tracking door against an MLflow server on a PostgreSQL server, both real and both started here.

PostgreSQL comes from Debian's package postgresql, its driver from psycopg2-binary; without them the tests are skipped.
What the database holds is read from its own tables: every step of every run once, whatever was killed meanwhile.
"""

import json
import multiprocessing
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from ethoray import tracking
from ethoray.tracking import Mirror

pytestmark = pytest.mark.slow

WRITERS, ROUNDS, STEPS = 16, 4, 25
PATIENCE = 400.0  # seconds; a tenth is enough where nothing else runs


def program(name: str) -> str:
    """A program of PostgreSQL, which Debian keeps off the path."""
    found = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True)]
    return next(filter(None, found), "")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Postgres:
    """A PostgreSQL server with a database and a role of its own; a password made for it; no socket file."""

    def __init__(self, place: Path) -> None:
        self.place, self.port, self.password = place, free_port(), secrets.token_hex(16)
        self.who = {}
        if os.getuid() == 0:  # it refuses to be root
            user = next(u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
            self.who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(place, user.pw_uid, user.pw_gid)
        word = place / "password"
        word.write_text(self.password)
        if self.who:
            os.chown(word, self.who["user"], self.who["group"])
        self._run("initdb", "-D", place / "data", "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={word}", "-N")
        word.unlink()

    def fill(self) -> None:
        """Make the database, which is empty."""
        with closing(self.connect("postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute("create database mlflow")

    def _run(self, name: str, *words: object) -> None:
        words = (program(name), *map(str, words))
        done = subprocess.run(words, capture_output=True, text=True, cwd=self.place, timeout=PATIENCE, **self.who)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = self.place / "log"
        self._run("pg_ctl", "start", "-w", "-s", "-D", self.place / "data", "-l", log, "-o", options)

    def stop(self) -> None:
        """As a crash does: no goodbye to clients, recovery at the next start."""
        self._run("pg_ctl", "stop", "-w", "-s", "-m", "immediate", "-D", self.place / "data")

    def connect(self, database: str = "mlflow"):
        import psycopg2

        place = {"host": "127.0.0.1", "port": self.port, "user": "mlflow", "password": self.password}
        return psycopg2.connect(dbname=database, **place)

    def ask(self, question: str) -> list[tuple]:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchall()


class Server:
    """An MLflow server in a process group of its own."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres, self.port = postgres, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        store = f"postgresql+psycopg2://mlflow@127.0.0.1:{self.postgres.port}/mlflow"
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", store, "--artifacts-destination", str(self.postgres.place / "artifacts")]
        extra = {"PGPASSWORD": self.postgres.password, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.postgres.place / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words], env=os.environ | extra, start_new_session=True, stdout=log, stderr=log
            )
        end = time.monotonic() + PATIENCE
        while not self._answers():
            log = (self.postgres.place / "server.log").read_text()
            assert self.process.poll() is None and time.monotonic() < end, log
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg2", reason="psycopg2-binary, the driver of PostgreSQL, is not installed")
    if not (program("initdb") and program("pg_ctl")):
        pytest.skip("PostgreSQL (Debian's package postgresql) is not installed")
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    place.chmod(0o755)
    try:
        made = Postgres(place)
        made.start()
        try:
            made.fill()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def server(postgres):
    started = Server(postgres)
    try:
        started.start()
        yield started
    finally:
        started.kill()


def grow(folder: Path, steps: int) -> None:
    """A run folder that has come so far."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"method": {"name": "toy", "channels": [4, 8]}, "seed": 3, "probes": [{"name": "linear"}]}
    (folder / "experiment.json").write_text(json.dumps(document))
    (folder / "provenance.json").write_text(json.dumps({"commit": "c0ffee", "dirty": False, "started": 1e9}))
    lines = [{"step": s, "seconds": s / 10, "loss": 1 / s, "gradient_norm": 1.0} for s in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def finish(folder: Path) -> None:
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    scores = {"scores": {"strain/long": 0.8}, "intervals": {}, "cost": {"train_seconds": 1.0}, "finished": 1e9 + 9}
    (folder / "scores.json").write_text(json.dumps(scores))


def write(root: Path, uri: str, number: int, name: str) -> None:
    """One driver of a sweep: two runs that grow, mirrored after every round, until MLflow has all of both."""
    storage = root / f"sweep{number}"
    mirror = Mirror(name, storage, uri, parent=f"sweep{number}")
    folders = [storage / f"{number:08x}{run:08x}" for run in range(2)]
    for turn in range(1, ROUNDS + 1):
        for folder in folders:
            grow(folder, turn * STEPS)
        mirror.follow(folders)
        time.sleep(0.3)
    for folder in folders:
        finish(folder)
    end = time.monotonic() + PATIENCE
    while not (mirror.follow(folders, insist=True) and mirror.close()):
        assert time.monotonic() < end, f"writer {number} never got through"


def launch(root: Path, uri: str, name: str) -> list:
    import mlflow.entities  # noqa: F401  once, before there are sixteen of it

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(root, uri, n, name)) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    return writers


def settled(writers: list) -> None:
    for writer in writers:
        writer.join(2 * PATIENCE)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS


def whole(postgres: Postgres, name: str) -> None:
    """Every writer has a parent run and two finished ones; every step of every metric is there, and once."""
    among = f"""from runs join experiments using (experiment_id)
        where experiments.name = '{name}' and runs.lifecycle_stage = 'active'"""
    assert postgres.ask(f"select count(*) from experiments where name = '{name}'") == [(1,)]
    assert postgres.ask(f"select status, count(*) {among} group by status") == [("FINISHED", 3 * WRITERS)]
    keys = f"select tags.value from tags where tags.key = 'ethoray.key' and run_uuid in (select run_uuid {among})"
    assert len({key for (key,) in postgres.ask(keys)}) == 3 * WRITERS
    count = f"""select count(*), count(distinct (run_uuid, step)), min(step), max(step) from metrics
        where key = %s and run_uuid in (select run_uuid {among})"""
    for metric in ("loss", "gradient_norm", "seconds"):
        steps = 2 * WRITERS * ROUNDS * STEPS
        assert postgres.ask(count.replace("%s", f"'{metric}'")) == [(steps, steps, 1, ROUNDS * STEPS)], metric
    scores = f"select count(*) from metrics where key = 'score/strain/long' and run_uuid in (select run_uuid {among})"
    assert postgres.ask(scores) == [(2 * WRITERS,)]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(tracking, "PAUSE", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # sixteen at once on two cores


def test_sixteen_writers_at_once_lose_and_double_nothing(postgres, server, impatient, tmp_path):
    settled(launch(tmp_path, server.uri, "calm"))
    whole(postgres, "calm")


def test_a_server_and_a_database_killed_under_sixteen_writers_lose_and_double_nothing(
    postgres, server, impatient, tmp_path
):
    writers = launch(tmp_path, server.uri, "storm")
    time.sleep(1.5)
    server.kill()
    time.sleep(1.0)
    server.start()
    time.sleep(1.0)
    postgres.stop()
    time.sleep(1.0)
    postgres.start()
    settled(writers)
    whole(postgres, "storm")


def test_what_was_written_while_the_server_was_down_arrives_in_order_when_it_is_back(
    postgres, server, impatient, monkeypatch, tmp_path
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.kill()
    folder = tmp_path / "0123456789abcdef"
    mirror = Mirror("later", tmp_path, server.uri, parent="sweep")
    for steps in (5, 10, 15):
        grow(folder, steps)
        assert not mirror.follow([folder])
    server.start()
    assert mirror.follow([folder], insist=True)
    finish(folder)
    assert Mirror("later", tmp_path, server.uri, parent="sweep").follow([folder], insist=True)
    rows = postgres.ask("""select step, value from metrics join runs using (run_uuid) join experiments using
        (experiment_id) where experiments.name = 'later' and key = 'loss' order by step""")
    assert rows == [(s, pytest.approx(1 / s)) for s in range(1, 16)]


def test_the_database_lets_nobody_in_without_the_password(postgres):
    import psycopg2

    for word in ("", "mlflow", "postgres", postgres.password[:-1]):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(host="127.0.0.1", port=postgres.port, user="mlflow", password=word, dbname="mlflow")
