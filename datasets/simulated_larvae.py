# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""Simulated larval zebrafish in PoseR's 19 keypoints, with every bout of swimming labelled.

    python datasets/simulated_larvae.py --out larvae --size small
    python datasets/simulated_larvae.py --out larva_bouts --size small --layout bouts

Animals: none. One simulated larva of 3.8 to 4.4 mm in open water: nose, four points an eye (eye_1 left), ten along the
tail; mm and confidence, 330 frames per second. larva_model.py moves it in eight classes of bout (slow_1, slow_2,
routine_turn, high_angle_turn, burst, j_turn, o_bend, c_start); four in ten bouts lean towards another class.
Layouts: "swims", 20 seconds a recording with pauses between bouts; "bouts", one bout of 120 frames a recording, as
PoseR's release and masked autoencoders have them. A fish gives three swims (one a setting) or 24 bouts (three a class).
Frame tasks of swims: swimming (the tail beats), hunting (eyes converged), speed (mm/s), and of frames with a beating
tail bout (its class) and turn (left, straight or right: whether the bout turns the heading by 20 degrees).
Recording tasks of swims: setting (open water, prey, startling), which shifts what the fish does how often, and
tail_beat (Hz, mean over bouts). Of bouts: bout and turn.
Split: by fish, every third is for test. Fish differ in length, frequency, amplitude, stride, turning and tastes.
Tracking errors: jitter, misplaced and lost keypoints (NaN), most at the tip of the tail and where the tail is fast;
the confidence tells which. Swapped eyes it does not tell. Labels are of the true movement.
What it is not: evidence about zebrafish. Numbers were chosen in the light of the literature, not fitted to recordings.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import larva_model as model
import numpy as np

from ethoray import store
from ethoray.files import StoreError
from ethoray.ingest import Part, ingest
from ethoray.readers.poser import LARVA
from ethoray.schema import Card, Recording, Task

FRAMES, BOUT_FRAMES = 6600, 120
SETTINGS = ("open", "prey", "startling")
SIZES = {"swims": {"small": 120, "full": 1200}, "bouts": {"small": 2400, "full": 34_008}}
A_FISH = {"swims": len(SETTINGS), "bouts": 3 * len(model.BOUTS)}
A_PART = {"swims": 5, "bouts": 50}
"""Recordings of a fish, and fish that are simulated together in one process."""
TURNS, TURN = ("left", "straight", "right"), np.radians(20)
LEANING = 0.4
"""Share of bouts that lean towards the neighbour of their class."""

TASTES = np.array([
    [0.28, 0.32, 0.22, 0.08, 0.07, 0.00, 0.03, 0.00],
    [0.40, 0.25, 0.20, 0.06, 0.03, 0.00, 0.03, 0.03],
    [0.14, 0.18, 0.14, 0.10, 0.12, 0.00, 0.14, 0.18],
])  # fmt: skip
"""How often a fish takes up each class of bout in each setting; J-turns belong to hunts, which begin beside them."""
HUNTS, PAUSE = (0.02, 0.30, 0.02), (0.45, 0.30, 0.60)
"""Chance that the next thing a fish does is a hunt, and median pause between bouts (s), by setting."""

TASKS = {
    "swims": (
        Task("bout", "multiclass", "frame", model.BOUTS, "macro_recall"),
        Task("turn", "multiclass", "frame", TURNS, "macro_recall"),
        Task("swimming"),
        Task("hunting"),
        Task("speed", "regression", metric="mse"),
        Task("setting", "multiclass", "recording", SETTINGS, "macro_recall"),
        Task("tail_beat", "regression", "recording", metric="mse"),
    ),
    "bouts": (
        Task("bout", "multiclass", "recording", model.BOUTS, "macro_recall"),
        Task("turn", "multiclass", "recording", TURNS, "macro_recall"),
    ),
}


