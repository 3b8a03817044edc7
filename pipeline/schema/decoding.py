"""How an archive's texts are drawn from the language model: the options beside the longest text's length."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["TextSettings"]


@dataclass(frozen=True)
class TextSettings:
    """Settings of generation; the defaults are greedy. Raises ConfigError for values that cannot be.

    They are part of the recipe: all texts of an archive are drawn alike. ``begin_token`` is the id that sequences begin
    with, for the repetition penalty alone; plain families and T5 ignore it. See ``malmm.model.decoding.Decoding``.
    ``system`` is the text of the system role in the chat of families that have one; empty leaves the role out.
    """

    beams: int = 1
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    min_new_tokens: int = 0
    begin_token: int | None = None
    system: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.beams <= 100:
            raise ConfigError(f"--beams {self.beams}: from 1 to 100")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ConfigError(f"--repetition-penalty {self.repetition_penalty:g}: above 0; 1 is none")
        if not math.isfinite(self.length_penalty):
            raise ConfigError(f"--length-penalty {self.length_penalty:g}: a number")
        if self.min_new_tokens < 0:
            raise ConfigError(f"--min-new-tokens {self.min_new_tokens}: 0 or more")
        if self.begin_token is not None and self.begin_token < 0:
            raise ConfigError(f"--begin-token {self.begin_token}: an id of the model's tokens, 0 or more")

    def to_text(self) -> str:
        """The settings that differ from the defaults, as JSON; empty where none does."""
        usual = asdict(TextSettings())
        changed = {name: value for name, value in asdict(self).items() if value != usual[name]}
        return json.dumps(changed, sort_keys=True) if changed else ""

    @classmethod
    def from_text(cls, text: str) -> TextSettings:
        """Read what ``to_text`` wrote. Raises ConfigError for a setting that this release does not know."""
        changed = json.loads(text) if text else {}
        unknown = sorted(changed.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(
                f"the archive's texts are drawn with {unknown[0]!r}, which this release does not know"
            )
        return cls(**changed)
