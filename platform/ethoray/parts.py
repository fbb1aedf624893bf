"""What was prepared, part by part: who is in it, what may not stand together, and how the shares become a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ethoray.files import StoreError
from ethoray.schema import Card, Recording
from ethoray.shards import Shard


@dataclass(frozen=True)
class Part:
    """Recordings that are made together, in one process: a long file, or several short ones.

    Attributes
    ----------
    name: unique among the parts of a dataset, for messages.
    make: makes the recordings, whole or in pieces; a sentence among them is a note for the card. It is sent to
        other processes: a function of a module, or a ``functools.partial`` of one.
    frames: how many frames it will give, or 0 when that is not known; for the progress line.
    stamp: what else decides its content, such as sizes and dates of its files; a part is made again when this,
        its name, ``make`` with its arguments, the card or the clips' length changed.
    """

    name: str
    make: Callable[[], Iterable[Recording | str]]
    frames: int = 0
    stamp: str = ""


@dataclass(frozen=True)
class Fragment:
    """What one writer wrote: its share of the manifest.

    Attributes
    ----------
    entries: by recording what the manifest says of it; the clips count these shards from 0.
    digests: by recording the SHA-256 of its track and images, None where there is nothing to compare.
    """

    shards: tuple[Shard, ...]
    entries: Mapping[str, dict[str, Any]]
    digests: Mapping[str, str | None]
    notes: tuple[str, ...] = ()
    quality: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Fragment:
        """The fragment whose ``document`` went through JSON."""
        shards = tuple(Shard(**shard) for shard in document["shards"])
        quality = document["quality"]
        return cls(shards, document["entries"], document["digests"], tuple(document["notes"]), quality)


class Ledger:
    """Names, sides and tracks of recordings; what would make every score a lie is refused, or noted when forced.

    That is the same animal, or the same track under two names, in both train and test. The same track twice on
    one side is noted.
    """

    def __init__(self, card: Card, force: bool = False) -> None:
        self.card, self.force = card, force
        self.notes: list[str] = []
        self._space: dict[str, int] = {}
        self._sides: dict[str, tuple[str, str]] = {}
        self._tracks: dict[str, tuple[str, str]] = {}

    def enter(self, name: str, subject: str, split: str, space: int) -> None:
        """Raise StoreError when a recording does not fit those before it."""
        if name in self._space:
            raise StoreError(f"recording {name!r} is given twice; names are unique within a dataset")
        first, other = next(iter(self._space.items()), (name, space))
        if space != other:
            raise StoreError(f"recording {name!r} has {space} coordinates, {first!r} has {other}")
        self._space[name] = space
        if split not in ("train", "test") or "block" in self.card.split_rule:
            return
        side, first = self._sides.setdefault(subject, (split, name))
        if side != split:
            self._leak(
                f"subject {subject!r} is in {side} ({first!r}) and in {split} ({name!r})",
                "put all its recordings on one side, or cut contiguous blocks and say so in the card's split_rule",
            )

    def compare(self, name: str, split: str, digest: str | None) -> None:
        """Raise StoreError when a track was seen before, under another name and on another side."""
        if digest is None:
            return
        side, first = self._tracks.setdefault(digest, (split, name))
        if side != split:
            self._leak(f"recordings {first!r} ({side}) and {name!r} ({split}) are the same track", "drop one")
        elif first != name:
            self.notes.append(f"recordings {first!r} and {name!r} are the same track")

    def include(self, fragment: Fragment) -> None:
        """Enter and compare everything that a fragment holds."""
        for name, entry in fragment.entries.items():
            self.enter(name, entry["subject"], entry["split"], entry["space"])
            self.compare(name, entry["split"], fragment.digests[name])

    def _leak(self, fact: str, remedy: str) -> None:
        if not self.force:
            raise StoreError(f"{fact}; {remedy}")
        self.notes.append(f"leak check forced: {fact}")


def compose(card: Card, fragments: Sequence[Fragment], *, force: bool = False) -> dict[str, Any]:
    """The manifest of several fragments, in order; StoreError when they do not belong together.

    What the fragments and the forced leak check have to note is added to the card.
    """
    ledger = Ledger(card, force)
    shards: list[Shard] = []
    entries: dict[str, dict[str, Any]] = {}
    for fragment in fragments:
        ledger.include(fragment)
        for name, entry in fragment.entries.items():
            entries[name] = entry | {"clips": [[len(shards) + shard, *rest] for shard, *rest in entry["clips"]]}
        shards += fragment.shards
    if not entries:
        raise StoreError(f"dataset {card.name!r}: no recordings to prepare")
    notes = (*card.notes, *(note for fragment in fragments for note in fragment.notes), *ledger.notes)
    return {
        "card": asdict(replace(card, notes=tuple(dict.fromkeys(notes)))),
        "shards": [[s.file, s.sha256, s.bytes] for s in shards],
        "entries": entries,
    }


def gather(parts: Iterable[Part]) -> list[Recording]:
    """The recordings of all parts, whole and in memory: for notebooks and tests, not for long recordings."""
    pieces: dict[str, list[Recording]] = {}
    for part in parts:
        for piece in part.make():
            if not isinstance(piece, str):
                pieces.setdefault(piece.name, []).append(piece)
    return [_joined(found) for found in pieces.values()]


def _joined(pieces: Sequence[Recording]) -> Recording:
    first = pieces[0]
    if len(pieces) == 1:
        return first
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("keypoints", "confidence", "neural", "images")
        if getattr(first, name) is not None
    }
    labels = {
        task: np.concatenate([np.asarray(p.labels[task]) for p in pieces]) if isinstance(values, np.ndarray) else values
        for task, values in first.labels.items()
    }
    return replace(first, labels=labels, **arrays)