def card(layout: str, recordings: int, seed: int) -> Card:
    """The card of a simulation of so many recordings."""
    frames = FRAMES if layout == "swims" else BOUT_FRAMES
    return Card(
        name="simulated_larvae",
        species="zebrafish larva (simulated)",
        fps=model.FPS,
        skeleton=LARVA,
        tasks=TASKS[layout],
        split_rule="by fish: every third fish is for test",
        unit="mm",
        licence="Apache-2.0",
        source=f"datasets/simulated_larvae.py, layout {layout}, seed {seed}",
        simulated=True,
        description=(__doc__ or "").partition("\n\n")[0]
        + " No animal was recorded: bouts are formulas whose numbers were chosen in the light of the literature. It "
        "tests methods and is no evidence about zebrafish.",
        notes=(
            f"{recordings} recordings of {frames} frames",
            "a few percent of keypoints are misplaced or missing, most at the tip of the tail; confidence says which",
        ),
    )


def fish(layout: str, index: int) -> int:
    """The fish that recording ``index`` shows."""
    return index // A_FISH[layout]


def split(layout: str, index: int) -> str:
    """Which side of the split a recording is on, with its whole fish."""
    return "test" if fish(layout, index) % 3 == 2 else "train"


def recording(index: int, seed: int, layout: str = "swims", frames: int | None = None) -> Recording:
    """Recording ``index`` of a simulation; it depends on these numbers alone."""
    number = fish(layout, index)
    animal = model.Fish.drawn(np.random.default_rng(np.random.SeedSequence((seed, 0, number))))
    within = index % A_FISH[layout]
    rng = np.random.default_rng(np.random.SeedSequence((seed, 1 + list(TASKS).index(layout), index)))
    if layout == "swims":
        truth, labels = a_swim(animal, within, frames or FRAMES, rng)
        name = SETTINGS[within]
    else:
        truth, labels = a_bout(animal, within % len(model.BOUTS), frames or BOUT_FRAMES, rng)
        name = f"bout_{within:02d}"
    keypoints, confidence = model.track(truth, rng)
    return Recording(
        name=f"fish_{number:04d}_{name}",
        subject=f"fish_{number:04d}",
        split=split(layout, index),
        fps=model.FPS,
        skeleton=LARVA,
        keypoints=keypoints[:, None] * animal.length,
        confidence=confidence[:, None],
        individuals=("larva",),
        labels=labels,
    )


Seen = tuple[np.ndarray, dict[str, np.ndarray | float]]


def a_bout(animal: model.Fish, kind: int, frames: int, rng: np.random.Generator) -> Seen:
    """True keypoints (body lengths) and labels of one bout that begins in any direction."""
    bouts = model.draw(np.array([kind]), animal, rng, LEANING)
    motion = model.swim(bouts, np.array([frames]), rng.uniform(-np.pi, np.pi))
    eyes = animal.eyes + (model.CONVERGED * np.exp(rng.normal(0, 0.12)) if kind == model.J_TURN else 0)
    return model.keypoints(motion, np.full(frames, eyes)), {"bout": float(kind), "turn": float(turns(bouts.turn)[0])}


def a_swim(animal: model.Fish, setting: int, frames: int, rng: np.random.Generator) -> Seen:
    """True keypoints (body lengths) and labels of a fish that swims, pauses, and hunts where there is prey."""
    lead = int(rng.integers(int(model.FPS)))
    kinds, hunt = agenda(animal, setting, 8 + int(4 * (frames + lead) / model.FPS), rng)
    bouts = model.draw(kinds, animal, rng, LEANING)
    pause = PAUSE[setting] * animal.pause * np.exp(rng.normal(0, 0.5, len(kinds))) * np.where(hunt, 0.5, 1)
    lengths = (model.FPS * (bouts.onset + 1.25 * bouts.duration + np.maximum(pause, 0.05))).astype(int)
    bouts = steered(bouts, rng)
    motion = model.swim(bouts, lengths, rng.uniform(-np.pi, np.pi))
    if len(motion.bout) < frames + lead:
        raise ValueError(f"{len(kinds)} bouts last {len(motion.bout)} frames, {frames + lead} are needed")
    bout, active = (values[lead : lead + frames] for values in (motion.bout, motion.active))
    aim = animal.eyes + np.where(hunt, model.CONVERGED * np.exp(rng.normal(0, 0.12, len(hunt))), 0)
    eyes = np.convolve(np.pad(aim[motion.bout], 10, "edge"), np.full(21, 1 / 21), "valid")
    swum = np.unique(bout[active])
    labels: dict[str, np.ndarray | float] = {
        "bout": np.where(active, kinds[bout], np.nan),
        "turn": np.where(active, turns(bouts.turn)[bout], np.nan),
        "swimming": active.astype(np.float32),
        "hunting": hunt[bout].astype(np.float32),
        "speed": animal.length * motion.speed[lead : lead + frames],
        "setting": float(setting),
        "tail_beat": float(bouts.hertz[swum].mean()) if swum.size else float("nan"),
    }
    return model.keypoints(motion, eyes)[lead : lead + frames], labels


