"""The page in a real browser: opened from a file, without a network, with a moment chosen."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from ethoray import record, store
from ethoray.batch import Windows
from ethoray.budget import Budget
from ethoray.experiment import Experiment, run
from ethoray.leaderboard import collect
from ethoray.methods.pca import PCA
from ethoray.probes.linear import Linear
from ethoray.report import page
from ethoray.schema import Card, Recording, Skeleton, Task

EVIL = "<script>document.title='broken'<" + "&" + ">"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Two walkers whose labels, keypoints and recordings have names that would break a careless page."""
    place = tmp_path_factory.mktemp("evil")
    skeleton = Skeleton((EVIL, "middle", "end"), ((0, 1), (1, 2)))
    card = Card(
        "evil", EVIL, 10.0, skeleton, (Task(EVIL), Task("steps", "multiclass", "frame", (EVIL, "b", "c"), "f1"))
    )
    recordings = []
    for i in range(6):
        rng = np.random.default_rng(i)
        fast = rng.random(200).cumsum() % 20 > 10
        points = rng.normal(size=(200, 2, 3, 2)) + np.cumsum(3 * fast)[:, None, None, None] + [[[0, 0], [0, 5], [0, 9]]]
        points[5, 0, 1] = np.nan
        labels = {EVIL: fast.astype(np.float32), "steps": np.arange(200.0) % 3}
        split = "train" if i < 3 else "test"
        recordings.append(Recording(f"{EVIL}{i}", f"s{i}", 10.0, skeleton, points, split=split, labels=labels))
    dataset = store.prepare(card, recordings, place / "evil")
    folders = []
    for seed in range(2):
        experiment = Experiment(Windows(dataset.uri, seconds=4.0), PCA(), (Linear(),), Budget(steps=2), seed)
        folders.append(place / record.key(experiment, dataset))
        run(experiment, folders[-1])
    return page(place / "out", EVIL, EVIL, collect(folders, card), card, ["ethoray", "report", "evil"])


def test_moments_labels_and_names_are_data_and_not_code(pages):
    text = next(p for p in pages if p.suffix == ".html").read_text()
    assert EVIL not in text and text.count("<script") == 2
    assert "cluster 1" in text and "What the labels look like" in text and 'class="strips"' in text
    names = {p.stem for p in pages if p.suffix == ".svg"}
    assert {"map", "ethogram", "strips", "individuals", "confusion"} <= names


def test_a_browser_shows_a_moment_without_an_error(pages, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    url = next(p for p in pages if p.suffix == ".html").as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--force-prefers-reduced-motion", "--window-size=1200,4000"]
    words = [browser, *options, "--dump-dom", f"{url}#moment-7"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    told = re.search(r'<p id="told"[^>]*data-moment="7"[^>]*>([^<]*)', done.stdout)
    assert told and "0.5 s" not in told.group(1) and "cluster" in told.group(1)
    assert "<title>&lt;script&gt;" in done.stdout and "<title>broken" not in done.stdout
    assert 'id="colour"><option' in done.stdout and "cluster 1</span>" in done.stdout
