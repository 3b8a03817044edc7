"""METEOR, and the words of captions, by pycocoevalcap's Java programs, where these are installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["coco_words", "meteor", "missing_for_meteor"]


def missing_for_meteor() -> str:
    """A sentence that names what METEOR needs and this machine lacks; empty if nothing."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "METEOR is not computed: it needs pycocoevalcap, pip install 'malmm-ray[metrics]', and Java."
    if shutil.which("java") is None:
        return "METEOR is not computed: pycocoevalcap runs it in Java, and there is no `java` on the PATH."
    return ""


def coco_words(texts: Sequence[Sequence[str]]) -> list[list[list[str]]]:
    """Words by Stanford's PTBTokenizer, of several texts each. Needs what ``missing_for_meteor`` says."""
    asked = {place: [{"caption": text} for text in each] for place, each in enumerate(texts)}
    with _silence():
        found = _coco("tokenizer.ptbtokenizer").PTBTokenizer().tokenize(asked)
    return [[text.split() for text in found[place]] for place in range(len(texts))]


def meteor(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """METEOR 1.5 of a corpus of captions, from words. Needs what ``missing_for_meteor`` says."""
    told = {place: [" ".join(words) for words in each] for place, each in enumerate(references)}
    said = {place: [" ".join(words)] for place, words in enumerate(captions)}
    with _silence():
        score, _ = _coco("meteor.meteor").Meteor().compute_score(told, said)
    return float(score)


def _coco(module: str) -> Any:
    # By name: it is not among the packages that type checkers find here.
    return importlib.import_module(f"pycocoevalcap.{module}")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep pycocoevalcap's prints off standard output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
