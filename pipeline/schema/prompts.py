"""Prompts: captions, questions, classifications with labels, and questions whose answers follow a JSON schema."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from malmm.model.typed.grammar import Grammar, record_of
from malmm.model.typed.schema import SchemaError, plain_schema
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.stable_ids import stable_id

__all__ = ["CAPTION", "Prompt"]

_TASKS = ("caption", "question", "classification", "record")


@dataclass(frozen=True)
class Prompt:
    """A named instruction: a caption, a question, a classification if it has ``labels``, a record if it has a schema.

    ``schema`` is a JSON schema as text, in the form that ``typed`` writes. With ``spans`` it is that of one of several
    timed records, and each answer is a list of them.
    """

    name: str
    text: str
    task: str = "question"
    labels: tuple[str, ...] = ()
    schema: str = ""
    spans: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", self.name):
            raise ConfigError(
                f"prompt name {self.name!r} is not usable: up to 64 letters, digits, '_', '-' and '.'"
            )
        if not self.text.strip():
            raise ConfigError(f"prompt {self.name!r} has no text: write --prompt {self.name}='What happens?'")
        if self.task not in _TASKS:
            raise ConfigError(
                f"prompt {self.name!r} has task {self.task!r}: {', '.join(_TASKS[:-1])} or {_TASKS[-1]}"
            )
        if (self.task == "classification") != bool(self.labels):
            raise ConfigError(f"prompt {self.name!r}: a classification has labels and nothing else has")
        if (self.task == "record") != bool(self.schema):
            raise ConfigError(f"prompt {self.name!r}: a record has a schema and nothing else has")
        if self.spans and not self.schema:
            raise ConfigError(f"prompt {self.name!r}: spans need the schema of a timed record")
        if self.schema:
            # Raises for a schema that no answer can be decoded under.
            self.grammar(0.0, 1.0)

    @classmethod
    def typed(cls, name: str, text: str, schema: object, *, spans: bool = False) -> Prompt:
        """A prompt whose answers follow a JSON schema. Raises ConfigError, with the schema's place and keyword."""
        try:
            plain = json.dumps(plain_schema(schema), ensure_ascii=False)
        except SchemaError as error:
            raise ConfigError(f"the schema of prompt {name!r} cannot be used: {error}") from error
        return cls(name, text, "record", schema=plain, spans=spans)

    def grammar(self, start_s: float, end_s: float) -> Grammar:
        """What answers about [start_s, end_s) match. Raises ConfigError."""
        try:
            schema = plain_schema(json.loads(self.schema))
            if not self.spans:
                return Grammar.of(schema)
            record_of(schema)
            return Grammar.of_spans(schema, start_s, end_s)
        except ValueError as error:
            raise ConfigError(f"the schema of prompt {self.name!r} cannot be used: {error}") from error

    @property
    def version(self) -> str:
        """A hash of name, task, text, labels and schema: a prompt with another version is another prompt."""
        typed = ("schema", self.schema, self.spans) if self.schema else ()
        return stable_id(self.name, self.task, self.text, *self.labels, *typed)

    @classmethod
    def parse(cls, option: str) -> Prompt:
        """Read ``NAME=TEXT`` as given on the command line. Raises ConfigError."""
        name, separator, text = option.partition("=")
        if not separator:
            raise ConfigError(f"--prompt {option!r} has no '=': write --prompt NAME='TEXT'")
        return cls(name.strip(), text.strip())


CAPTION = Prompt("caption", "Write a short description of the video.", task="caption")
