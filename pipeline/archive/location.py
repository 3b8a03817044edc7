"""Addresses of archives, and how their Lance tables are opened, created and dropped.

Lance reads the ``AWS_*`` environment (with ``AWS_ENDPOINT_URL`` and ``AWS_ALLOW_HTTP``) by itself in every process.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.file import LanceFileWriter
from lance.fragment import DataFile, FragmentMetadata
from lance.schema import LanceSchema

from malmm.pipeline.schema.errors import ArchiveError

__all__ = [
    "ENDPOINTS",
    "STORAGE_VERSION",
    "absolute",
    "change_columns",
    "check_writable",
    "create_dataset",
    "drop_tables",
    "ensure_dataset",
    "is_local",
    "lance_errors",
    "open_dataset",
    "resolve",
    "table_uri",
]

# Of a machine's cores Lance keeps two for reading and writing, which leaves one of two or three for all searches of a
# process at once. Read when Lance first computes something.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if _CORES < 4:
    os.environ.setdefault("LANCE_CPU_THREADS", str(_CORES))

# From 2.2 on Lance turns a blob column into an extension type of its own, so that a table's schema is no
# longer the one it was made with and each fragment gets a second file. 2.1 keeps both as they are.
STORAGE_VERSION = "2.1"

_TRIES = 8
#: Where Lance looks for the address of an imitation of S3, the first that is set. Unlike botocore it reads no profile.
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_ENDPOINT_URL")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_FOUND = re.compile(r"Dataset at path .* was not found", re.DOTALL)
_RUST_TRAIL = re.compile(r",?\s*/\S+\.rs:\d+:\d+.*", re.DOTALL)


def resolve(uri: str) -> str:
    """The archive's address for use in any process: an absolute path, or an object store's URI.

    Raises ArchiveError for an address that Lance cannot open.
    """
    address = absolute(uri)
    if _CONTROL.search(address):
        raise ArchiveError(
            f"cannot use {uri!r} as an archive: its path holds a line break, a tab or another control character, which "
            "Lance cannot have in an address; give --archive another path",
            uri=uri,
        )
    return address


def absolute(uri: str) -> str:
    """Make a path or ``file://`` URI an absolute path; strip slashes from the end of any other URI."""
    if uri.startswith("file://"):
        uri = unquote(urlsplit(uri).path)
    if _SCHEME.match(uri):
        return uri.rstrip("/")
    return os.path.abspath(Path(uri).expanduser())  # noqa: PTH100  # Path.resolve would follow links


def is_local(uri: str) -> bool:
    """Whether a resolved address is a path on this machine."""
    return not _SCHEME.match(uri)


def table_uri(archive_uri: str, name: str) -> str:
    """The address of a table in a LanceDB database."""
    return f"{archive_uri}/{name}.lance"


@contextmanager
def lance_errors(archive_uri: str, doing: str) -> Iterator[None]:
    """Turn Lance's exceptions in the block into an ArchiveError: "cannot <doing> <archive>: <reason>"."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        # Lance raises these three for errors of storage, conflict and input.
        reason = " ".join(_RUST_TRAIL.sub("", str(error)).split())[:400]
        hint = ""
        if not is_local(archive_uri):
            hint = f" ({_no_tls()}check the bucket, the AWS_* credentials, AWS_ENDPOINT_URL and the network)"
        raise ArchiveError(f"cannot {doing} {archive_uri}: {reason}{hint}", uri=archive_uri) from error


def _no_tls() -> str:
    """What Lance lacks for an endpoint without TLS: s3fs needs no leave for it, and Lance says "builder error"."""
    names = [name for name in ENDPOINTS if os.environ.get(name, "").startswith("http://")]
    if not names or os.environ.get("AWS_ALLOW_HTTP"):
        return ""
    return f"{names[0]} has no TLS: set AWS_ALLOW_HTTP=true; "


def open_dataset(
    archive_uri: str, name: str, session: lance.Session | None = None
) -> lance.LanceDataset | None:
    """Open the table at its latest version; None if there is none. Raises ArchiveError if it cannot be reached.

    ``session`` caches what does not change between versions: indexes and file metadata.
    """
    with lance_errors(archive_uri, f"read table {name!r} of"):
        if is_local(archive_uri) and not _is_there(Path(table_uri(archive_uri, name))):
            return None
        try:
            return lance.dataset(table_uri(archive_uri, name), session=session)
        except ValueError as error:
            # A folder without a manifest, as a killed creation leaves behind, is not a table.
            if _NOT_FOUND.match(str(error)):
                return None
            raise


def _is_there(path: Path) -> bool:
    """Whether something is at a local path. Lance itself tries for seconds where the path leads through a file."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def create_dataset(archive_uri: str, name: str, rows: pa.Table) -> lance.LanceDataset:
    """Create a table that holds ``rows``, atomically. Raises ArchiveError, also if the table exists.

    Of several writers that create it at the same moment one succeeds. ``lance.write_dataset`` does not promise that: it
    looks whether there is a table, and then overwrites the one that another writer has made and filled meanwhile.
    """
    uri = table_uri(archive_uri, name)
    with lance_errors(archive_uri, f"create table {name!r} in"):
        # Even without rows there must be a file: the commit takes the table's storage version from it.
        creation = lance.LanceOperation.Overwrite(rows.schema, [_fragment(uri, rows)])
        # No retries, so that only the first version may be written.
        made = lance.LanceDataset.commit(
            uri, creation, read_version=0, max_retries=0, enable_v2_manifest_paths=True
        )
        return _without_empty_file(made)