def turns(change: np.ndarray) -> np.ndarray:
    """Index into TURNS of changes of heading."""
    return np.where(change > TURN, 0, np.where(change < -TURN, 2, 1))


def agenda(animal: model.Fish, setting: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes of so many bouts and whether each is of a hunt: a J-turn, then up to three slow ones or more J-turns."""
    weights = TASTES[setting] * animal.weights
    kinds: list[int] = []
    hunting: list[bool] = []
    while len(kinds) < count:
        if rng.random() < HUNTS[setting]:
            chase = rng.choice((model.SLOW_1, model.J_TURN), rng.integers(1, 4), p=(0.7, 0.3)).tolist()
            kinds += [model.J_TURN, *chase]
            hunting += [True] * (1 + len(chase))
        else:
            kinds.append(int(rng.choice(len(weights), p=weights / weights.sum())))
            hunting.append(False)
    return np.array(kinds[:count]), np.array(hunting[:count])


def steered(bouts: model.Bouts, rng: np.random.Generator) -> model.Bouts:
    """The same bouts, to sides that take the fish back; six body lengths from where it began always."""
    side, turn = bouts.side.copy(), bouts.turn.copy()
    place, heading = 0j, 0.0
    reach = 0.64 * bouts.numbers["stride"] * bouts.numbers["half_beats"]
    for bout, chance in enumerate(rng.random(len(side))):
        home = np.sign(np.angle(-place * np.exp(-1j * heading))) if place else side[bout]
        wanted = home if chance < 0.5 + 0.5 * min(abs(place) / 6, 1) else -home
        side[bout], turn[bout] = wanted, turn[bout] * side[bout] * wanted
        heading += turn[bout]
        place += reach[bout] * np.exp(1j * heading)
    return replace(bouts, side=side, turn=turn)


def simulate(indices: Sequence[int], seed: int, layout: str) -> Iterator[Recording]:
    """Recordings by their index, one at a time."""
    yield from (recording(index, seed, layout) for index in indices)


def parts(recordings: int, seed: int, layout: str) -> list[Part]:
    """All recordings in order, some fish a part; changed code makes them again."""
    code = b"".join(Path(path).read_bytes() for path in (__file__, str(model.__file__)))
    size = A_PART[layout] * A_FISH[layout]
    made = []
    for start in range(0, recordings, size):
        indices = range(start, min(start + size, recordings))
        frames = len(indices) * (FRAMES if layout == "swims" else BOUT_FRAMES)
        make = partial(simulate, indices, seed, layout)
        made.append(Part(f"recordings {start} to {indices[-1]}", make, frames, hashlib.sha256(code).hexdigest()))
    return made


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--layout", choices=TASKS, default="swims", help="20 seconds or one bout a recording")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recordings", type=int, help="instead of the size's number")
    parser.add_argument("--workers", type=int, help="processes (default: one a core where it pays)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    recordings = SIZES[args.layout][args.size] if args.recordings is None else args.recordings
    if recordings < 1:
        parser.error(f"--recordings {recordings}: simulate at least one")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: a seed is not negative")
    if args.workers != 1:
        import ray

        ray.cloudpickle.register_pickle_by_value(model)  # processes elsewhere do not have this folder
    try:
        dataset = ingest(
            card(args.layout, recordings, args.seed),
            parts(recordings, args.seed, args.layout),
            store.place(args.out, args.root),
            workers=args.workers,
            overwrite=args.overwrite,
        )
    except StoreError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings of simulated larvae in {dataset.uri}")


if __name__ == "__main__":
    main()
