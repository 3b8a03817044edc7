"""Remember which checkpoints were verified on this machine, so that the next run need not load torch to verify them."""

from __future__ import annotations

import contextlib
import hashlib

from malmm.model.checkpoints.resolve import Models, cache_folder, library_releases

__all__ = ["verify_once"]

# To be raised when ``verify_models`` checks more than it did.
_CHECKS = 1


def verify_once(models: Models) -> None:
    """Raise CheckpointError as ``verify_models`` does, unless the same checkpoints have passed here before.

    Checkpoints are the same if their fingerprints (which also name models in an archive), chat template and releases of
    torch and transformers are the same. A file in the user's cache records it; where it cannot be written, checkpoints
    are verified each time.
    """
    parts = [models.checkpoint.fingerprint(), models.retrieval.fingerprint() if models.retrieval else "none"]
    template = hashlib.blake2b(digest_size=8)
    for path in sorted(models.checkpoint.directory.glob("*.jinja")):
        template.update(path.read_bytes())
    parts += [template.hexdigest(), library_releases(), str(_CHECKS)]
    note = cache_folder() / "verified" / "-".join(parts)
    if note.is_file():
        return
    # Loads torch and transformers, which takes seconds.
    from malmm.model.checkpoints.verify import verify_models

    verify_models(models)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