def ensure_dataset(archive_uri: str, name: str, rows: pa.Table) -> lance.LanceDataset:
    """Open the table; create it, holding ``rows``, if there is none. Raises ArchiveError."""
    found = open_dataset(archive_uri, name)
    if found is None:
        try:
            return create_dataset(archive_uri, name, rows)
        except ArchiveError:
            # Another writer may have made it at the same moment.
            found = open_dataset(archive_uri, name)
            if found is None:
                raise
    with lance_errors(archive_uri, f"create table {name!r} in"):
        # Whoever made it may be between its two commits, or was killed there.
        return _without_empty_file(found)


def _without_empty_file(dataset: lance.LanceDataset) -> lance.LanceDataset:
    """Take the file without rows, with which an empty table is created, out of it: Lance cannot update such a table."""
    for attempt in range(_TRIES):
        first = dataset.get_fragment(0)
        if first is None or first.physical_rows:
            break
        try:
            removal = lance.LanceOperation.Delete([], [0], "true")
            dataset = lance.LanceDataset.commit(dataset, removal, read_version=dataset.version)
        except CommitConflictError:
            # Another writer has taken it out.
            if attempt == _TRIES - 1:
                raise
            dataset = lance.dataset(dataset.uri)
    return dataset


def _fragment(uri: str, rows: pa.Table) -> FragmentMetadata:
    """Write one data file of the table at ``uri``."""
    name = f"{secrets.token_hex(16)}.lance"
    with LanceFileWriter(f"{uri}/data/{name}", rows.schema, version=STORAGE_VERSION) as writer:
        writer.write_batch(rows)
    fields = list(_leaves(LanceSchema.from_pyarrow(rows.schema).fields()))
    major, minor = map(int, STORAGE_VERSION.split("."))
    file = DataFile(name, fields, list(range(len(fields))), major, minor)
    return FragmentMetadata(0, [file], rows.num_rows)


def _leaves(fields: Iterable[Any]) -> Iterator[int]:
    """The ids of the fields that a data file has columns for."""
    for each in fields:
        below = each.children()
        if below:
            yield from _leaves(below)
        else:
            yield each.id()


def change_columns(dataset: lance.LanceDataset, schema: pa.Schema, archive_uri: str) -> None:
    """Change the columns of an empty table. Raises ArchiveError, also if another writer has changed it meanwhile."""
    with lance_errors(archive_uri, "create a table in"):
        # No retries: a retry would overwrite what another writer has put there meanwhile.
        overwrite = lance.LanceOperation.Overwrite(schema, [])
        lance.LanceDataset.commit(dataset, overwrite, read_version=dataset.version, max_retries=0)


def drop_tables(archive_uri: str, *, below: bool) -> None:
    """Delete a generation's tables. One that lies at the archive's own address keeps the tables that all generations
    share; one ``below`` the archive is deleted with its folder."""
    import lancedb

    kept = () if below else ("recipes", "writer", "runs", "tombstones", "reviews")
    with lance_errors(archive_uri, "delete old tables of"):
        database = lancedb.connect(archive_uri)
        for name in database.list_tables(limit=1000).tables:
            if name not in kept:
                database.drop_table(name)
        if below and is_local(archive_uri):
            shutil.rmtree(archive_uri, ignore_errors=True)


def check_writable(uri: str) -> None:
    """Raise ArchiveError if a local path is not a writable folder and cannot become one. Creates nothing."""
    if not is_local(uri):
        return
    path = Path(uri)
    try:
        existing = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:
        raise ArchiveError(f"cannot use {uri} as an archive: {error.strerror}", uri=uri) from error
    if not existing.is_dir():
        what = "it is" if existing == path else f"{existing} is"
        raise ArchiveError(
            f"cannot use {uri} as an archive: {what} a file; give --archive a directory or an s3:// URI",
            uri=uri,
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ArchiveError(
            f"cannot write to {existing}: give --archive a directory that you may write", uri=uri
        )
