"""Prompts with a JSON schema, from the command line and job files."""

from __future__ import annotations

import json
from pathlib import Path

from malmm.jobs.extras import needing
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.prompts import Prompt

__all__ = ["typed_prompt"]


def typed_prompt(name: str, text: str, schema: object, *, spans: bool = False) -> Prompt:
    """A prompt whose answers follow ``schema``: the schema itself, or the path of a JSON file that holds it.

    Raises ConfigError for a file that cannot be read, a schema that cannot be followed, and without the extra.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(Path(schema).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ConfigError(f"--schema {schema}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--schema {schema}: it is not JSON: {error}") from error
    prompt = Prompt.typed(name, text, schema, spans=spans)
    with needing("typed", f"the schema of prompt {name!r}"):
        import llguidance  # noqa: F401
    return prompt
