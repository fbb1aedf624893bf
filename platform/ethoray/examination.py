"""What ``ethoray judge`` does: what an encoder, embeddings or bare positions say of neurons, poses and actions.

    from ethoray.examination import answers
    for line in answers("neural", "keypoints", "monkey_reach", settings=("models=rrr",)): print(line)

For fits on a cluster, ``probes.neural.encode``, ``probes.action.segment`` and the ``examine`` of a probe take any
``map``, such as that of ``ray.util.multiprocessing.Pool()``.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from ethoray.embedding import Embedding
    from ethoray.learning import Encoder
    from ethoray.probes import Judge, Probe, Score
    from ethoray.probes._patches import Answer, Map
    from ethoray.store import Dataset
    from ethoray.submission import Submission

KEYPOINTS = "keypoints"
SPLITS = ("train", "validation", "test")


class ExaminationError(ValueError):
    """A word that names no probe, setting, encoder or recording; the message says what there is."""


def answers(
    probe: str,
    what: str,
    dataset: str | None = None,
    *,
    preset: str | None = None,
    settings: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    space: str | None = None,
    patches: bool = False,
    workers: int = 1,
    out: Path | None = None,
    storage: Path = Path("runs"),
) -> Iterator[str]:
    """Judge an encoder, embeddings or bare positions; the lines to print, as they come.

    Parameters
    ----------
    probe: neural, pose or action, or any other probe.
    what: a run's folder or the beginning of its key; embeddings, as ``ethoray embed --every 0`` writes them; the word
        keypoints, for positions as they were recorded; or a method, or method:preset, that learned nothing.
    dataset: a prepared dataset's name, folder or URL; by default the one the run learned from.
    preset, settings: of the probe; settings are written "field=value".
    seeds: everything random in the probe, and in an encoder that learned nothing, once for each; of pose those of the
        heads, which are judged together.
    space: of the embeddings; all of them by default.
    patches: learn from the patches of an encoder of images instead of its embeddings (action).
    workers: processes among which fits are shared.
    out: also write everything that was found, as JSON.
    storage: folder of the runs.

    Raises ExaminationError for words that name nothing, and what the probe, the dataset and the encoder raise.
    """
    from ethoray import record

    chosen = configured(probe, preset, settings)
    if not seeds or len(frozenset(seeds)) < len(seeds):
        raise ExaminationError(f"seeds {tuple(seeds)!r}: give at least one, each once")
    examined = _examined(what, dataset, space, storage)
    together = probe == "pose"
    if together:
        chosen = replace(cast(Any, chosen), seeds=tuple(seeds))
    found = []
    with _spread(workers) as spread:
        for seed in seeds[:1] if together else seeds:
            answer = _answer(chosen, examined, seed, patches, spread)
            named = "seeds " + " ".join(map(str, seeds)) if together else f"seed {seed}"
            yield f"{probe} on {examined.dataset.card.name} from {what}, {named}"
            yield from _lines(answer)
            found.append((seed, answer))
    if len(found) > 1:
        yield f"{probe} on {examined.dataset.card.name} from {what}, {len(found)} seeds"
        yield from _summary([answer.scores for _, answer in found])
    if out is not None:
        about = {"probe": probe, "settings": asdict(cast(Any, chosen)), "what": what, "dataset": examined.dataset.uri}
        record.write_json(out, {**about, "seeds": [_document(*one) for one in found]})
        yield f"wrote {out}"


def configured(name: str, preset: str | None = None, settings: Sequence[str] = ()) -> Probe:
    """A probe by name, its preset, and fields written as "name=value" on top; raises ExaminationError."""
    from ethoray import probes, wording

    kind = cast(Any, probes.load(wording.judged([name])[0].name))
    try:
        return cast("Probe", kind(**wording.filled(kind, name, preset, settings)))
    except ValueError as error:
        raise ExaminationError(str(error)) from error


@dataclass(frozen=True)
class _Examined:
    """What is judged: embeddings of a dataset, and the encoder they come from, if there is one."""

    what: str
    dataset: Dataset
    space: str | None
    run: Path | None = None
    given: Submission | None = None

    def encoder(self, seed: int) -> Encoder | None:
        """The encoder of the run, or one of the method as it begins; None where there is neither."""
        from ethoray import experiment, stream, wording
        from ethoray.batch import Windows

        if self.run is not None:
            return experiment.restore(self.run)[1]
        if self.what == KEYPOINTS or self.given is not None:
            return None
        name, _, preset = self.what.partition(":")
        method = wording.configure(name, preset or None)
        windows = Windows(self.dataset.uri, split="all", inputs=method.needs)
        fresh = experiment.Experiment(windows, method, (), seed=seed)
        return experiment.build(fresh, stream.spec(windows, self.dataset, seed)).eval()

    def embeddings(self, encoder: Encoder | None) -> Iterator[Embedding]:
        """Of training recordings, then of validation and test ones; raises ExaminationError without the space."""
        from ethoray import embedding
        from ethoray.probes._tracks import keypoints

        entries = [e for split in SPLITS if split in self.dataset.splits for e in self.dataset.select(split)]
        if encoder is not None:
            made = embedding.embed(encoder, self.dataset, entries)
        elif self.given is not None:
            name, given = getattr(self.given, "space", None) or "embedding", self.given
            made = (embedding.Embedding(e, {name: _clip(given, e.name, e.frames)}) for e in entries)
        else:
            made = keypoints(self.dataset, entries)
        for one in made:
            if self.space is not None and self.space not in one.spaces:
                raise ExaminationError(f"{self.what}: no space {self.space!r}; it has {', '.join(one.spaces)}")
            yield one if self.space is None else replace(one, spaces={self.space: one.spaces[self.space]})


def _clip(given: Submission, name: str, frames: int) -> np.ndarray:
    if given.frames.get(name) != frames:
        raise ExaminationError(
            f"{given.where}: {given.frames.get(name, 0)} rows of recording {name!r}, {frames} needed"
        )
    return given.clip(name)


def _examined(what: str, name: str | None, space: str | None, storage: Path) -> _Examined:
    from ethoray import methods, record, store, wording
    from ethoray.submission import submission

    path = Path(what)
    if path.suffix == ".npy" or any(path.glob("part-*.parquet")):
        if name is None:
            raise ExaminationError(f"{what}: which dataset are these embeddings of?")
        return _Examined(what, store.open(name), None, given=submission(path, space))
    if what == KEYPOINTS or what.partition(":")[0] in methods.names():
        if name is None:
            raise ExaminationError(f"{what}: of which dataset?")
        return _Examined(what, store.open(name), space)
    run = wording.find(what, storage)
    uri = name or record.load(run)[0].data.dataset
    return _Examined(what, store.open(uri), space, run)


def _answer(probe: Probe, examined: _Examined, seed: int, patches: bool, spread: Map) -> Answer:
    """The probe's scores and what else it found, for one seed."""
    from ethoray.probes._patches import Answer

    encoder, dataset = examined.encoder(seed), examined.dataset
    if patches or probe.name == "pose":
        if encoder is None or not hasattr(probe, "examine"):
            raise ExaminationError(f"{probe.name} from {examined.what}: patches need an encoder of images")
        return cast(Answer, probe.examine(encoder, dataset, seed, spread))
    judge = probe.judge(dataset.card, seed)
    if hasattr(judge, "map"):
        judge.map = spread
    if encoder is not None:
        judge.meet(encoder, dataset)
    _show(judge, dataset, examined.embeddings(encoder))
    scores = judge.scores()
    return Answer(scores, dict(judge.describe()))


