"""MLflow as the place to browse: models without pickles, and the pages themselves in a headless Chromium.

Pictures of the pages are left in $ETHORAY_SCREENSHOTS, or among pytest's temporary files.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ethoray import leaderboard, record, testing
from ethoray.batch import Windows
from ethoray.experiment import Experiment, run
from ethoray.learning import Budget
from ethoray.probes.linear import Linear
from ethoray.readers import ReadError, Tracks
from ethoray.report.again import Memo, rewrite
from ethoray.schema import SchemaError
from ethoray.tracking import Mirror, models, naming
from ethoray.tracking.connection import connect
from ethoray.tracking.fetch import FetchError, fetch
from ethoray.unseen import command
from ethoray.wording import configure
from ethoray.writers import write_table

_READ = "document.body ? document.body.innerText : ''"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Where a Chromium is."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Chromium:
    """One page in a browser of its own; use it with ``with``."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1500, 1100)) -> None:
        theirs, self._write = os.pipe()
        self._read, ours = os.pipe()
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", "--disable-features=IsolateSandboxedFrames",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}",
        ]  # fmt: skip
        # the pipe is file descriptors 3 (commands) and 4 (answers), messages end in a zero byte
        command = f'exec "$@" 3<&{theirs} 4>&{ours}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "chromium", str(program()), *flags, "about:blank"],
            pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self._rest, self._number, self._session = b"", 0, None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._call("Browser.close")
        self._process.wait(30)
        os.close(self._read)
        os.close(self._write)

    def _call(self, method: str, **params: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                came = os.read(self._read, 1 << 20)
                assert came, "Chromium closed its pipe"
                self._rest += came
            first, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(first)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer.get("result", {})

    def run(self, script: str) -> object:
        """The value of a piece of JavaScript in the page."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self, *wanted: str, seconds: float = 120.0) -> str:
        """What a person reads on the page and in its frames, as soon as all that is wanted stands there."""
        end, shown = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            shown = "\n".join([str(self.run(_READ)), *self._framed()])
            if all(word in shown for word in wanted):
                return shown
            time.sleep(0.25)
        raise AssertionError(f"{[w for w in wanted if w not in shown]} not on the page, which reads: {shown[:3000]}")

    def holds(self, script: str, seconds: float = 60.0) -> bool:
        """Whether a condition is true in the page soon."""
        end = time.monotonic() + seconds
        while not (true := bool(self.run(script))) and time.monotonic() < end:
            time.sleep(0.25)
        return true

    def _framed(self) -> Iterator[str]:
        """The texts of the frames in the page, which may belong to nobody (a sandbox)."""
        for frame in self._call("Page.getFrameTree")["frameTree"].get("childFrames", []):
            try:
                world = self._call("Page.createIsolatedWorld", frameId=frame["frame"]["id"])["executionContextId"]
                answer = self._call("Runtime.evaluate", expression=_READ, contextId=world, returnByValue=True)
            except AssertionError:  # gone meanwhile
                continue
            yield str(answer["result"].get("value"))

    def visit(self, url: str, *wanted: str) -> str:
        """Open a page and wait for words on it; the text of it."""
        self._call("Page.navigate", url="about:blank")  # else a new fragment leaves the old page as it was
        self._call("Page.navigate", url=url)
        return self.text(*wanted)

    def click(self, words: str) -> None:
        """Press the smallest element that reads ``words``."""
        done = self.run(
            "(() => {const all = [...document.querySelectorAll('*')].filter(e => e.innerText && "
            f"e.innerText.trim() === {json.dumps(words)}); const e = all.pop(); if (e) e.click(); return !!e}})()"
        )
        assert done, f"nothing on the page reads {words!r}"

    def picture(self, path: Path) -> Path:
        """The page as it stands, a png."""
        time.sleep(1.5)  # until what moves has come to rest
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        return path


HURT = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>"
PAGE = (
    "<!doctype html><title>width</title><h1>The page of the question</h1><p>Wider is <b>better</b>."
    "<script>document.body.append('Its scripts run.')</script>"
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return testing.toy_dataset(tmp_path_factory.mktemp("own") / "toy", seconds=8.0, fps=10.0)


@pytest.fixture(scope="module")
def swept(toy, tmp_path_factory):
    """A storage with three finished runs of a sweep, and their folders."""
    storage, folders = tmp_path_factory.mktemp("runs"), []
    for components, seed in ((2, 0), (4, 0), (4, 1)):
        chosen = configure("pca", None, [f"components={components}"])
        experiment = Experiment(Windows(toy.uri, 4.0, 4), chosen, (Linear(),), Budget(steps=4, log_every=1), seed)
        folders.append(storage / record.key(experiment, toy))
        run(experiment, folders[-1])
    return storage, folders


@pytest.fixture(scope="module")
def mirrored(swept, toy):
    storage, folders = swept
    tags = {"ethoray.question": f"Does a wider space help?{HURT}", "ethoray.command": "sweeps/width.py"}
    mirror = Mirror("width", storage, f"sqlite:///{storage / 'mlflow.db'}", parent="width@1", tags=tags)
    table = leaderboard.leaderboard(leaderboard.collect(folders, toy.card)).frame()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect(mirror.uri)
    shutil.copy(storage / "mlflow.db", storage / "empty.db")
    assert mirror.follow(folders)
    page, figure = storage / "width.html", storage / "figures" / "width.svg"
    page.write_text(PAGE)
    figure.parent.mkdir()
    figure.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="100"><text x="9" y="50">a figure</text></svg>'
    )
    rows = {"pca <b>": [folder.name for folder in folders], "nobody": ["0000"]}
    memo = Memo("width", "Does it?", "toy", {folder.name: "" for folder in folders}, ("python", "sweeps/width.py"))
    memo.write(storage)
    assert mirror.publish(table, [page, figure, storage / "page.json"], best=folders[1], rows=rows)
    assert mirror.close()
    return mirror


@pytest.fixture
def empty(mirrored, tmp_path):
    """A database without anything of the sweep; making one takes MLflow seconds, so it was made once."""
    shutil.copy(mirrored.storage / "empty.db", tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def child_of(mirror, folder):
    found = mirror._api().search_runs([mirror._experiment], f"tags.`ethoray.key` = '{folder.name}'")
    assert len(found) == 1
    return found[0]


def test_pages_are_made_again_where_there_is_nothing_but_mlflow(mirrored, swept, tmp_path):
    storage, folders = swept
    brought = list(fetch(tmp_path, "width", mirrored.uri))
    assert {*brought} == {tmp_path / "width" / "toy", *(tmp_path / folder.name for folder in folders)}
    for folder in folders:
        for file in (path for path in folder.rglob("[!.]*") if path.is_file()):
            assert (tmp_path / file.relative_to(storage)).read_bytes() == file.read_bytes(), file
    assert not list(fetch(tmp_path, None, mirrored.uri)), "what is there is left alone"
    out = tmp_path / "reports"
    assert out / "width" / "toy" / "leaderboard.html" in list(rewrite(tmp_path, out))
    assert len(pd.read_csv(out / "width" / "toy" / "scores.csv").groupby("key")) == 3
    with pytest.raises(FetchError, match=r"no experiment nobody .*width"):
        list(fetch(tmp_path, "nobody", mirrored.uri))
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9"):
        list(fetch(tmp_path, None, "http://127.0.0.1:9"))


def test_a_server_cannot_name_a_folder_outside(mirrored, swept, empty, tmp_path):
    liar = Mirror("width", tmp_path, empty, parent="width@1")
    assert liar.follow(swept[1][:1])
    liar._api().set_tag(child_of(liar, swept[1][0]).info.run_id, "ethoray.key", "../outside")
    with pytest.raises(SchemaError, match="outside"):
        list(fetch(tmp_path / "runs", "width", empty))


def test_a_child_has_its_intervals_its_data_and_the_best_its_model(mirrored, swept, toy):
    _, folders = swept
    client, child = mirrored._api(), child_of(mirrored, folders[1])
    document = json.loads((folders[1] / "scores.json").read_text())
    for name, (low, high) in document["intervals"].items():
        assert child.data.metrics[f"score/{name} low"] == low
        assert child.data.metrics[f"score/{name} high"] == high
    for run_id in (child.info.run_id, mirrored._parent_run()):
        (used,) = client.get_run(run_id).inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("toy", toy.key[:36])
    named = client.search_logged_models([mirrored._experiment])
    assert [model.source_run_id for model in named] == [child.info.run_id]
    assert client.get_model_version_by_alias("width", "best").run_id == child.info.run_id
    assert f"models:/{named[0].model_id}" in child.data.tags["mlflow.note.content"]
    assert "models:/width@best" in client.get_registered_model("width").description


def test_the_parent_says_question_verdict_and_command(mirrored, swept):
    client = mirrored._api()
    run = client.get_run(mirrored._parent_run())
    note = run.data.tags["mlflow.note.content"]
    first = leaderboard.leaderboard(leaderboard.collect(swept[1])).frame().iloc[0]
    for end in ("", " low", " high"):
        assert run.data.metrics[f"first/running/pca{end}"] == first[f"running/pca{end}"]
    assert [a.path for a in client.list_artifacts(run.info.run_id, "figures")] == ["figures/width.svg"]
    assert "width.svg" not in note
    child = child_of(mirrored, swept[1][1])
    for part in (
        f"[{swept[1][1].name[:8]}](#/experiments/{mirrored._experiment}/runs/{child.info.run_id})",
        "pca &lt;b>: [",
        "Does a wider space help?&lt;script>",
        "#/compare-runs?runs=",
        "**Of 2 candidates, pca is first",
        "sweeps/width.py",
        "`width.html`",
    ):
        assert part in note
    assert "nobody" not in note
    assert client.get_experiment(mirrored._experiment).tags["mlflow.note.content"] == naming.plain(
        mirrored.tags["ethoray.question"]
    )


def test_publishing_again_registers_nothing_twice(mirrored, swept):
    storage, folders = swept
    second = Mirror("width", storage, mirrored.uri, parent="width@1", tags=mirrored.tags)
    assert second.publish(pd.DataFrame({"rank": [1.0], "method": ["pca"]}), [], best=folders[1])
    client = second._api()
    assert len(client.search_logged_models([second._experiment])) == 1
    assert len(client.search_model_versions("name = 'width'")) == 1
    table = leaderboard.leaderboard(leaderboard.collect(folders)).frame()
    assert second.publish(table, [storage / "width.html", storage / "figures" / "width.svg"]) and second.close()


@pytest.mark.parametrize("call", ["create_logged_model", "log_model_artifacts", "finalize_logged_model", "log_outputs"])
def test_killed_while_a_model_is_logged_the_next_mirror_completes_it(swept, empty, tmp_path, monkeypatch, call):
    folder = swept[1][0]
    first = Mirror("width", tmp_path, empty)
    real = getattr(first._api(), call)

    def killed(*args, **kwargs):
        real(*args, **kwargs)
        raise ConnectionError("pulled the plug")

    monkeypatch.setattr(first._api(), call, killed)
    assert not first.follow([folder])
    second = Mirror("width", tmp_path, empty)
    assert second.follow([folder])
    (model,) = second._api().search_logged_models([second._experiment])
    assert str(model.status) == "READY" and Path(model.artifact_location.removeprefix("file://"), "MLmodel").exists()
    assert child_of(second, folder).info.status == "FINISHED"


@pytest.mark.parametrize(("wanted", "count"), [("all", 3), ("best", 0), ("none", 0)])
def test_which_runs_of_a_sweep_get_a_model(swept, empty, tmp_path, wanted, count, monkeypatch):
    monkeypatch.setenv("ETHORAY_MODELS", wanted)
    mirror = Mirror("width", tmp_path, empty, parent="width@1")
    assert mirror.follow(swept[1])
    assert len(mirror._api().search_logged_models([mirror._experiment])) == count
    monkeypatch.setenv("ETHORAY_MODELS", "some")
    with pytest.raises(ValueError, match="best, all or none, not 'some'"):
        Mirror("width", tmp_path)


@pytest.fixture(scope="module")
def model(mirrored):
    import mlflow

    (logged,) = mirrored._api().search_logged_models([mirrored._experiment])
    return mlflow.pyfunc.load_model(logged.artifact_location)


def test_a_model_is_source_and_numbers_and_no_pickle(mirrored):
    (logged,) = mirrored._api().search_logged_models([mirrored._experiment])
    files = {path.name: path for path in Path(logged.artifact_location.removeprefix("file://")).rglob("*.*")}
    known = {"embedder.py", "experiment.json", "checkpoint.safetensors", "requirements.txt", "conda.yaml"}
    known |= {"python_env.yaml", "input_example.json", "serving_input_example.json"}
    assert set(files) == known
    for path in files.values():
        assert not path.read_bytes().startswith(b"\x80") and b"PK\x03\x04" not in path.read_bytes()[:4]
    assert files["requirements.txt"].read_text().splitlines()[-1].startswith("ethoray==")


def test_a_model_takes_its_own_example(model):
    table = model.predict(model.input_example)
    assert set(table["recording"]) == {"example"} and len(table) == models._FRAMES
    assert model.metadata.get_input_schema().input_names()[:3] == ["path", "recording", "frame"]


def test_a_model_predicts_what_the_command_writes(model, swept, toy, tmp_path):
    paths = []
    for entry in toy.entries[:2]:
        tracks = Tracks(toy.keypoints(entry), None, entry.individuals, toy.card.skeleton.keypoints)
        paths.append(tmp_path / f"{entry.name}.parquet")
        write_table(tracks, paths[-1], recording=entry.name, fps=10.0)
    list(command.embed(swept[1][1], [str(path) for path in paths], tmp_path / "out.parquet"))
    known = pd.read_parquet(tmp_path / "out.parquet")
    tables = pd.concat([pd.read_parquet(path) for path in paths])
    for given in (pd.DataFrame({"path": [str(path) for path in paths]}), tables):
        found = model.predict(given)
        assert found.columns.tolist() == known.columns.tolist()
        assert np.array_equal(np.stack(found["pca"]), np.stack(known["pca"]))
        assert found[["recording", "frame"]].equals(known[["recording", "frame"]])
    each = model.predict(tables, params={"individuals": True})
    assert len(each) == 2 * len(known) and set(each["individual"]) == set(toy.entries[0].individuals)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"frame": [0], "x": [1.0]}), "no column keypoint, y"),
        (pd.DataFrame({"x": [1.0], "y": [1.0], "keypoint": ["nose"]}), "no column frame or time"),
        (pd.DataFrame({"path": ["gone.csv"]}), r"cannot read gone\.csv"),
        (pd.DataFrame({"frame": [0], "keypoint": ["nose"], "x": [1.0], "y": [1.0]}), "no keypoint 'ear_left'"),
    ],
)
def test_a_table_that_cannot_be_embedded_says_why(model, table, message):
    with pytest.raises(ReadError, match=message):
        model.predict(table)


def test_a_run_that_cannot_be_a_model_is_mirrored_all_the_same(swept, empty, tmp_path):
    folder = tmp_path / "0123456789abcdef"
    shutil.copytree(swept[1][0], folder)
    document = json.loads((folder / "experiment.json").read_text())
    (folder / "experiment.json").write_text(json.dumps(document | {"method": {"name": "of_long_ago"}}))
    mirror = Mirror("width", tmp_path, empty)
    assert mirror.follow([folder])
    assert child_of(mirror, folder).info.status == "FINISHED"


@pytest.fixture
def address(swept, mirrored, tmp_path):
    """Where ``ethoray ui`` shows the storage."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    script = "from ethoray import cli; cli.main()"
    words = [sys.executable, "-c", script, "ui", "--port", str(port), "--storage", str(swept[0])]
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url + "/health", process, tmp_path / "server.log")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)  # like Ctrl-C, which a process in the background never sees
        assert process.wait(120) == 130
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)), "the server outlived the command"


