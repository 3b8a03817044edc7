"""Check that a store supports "create if absent", without which two writers could both commit to an archive.

Lance commits by creating a file that must not exist yet: with a hard link on disk, with ``If-None-Match: *`` in an
object store. Some file systems have no hard links, and some object stores ignore the condition. Each archive's store
is tested once, when the archive is created and after it was moved. A move shows in the archive's address, in the
endpoint, or in what a copy cannot keep of the oldest file: its number on disk, its date in an object store.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from malmm.pipeline.archive.location import ENDPOINTS, is_local, lance_errors, open_dataset, table_uri
from malmm.pipeline.archive.store_calls import steadily
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.sources.backends import BackendFailure

__all__ = ["check_store", "deleted_is_kept", "s3_filesystem", "store_name"]

T = TypeVar("T")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
_REFUSED = {409, 412}


def store_name(archive_uri: str) -> str:
    """Name of an archive's store, recorded in the archive once the store has passed the check.

    The store has to be checked again if the name differs from the recorded one. Raises ArchiveError if the archive
    cannot be reached.
    """
    oldest = table_uri(archive_uri, "recipes")
    if is_local(archive_uri):
        folder = Path(oldest)
        with lance_errors(archive_uri, "read"):
            known = f"{folder.stat().st_ino} on {os.statvfs(folder).f_fsid}" if folder.exists() else "new"
        return f"{archive_uri}, {known}"
    endpoint = _endpoint()
    if not archive_uri.startswith("s3://") or endpoint is None:
        return f"{archive_uri} at its usual place"
    with lance_errors(archive_uri, "read"):
        files = _called(lambda: s3_filesystem().find(oldest, detail=True)).values()
        dates = [found["LastModified"] for found in files]
    return f"{archive_uri} at {endpoint}, since {min(dates, default=None)}"


def check_store(archive_uri: str) -> None:
    """Raise ArchiveError, with the reason, if two writers could both commit. Leaves nothing behind.

    In an object store Lance has to reach the place too: its client has other rules than that of the check.
    """
    if is_local(archive_uri):
        _check_links(Path(archive_uri))
    elif archive_uri.startswith("s3://"):
        # Only S3 has imitations: the stores of other schemes are all alike.
        _check_condition(archive_uri)
        open_dataset(archive_uri, "recipes")


def deleted_is_kept(archive_uri: str) -> str:
    """A sentence if the bucket of an archive keeps deleted objects, or does not say whether it does; else empty.

    A bucket with versioning keeps them, also one whose versioning was suspended since.
    """
    if not archive_uri.startswith("s3://"):
        return ""
    bucket = archive_uri.removeprefix("s3://").partition("/")[0]
    try:
        answer = _called(lambda: s3_filesystem().call_s3("get_bucket_versioning", Bucket=bucket))
    except OSError as error:
        return (
            f"whether bucket {bucket} keeps deleted objects could not be seen ({error}): with versioning it does, "
            "until a lifecycle rule expires noncurrent versions"
        )
    if not answer.get("Status"):
        return ""
    return (
        f"bucket {bucket} has versioning ({answer['Status'].lower()}) and keeps deleted objects: let a lifecycle rule "
        "expire noncurrent versions"
    )


def _check_links(folder: Path) -> None:
    probe = folder / f".malmm-probe-{secrets.token_hex(8)}"
    linked = probe.with_suffix(".linked")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        os.link(probe, linked)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise ArchiveError(f"cannot write to {folder}: {error.strerror}", uri=str(folder)) from error
        raise ArchiveError(
            f"{folder} lies on a file system without hard links ({error.strerror}), where two writers could spoil an "
            "archive: exFAT and some network mounts are such; give --archive a directory elsewhere or an object store",
            uri=str(folder),
        ) from error
    finally:
        for path in (linked, probe):
            with suppress(OSError):
                path.unlink()


def _check_condition(archive_uri: str) -> None:
    bucket, _, prefix = archive_uri.removeprefix("s3://").partition("/")
    key = f"{prefix}/.malmm-probe-{secrets.token_hex(8)}".lstrip("/")
    filesystem = s3_filesystem()
    with lance_errors(archive_uri, "write to"):
        try:
            outcomes = [_called(lambda: _put_if_new(filesystem, bucket, key)) for _ in range(2)]
        finally:
            _called(lambda: filesystem.call_s3("delete_object", Bucket=bucket, Key=key))
    if outcomes[1] == "refused":
        return
    raise ArchiveError(
        f"the object store of {archive_uri} overwrites an object that was to be made only if it is not there yet (it "
        "ignores If-None-Match), so that two writers could spoil an archive: give --archive a store that supports "
        "conditional writes, as S3, GCS, Azure, R2, recent MinIO and Ceph do, or a directory",
        uri=archive_uri,
    )


def _endpoint() -> str | None:
    """The address of an imitation of S3; None for AWS itself."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)


def s3_filesystem() -> Any:
    """S3 or its imitation, the one that Lance writes to, whatever a profile says of others."""
    return fsspec.filesystem(
        "s3",
        endpoint_url=_endpoint(),
        config_kwargs={"ignore_configured_endpoint_urls": True},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def _put_if_new(filesystem: Any, bucket: str, key: str) -> str:
    """``made``; ``refused``, since it is there; or ``unknown``, where the store does not know the condition."""
    try:
        filesystem.call_s3("put_object", Bucket=bucket, Key=key, Body=b"probe", IfNoneMatch="*")
    except OSError as error:
        status = _status(error)
        if status in _REFUSED:
            return "refused"
        if status == 501:
            return "unknown"
        raise
    return "made"


def _called(action: Callable[[], T]) -> T:
    try:
        return steadily(action)
    except BackendFailure as failure:
        raise OSError(failure.cause.reason) from failure


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of s3fs."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)  # botocore's errors have it
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        cause = cause.__cause__
    return None
