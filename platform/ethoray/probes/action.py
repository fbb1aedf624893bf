"""Action segmentation: the class of every frame, from features of the frames around it, as a macro-F1.

A dilated convolutional network is trained on frozen embeddings (as any probe is shown them), or with ``examine`` on the
patches of an image encoder pooled by attention; several members differ in seed and in the recordings they are stopped
by, and their class probabilities are averaged. Splits are by recording, never by chunk.
"""

from __future__ import annotations

import builtins
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from ethoray import metrics
from ethoray.embedding import Embedding
from ethoray.learning import Encoder
from ethoray.probes import Judge, Labels, Probe, ProbeError, Score
from ethoray.probes._actions import Question, question, rarity
from ethoray.probes._fitting import Track, Training, class_weights, moments, probabilities, rule, table, trained
from ethoray.probes._patches import Answer, Map, tokens, whole
from ethoray.probes._rows import priority
from ethoray.probes._segments import Sizes
from ethoray.schema import Card
from ethoray.store import Dataset, Entry

log = logging.getLogger(__name__)

Array = np.ndarray
SPACE = "patches"


@dataclass(frozen=True)
class Action(Probe):
    """How segmenters are trained.

    Attributes
    ----------
    tasks: one task with classes, or several binary ones that make one question with a background; none: all.
    background: class of a task that has no F1 of its own.
    hidden, layers, lags, dropout, heads: of the network.
    seconds: length of a training chunk, its context not counted.
    members: networks of the ensemble.
    held_out: share of the training recordings that stops a member's training where no recording is in a split
        "validation"; each member leaves out others. Below four labelled recordings none is.
    patience: epochs without a better macro-F1 there.
    balanced: weigh classes by the root of their inverse frequency.
    most: most numbers that are held, or written to a temporary folder by ``examine``.
    """

    tasks: tuple[str, ...] = ()
    background: str = ""
    hidden: int = 32
    layers: int = 4
    lags: int = 2
    dropout: float = 0.1
    heads: int = 8
    seconds: float = 10.0
    batch: int = 8
    epochs: int = 40
    lr: float = 2e-3
    decay: float = 1e-4
    members: int = 3
    held_out: float = 0.1
    patience: int = 10
    balanced: bool = True
    most: int = 1_000_000_000

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "hidden": 64, "seconds": 128 / 30, "batch": 1, "epochs": 400, "patience": 40, "lr": 3.48e-4, "members": 5,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        numbers = (self.hidden, self.layers, self.lags, self.heads, self.batch, self.epochs, self.members)
        if min(*numbers, self.patience, self.most) < 1 or not (self.seconds > 0 and self.lr > 0):
            raise ValueError("action probe: sizes, seconds, lr and numbers are positive")
        if not 0 <= self.dropout < 1 or not 0 <= self.held_out < 1:
            raise ValueError("action probe: dropout and held_out are at least 0 and below 1")

    def judge(self, card: Card, seed: int) -> ActionJudge:
        """See ``Probe.judge``."""
        return ActionJudge(self, question(card, self.tasks, self.background), seed)

    def examine(self, encoder: Encoder, dataset: Dataset, seed: int = 0, map: Map = builtins.map) -> Answer:
        """Encode every labelled recording once, train on its patches, and score, in space "patches".

        Tokens are float16 in a temporary folder meanwhile. Raises ProbeError when a recording has no images or left
        frames out, and when the encoder has no patches.
        """
        judge = self.judge(dataset.card, seed)
        judge.map = map
        with tempfile.TemporaryDirectory() as folder:
            for number, entry in enumerate(dataset.entries):
                if entry.split in ("train", "validation", "test"):
                    x = _patches(encoder, dataset, entry, f"{folder}/{number}.npy", self.most - judge.held)
                    judge.take(entry, {SPACE: x}, dataset.labels(entry))
            scores = judge.scores()
        return Answer(scores, judge.describe())


