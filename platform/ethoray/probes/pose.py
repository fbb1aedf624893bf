"""Pose from few labels: a heatmap head on patch tokens, its error in pixels of the original video.

From ``frames`` marked pictures of the training side, drawn by seed, a head is trained for every seed, on the frozen
encoder or with a copy of it that is fine-tuned; the test side is scored. Where heads of different seeds disagree is
where a keypoint is hard: the error over the share of most disputed keypoints is in the answer's ``about``.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ethoray import metrics
from ethoray.learning import Encoder
from ethoray.probes import Judge, Probe, ProbeError, Score
from ethoray.probes._keypoints import Model, Pictures, Training, pictures, predict, scale, trained
from ethoray.probes._patches import Answer, Map
from ethoray.probes._rows import priority
from ethoray.schema import Card
from ethoray.store import Dataset

log = logging.getLogger(__name__)

Array = np.ndarray


@dataclass(frozen=True)
class Pose(Probe):
    """How heads are trained.

    Attributes
    ----------
    frames: marked pictures that training may use; fewer where there are not so many.
    seeds: of the draw of pictures and of the head, one head each.
    tuned: whether the encoder learns too, in a copy.
    lr: of Adam; halved at each epoch of ``milestones``.
    thaw: the epoch from which a tuned encoder learns, at a tenth of the head's rate and growing.
    augment: turn and scale pictures at random.
    scale: width and height of a stored pixel in pixels of the original; by default what the card's notes say.
    fractions: shares of most disputed keypoints of the spread curve.
    """

    frames: int = 100
    seeds: tuple[int, ...] = (0, 1, 2)
    tuned: bool = False
    epochs: int = 100
    batch: int = 8
    lr: float = 3e-3
    milestones: tuple[int, ...] = (50, 67, 83)
    thaw: int = 20
    augment: bool = False
    scale: tuple[float, float] | None = None
    fractions: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1)

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"tuned": True, "epochs": 300, "lr": 5e-5, "milestones": (150, 200, 250), "augment": True},
        "linear": {"tuned": False, "epochs": 300, "lr": 5e-5, "milestones": (150, 200, 250), "augment": True},
    }

    def __post_init__(self) -> None:
        if min(self.frames, self.epochs, self.batch) < 1 or not self.seeds or not self.lr > 0:
            raise ValueError("pose probe: frames, epochs, batch, lr are positive and there is a seed")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"pose probe: a seed is given twice in {self.seeds!r}")
        if not self.fractions or not all(0 < f <= 1 for f in self.fractions):
            raise ValueError(f"pose probe: fractions are above 0 and at most 1, not {self.fractions!r}")

    def judge(self, card: Card, seed: int) -> Judge:
        """Nobody: embeddings hold no images. Raises ProbeError; call ``examine`` with the encoder."""
        raise ProbeError("the pose probe trains on images: call examine(encoder, dataset) instead of judge")

    def examine(self, encoder: Encoder, dataset: Dataset, seed: int = 0, map: Map = builtins.map) -> Answer:
        """Train a head for every seed and score the test side, in space "patches".

        Parameters
        ----------
        seed: of the interval.
        map: runs the trainings, one for every seed.

        ``about`` has "keypoints" (mean error by name), "single" (of every seed), "confidence" (mean), "frames" (that
        trained), "test" (pictures) and "spread": for every fraction "spread", the least disagreement in it in pixels
        (root of the mean squared distance to the seeds' mean), and "error". Raises ProbeError when a side has no
        marked picture or the encoder no patches.
        """
        train, test = pictures(dataset, "train"), pictures(dataset, "test")
        factor = np.array(self.scale or scale(dataset) or self._unscaled(dataset))
        if len(train.names) < self.frames:
            log.warning("pose: %d marked training pictures, fewer than %d", len(train.names), self.frames)
        how = Training(self.tuned, self.epochs, self.batch, self.lr, self.milestones, self.thaw, self.augment)
        draws = [drawn(train, self.frames, s) for s in self.seeds]
        models: list[Model] = list(map(partial(_train, encoder, how), list(zip(draws, self.seeds, strict=True))))
        if not self.tuned:
            models = [Model(encoder, model.head, model.size) for model in models]  # one encoder, run once
        places, sure = predict(models, test)
        errors = np.linalg.norm((places - test.points) * factor, axis=-1)
        spread = disagreement(places * factor)
        names = tuple(
            f"{one} {point}" if len(dataset.entries[0].individuals) > 1 else point
            for one in dataset.entries[0].individuals
            for point in dataset.card.skeleton.keypoints
        )
        score = self._score(errors, test, seed)
        about = {
            "keypoints": dict(zip(names, _means(errors, (0, 1)), strict=True)),
            "single": dict(zip(builtins.map(str, self.seeds), _means(errors, (1, 2)), strict=True)),
            "confidence": float(sure.mean()),
            "frames": len(draws[0].names),
            "test": len(test.names),
            "spread": curve(errors, spread, self.fractions),
        }
        return Answer((score,), {score.name: about})

    def _unscaled(self, dataset: Dataset) -> tuple[float, float]:
        log.warning("pose: the card of %s does not say the size of its pixels; errors are in stored ones", dataset.uri)
        return 1.0, 1.0

    def _score(self, errors: Array, test: Pictures, seed: int) -> Score:
        known = np.isfinite(errors)
        sums = np.stack([np.where(known, errors, 0).sum(0), known.sum(0)], axis=-1).astype(np.float64)
        value = float(metrics.pixel_error(sums.sum(0)))
        low, high = metrics.interval(metrics.pixel_error, sums, seed)
        kind = "pose_tuned" if self.tuned else "pose_frozen"
        rule = "pixel_error"
        return Score(kind, "patches", rule, value, float(low), float(high), len(sums), rule, test.names, sums)


def _train(encoder: Encoder, how: Training, job: tuple[Pictures, int]) -> Model:
    return trained(encoder, job[0], how, job[1])


def drawn(data: Pictures, number: int, seed: int) -> Pictures:
    """At most ``number`` pictures, by seed and name alone; those of a smaller number are among those of a larger."""
    order = sorted(range(len(data.names)), key=lambda row: priority(seed, "pose", data.names[row]))
    return data.pick(sorted(order[:number]))


def disagreement(places: Array) -> Array:
    """Root of the mean squared distance of each model's point to their mean, (image, keypoint)."""
    about = ((places - places.mean(0)) ** 2).sum(-1).mean(0)
    root: Array = np.sqrt(about)
    return root


def curve(errors: Array, spread: Array, fractions: tuple[float, ...]) -> list[dict[str, float]]:
    """Mean error (model, image, keypoint) of the most disputed keypoints, for shares of all that are marked."""
    known = np.isfinite(errors[0])
    ordered = np.argsort(-spread[known], kind="stable")
    disputed, wrong = spread[known][ordered], errors.mean(0)[known][ordered]
    points = []
    for fraction in fractions:
        number = max(1, round(fraction * len(ordered)))
        points.append(
            {"fraction": fraction, "spread": float(disputed[number - 1]), "error": float(wrong[:number].mean())}
        )
    return points


def _means(errors: Array, axes: tuple[int, ...]) -> list[float]:
    known = np.isfinite(errors)
    number = known.sum(axes)
    sums = np.where(known, errors, 0).sum(axes)
    return [float(s / n) if n else float("nan") for s, n in zip(sums, number, strict=True)]
