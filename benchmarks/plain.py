"""A family that reads slots, at SmolVLM2-500M's size: frames a second, prompts that share a prefill, a new question.

    python benchmarks/plain.py [--size 500m] [--frames 100] [--slots 20] [--prompts 8] [--tokens 16] [--rounds 3]

Weights are random, in float32. Vision: frames through the vision part and the bank, against transformers' own
`get_image_features` on the same frames in batches of the same size. Prompts: all on one memory in one call, against a
call each. A new question: reading a segment's memory from an archive, with and without the language model's pass over
it, against encoding the segment's frames anew, without generating. torch counts operations, and the last row's goal is
0.8 of their ratio. `--size tiny` tries the command.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

from malmm.model.checkpoints.checkpoint import Checkpoint, quiet_transformers
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of, image_size
from malmm.model.memory.settings import MemorySettings
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.plan_segments import segments_of
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.index import make_recipe
from malmm.pipeline.schema.config import CAPTION, IndexConfig
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import DECODED, TO_REPLAY, Carried, carried, rows_table, with_arrays

SPECIALS = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
END, PADDING = "<end_of_utterance>", "<|endoftext|>"
#: Published shapes: SigLIP base at 512 pixels with patches of 16, and SmolLM2's 360M with its vocabulary.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "500m": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
         "image_size": 512, "patch_size": 16},
        {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
         "num_key_value_heads": 5, "vocab_size": 49280, "max_position_embeddings": 8192},
    ),
    "tiny": (
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "image_size": 64, "patch_size": 4},
        {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 4096},
    ),
}  # fmt: skip
QUESTIONS = (
    "What happens?",
    "Who is in the picture, and what do they do?",
    "Where is it?",
    "How many people are there at the end?",
    "Which colours appear?",
    "What is said to have happened before?",
    "Is anybody running?",
    "What is the weather like, as far as it can be seen?",
)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="500m", help="(%(default)s)")
    parser.add_argument("--frames", type=int, default=100, help="of a segment (%(default)s)")
    parser.add_argument("--slots", type=int, default=20, help="bank length (%(default)s)")
    parser.add_argument("--prompts", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="new ones of a text (%(default)s)")
    parser.add_argument("--vision-frames", type=int, default=16, help="for the first table (%(default)s)")
    parser.add_argument("--vision-batch", type=int, default=8, help="frames at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="malmm-plain-") as folder:
        whole = save(Path(folder, "model"), options.size)
        checkpoint = Checkpoint.open(f"{folder}/model", model_types=None)
        parameters = sum(parameter.numel() for parameter in whole.parameters())
        print(f"{parameters / 1e6:.0f} million parameters, {torch.get_num_threads()} threads\n")
        vision(whole, checkpoint, options)
        del whole
        prompts(checkpoint, options)
        question(Path(folder), options)


def save(directory: Path, size: str) -> Any:
    """Write a checkpoint of random weights in the published format; gives transformers' own model."""
    made = Tokenizer(
        models.BPE(
            vocab={letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))},
            merges=[],
        )
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([*SPECIALS, PADDING])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=PADDING)
    seen, said = SIZES[size]
    config = SmolVLMConfig(
        vision_config=seen | {"model_type": "smolvlm_vision"},
        text_config=said | {"model_type": "llama", "pad_token_id": tokenizer.pad_token_id},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with quiet_transformers():
        model = SmolVLMForConditionalGeneration(config).eval().requires_grad_(False)
        # A model that is sure of each next token: else rounding would choose among equals.
        model.lm_head.weight *= 10
        model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    look = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(look))
    return model


