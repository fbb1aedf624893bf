"""Prepared datasets: sharded Parquet, a card and a manifest that is written last.

One row of a shard is one clip: at most ``clip_seconds`` of one recording, in its own row group. Readers follow
the manifest only, so a dataset is complete or it is not there; the manifest holds the card, and card.json is
a copy for people.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ethoray.dataset import Dataset, Entry
from ethoray.files import Folder, StoreError
from ethoray.packing import Writer
from ethoray.parts import compose
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task, check_name
from ethoray.shards import Clip, Shard

__all__ = ["Clip", "Dataset", "Entry", "Shard", "StoreError", "open", "place", "prepare", "reopen"]

MANIFEST, CARD = "manifest.json", "card.json"
JOURNAL = "journal"
"""Where ``ingest`` notes which parts are done; gone when the manifest is there."""

QUALITY, PAGE = "quality.json", "quality.html"
"""What ``ingest`` counted while it wrote, and the page about it."""

_FORMAT = 1
_SENTENCES = ("notes", "cleaning", "quality", "checksums")


def open(name_or_uri: str | Path, root: str | Path | None = None) -> Dataset:
    """Open a dataset by name (under ``root``, $ETHORAY_STORE or "store"), by path or by fsspec URL.

    Text without a slash is a name. Raises StoreError naming the nearest match and what exists.
    """
    text = os.fspath(name_or_uri)
    shelf = _shelf(root)
    named = isinstance(name_or_uri, str) and not re.search(r"[/\\]", text)
    folder = Folder(f"{shelf}/{text}" if named else name_or_uri)
    data = folder.read(MANIFEST)
    if data is None:
        raise StoreError(_unknown(text, shelf) if named else f"no prepared dataset at {folder.uri} (no {MANIFEST})")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise StoreError(f"{folder.uri}: format {document['format']}; this version reads format {_FORMAT}")
        return _dataset(folder.uri, document)
    except (KeyError, TypeError, IndexError, json.JSONDecodeError, SchemaError) as error:
        raise StoreError(f"{folder.uri}/{MANIFEST} is not a manifest this version reads: {error!r}") from error


def reopen(uri: str) -> Dataset:
    """The dataset of a run: where the run found it, or else one of that name in this store.

    Raises StoreError when it is in neither place.
    """
    try:
        return open(uri)
    except StoreError:
        return open(uri.rstrip("/").rpartition("/")[2])


def place(name: str, root: str | Path | None = None) -> str:
    """The folder or URL of a dataset of this name, there or not (under ``root``, $ETHORAY_STORE or "store").

    Raises SchemaError for a name that cannot stand in a path.
    """
    return f"{_shelf(root)}/{check_name(name, 'dataset')}"


def _shelf(root: str | Path | None) -> str:
    return os.fspath(root or os.environ.get("ETHORAY_STORE") or "store").rstrip("/")


def prepare(
    card: Card,
    recordings: Iterable[Recording],
    root: str | Path,
    *,
    clip_seconds: float = 60.0,
    shard_mb: float = 64,
    overwrite: bool = False,
    force: bool = False,
) -> Dataset:
    """Write a dataset into the folder or fsspec URL ``root``: shards, card.json, and the manifest last.

    One recording, or one piece of it, is held in memory at a time. Raises StoreError and leaves what was there
    as it was when a recording does not fit the card, when a subject is in both train and test (unless the card's
    split rule says "block"), when the same track appears in two splits, and when anything cannot be written.
    ``force`` turns the two leak checks into notes of the card.
    """
    folder, before = claim(root, overwrite)
    writer = Writer(folder, card, clip_frames(card, clip_seconds), int(shard_mb * 2**20), force=force)
    try:
        for recording in recordings:
            writer.add(recording)
        return publish(folder, compose(card, [writer.fragment()], force=force), before)
    except BaseException:
        named = _named(folder.read(MANIFEST))  # all of ours when interrupted just after the commit
        folder.remove(shard.file for shard in writer.shards if shard.file not in named)
        raise


def clip_frames(card: Card, clip_seconds: float) -> int:
    """The most frames of a clip; StoreError when there would be none."""
    if not clip_seconds > 0:
        raise StoreError(f"clip_seconds must be positive, not {clip_seconds!r}")
    return max(1, round(clip_seconds * card.fps))


def claim(root: str | Path, overwrite: bool) -> tuple[Folder, bytes | None]:
    """The folder to write into and the manifest it holds; StoreError when a dataset may not be replaced."""
    folder = Folder(root)
    before = folder.read(MANIFEST)
    if before is not None and not overwrite:
        raise StoreError(f"{folder.uri} already holds a dataset; say overwrite to replace it, or choose a name")
    return folder, before


def publish(folder: Folder, document: dict[str, Any], before: bytes | None) -> Dataset:
    """Commit a manifest whose shards are written; then the journal and the shards that nothing names are removed.

    Raises StoreError when another writer committed since ``before`` was read.
    """
    manifest = _json({"format": _FORMAT} | document)
    named = _named(manifest)
    folder.expect(MANIFEST, before)
    there = {f"shards/{name}" for name in folder.inside("shards").names()}  # a later writer's shards are not listed
    if named - there:
        raise StoreError(f"{folder.uri}/{min(named - there)} vanished while the dataset was written; prepare it again")
    folder.put(CARD, _json(document["card"]))
    folder.commit(MANIFEST, manifest, before)
    folder.clear(JOURNAL)
    folder.remove({*(there - named), QUALITY, PAGE})
    return open(Path(folder.uri) if folder.local else folder.uri)


def _named(manifest: bytes | None) -> set[str]:
    return {file for file, *_ in json.loads(manifest)["shards"]} if manifest else set()


def _dataset(uri: str, document: dict[str, Any]) -> Dataset:
    card = document["card"]
    tasks = tuple(Task(**(t | {"classes": tuple(t["classes"])})) for t in card["tasks"])
    shards = tuple(Shard(*row) for row in document["shards"])
    entries = tuple(_entry(name, entry, shards) for name, entry in document["entries"].items())
    digest = hashlib.sha256(_json({name: value for name, value in card.items() if name != "quality"}))
    for shard in shards:
        digest.update(shard.sha256.encode())
    parts: dict[str, Any] = {name: tuple(card[name]) for name in _SENTENCES if name in card}
    parts |= {"skeleton": Skeleton.from_json(card["skeleton"]), "tasks": tasks}
    return Dataset(uri, Card(**card | parts), entries, shards, digest.hexdigest())


def _entry(name: str, entry: dict[str, Any], shards: tuple[Shard, ...]) -> Entry:
    clips = tuple(Clip(shards[shard].file, *place) for shard, *place in entry["clips"])
    known = entry | {"individuals": tuple(entry["individuals"]), "clips": clips}
    if "picture" in entry:
        height, width, channels = entry["picture"]
        known["picture"] = (height, width, channels)
    return Entry(name=name, **known)


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()


def _unknown(name: str, shelf: str) -> str:
    there = [n for n in Folder(shelf).names() if Folder(f"{shelf}/{n}").read(MANIFEST) is not None]
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no dataset {name!r} in {shelf}{hint} It holds {', '.join(there) or 'none'}; make one with ethoray prepare"
