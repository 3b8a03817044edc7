"""How a data set is asked: frames, memory, decoding, the wording of questions, and how answers are chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from malmm.pipeline.evaluation.formats.reading import CHOOSING
from malmm.pipeline.schema.config import MERGE_POLICIES
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["Protocol"]


@dataclass(frozen=True)
class Protocol:
    """Settings of an evaluation; all of them decide its figures. Raises ConfigError for values that cannot be.

    ``max_length`` and ``min_length`` count the begin token, as the authors' do; ``begin_token`` is the id that their
    language model's sequences begin with. ``returned`` of the ``beams`` are scored: one for top-1, five for top-5.
    ``template`` has ``{}`` in place of the question. ``choosing`` is for questions with choices.
    """

    frames: int
    bank_length: int
    max_length: int
    min_length: int = 1
    beams: int = 5
    returned: int = 5
    length_penalty: float = 1.0
    repetition_penalty: float = 1.5
    begin_token: int | None = 1
    merge_policy: str = "token"
    template: str = "{}"
    choosing: str = "text"

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= 100_000:
            raise ConfigError(f"--frames {self.frames}: from 1 to 100000")
        if not 1 <= self.bank_length <= 100_000:
            raise ConfigError(f"--bank-length {self.bank_length}: from 1 to 100000")
        if self.merge_policy not in MERGE_POLICIES:
            raise ConfigError(f"--merge-policy {self.merge_policy!r}: one of {', '.join(MERGE_POLICIES)}")
        if not 2 <= self.max_length <= 4096:
            raise ConfigError(
                f"--max-length {self.max_length}: from 2, of which one is the begin token, to 4096"
            )
        if not 0 <= self.min_length <= self.max_length:
            raise ConfigError(f"--min-length {self.min_length}: from 0 to --max-length, {self.max_length}")
        if not 1 <= self.returned <= self.beams:
            raise ConfigError(f"--beams {self.beams}: at least {max(1, self.returned)}")
        around = self.template.split("{}")
        if len(around) != 2 or {"{", "}"} & set("".join(around)):
            raise ConfigError(
                f"--template {self.template!r}: has {{}} once, where the question goes, and no other braces"
            )
        if self.choosing not in CHOOSING:
            raise ConfigError(f"--choose-by {self.choosing!r}: one of {', '.join(CHOOSING)}")
        # Checks the rest as the archive's texts are checked.
        TextSettings(self.beams, self.repetition_penalty, self.length_penalty, 0, self.begin_token)

    def to_dict(self) -> dict[str, Any]:
        """The settings for JSON."""
        return asdict(self)