def _wait(url, process, log):
    end = time.monotonic() + 400
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.slow
@pytest.mark.skipif(program() is None, reason="no Chromium here (apt install chromium)")
def test_the_pages_show_what_was_tracked(address, mirrored, swept, tmp_path):
    pictures = Path(os.environ.get("ETHORAY_SCREENSHOTS") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    experiment, parent = mirrored._experiment, mirrored._parent_run()
    child = child_of(mirrored, swept[1][1])
    runs, mode, lacking = f"/experiments/{experiment}/runs", "workflowType=machine_learning", list[str]()
    best = json.loads((swept[1][1] / "scores.json").read_text())["scores"]["running/pca"]
    table = leaderboard.leaderboard(leaderboard.collect(swept[1])).frame()
    trials = [child_of(mirrored, folder).info.run_id for folder in swept[1]]
    charts = naming.charts(experiment, trials)
    compared = urllib.parse.urlencode({"runs": json.dumps(trials), "experiments": json.dumps([experiment])})
    shown = {
        "1_experiment": (f"{runs}?{mode}", "width@1", "Does a wider space help?", "4 matching runs", "toy"),
        "2_charts": (charts.removeprefix("#"), "Comparing 3 Runs", "Parallel Coordinates Plot", "pca seed 1"),
        "3_compared": (f"/compare-runs?{compared}&{mode}", "Comparing 3 Runs", "components", "score/running/pca"),
        "4_parent": (
            f"{runs}/{parent}?{mode}", "Does a wider space help?", "Of 2 candidates, pca is first", "Finished",
            "first/running/pca", "toy",
        ),
        "5_leaderboard": (
            f"{runs}/{parent}/artifacts/leaderboard.json?{mode}", "method components", "running/pca",
            *(f"{value:.4f}"[:5] for value in table["running/pca"]),
        ),
        "6_page": (f"{runs}/{parent}/artifacts/width.html?{mode}", "width.html", "Path:"),
        "7_figure": (f"{runs}/{parent}/artifacts/figures/width.svg?{mode}", "width.svg"),
        "8_child": (
            f"{runs}/{child.info.run_id}?{mode}", "method.components", "score/running/pca", f"{best:.4f}", "toy",
            "load_model",
        ),
        "9_metrics": (f"{runs}/{child.info.run_id}/model-metrics?{mode}", "score/running", "peak_mb"),
        "10_model": (f"/models/width?{mode}", "Version 1", "best", "models:/width@best"),
    }  # fmt: skip
    with Chromium(tmp_path / "profile") as page:
        for name, (where, *wanted) in shown.items():
            try:
                page.visit(address + "/#" + where, *wanted)
                assert page.run("window.hurt") is None, "a script from a question ran"
                if name == "4_parent":
                    assert page.holds("!!document.querySelector('a[href^=\"#/compare-runs\"]')"), (
                        "no link to the charts"
                    )
                if name == "6_page":
                    assert page.holds("document.querySelector('iframe')?.clientHeight > 100"), "no page in its frame"
            except AssertionError as error:
                lacking.append(f"{name}: {error}")
            page.picture(pictures / f"{name}.png")
    assert not lacking, "\n".join(lacking)
    assert all(path.stat().st_size > 10_000 for path in pictures.glob("[1-9]*_*.png"))
