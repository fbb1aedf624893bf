"""Where a dataset lives, a folder on a disk or a prefix of an object store: read, write, commit."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

_LOST = "{}: another writer committed here meanwhile; its data is kept and this one's is not"


class StoreError(ValueError):
    """A dataset that cannot be found, read, trusted or written; the message names the file and what to do."""


class Folder:
    """A folder or prefix, addressed by a path or an fsspec URL; file names inside it are relative.

    Every write is whole or absent: a killed process leaves no half file under the name it was writing.
    """

    def __init__(self, uri: str | Path) -> None:
        try:
            self.fs, path = fsspec.core.url_to_fs(os.fspath(uri))
        except (ImportError, ValueError) as error:
            raise StoreError(f"{uri}: {error}") from None
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        self.local = "file" in protocols
        self.path = os.path.abspath(path) if self.local else path.rstrip("/")
        self.uri = self.path if self.local else str(uri).rstrip("/")
        self._s3 = "s3" in protocols

    def at(self, name: str) -> str:
        """The full path of a file, for messages and for the file system."""
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes | None:
        """The whole file, or None when there is none."""
        try:
            return bytes(self.fs.cat_file(self.at(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.uri}/{name}: {_reason(error)}") from error

    def names(self) -> list[str]:
        """The folders and files directly inside, sorted; empty when there is nothing."""
        self.fs.invalidate_cache(self.path)
        try:
            return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in self.fs.ls(self.path, detail=False))
        except OSError:
            return []

    def stream(self, name: str) -> BinaryIO:
        """A seekable file to read from; the caller closes it."""
        return self.fs.open(self.at(name), "rb")

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write or replace one file."""
        with _explained(f"{self.uri}/{name}"):
            if self.local:
                os.replace(self._beside(name, data), self.at(name))
            else:
                self.fs.pipe_file(self.at(name), bytes(data))

    def commit(self, name: str, data: bytes, before: bytes | None) -> None:
        """Replace a file whose content was ``before`` (None: absent); StoreError when another writer was first.

        On a disk the comparison and the rename happen under a lock that dies with the process. On S3 the put is
        conditional; on other stores only the creation is, and a replacement compares just before it writes.
        """
        with _explained(f"{self.uri}/{name}"):
            if self.local:
                beside = self._beside(name, data)
                try:
                    with _exclusive(self.path):
                        self.expect(name, before)
                        os.replace(beside, self.at(name))
                finally:
                    Path(beside).unlink(missing_ok=True)
            else:
                condition = {"mode": "create"} if before is None else self._condition(name)
                self.expect(name, before)
                try:
                    self.fs.pipe_file(self.at(name), data, **condition)
                except OSError:  # lost to another, or done but not heard of: the content tells
                    if self.read(name) != data:
                        self.expect(name, before)
                        raise

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that no manifest names; what cannot be deleted is left, since nobody reads it."""
        for name in names:
            try:
                self.fs.rm_file(self.at(name))
            except OSError:
                continue

    def clear(self, name: str) -> None:
        """Delete a folder inside with all it holds; what cannot be deleted is left."""
        with suppress(OSError):
            self.fs.rm(self.at(name), recursive=True)

    def inside(self, name: str) -> Folder:
        """A folder inside this one."""
        return Folder(f"{self.uri}/{name}")

    def expect(self, name: str, before: bytes | None) -> None:
        """StoreError unless a file's content is still ``before`` (None: absent)."""
        if self.read(name) != before:
            raise StoreError(_LOST.format(f"{self.uri}/{name}"))

    def _condition(self, name: str) -> dict[str, Any]:
        if not self._s3:
            return {}
        self.fs.invalidate_cache(self.path)
        return {"IfMatch": self.fs.info(self.at(name))["ETag"]}

    def _beside(self, name: str, data: bytes | memoryview) -> str:
        path = Path(self.at(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        return str(beside)


@contextmanager
def _exclusive(path: str) -> Iterator[None]:
    import fcntl  # absent on Windows, where everything but writing datasets works

    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {where}: {_reason(error)}; nothing was committed: free the disk or choose a folder "
            "you may write to"
        ) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
