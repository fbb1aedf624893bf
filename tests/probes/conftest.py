"""A small world of recordings with labels of every kind, and how a probe is shown it."""

import numpy as np
import pytest

from ethoray.embedding import Embedding
from ethoray.schema import Card, Skeleton, Task
from ethoray.store import Entry

TASKS = (
    Task("rare"),
    Task("common", metric="macro_recall"),
    Task("posture", "multiclass", classes=("rest", "walk", "rear", "groom"), metric="macro_recall"),
    Task("speed", "regression", metric="mse"),
    Task("strain", "binary", "recording"),
)


class World:
    """Ragged recordings far from the origin; a third of some labels is missing."""

    tasks = TASKS

    def __init__(self, train=10, test=5, features=6, seed=0, spaces=("z",), codes=0):
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(features, 8))
        self.shown = []
        for i in range(train + test):
            frames = int(rng.integers(30, 90))
            own = rng.normal(size=features)
            x = own + rng.normal(size=(frames, features))
            drive = x @ mix / 3 + 0.5 * rng.normal(size=(frames, 8))
            labels = {
                "rare": (drive[:, 0] > 1.5).astype(np.float32),
                "common": (drive[:, 1] > -0.5).astype(np.float32),
                "posture": drive[:, 2:6].argmax(1).astype(np.float32),
                "speed": (drive[:, 7] * 3 + 20).astype(np.float32),
                "strain": float(i % 2),
            }
            for name in ("rare", "posture", "speed"):
                labels[name][rng.random(frames) < 0.33] = np.nan
            entry = Entry(f"r{i}", f"m{i}", "train" if i < train else "test", 30.0, frames, ("a", "b"), 2, ())
            words = None
            if codes:
                group = np.stack(
                    [np.digitize(x[:, :codes], [-1, 0, 1]), np.digitize(-x[:, :codes], [-1, 0, 1])], axis=1
                )
                words = group.astype(np.int32)
                words[0, 1] = -1
            x = (x * np.geomspace(0.5, 3, features) + 30).astype(np.float32)
            self.shown.append((Embedding(entry, {space: x * (k + 1) for k, space in enumerate(spaces)}, words), labels))

    def rows(self, split, task, space="z"):
        """Names, features and labels of the labelled rows of a split, as a scikit-learn user has them."""
        names, xs, ys = [], [], []
        for embedding, labels in self.shown:
            if embedding.entry.split == split:
                y = np.broadcast_to(labels[task], embedding.entry.frames)
                keep = np.isfinite(y)
                names += [embedding.entry.name] * int(keep.sum())
                xs.append(embedding.spaces[space][keep].astype(np.float64))
                ys.append(y[keep])
        return names, np.concatenate(xs), np.concatenate(ys)

    def judge(self, probe, tasks=TASKS, seed=0):
        judge = probe.judge(card(*tasks), seed)
        for embedding, labels in self.shown:
            judge.see(embedding, labels)
        return judge

    def scores(self, probe, tasks=TASKS, seed=0):
        return {score.name: score for score in self.judge(probe, tasks, seed).scores()}


def card(*tasks):
    return Card("toy", "mouse", 30.0, Skeleton(("nose",)), tasks)


@pytest.fixture
def world():
    return World
