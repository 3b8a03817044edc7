"""Memory that a worker needs for each part of a model, and what a slot and a frame cost, from a configuration.

``python -m malmm.model.footprint MODEL`` takes a checkpoint, or the name of a published one. It loads no weights:
parts are built on torch's meta device.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, InstructBlipConfig

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, Models, open_models
from malmm.model.families.instructblip.meta import meta_parts
from malmm.model.families.instructblip.qformer import OnlineQFormer
from malmm.model.families.registry import family_of, image_size, row_of, token_shape
from malmm.model.generation.sizes import kv_bytes
from malmm.model.memory.positions import table_rows
from malmm.model.memory.settings import MemorySettings
from malmm.model.published.catalogue import catalogue, published

__all__ = [
    "Footprint",
    "Work",
    "footprints",
    "footprints_of",
    "kv_bytes_a_token",
    "main",
    "plain_footprints",
    "slot_bytes",
    "token_bytes",
    "work_of",
]

_PROMPT_TOKENS = 32
_THUMBNAIL_BYTES_A_PIXEL = 0.2


@dataclass(frozen=True)
class Footprint:
    """Bytes of one part; ``stage`` is the worker that loads it."""

    stage: str
    part: str
    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class Work:
    """What memory and frames cost, whatever is done with them.

    A slot has ``tokens`` of ``layers`` x ``channels`` numbers, which take ``slot_bytes`` in half precision.
    ``frame_flop`` are operations of one frame in vision encoder and projector, ``kv_bytes_a_token`` what the language
    model keeps of a token in half precision. The Q-Former's operations depend on banks and prompts, and are not in it.
    """

    tokens: int
    layers: int
    channels: int
    slot_bytes: int
    frame_flop: int
    kv_bytes_a_token: int


def _count(part: nn.Module) -> int:
    # Tied weights are one tensor under several names.
    return sum({id(p): p.numel() for p in part.parameters()}.values())


def footprints(
    config: InstructBlipConfig,
    *,
    half_bytes: int = 2,
    settings: MemorySettings | None = None,
    prompts: int = 1,
    position_rows: int = 0,
) -> list[Footprint]:
    """Bytes of the weights of every part, and of the banks of one segment.

    The image encoder and the language model take ``half_bytes`` a parameter, the Q-Former and the banks 4.
    ``position_rows`` is the number of rows of the checkpoint's ``time_positions.weight``, if it has one. Activations
    are not counted.
    """
    settings = settings or MemorySettings()
    parts = meta_parts(config)
    vision = config.vision_config
    state = OnlineQFormer(parts["qformer"], parts["query_tokens"]).start(
        torch.zeros(1, prompts, _PROMPT_TOKENS, dtype=torch.long, device="meta"),
        None,
        steps=settings.length + 1,
        tokens_per_frame=(vision.image_size // vision.patch_size) ** 2 + 1,
        settings=settings,
    )
    images, language = _count(parts["vision_model"]), _count(parts["language_model"])
    text = config.text_config
    if not getattr(text, "scale_decoder_outputs", True):
        # FLAN-T5 is T5 1.1: transformers ties its output layer to the embeddings by configuration, and unties it when
        # it loads weights that have both.
        language += text.vocab_size * text.d_model
    qformer = _count(parts["qformer"]) + parts["query_tokens"].numel()
    projection = _count(parts["language_projection"])
    places = position_rows * parts["qformer"].config.encoder_hidden_size
    return [
        Footprint("encode", "vision encoder", images, images * half_bytes),
        Footprint("encode", "Q-Former", qformer, qformer * 4),
        *([Footprint("encode", "time positions", places, places * 4)] if places else []),
        Footprint("encode", "visual bank, a segment", 0, state.visual_bytes),
        Footprint("encode", f"query banks, a segment, {prompts} prompt(s)", 0, state.query_bytes),
        Footprint("generate", "language model", language, language * half_bytes),
        Footprint("generate", "projection", projection, projection * 4),
    ]


def slot_bytes(models: Models, vector_size: int, *, tokens_as: str = "float16") -> int:
    """Bytes of one stored memory slot: tokens, vectors in half precision, sizes, and a thumbnail.

    ``tokens_as`` is ``float16``, or ``int8`` for 8 bits with a float16 scale for each token.

    The thumbnail's size is a guess, since it depends on what it shows.
    """
    shape = token_shape(models.checkpoint)
    queries = int(models.retrieval.config.get("num_query_tokens", 32)) if models.retrieval else 0
    thumbnail = round(_THUMBNAIL_BYTES_A_PIXEL * image_size(models.checkpoint) ** 2)
    return token_bytes(models.checkpoint, tokens_as) + 2 * queries * vector_size + 4 * shape[0] + thumbnail


def token_bytes(checkpoint: Checkpoint, tokens_as: str = "float16") -> int:
    """Bytes of the tokens of one stored memory slot, ``tokens_as`` in ``slot_bytes``."""
    shape = token_shape(checkpoint)
    numbers = math.prod(shape)
    return 2 * numbers if tokens_as == "float16" else numbers + 2 * math.prod(shape[:-1])


def plain_footprints(
    checkpoint: Checkpoint, *, half_bytes: int = 2, settings: MemorySettings | None = None
) -> list[Footprint]:
    """``footprints`` for a family that reads slots: the weights of its two parts, and the bank of one segment.

    Raises CheckpointError if no model can be built from the configuration.
    """
    vision, projector, language = family_of(checkpoint).parameters(checkpoint)
    length = (settings or MemorySettings()).length
    return [
        Footprint("encode", "vision encoder", vision, vision * half_bytes),
        Footprint("encode", "projector", projector, projector * half_bytes),
        Footprint(
            "encode", "visual bank, a segment", 0, 4 * (length + 1) * math.prod(token_shape(checkpoint))
        ),
        Footprint("generate", "language model", language, language * half_bytes),
    ]


def kv_bytes_a_token(checkpoint: Checkpoint) -> int:
    """Bytes that the language model keeps of one token in half precision. Layers of linear attention keep none.

    Raises CheckpointError for a configuration that does not say.
    """
    text = checkpoint.parsed(AutoConfig.for_model(str(checkpoint.config["model_type"])).__class__).text_config
    return kv_bytes(text, number_bytes=2)


def work_of(checkpoint: Checkpoint) -> Work:
    """What a slot and a frame cost, by the configuration alone. Raises CheckpointError."""
    tokens, *layers, channels = token_shape(checkpoint)
    count = math.prod(layers)
    return Work(
        tokens,
        count,
        channels,
        2 * tokens * count * channels,
        family_of(checkpoint).frame_flop(checkpoint),
        kv_bytes_a_token(checkpoint),
    )


def _opened(name: str) -> Checkpoint:
    known = published(name)
    if known is not None and not Path(name).is_dir():
        return known.checkpoint
    return open_models(name, NO_RETRIEVAL).checkpoint


def footprints_of(
    checkpoint: Checkpoint, *, half_bytes: int = 2, settings: MemorySettings | None = None, prompts: int = 1
) -> list[Footprint]:
    """``footprints`` or ``plain_footprints``, as the checkpoint's family asks for. Raises CheckpointError."""
    if row_of(checkpoint).reads_slots:
        return plain_footprints(checkpoint, half_bytes=half_bytes, settings=settings)
    config = checkpoint.parsed(InstructBlipConfig)
    # A published configuration comes without files, in which a table of positions could be.
    position_rows = 0
    if published(checkpoint.name) is None:
        position_rows = table_rows(checkpoint, int(config.qformer_config.encoder_hidden_size)) or 0
    return footprints(
        config, half_bytes=half_bytes, settings=settings, prompts=prompts, position_rows=position_rows
    )


