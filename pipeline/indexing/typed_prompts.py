"""Whether a checkpoint's language model can write the answers that prompts' schemas ask for."""

from __future__ import annotations

from collections.abc import Iterable

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.prompts import Prompt

__all__ = ["check_vocabulary"]


def check_vocabulary(checkpoint: Checkpoint, prompts: Iterable[Prompt]) -> None:
    """Raise ConfigError for a prompt whose answers the model's vocabulary cannot write.

    Reads the tokenizer alone, and nothing where no prompt has a schema.
    """
    typed = [prompt for prompt in prompts if prompt.schema]
    if not typed:
        return
    # Loads torch.
    from malmm.model.typed.vocabulary import Vocabulary, VocabularyError

    try:
        vocabulary = Vocabulary.of(checkpoint.tokenizer())
    except VocabularyError as error:
        raise ConfigError(f"prompt {typed[0].name!r} has a schema: {error}") from error
    for prompt in typed:
        try:
            vocabulary.check(prompt.grammar(0.0, 1.0))
        except VocabularyError as error:
            raise ConfigError(f"prompt {prompt.name!r} has a schema: {error}") from error
