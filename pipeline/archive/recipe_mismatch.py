"""The sentence that refuses a run whose recipe is not the one that an archive was made with."""

from __future__ import annotations

from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import RecipeMismatch

__all__ = ["mismatch"]

# The command-line option of each recipe field. The image size comes with the model.
OPTIONS = {
    "model_fingerprint": "--model",
    "retrieval_fingerprint": "--retrieval-model",
    "fps": "--fps",
    "sampling": "--sampling",
    "segment_s": "--segment-s",
    "min_segment_s": "--min-segment-s",
    "bank_length": "--bank-length",
    "merge_policy": "--merge-policy",
    "tokens": "--tokens",
    "image_size": "the model's image size",
}


def mismatch(place: str, stored: Recipe, asked: Recipe, *, ways_out: str) -> RecipeMismatch:
    """The exception for a run with the recipe ``asked``. It names both values of each option in which they differ."""
    differences = stored.differences(asked)
    said = []
    for field, before, now in differences:
        option = OPTIONS.get(field, field)
        if field.endswith("_fingerprint"):
            name = "model" if field == "model_fingerprint" else "retrieval_model"
            was, wanted = str(getattr(stored, name)), str(getattr(asked, name))
            if was == wanted:
                said.append(f"{option} {was} has other weights than when the archive was made")
                continue
            before, now = was, wanted
        said.append(f"{option} {before} stored, {now} asked")
    return RecipeMismatch(
        f"{place} was made with other options ({'; '.join(said)}): {ways_out}",
        uri=place,
        differences=differences,
    )
