"""One film of simulated_video.py with its truth: made, written beside each other, read again, cut into recordings."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ethoray import video
from ethoray.readers import ReadError
from ethoray.schema import Recording, SchemaError, Skeleton

PIECE = 64
"""Pictures in memory at once."""
KEPT = ("train", "validation", "test")
SHARES = (0.1, 0.2)
"""Of trials, for validation and for test."""


@dataclass(frozen=True)
class Truth:
    """What is true of a film, frame by frame.

    Attributes
    ----------
    state: (time,) index into the behaviours.
    latents: (time, latent), in the order of cage_neurons.LATENTS.
    keypoints: (time, keypoint, 2) in pixels of the film. visible: (time, keypoint), whether nothing hides them.
    rates: (time, unit) spikes/s. counts: (time, unit) spikes in each frame. kind: (unit,) of cage_neurons.KINDS.
    trials: first frame of every trial. side: (trial,) index into KEPT.
    size: width and height of the film.
    """

    state: np.ndarray
    latents: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray
    rates: np.ndarray
    counts: np.ndarray
    kind: np.ndarray
    trials: np.ndarray
    side: np.ndarray
    size: np.ndarray
    seed: np.ndarray
    index: np.ndarray

    @classmethod
    def of(cls, path: Path) -> Truth:
        """The truth of a film, from the npz beside it; ReadError when that is not one."""
        try:
            with np.load(path) as found:
                return cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise ReadError(f"{path}: not the truth of a simulated film ({error}); delete it and its film") from error


@dataclass(frozen=True)
class Wanted:
    """What recordings are to be cut out of a film.

    Attributes
    ----------
    film: the mp4; its truth is beside it under the same name. name, subject, split: of the recordings.
    fps: of the film. every: frames of the film in one of the recordings', whose spikes are summed.
    trial: frames of a trial. pixels: width and height of pictures. count: labelled pictures.
    """

    film: str
    name: str
    subject: str
    split: str
    skeleton: Skeleton
    fps: int
    every: int
    trial: int
    pixels: int
    grey: bool
    count: int

    @property
    def truth(self) -> Truth:
        """Read from beside the film."""
        return Truth.of(Path(self.film).with_suffix(".npz"))

    def pictures(self, frames: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """These frames of the film, resized; VideoError when one is missing."""
        view = video.View((self.pixels, self.pixels), self.grey)
        for wanted, found in zip(frames.tolist(), video.frames(self.film, view, only=frames.tolist()), strict=True):
            if wanted != found.index:
                raise video.VideoError(f"{self.film}: frame {wanted} is missing; delete the film and make it again")
            yield wanted, found.image

    def placed(self, truth: Truth, frames: np.ndarray) -> np.ndarray:
        """Keypoints (time, individual, keypoint, 2) in pixels of the stored picture."""
        return np.asarray(((truth.keypoints[frames] + 0.5) * (self.pixels / truth.size) - 0.5)[:, None])

    def cut(self, name: str, split: str, truth: Truth, frames: np.ndarray, images: np.ndarray, start: int) -> Recording:
        """Frames of the film as a piece of a recording; counts are those of a frame and the ones left out behind it."""
        counts = truth.counts[np.minimum(frames[:, None] + np.arange(self.every), len(truth.counts) - 1)].sum(1)
        return Recording(
            name=name,
            subject=self.subject,
            fps=self.fps / self.every,
            skeleton=self.skeleton,
            keypoints=self.placed(truth, frames),
            confidence=truth.visible[frames][:, None],
            individuals=("mouse",),
            split=split,
            labels={"behaviour": truth.state[frames]},
            start=start,
            neural=counts,
            images=images,
        )


def whole(wanted: Wanted) -> Iterator[Recording]:
    """Every so many frames of the film as one recording, piece by piece."""
    truth = wanted.truth
    frames = np.arange(0, len(truth.state) // wanted.every * wanted.every, wanted.every)
    run: list[np.ndarray] = []
    for place, (_, image) in enumerate(wanted.pictures(frames)):
        run.append(image)
        if len(run) == PIECE or place == len(frames) - 1:
            start = place + 1 - len(run)
            part = frames[start : place + 1]
            yield wanted.cut(wanted.name, wanted.split, truth, part, np.stack(run), start)
            run = []


def trials(wanted: Wanted) -> Iterator[Recording]:
    """Every trial of the film as a recording, on its own side of the split."""
    truth = wanted.truth
    frames = truth.trials[:, None] + np.arange(0, wanted.trial, wanted.every)
    found = wanted.pictures(frames.ravel())
    for number, (inside, side) in enumerate(zip(frames, truth.side, strict=True)):
        images = np.stack([next(found)[1] for _ in inside])
        yield wanted.cut(f"{wanted.name}_trial_{number:03d}", KEPT[side], truth, inside, images, 0)


def labelled(wanted: Wanted) -> Iterator[Recording]:
    """Pictures of the film drawn at random, a recording each; keypoints that are hidden are missing."""
    truth = wanted.truth
    frames = drawn(truth, wanted.count)
    points = np.where(truth.visible[frames][:, None, :, None], wanted.placed(truth, frames), np.nan)
    for (frame, image), marks in zip(wanted.pictures(frames), points, strict=True):
        yield Recording(
            name=f"{wanted.name}_{frame:06d}",
            subject=wanted.subject,
            fps=1.0,
            skeleton=wanted.skeleton,
            keypoints=marks[None],
            individuals=("mouse",),
            split=wanted.split,
            images=image[None],
        )


def drawn(truth: Truth, count: int) -> np.ndarray:
    """So many frames of a film, ascending, one of each of ``count`` stretches; the same at every call."""
    rng = np.random.default_rng((int(truth.seed), int(truth.index), 7))
    blocks = np.array_split(np.arange(len(truth.state)), min(count, len(truth.state)))
    return np.array([rng.choice(block) for block in blocks])


def stamp(seed: int, index: int, seconds: float) -> str:
    """What decides a film: these numbers and the code."""
    folder = Path(__file__).parent
    code = b"".join(
        (folder / f"cage_{name}.py").read_bytes() for name in ("canvas", "film", "life", "mouse", "neurons", "session")
    )
    return hashlib.sha256(code + f"{seed} {index} {seconds}".encode()).hexdigest()


def shoot(path: str, seed: int, index: int, seconds: float, overwrite: bool = False) -> str:
    """Make a film and its truth, unless they are there; the film is put in its place last. Returns the path.

    SchemaError when another film has the name already and may not be overwritten.
    """
    import cage_canvas
    import cage_film
    import cage_life
    import cage_mouse
    import cage_neurons

    film, beside, mark = Path(path), Path(path).with_suffix(".npz"), stamp(seed, index, seconds)
    if film.exists() and _marked(beside) == mark:
        return path
    if film.exists() and not overwrite:
        raise SchemaError(f"{film} is there and is another film; take another folder, or --overwrite to replace it")
    rngs = [np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(6)]
    frames = round(seconds * cage_life.FPS)
    animal = cage_life.Animal.drawn(rngs[0])
    life = cage_life.live(animal, frames, rngs[1])
    body, scene = cage_mouse.posed(life, animal), cage_film.Scene.drawn(frames, rngs[2])
    units, points = cage_neurons.record(life, animal, rngs[3]), body.keypoints
    visible = np.zeros(points.shape[:2], dtype=bool)

    def pictures() -> Iterator[np.ndarray]:
        for t in range(frames):
            sheet = cage_film.paint(scene, body, life, animal, t)
            visible[t] = cage_canvas.seen(sheet, points[t])
            yield cage_film.planes(sheet, rngs[4])

    half = film.with_suffix(f".{os.getpid()}.part")
    try:
        cage_film.encode(half, pictures())
        truth = Truth(
            state=life.state.astype(np.uint8),
            latents=cage_neurons.latents(life, animal).astype(np.float32),
            keypoints=points.astype(np.float32),
            visible=visible,
            rates=units.rates.astype(np.float32),
            counts=units.counts.astype(np.uint8),
            kind=units.kind.astype(np.uint8),
            trials=life.trials,
            side=sides(len(life.trials), rngs[5]),
            size=np.array([cage_mouse.WIDTH, cage_mouse.HEIGHT]),
            seed=np.array(seed),
            index=np.array(index),
        )
        film.unlink(missing_ok=True)
        written = beside.with_suffix(f".{os.getpid()}.npz")
        about = {"stamp": mark, "states": cage_life.STATES, "latent_names": cage_neurons.LATENTS}
        about |= {"kinds": cage_neurons.KINDS, "keypoint_names": cage_mouse.KEYPOINTS}
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in (about | vars(truth)).items()}
        np.savez_compressed(written, **arrays)
        written.replace(beside)
        half.replace(film)
    finally:
        half.unlink(missing_ok=True)
    return path


def _marked(path: Path) -> str:
    try:
        with np.load(path) as found:
            return str(found["stamp"])
    except (OSError, ValueError, KeyError, BadZipFile):
        return ""


def sides(count: int, rng: np.random.Generator) -> np.ndarray:
    """Index into KEPT of each of so many trials: 70 % train, 10 % validation, 20 % test, drawn at random."""
    validation, test = (max(1, round(share * count)) for share in SHARES)
    found = np.zeros(count, np.uint8)
    drawn = rng.permutation(count)
    found[drawn[:validation]], found[drawn[validation : validation + test]] = 1, 2
    return found
