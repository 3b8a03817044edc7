"""Names of what can be chosen for a training. Importing them loads neither torch nor transformers."""

from __future__ import annotations

__all__ = ["LANGUAGE", "METRICS"]

#: Ways to train a language model: not at all, by low-rank adapters, all of it.
LANGUAGE = ("frozen", "lora", "full")
#: What decides which weights are the best: the share of answers that equal the truth, or the loss on them.
METRICS = ("accuracy", "loss")
