"""Toy recordings whose labels show in movement: mice that run in bouts, some groups livelier than others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ethoray import geometry, store
from ethoray.batch import Batch, Plan, Spec, Stream, Windows, collate, picture_batch
from ethoray.schema import Card, Recording, Skeleton, Task
from ethoray.stream.pairs import Pairs

TOY_SKELETON = Skeleton(geometry.MOUSE_KEYPOINTS, front="nose", back="tail_base")
"""The 12-keypoint mouse, so that every feature set applies."""

_BODY = np.array(
    [(40, 0), (28, 10), (28, -10), (24, 0), (20, 9), (20, -9), (0, 0), (-18, 11), (-18, -11), (-28, 0),
     (-50, 0), (-72, 0)],
    dtype=np.float64,
)  # fmt: skip
_STEPPING = np.isin(geometry.MOUSE_KEYPOINTS, [k for k in geometry.MOUSE_KEYPOINTS if "paw" in k])


def toy_card(fps: float = 30.0) -> Card:
    """Two binary tasks: "running" at every frame and "lively" for the whole recording."""
    return Card(
        name="toy",
        species="toy mouse",
        fps=fps,
        skeleton=TOY_SKELETON,
        tasks=(Task("running"), Task("lively", level="recording")),
        licence="CC0-1.0",
        simulated=True,
        description="Mice that run in bouts along smooth paths; lively groups run twice as fast and turn more.",
    )


def toy_recordings(
    recordings: int = 6, seconds: float = 20.0, fps: float = 30.0, individuals: int = 2,
    *, seed: int = 0, missing: float = 0.02, ragged: bool = False
) -> list[Recording]:  # fmt: skip
    """Recordings of as many subjects; every third is "test", every other is lively.

    ``missing`` is the share of keypoints that tracking lost. Ragged recordings differ in length, down to half.
    """
    made = []
    for index in range(recordings):
        rng = np.random.default_rng((seed, index))
        share = 1 - 0.5 * (index % 4) / 3 if ragged else 1.0
        frames = max(2, round(seconds * fps * share))
        lively = index % 2
        running = np.stack([_bouts(rng, frames, fps) for _ in range(individuals)], 1)
        keypoints = _track(rng, running, fps, lively)
        keypoints[rng.random(keypoints.shape[:3]) < missing] = np.nan
        made.append(
            Recording(
                name=f"toy_{index:03d}",
                subject=f"group_{index:03d}",
                fps=fps,
                skeleton=TOY_SKELETON,
                keypoints=keypoints.astype(np.float32),
                split="test" if index % 3 == 2 else "train",
                labels={"running": np.asarray(running.any(1), dtype=np.float32), "lively": float(lively)},
            )
        )
    return made


def toy_dataset(root: str | Path, *, clip_seconds: float = 8.0, **shape: Any) -> store.Dataset:
    """``toy_recordings(**shape)`` prepared at ``root``; clips are short, so that windows span several."""
    made = toy_recordings(**shape)
    return store.prepare(toy_card(made[0].fps), made, root, clip_seconds=clip_seconds)


def toy_films(
    recordings: int = 3, seconds: float = 8.0, fps: float = 10.0, side: int = 32, *, seed: int = 0
) -> list[Recording]:
    """Recordings of grey images: a bright disc goes round on a textured ground, faster while "running"."""
    made = []
    rows, columns = np.mgrid[:side, :side]
    for index in range(recordings):
        rng = np.random.default_rng((seed, index))
        frames = max(2, round(seconds * fps))
        running = _bouts(rng, frames, fps)
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(np.where(running, 4.0, 0.8)) / fps
        place = side * (0.5 + 0.3 * np.stack([np.sin(angle), np.cos(angle)]))
        apart = (rows - place[0][:, None, None]) ** 2 + (columns - place[1][:, None, None]) ** 2
        ground = rng.normal(90, 15, (side, side)) + rng.normal(0, 2, (frames, side, side))
        images = np.where(apart < (side / 8) ** 2, 230, ground).clip(0, 255).astype(np.uint8)[..., None]
        nothing = np.empty((frames, 1, 0, 2), np.float32)
        made.append(
            Recording(
                f"film_{index:03d}",
                f"mouse_{index:03d}",
                fps,
                Skeleton(()),
                nothing,
                split="test" if index % 3 == 2 else "train",
                labels={"running": running.astype(np.float32)},
                images=images,
            )
        )
    return made


def toy_film_dataset(root: str | Path, **shape: Any) -> store.Dataset:
    """``toy_films(**shape)`` prepared at ``root``, with the frames' labels."""
    made = toy_films(**shape)
    card = Card("toy_films", "toy mouse", made[0].fps, Skeleton(()), (Task("running"),), simulated=True)
    return store.prepare(card, made, root, clip_seconds=2.0)


