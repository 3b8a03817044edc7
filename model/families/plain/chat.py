"""Token ids of a chat about slots, by the checkpoint's chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError

__all__ = ["answer_ids", "chat_ids", "chat_template", "try_template"]


def chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template of the checkpoint's processor, else of its tokenizer. Raises CheckpointError if it has none."""
    path = checkpoint.directory / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        path = checkpoint.directory / "chat_template.json"
        if path.is_file():
            template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
            if isinstance(template, str):
                return template
            raise TypeError(f"its chat_template is {type(template).__name__}, not text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"model {checkpoint.name!r}: {path} cannot be read: {error!r}") from error
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise CheckpointError(
        f"model {checkpoint.name!r} has no chat template: {checkpoint.directory} needs chat_template.jinja or "
        "chat_template.json, as its publisher's repository has it"
    )


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    *,
    placeholder: str,
    seen: str,
    prompt: str,
    system: str | None,
) -> list[int]:
    """Token ids of one question about one video, up to the start of the answer.

    The template writes ``placeholder`` for the video; it is replaced by ``seen``. Raises ValueError if the template
    does not write it exactly once, and if the prompt contains it.
    """
    if placeholder in prompt or placeholder in (system or ""):
        raise ValueError(f"a prompt may not contain the model's own token {placeholder}")
    conversation: list[dict[str, Any]] = []
    if system:
        conversation.append({"role": "system", "content": [{"type": "text", "text": system}]})
    asked = [{"type": "video"}, {"type": "text", "text": prompt}]
    conversation.append({"role": "user", "content": asked})
    text = tokenizer.apply_chat_template(
        conversation, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    parts = str(text).split(placeholder)
    if len(parts) != 2:
        raise ValueError(f"the model's chat template writes {placeholder} {len(parts) - 1} times, not once")
    return list(tokenizer(seen.join(parts))["input_ids"])


def answer_ids(
    tokenizer: PreTrainedTokenizerBase, template: str, *, prompt: str, answer: str, ends: Sequence[int]
) -> list[int]:
    """Token ids of an answer as the template writes it behind ``chat_ids``, with the token that ends it.

    A template that writes an answer otherwise than its generation prompt begins one, as those of reasoning models do,
    has the bare answer instead.
    """
    conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt}]}]
    told = [*conversation, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    before, whole = (
        str(tokenizer.apply_chat_template(said, chat_template=template, tokenize=False, **options))
        for said, options in ((conversation, {"add_generation_prompt": True}), (told, {}))
    )
    text = whole[len(before) :] if whole.startswith(before) else answer
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ended = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return [*ids[:ended], *ends[:1]]


def try_template(
    checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, template: str, placeholder: str
) -> None:
    """Write one question with a template. Raises CheckpointError if it cannot, or does not place the video once."""
    try:
        chat_ids(tokenizer, template, placeholder=placeholder, seen="", prompt="What?", system="Be brief.")
    except Exception as error:  # a template is a program, and fails as one
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"model {checkpoint.name!r}: the chat template of {checkpoint.directory} cannot be used: {reason}; take "
            "chat_template.jinja or chat_template.json of the publisher's repository"
        ) from error
