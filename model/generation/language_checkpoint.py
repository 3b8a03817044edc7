"""Write the language model of a checkpoint out as a checkpoint of its own, which a vLLM server takes.

    python -m malmm.model.generation.language_checkpoint MODEL DIRECTORY

Weights keep the type that they have in the checkpoint.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError, quiet_transformers
from malmm.model.checkpoints.derived import refuse_output
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.registry import family_of, row_of

__all__ = ["main", "served_config", "serving", "write_language"]

# Where a family's model has its language model, the prefix of its tensors in files, and the class of its configuration.
# Other families give theirs more than embeddings: Qwen3-VL's deepstack tensors, positions on three axes.
_PLACES = {
    "instructblip": ("", "language_model.", "InstructBlipConfig"),
    "smolvlm": ("text_model", "model.text_model.", "SmolVLMConfig"),
    "llava_onevision": ("language_model", "language_model.", "LlavaOnevisionConfig"),
}
_TYPES = ("llama", "qwen2")


def served_config(checkpoint: Checkpoint) -> Any:
    """The configuration of a language model that can be served with prompt embeddings. Raises CheckpointError."""
    row = row_of(checkpoint)
    what = ""
    if row.model_type in _PLACES:
        import transformers

        kind = getattr(transformers, _PLACES[row.model_type][2])
        config = checkpoint.parsed(kind).get_text_config()
        if config.model_type in _TYPES:
            return config
        what = f" with a language model of type {config.model_type!r}"
    raise CheckpointError(
        f"model {checkpoint.name!r} is of {row.name}{what}, which vLLM cannot be given as embeddings: it takes "
        "InstructBLIP with a Llama (Vicuna), SmolVLM2 and LLaVA-OneVision"
    )


def write_language(checkpoint: Checkpoint, output: Path) -> None:
    """Write a checkpoint's language model and tokenizer to the new directory ``output``. Raises CheckpointError."""
    served_config(checkpoint)
    refuse_output(output, checkpoint)
    place, prefix, _ = _PLACES[row_of(checkpoint).model_type]
    family: Any = family_of(checkpoint)
    part = family.load_language(checkpoint, dtype=_stored_type(checkpoint, prefix))
    model = _alone(part.model, place)
    ends, padding = list(part.text_tokens.end), part.text_tokens.padding
    # Published configurations contradict their tokenizers.
    for settings in (model.config, model.generation_config):
        settings.eos_token_id, settings.pad_token_id = ends or None, padding
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        try:
            with quiet_transformers():
                model.save_pretrained(made)
                part.tokenizer.save_pretrained(made)
            # As any directory that is made by hand, and not as a temporary one.
            made.chmod(0o755)
            made.rename(output)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error}") from error


def serving(checkpoint: Checkpoint, output: Path) -> str:
    """The command that serves what ``write_language`` wrote."""
    # Loads torch.
    from malmm.model.generation.vllm_server import served_name

    return (
        f"vllm serve {shlex.quote(str(output))} --enable-prompt-embeds --served-model-name "
        f"{served_name(checkpoint)}"
    )


def _stored_type(checkpoint: Checkpoint, prefix: str) -> Any:
    keys = checkpoint.keys(prefix)
    if not keys:
        raise CheckpointError(f"model {checkpoint.name!r} lacks the tensors of {prefix}")
    return checkpoint.tensor(min(keys, key=lambda key: len(checkpoint.shapes[key]))).dtype


def _alone(model: Any, place: str) -> Any:
    """transformers' causal language model with the modules of a model that was loaded as part of another.

    Also of one that is whole: saved as it is, its tensors would get the names that they were loaded by.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), quiet_transformers():
        alone: Any = AutoModelForCausalLM.from_config(model.config.get_text_config())
    alone.model = getattr(model.model, place) if place else model.model
    alone.lm_head = model.lm_head
    # Some text configurations do not say what the whole one says.
    table = model.get_input_embeddings().weight
    alone.config.tie_word_embeddings = model.lm_head.weight.data_ptr() == table.data_ptr()
    alone.config.dtype = table.dtype
    return alone


def main(argv: list[str] | None = None) -> int:
    """Write the directory and print how to serve it. Exit code 2 if the model cannot be opened or is not served."""
    parser = argparse.ArgumentParser(
        prog="python -m malmm.model.generation.language_checkpoint",
        description="Write the language model of a checkpoint to a directory of its own, for `vllm serve`.",
    )
    parser.add_argument("model", help="a checkpoint directory, a hub id, or a demo model")
    parser.add_argument("directory", type=Path, help="the directory to write; it must not exist")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = open_models(arguments.model, NO_RETRIEVAL).checkpoint
        write_language(checkpoint, arguments.directory)
        print(serving(checkpoint, arguments.directory))
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