def toy_spec(
    seconds: float = 8.0, fps: float = 10.0, individuals: int = 2, seed: int = 0, needs: str = "keypoints"
) -> Spec:
    """What a method is told about the toy stream, of mice, or of pairs of images where it ``needs`` them."""
    if needs == "images":
        return Spec(Skeleton(()), 1, 2, fps, 2, seed, (32, 32, 1))
    return Spec(TOY_SKELETON, individuals, 2, fps, Windows("toy", seconds).frames(fps), seed)


def toy_stream(spec: Spec, batch_size: int = 4) -> Stream:
    """Batches of toy windows, or of pairs of toy images, a pure function of the step."""
    if spec.picture is not None:
        films = [r.images for r in toy_films(2, 4.0, spec.fps, spec.picture[0]) if r.images is not None]
        pairs = Pairs([[(0, len(film))] for film in films], batch_size, spec.seed)

        def pictures(step: int) -> Batch:
            rows = pairs.rows(step).tolist()
            return picture_batch(np.stack([films[film][places] for film, *places in rows]), spec.fps)

        return pictures
    tracks = [r.keypoints for r in toy_recordings(4, 3 * spec.frames / spec.fps, spec.fps, spec.individuals)]
    plan = Plan([len(track) for track in tracks], spec.frames, batch_size, spec.seed)

    def batch(step: int) -> Batch:
        windows = [tracks[recording][first : first + spec.frames] for recording, first in plan.rows(step)]
        return collate(windows, spec.frames, spec.individuals, spec.fps)

    return batch


def toy_batch(spec: Spec, frames: int, windows: int = 1, seed: int = 1) -> Batch:
    """Whole toy recordings of ``frames`` frames as one batch."""
    if spec.picture is not None:
        films = toy_films(windows, frames / spec.fps, spec.fps, spec.picture[0], seed=seed)
        return picture_batch(np.stack([f.images[:frames] for f in films if f.images is not None]), spec.fps)
    made = toy_recordings(windows, frames / spec.fps, spec.fps, spec.individuals, seed=seed)
    return collate([r.keypoints[:frames] for r in made], frames, spec.individuals, spec.fps)


def _bouts(rng: np.random.Generator, frames: int, fps: float) -> np.ndarray:
    """Bool (time,): running bouts of about a second and a half, with rests of twice that."""
    period, phase = rng.uniform(3.5, 5.5), rng.uniform(0, 1)
    return (np.arange(frames) / fps / period + phase) % 1 < 0.35


def _track(rng: np.random.Generator, running: np.ndarray, fps: float, lively: int) -> np.ndarray:
    """Keypoints (time, individual, keypoint, 2) in pixels of animals that run when told to."""
    frames, animals = running.shape
    speed = np.where(running, 120.0 * (1 + lively), 4.0) / fps
    turning = rng.normal(0.0, 0.4 + 0.8 * lively, (frames, animals)) / np.sqrt(fps)
    heading = np.cumsum(turning, 0) + rng.uniform(0, 2 * np.pi, animals)
    path = np.cumsum(speed[..., None] * np.stack([np.cos(heading), np.sin(heading)], -1), 0)
    path += rng.uniform(200, 600, (animals, 2))
    gait = 8.0 * np.sin(np.cumsum(speed, 0) / 15.0)[..., None] * _STEPPING * (-1.0) ** np.arange(len(_BODY))
    body = np.broadcast_to(_BODY, (frames, animals, *_BODY.shape)).copy()
    body[..., 0] += gait
    return np.asarray(geometry.rotate(body, heading) + path[:, :, None] + rng.normal(0, 0.3, body.shape))
