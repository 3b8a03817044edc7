"""Record what transformers' own processors make of the tiny families' inputs: ``tests/data/families/processors.json``.

Run it where torchvision and num2words are installed: ``PYTHONPATH=tests python -m support.record_processors``. They are
no development dependencies: beside a torch without CUDA, PyPI's torchvision cannot be imported, and transformers then
fails wherever it finds it. Pixels are kept as a hash, ids run-length encoded.
"""

from __future__ import annotations

import hashlib
import json
import sys
import types
from itertools import groupby
from pathlib import Path
from typing import Any

from support.tiny_families import (
    FAMILIES,
    LLAVA_TEMPLATE,
    MEANS,
    PATCH,
    QWEN_TEMPLATE,
    SIDES,
    tiny_frames,
    tokenizer,
)

RECORDS = Path(__file__).parents[1] / "data" / "families" / "processors.json"
PROMPTS = ("What?", "Where did it go in the end, and why did it?")
#: Frames, frames a second, prompt, system text.
CASES = ((1, 1.0, 0, None), (4, 0.5, 1, None), (7, 2.0, 0, "Be brief."), (12, 0.1, 1, None))


def processor(family: str) -> Any:
    """The family's processor, told to leave frames of the right size as they are."""
    import transformers as t

    tok, side, (mean, std) = tokenizer(family), SIDES[family], MEANS[family]
    look = {"do_resize": False, "image_mean": mean, "image_std": std}
    if family == "smolvlm":
        size = {"size": {"longest_edge": side}, "max_image_size": {"longest_edge": side}}
        images = t.SmolVLMImageProcessor(do_image_splitting=False, **size, **look)
        return t.SmolVLMProcessor(images, tok, t.SmolVLMVideoProcessor(**size, **look), image_seq_len=4)
    if family == "llava_onevision":
        size = {"size": {"height": side, "width": side}}
        return t.LlavaOnevisionProcessor(
            image_processor=t.LlavaOnevisionImageProcessor(
                image_grid_pinpoints=[[side, side]], **size, **look
            ),
            tokenizer=tok,
            video_processor=t.LlavaOnevisionVideoProcessor(**size, **look),
            num_image_tokens=9,
            vision_feature_select_strategy="full",
            chat_template=LLAVA_TEMPLATE,
        )
    parts = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    videos = t.Qwen3VLVideoProcessor(do_sample_frames=False, **parts, **look)
    return t.Qwen3VLProcessor(t.Qwen2VLImageProcessor(**parts), tok, videos, chat_template=QWEN_TEMPLATE)


def conversation(prompt: str, system: str | None) -> list[dict[str, Any]]:
    """A question about one video."""
    said = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    return [*said, {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": prompt}]}]


def record(family: str) -> list[dict[str, Any]]:
    """What the processor makes of each case."""
    from transformers.video_utils import VideoMetadata

    made = processor(family)
    records = []
    for count, fps, prompt, system in CASES:
        text = made.apply_chat_template(conversation(PROMPTS[prompt], system), add_generation_prompt=True)
        meta = VideoMetadata(
            total_num_frames=count, fps=fps, duration=count / fps, frames_indices=list(range(count))
        )
        inputs = made(
            text=text, videos=[tiny_frames(family, count)], video_metadata=[meta], return_tensors="pt"
        )
        pixels = inputs["pixel_values" if family == "smolvlm" else "pixel_values_videos"].contiguous()
        ids = inputs["input_ids"][0].tolist()
        records.append(
            {
                "frames": count,
                "fps": fps,
                "prompt": PROMPTS[prompt],
                "system": system,
                "ids": [[key, len(list(run))] for key, run in groupby(ids)],
                "pixels_shape": list(pixels.shape),
                "pixels_blake2b": hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).hexdigest(),
                "grid": inputs["video_grid_thw"].tolist() if "video_grid_thw" in inputs else None,
            }
        )
    return records


def main() -> None:
    """Write the records."""
    for name in ("_meta_registrations", "_autograd_registrations"):
        sys.modules[f"torchvision.{name}"] = types.ModuleType(f"torchvision.{name}")
    import transformers
    from num2words import num2words  # type: ignore[import-not-found]

    numbers = [*range(130), 200, 342, 999, 1000, 1001, 1100, 1234, 20_019, 100_000, 999_999]
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "transformers": transformers.__version__,
        "families": {family: record(family) for family in FAMILIES},
        "words": {number: num2words(number) for number in numbers},
    }
    RECORDS.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
