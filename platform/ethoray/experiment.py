"""One experiment from data to scores: the whole story on one screen.

*open -> windows -> build -> fit, pausing to log and save -> embed whole recordings -> probe -> scores.*
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from ethoray import embedding, record, store, stream
from ethoray.batch import Spec, Stream, Windows
from ethoray.learning import Budget, Encoder, Method, Progress, check_needs
from ethoray.probes import Judge, Probe, ProbeError, Score
from ethoray.state import load_encoder

Log = Callable[[Progress], None]


@dataclass(frozen=True)
class Experiment:
    """What is done to which data, how long and with which seed; frozen, hashable, sent to workers as it is.

    Attributes
    ----------
    data: the training windows; their dataset is also the one that is embedded and probed. Inputs left at "auto" are
        images for a method of images, also where a dataset holds keypoints too.
    method: hyper-parameters of one method.
    probes: how the frozen embeddings are judged.
    budget: how long to train.
    seed: of the initial weights, the order of windows, and everything random in training and probing.
    """

    data: Windows
    method: Method
    probes: tuple[Probe, ...]
    budget: Budget = field(default_factory=Budget)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method.needs == "images" and self.data.inputs == "auto":
            object.__setattr__(self, "data", replace(self.data, inputs="images"))


def run(experiment: Experiment, folder: str | Path, log: Log | None = None) -> Mapping[str, float]:
    """Train, embed and score in this process; returns {"task/space": score}.

    Everything is written under ``folder``. Interrupted at any moment, the same call goes on from the last
    checkpoint; finished, it returns the scores at once. A failure is written to failure.json and raised.
    """
    folder = Path(folder)
    if (scores := record.finished(folder)) is not None:
        return scores
    dataset = store.open(experiment.data.dataset)
    record.begin(folder, experiment, dataset)
    try:
        _judges(experiment, dataset)  # a task that does not exist is said before training, not after
        batches = stream.open_stream(experiment.data, dataset, experiment.seed)
        encoder = train(experiment, dataset, batches, folder, log)
        return evaluate(experiment, encoder, dataset, folder)
    except Exception as error:
        record.fail(folder, error)
        raise


def train(
    experiment: Experiment,
    dataset: store.Dataset,
    batches: Stream,
    folder: str | Path,
    log: Log | None = None,
    *,
    primary: bool = True,
) -> Encoder:
    """Fit the encoder, resuming from the folder's checkpoint; only the primary process writes."""
    folder = Path(folder)
    encoder = build(experiment, stream.spec(experiment.data, dataset, experiment.seed))
    resume = record.load_state(folder)
    diary = record.Diary(folder, 0 if resume is None else int(resume["step"])) if primary else None
    for progress in encoder.fit(batches, experiment.budget, resume):
        if diary is not None:
            diary.write(progress)
            if progress.save:
                record.save_state(folder, progress.state())
        if log is not None:
            log(progress)
    return encoder


def build(experiment: Experiment, spec: Spec) -> Encoder:
    """A fresh encoder for data of this kind; its initial weights depend on the experiment's seed only.

    Raises SchemaError when the method learns from images and the data are keypoints, or the other way round.
    """
    check_needs(experiment.method, spec)
    with torch.random.fork_rng():
        torch.manual_seed(experiment.seed)
        return experiment.method.build(spec)


def restore(folder: str | Path) -> tuple[Experiment, Encoder]:
    """The experiment and the trained encoder of a run folder, ready to embed.

    The training data need not be there. Raises RecordError when the folder has no experiment or no checkpoint.
    """
    folder = Path(folder)
    experiment, spec = record.load(folder)
    state = record.load_state(folder)
    if state is None:
        raise record.RecordError(f"{folder}: no checkpoint; train this experiment first")
    encoder = build(experiment, spec)
    load_encoder(encoder, state)
    return experiment, encoder.to(experiment.budget.torch_device()).eval()


def evaluate(
    experiment: Experiment, encoder: Encoder, dataset: store.Dataset, folder: str | Path, alone: bool = True
) -> Mapping[str, float]:
    """Embed every training and test recording with the frozen encoder, probe, and write the scores last.

    Peak memory is written down when the process was the experiment's ``alone``.
    """
    folder = Path(folder)
    judges = _judges(experiment, dataset)
    for judge in judges:
        judge.meet(encoder, dataset)
    entries = [e for split in ("train", "test") if split in dataset.splits for e in dataset.select(split)]
    embedded = embedding.embed(encoder, dataset, entries)
    began = time.perf_counter()
    # Products of one recording are small: BLAS threads would spend their time waiting for one another.
    with threadpool_limits(1, user_api="blas"):
        for item in embedding.write(embedded, folder / "embeddings"):
            labels = item.of(dataset.labels(item.entry))
            for judge in judges:
                judge.see(item, labels)
        scores: list[Score] = [score for judge in judges for score in judge.scores()]
        described = {p.name: d for p, judge in zip(experiment.probes, judges, strict=True) if (d := judge.describe())}
    names = [score.name for score in scores]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ProbeError(f"two probes score {min(twice)!r}: only one of them could be kept; leave one out")
    if described:
        record.write_json(folder / "descriptions.json", described)
    parameters, seconds = sum(p.numel() for p in encoder.parameters()), time.perf_counter() - began
    return record.finish(folder, scores, parameters=parameters, embed_seconds=seconds, alone=alone)


def _judges(experiment: Experiment, dataset: store.Dataset) -> list[Judge]:
    return [probe.judge(dataset.card, experiment.seed) for probe in experiment.probes]
