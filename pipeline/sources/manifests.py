"""Manifests: lists of videos with metadata, as CSV, Parquet or JSON lines.

A manifest has a column ``uri``; every other column is stored with the video as metadata. Relative paths are relative to
the manifest's folder. Rows are read lazily, so a manifest may be larger than memory.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import posixpath
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow.parquet as pq

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.backend_errors import classify
from malmm.pipeline.sources.backends import ONCE, BackendFailure, open_backend, patiently

__all__ = ["MANIFEST_EXTENSIONS", "EmptyManifestError", "Listed", "read_manifest"]

MANIFEST_EXTENSIONS = (".csv", ".parquet", ".jsonl", ".ndjson")

_URI = "uri"
# Descriptions may be longer than csv's default limit of 128 KiB a field, which guards against files that are not CSV.
_LONGEST_FIELD = 1 << 24
_ROWS_A_BATCH = 4096


@dataclass(frozen=True)
class Listed:
    """A row: the video's URI, and all other columns as a JSON object with sorted keys, empty without other columns."""

    uri: str
    metadata: str


class EmptyManifestError(SourceError):
    """A manifest without a row."""


def read_manifest(uri: str) -> Iterator[Listed | SourceError]:
    """Yield the rows of a manifest. An invalid row yields a SourceError as a value, and reading goes on."""
    try:
        with _open(uri) as handle:
            number = 0
            for number, row in _rows(uri, handle):
                yield row if isinstance(row, SourceError) else _listed(uri, number, row)
            if not number:
                yield EmptyManifestError(f"{uri} lists no video: it has no row", uri=uri)
    except BackendFailure as failure:
        yield SourceError(failure.sentence(uri, deed="read as a manifest"), uri=uri)
    except FileNotFoundError:
        yield SourceError(f"no such file or directory: {uri}", uri=uri)
    except Exception as error:  # noqa: BLE001 - Arrow, csv and json raise many kinds for broken files
        yield SourceError(f"{uri} cannot be read as a manifest: {classify(error).reason}", uri=uri)


def _open(uri: str) -> IO[bytes]:
    """Open a manifest at a path or an address. Raises OSError and BackendFailure."""
    if "://" not in uri:
        return Path(uri).open("rb")
    backend = open_backend(uri)
    return io.BufferedReader(_PatientFile(patiently(lambda: backend.filesystem.open(backend.path, "rb"))))


class _PatientFile(io.RawIOBase):
    """A remote file whose reads are retried by ``patiently``."""

    def __init__(self, handle: Any) -> None:
        super().__init__()
        self._handle = handle
        self._position = 0

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """Whether the backend can seek."""
        return bool(self._handle.seekable())

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position and return it."""
        self._position = patiently(lambda: int(self._handle.seek(offset, whence)), ONCE)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end of the file."""
        view = memoryview(buffer).cast("B")

        def read() -> bytes:
            if self._handle.tell() != self._position:
                self._handle.seek(self._position)
            return bytes(self._handle.read(len(view)))

        data = patiently(read)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Close the remote file."""
        if not self.closed:
            self._handle.close()
        super().close()


def _rows(uri: str, handle: Any) -> Iterator[tuple[int, dict[str, Any] | SourceError]]:
    """Rows with their numbers, from 1."""
    kind = uri.lower().rpartition(".")[2]
    if kind == "parquet":
        file = pq.ParquetFile(handle)
        _check_columns(uri, file.schema_arrow.names)
        batches = file.iter_batches(batch_size=_ROWS_A_BATCH)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        return
    text = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="" if kind == "csv" else None)
    try:
        yield from _csv_rows(uri, text) if kind == "csv" else _json_rows(uri, text)
    finally:
        # The caller owns the file and closes it.
        text.detach()


class _LongFields:
    """A block in which long fields are read, in a program whose limit stays its own.

    Python has one limit for all of a process. Threads that read at the same time share the raised one, and the last of
    them gives the program its own back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._readers:
                self._before = csv.field_size_limit(_LONGEST_FIELD)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                csv.field_size_limit(self._before)


_LONG_FIELDS = _LongFields()


def _csv_rows(uri: str, text: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text, restkey="", strict=True)
    with _LONG_FIELDS:
        _check_columns(uri, list(reader.fieldnames or ()))
    for number in itertools.count(1):
        with _LONG_FIELDS:
            row = next(reader, None)
        if row is None:
            return
        yield number, row


def _json_rows(uri: str, text: TextIO) -> Iterator[tuple[int, dict[str, Any] | SourceError]]:
    for number, line in enumerate((line for line in text if line.strip()), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, SourceError(f"row {number} of {uri} is not JSON: {error}", uri=uri)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, SourceError(f"row {number} of {uri} is not a JSON object", uri=uri)


def _check_columns(uri: str, names: list[str]) -> None:
    if _URI not in names:
        found = ", ".join(names) or "none"
        raise ValueError(f"it has no column {_URI!r} with the videos' addresses (columns: {found})")


def _listed(manifest: str, number: int, row: dict[str, Any]) -> Listed | SourceError:
    address = row.pop(_URI, None)
    if not isinstance(address, str) or not address.strip():
        return SourceError(f"row {number} of {manifest} has no {_URI}", uri=manifest)
    if row.pop("", None) is not None:
        return SourceError(f"row {number} of {manifest} has more fields than there are columns", uri=manifest)
    metadata = {key: _plain(value) for key, value in row.items() if value not in (None, "")}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False) if metadata else ""
    return Listed(_beside(manifest, address.strip()), text)


def _beside(manifest: str, address: str) -> str:
    """The address; a relative one is resolved against the manifest's folder."""
    if "://" in address or address.startswith(("/", "~")):
        return address
    return posixpath.join(posixpath.dirname(manifest), address)


def _plain(value: Any) -> Any:
    """The value converted to JSON types."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return value.hex() if isinstance(value, bytes) else str(value)