def frames_of(count: int, side: int) -> np.ndarray:
    """uint8 [T, side, side, 3]: scenes of some frames each, with noise."""
    generator = np.random.default_rng(0)
    scenes = generator.integers(0, 256, (max(2, count // 5), 8, 8, 3))
    large = scenes.repeat(side // 8, axis=1).repeat(side // 8, axis=2)
    frames = np.stack([large[at * len(scenes) // count] for at in range(count)])
    return (frames + generator.integers(-20, 21, frames.shape)).clip(0, 255).astype(np.uint8)


def alternating(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name].append(time.perf_counter() - began)
    return {name: statistics.median(times_s) for name, times_s in took.items()}


@torch.inference_mode()
def vision(whole: Any, checkpoint: Checkpoint, options: argparse.Namespace) -> None:
    """Frames a second through vision and bank, against transformers' vision pass."""
    frames = frames_of(options.vision_frames, image_size(checkpoint))
    settings = MemorySettings(options.slots)
    encoder: Any = family_of(checkpoint).load_encoder(checkpoint)
    batch = options.vision_batch

    def official() -> None:
        pixels = encoder.vision.pixels(torch.from_numpy(frames))
        for part in pixels.split(batch):
            whole.model.get_image_features(part[None])

    def ours() -> None:
        encoder.encode([frames], [["x"]], settings, vision_batch=batch)

    encoder.encode([frames[:batch]], [["x"]], settings, vision_batch=batch)
    took = alternating({"ours": ours, "transformers": official}, options.rounds)
    rates = {name: len(frames) / s for name, s in took.items()}
    print(
        "| frames | at once | vision and bank, frames/s | transformers' vision pass, frames/s | of its time |"
    )
    print("|---|---|---|---|---|")
    print(
        f"| {len(frames)} | {batch} | {rates['ours']:.2f} | {rates['transformers']:.2f} | "
        f"{took['ours'] / took['transformers']:.2f} |\n",
        flush=True,
    )


def prompts(checkpoint: Checkpoint, options: argparse.Namespace) -> None:
    """All prompts on one memory against a call each."""
    language: Any = family_of(checkpoint).load_language(checkpoint)
    text = checkpoint.config["text_config"]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(options.slots, 64, text["hidden_size"], generator=generator)
    slots = Slots(tokens, tuple(5.0 * at for at in range(options.slots)), 100.0)
    asked = [Asked(QUESTIONS[at % len(QUESTIONS)], slots=slots) for at in range(options.prompts)]
    decoding = Decoding(options.tokens)
    texts: dict[str, list[str]] = {}

    def together() -> None:
        texts["together"] = language.generate_texts(asked, decoding)

    def apart() -> None:
        texts["apart"] = [language.generate_texts([question], decoding)[0] for question in asked]

    took = alternating({"apart": apart, "together": together}, options.rounds)
    length = len(language.ids(asked[0]))
    print(f"{len(asked)} prompts of about {length} ids on one memory, {options.tokens} new tokens each\n")
    print("| | s | of a call each | texts that differ |\n|---|---|---|---|")
    names = {
        "apart": "a call each",
        "together": "one prefill, then all prompts together",
    }
    for key, name in names.items():
        differ = sum(a != b for a, b in zip(texts[key], texts["apart"], strict=True))
        print(f"| {name} | {took[key]:.2f} | {took[key] / took['apart']:.2f} | {differ} |")
    print(flush=True)


def question(folder: Path, options: argparse.Namespace) -> None:
    """A new question to a stored segment, against doing the segment again; generating left out."""
    model, asked = str(folder / "model"), (CAPTION,)
    config = IndexConfig(("x",), str(folder / "archive"), model=model, bank_length=options.slots)
    recipe = make_recipe(config, open_models(model, NO_RETRIEVAL))
    settings = MemorySettings(recipe.bank_length, recipe.merge_policy)
    archive = Archive.create_or_open(config.archive, recipe, 256)
    uri, length = "/videos/a.mp4", float(options.frames)
    video = Video(video_id(uri), uri, "first", 0.0, length, 1.0, 512, 512, "h264")
    [segment] = segments_of(video, recipe.recipe_id, length, 1.0)
    row = Carried(video, segment, None)
    frames = frames_of(options.frames, recipe.image_size)
    times = {"timestamps_s": [float(at) for at in range(options.frames)], "decoded_end_s": length}
    decoded = rows_table([with_arrays(row.columns() | times, frames=frames)], DECODED)
    encode = EncodeSegments(
        model=model, retrieval_model=NO_RETRIEVAL, settings=settings, prompts=asked, device="cpu"
    )
    # One token is the prefill and no more.
    generate = GenerateTexts(model=model, prompts=asked, max_new_tokens=1, device="cpu")
    replay = ReplayPrompts(archive=archive.uri, model=model, settings=settings, prompts=asked, device="cpu")
    counting = FlopCounterMode(display=False)
    with counting:
        encoded = encode(decoded)
    encode_flop = counting.get_total_flops()
    counting = FlopCounterMode(display=False)
    with counting:
        online = generate(encoded)
    prefill_flop = counting.get_total_flops()
    receipts = write_segments(
        online, archive=archive.uri, prompts=asked, recipe=recipe, memories=archive.schema("memories")
    )
    archive.commit(Receipt(**value) for value in receipts["receipt"].to_pylist())
    work = rows_table([row.columns() | {"segment_ids": [segment.segment_id], "prompts": [0]}], TO_REPLAY)
    assert carried(replay(work))[0].failure is None
    took = alternating(
        {
            "encode": lambda: encode(decoded),
            "again": lambda: generate(encode(decoded)),
            "read": lambda: replay(work),
            "ask": lambda: generate(replay(work)),
        },
        options.rounds,
    )
    same = generate(replay(work))["texts"].to_pylist() == online["texts"].to_pylist()
    operations = (encode_flop + prefill_flop) / prefill_flop
    print(
        f"{options.frames} frames, {options.slots} slots, {datetime.now(UTC):%Y-%m-%d}; the same answer: {same}\n"
    )
    print("| | again s | a new question s | ratio | goal |\n|---|---|---|---|---|")
    print(
        f"| without prefill | {took['encode']:.2f} | {took['read']:.4f} | {took['encode'] / took['read']:.0f} | 50 |"
    )
    print(
        f"| with prefill | {took['again']:.2f} | {took['ask']:.2f} | {took['again'] / took['ask']:.1f} | "
        f"{0.8 * operations:.1f} (0.8 of {operations:.1f}, the ratio of operations) |"
    )
    print(f"\nTFLOP: {encode_flop / 1e12:.2f} to encode, {prefill_flop / 1e12:.2f} for the prefill")


if __name__ == "__main__":
    main()