def main(argv: list[str] | None = None) -> int:
    """Print the table. Exit code 2 if the model cannot be opened."""
    parser = argparse.ArgumentParser(
        prog="python -m malmm.model.footprint",
        description="Print the memory that a worker needs for each part of a model, without loading weights.",
    )
    parser.add_argument(
        "model",
        help="a checkpoint directory, a hub id, or one of " + ", ".join(model.short for model in catalogue()),
    )
    parser.add_argument("--bank-length", type=int, default=20, help="slots a bank (%(default)s)")
    parser.add_argument("--prompts", type=int, default=1, help="prompts a segment (%(default)s)")
    parser.add_argument(
        "--bytes", type=int, choices=(2, 4), default=2, help="bytes a vision or language weight"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = _opened(arguments.model)
        settings = MemorySettings(length=arguments.bank_length)
        rows = footprints_of(
            checkpoint, half_bytes=arguments.bytes, settings=settings, prompts=arguments.prompts
        )
        work = work_of(checkpoint)
    except (CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        parts = [asdict(row) for row in rows]
        print(json.dumps({"model": checkpoint.name, "parts": parts, "work": asdict(work)}, indent=2))
        return 0
    print(f"{'worker':<10}{'part':<40}{'parameters':>16}{'MiB':>12}")
    for row in rows:
        print(f"{row.stage:<10}{row.part:<40}{row.parameters:>16,}{row.size_bytes / 2**20:>12,.1f}")
    for stage in ("encode", "generate"):
        total = sum(row.size_bytes for row in rows if row.stage == stage)
        print(f"{stage:<10}{'all':<40}{'':>16}{total / 2**20:>12,.1f}")
    shape = (
        f"{work.tokens} tokens of " + (f"{work.layers} x " if work.layers > 1 else "") + f"{work.channels}"
    )
    print(f"a slot: {shape}, {work.slot_bytes / 2**10:,.0f} KiB in half precision")
    if row_of(checkpoint).reads_slots:
        kept = work.tokens * work.kv_bytes_a_token / 2**20
        print(f"a slot in the language model's cache: {kept:,.1f} MiB")
    print(f"a frame: {work.frame_flop / 1e9:,.0f} GFLOP in vision encoder and projector")
    return 0


if __name__ == "__main__":
    sys.exit(main())