def _show(judge: Judge, dataset: Dataset, embeddings: Iterable[Embedding]) -> None:
    from ethoray.probes._patches import whole
    from ethoray.probes.neural import SPIKES

    for one in embeddings:
        entry = whole(one)
        judge.see(one, {**dataset.labels(entry), **({SPIKES: dataset.neural(entry)} if entry.units else {})})


@contextmanager
def _spread(workers: int) -> Iterator[Map]:
    """``map`` over processes of one thread each, or the built-in one."""
    if workers < 1:
        raise ExaminationError(f"workers are at least 1, not {workers}")
    if workers == 1:
        yield builtins.map
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, get_context("spawn"), _single) as pool:
        yield pool.map


def _single() -> None:
    import torch

    torch.set_num_threads(1)


def _lines(answer: Answer) -> Iterator[str]:
    width = max((len(score.name) for score in answer.scores), default=0)
    if not answer.scores:
        yield "  nothing could be scored"
    for score in answer.scores:
        interval = f"{score.value:.4f}  [{score.low:.4f}, {score.high:.4f}]"
        yield f"  {score.name:{width}}  {score.rule or score.metric}  {interval}  {score.recordings} recordings"
        for key, value in answer.about.get(score.name, {}).items():
            if key in ("error", "units", "keypoints", "single", "frames", "classes", "members", "confidence"):
                yield f"    {key}: {_told(value)}"
            if key == "spread":
                for point in value:
                    yield "    most disputed {fraction:.0%}: error {error:.2f}, spread {spread:.2f}".format(**point)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_told, value))
    return f"{value:.4g}"


def _summary(seeds: Sequence[tuple[Score, ...]]) -> Iterator[str]:
    names = list(dict.fromkeys(score.name for scores in seeds for score in scores))
    for name in names:
        values = [score.value for scores in seeds for score in scores if score.name == name]
        about = f" +- {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
        yield f"  {name:{max(map(len, names))}}  {np.mean(values):.4f}{about}"


def _document(seed: int, answer: Answer) -> dict[str, Any]:
    names = ("task", "space", "metric", "rule", "value", "low", "high", "recordings", "names")
    return {
        "seed": seed,
        "scores": [{name: getattr(score, name) for name in names} for score in answer.scores],
        "about": answer.about,
    }