class ActionJudge(Judge):
    """Holds recordings and trains when scores are asked for; ``map`` may be replaced before that."""

    def __init__(self, probe: Action, asked: Question, seed: int) -> None:
        self.probe, self.asked, self.seed = probe, asked, seed
        self.map: Map = builtins.map
        self.fps = 0.0
        self.held = 0
        self.features: dict[str, dict[str, dict[str, Array]]] = {"train": {}, "validation": {}, "test": {}}
        self.values: dict[str, Array] = {}
        self.told: dict[str, dict[str, Any]] = {}

    def see(self, embedding: Embedding, labels: Labels) -> None:
        """Take in a recording of the splits "train", "validation" and "test", in any order."""
        if embedding.entry.split in self.features:
            self.learn(embedding, labels)

    def examine(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.examine``."""
        self.learn(embedding, labels)

    def learn(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.learn``."""
        self.take(embedding.entry, embedding.spaces, labels)

    def take(self, entry: Entry, spaces: Mapping[str, Array], labels: Labels) -> None:
        """Hold a recording's features, (time, feature) or (time, token, feature), and labels, if it has any."""
        where = f"recording {entry.name!r}"
        values = self.asked.labels(entry.name, entry.frames, labels)
        shapes = {space: x.shape[1:] for space, x in spaces.items()}
        others = next((x for side in self.features.values() for x in side.values()), None)
        if any(len(x) != entry.frames for x in spaces.values()):
            raise ProbeError(f"{where}: {entry.frames} frames, but spaces of other lengths")
        if others is not None and shapes != {space: x.shape[1:] for space, x in others.items()}:
            raise ProbeError(f"{where}: spaces are {shapes}, unlike those of earlier recordings")
        for space, x in spaces.items():
            if x.ndim == 2 and np.isinf(x).any():
                raise ProbeError(f"{where}: space {space!r} is infinite; write NaN for a missing value")
        if not np.isfinite(values).any():
            return
        self.fps = self.fps or entry.fps
        self.held += sum(x.size for x in spaces.values())
        if self.held > self.probe.most:
            raise ProbeError(f"{where}: more than {self.probe.most} numbers; raise most, or score fewer or narrower")
        self.features[entry.split][entry.name] = dict(spaces)
        self.values[entry.name] = values

    def scores(self) -> tuple[Score, ...]:
        """See ``Judge.scores``: of the ensemble, and as "space@single" of its members on average."""
        sides = self.features
        lacking = [side for side in ("train", "test") if not sides[side]]
        if lacking:
            log.warning("task %r has no score: no labelled %s recording", self.asked.name, " and no ".join(lacking))
            return ()
        order = rarity([self.values[name] for name in sides["train"]])
        found: list[Score] = []
        for space in next(iter(sides["train"].values())):
            tracks = {
                side: [Track(name, x[space], self.asked.compose(self.values[name], order)) for name, x in of.items()]
                for side, of in sides.items()
            }
            weights = class_weights(tracks["train"], len(self.asked.classes))
            if np.count_nonzero(weights) < 2:
                log.warning("task %r has no score: training has one class only", self.asked.name)
                return ()
            found += self._scores(space, tracks, weights)
        return tuple(found)

    def describe(self) -> dict[str, dict[str, Any]]:
        """By "task/space", after ``scores``.

        classes: F1 of each by name; ``frames``: labelled test frames of each; ``members``: the score of each network;
        ``weights``: of the classes in the loss; ``missing``: share of features that were NaN.
        """
        return self.told

    def _scores(self, space: str, tracks: Mapping[str, list[Track]], weights: tuple[float, ...]) -> list[Score]:
        probe, test = self.probe, tracks["test"]
        absent = [c for c, w in zip(self.asked.classes, weights, strict=True) if not w]
        if absent:
            log.warning("task %r: training has no frame of %s", self.asked.name, ", ".join(absent))
        sizes = Sizes(probe.hidden, probe.layers, probe.lags, probe.dropout, probe.heads)
        chunk = max(1, round(probe.seconds * self.fps))
        loss = weights if probe.balanced else tuple(float(w > 0) for w in weights)
        how = Training(
            sizes, probe.epochs, probe.batch, chunk, probe.lr, probe.decay, probe.patience, loss, self.asked.background
        )
        if test[0].x.ndim == 2:
            mean, deviation = moments(tracks["train"])
            how = replace(how, mean=mean, deviation=deviation)
        sides = [self._sides(tracks["train"], tracks["validation"], member) for member in range(probe.members)]
        seeds = [priority(self.seed, "action", member) >> 1 for member in range(probe.members)]
        chances = list(self.map(partial(_member, test, how), list(zip(sides, seeds, strict=True))))
        together = np.stack([table(t, np.mean(c, 0)) for t, c in zip(test, zip(*chances, strict=True), strict=True)])
        single = np.stack([[table(t, c) for t, c in zip(test, member, strict=True)] for member in chances])
        kind = "foreground_f1" if self.asked.background else "macro_f1"
        true, called = together.sum((0, 2)), together.sum((0, 1))
        hit = np.diagonal(together.sum(0))
        f1 = metrics.f1(hit, called - hit, true - hit)
        self.told[f"{self.asked.name}/{space}"] = {
            "classes": dict(zip(self.asked.classes, f1.tolist(), strict=True)),
            "frames": dict(zip(self.asked.classes, true.tolist(), strict=True)),
            "members": [float(rule(self.asked.background)(member.sum(0))) for member in single],
            "weights": dict(zip(self.asked.classes, loss, strict=True)),
            "missing": float(np.mean([np.isnan(t.x).mean() for t in test])) if test[0].x.ndim == 2 else 0.0,
        }
        names = tuple(t.name for t in test)
        rows = ((space, together), (f"{space}@single", single.sum(0)))
        return [self._score(name, counts, kind, names) for name, counts in rows]

    def _score(self, space: str, counts: Array, kind: str, names: tuple[str, ...]) -> Score:
        value = float(metrics.RULES[kind](counts.sum(0)))
        low, high = metrics.interval(metrics.RULES[kind], counts, self.seed)
        return Score(self.asked.name, space, "f1", value, float(low), float(high), len(names), kind, names, counts)

    def _sides(self, train: list[Track], validation: list[Track], member: int) -> tuple[list[Track], list[Track]]:
        """What a member learns from and what it is stopped by."""
        if validation or not self.probe.held_out or len(train) < 4:
            return train, validation
        ordered = sorted(train, key=lambda t: priority(self.seed, "held out", member, t.name))
        number = max(1, round(self.probe.held_out * len(train)))
        return ordered[number:], ordered[:number]


def _member(test: Sequence[Track], how: Training, job: tuple[tuple[list[Track], list[Track]], int]) -> list[Array]:
    """Class probabilities of the test recordings from one network, of sides and seed."""
    (train, validation), seed = job
    network = trained(train, validation, how, seed)
    return [probabilities(network, track, how) for track in test]


@torch.no_grad()
def _patches(encoder: Encoder, dataset: Dataset, entry: Entry, path: str, room: int, batch: int = 32) -> Array:
    """Tokens of every frame as a float16 file (time, token, feature), opened for reading."""
    if entry.picture is None or sum(c.frames for c in entry.clips) != entry.frames:
        raise ProbeError(f"recording {entry.name!r}: segmentation needs the image of every frame; prepare with --every")
    encoder.eval()
    held: Array | None = None
    for clip in entry.clips:
        images = dataset.images(entry, clip)
        for first in range(0, clip.frames, batch):
            seen = tokens(encoder, images[first : first + batch], entry.fps).half().cpu().numpy()
            if held is None:
                shape = (entry.frames, *seen.shape[1:])
                if np.prod(shape, dtype=np.int64) > room:
                    raise ProbeError(f"recording {entry.name!r}: tokens {shape} are more numbers than ``most`` allows")
                held = np.lib.format.open_memmap(path, "w+", np.float16, shape)
            held[clip.start + first : clip.start + first + len(seen)] = seen
    assert held is not None
    return held


def segment(
    dataset: Dataset, embeddings: Iterable[Embedding], probe: Action, seed: int = 0, map: Map = builtins.map
) -> ActionJudge:
    """Show a judge every embedding with its labels; ask it for ``scores`` and ``describe``."""
    judge = probe.judge(dataset.card, seed)
    judge.map = map
    for embedding in embeddings:
        judge.see(embedding, dataset.labels(whole(embedding)))
    return judge
