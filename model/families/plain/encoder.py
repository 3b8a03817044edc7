"""The online encoder of plain families: frames in, a memory of at most M slots of projected tokens out.

There is no query bank, so memory does not depend on prompts, and replay is exact: stored slots give the same answers as
online.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from malmm.model.families.batch_order import clip_tensor, frames_order, in_given_order
from malmm.model.families.family import Encoded
from malmm.model.families.plain.vision import StepVision
from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import Memory, merge_memories

__all__ = ["PlainEncoder"]


class PlainEncoder(nn.Module):
    """Vision encoder, projector and memory bank. Without ``vision`` it can only replay and merge stored memory."""

    def __init__(self, vision: StepVision | None) -> None:
        super().__init__()
        self.vision = vision

    @torch.inference_mode()
    def encode(
        self,
        frames: Sequence[np.ndarray],
        prompts: Sequence[Sequence[str]],
        settings: MemorySettings,
        *,
        vision_batch: int = 32,
    ) -> list[Encoded]:
        """Encode segments in lock step: ``frames[s]`` is uint8 [T_s, H, W, 3]. Prompts are ignored.

        ``vision_batch`` is the number of frames in one call of the vision encoder. If the encoder takes two frames at a
        time, the last frame of an odd number is repeated, and counts once. Raises ValueError for a segment without
        frames, for frames of another size and if the visual bank is switched off.
        """
        if self.vision is None:
            raise ValueError("this encoder was loaded without its vision encoder")
        if not settings.visual:
            raise ValueError("this family has no memory but the visual bank, which cannot be switched off")
        order = frames_order(frames, prompts)
        each = self.vision.frames_per_step
        clips = [_whole_steps(frames[index], each) for index in order]
        steps = [len(clip) // each for clip in clips]
        chunk = max(1, vision_batch // (each * len(clips)))
        bank: Bank | None = None
        shape: tuple[int, ...] = ()
        for begin in range(0, steps[0], chunk):
            parts = [clip[begin * each : (begin + chunk) * each] for clip in clips]
            tokens_SNLC = self.vision(torch.cat(parts))
            coming = tokens_SNLC.flatten(2).split([len(part) // each for part in parts])
            if bank is None:
                shape = tuple(tokens_SNLC.shape[1:])
                bank = _bank(tokens_SNLC, rows=len(clips), steps=steps[0], settings=settings)
            for step in range(begin, min(begin + chunk, steps[0])):
                active = sum(count > step for count in steps)
                bank.retire(active)
                held = [min(each, len(frames[index]) - step * each) for index in order[:active]]
                sizes_B1 = torch.tensor(held, device=tokens_SNLC.device)[:, None]
                bank.append(torch.stack([of_clip[step - begin] for of_clip in coming[:active]]), sizes_B1)
        if bank is None:
            raise ValueError("a segment without frames cannot be encoded")
        encoded = []
        for index, entries in zip(order, bank.finish(), strict=True):
            memory = Memory.of(entries)
            tokens = memory.tokens.unflatten(-1, shape[1:]) if shape[1] > 1 else memory.tokens
            # The bank counts steps.
            count = len(frames[index])
            owner = None if memory.owner is None else memory.owner.repeat_interleave(each)[:count]
            in_frames = replace(memory, tokens=tokens, first=memory.first * each, appended=count, owner=owner)
            encoded.append(Encoded(in_frames))
        return in_given_order(encoded, order)

    def replay(
        self, memories: Sequence[Memory], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> Sequence[Tensor | None]:
        """Return None for each memory: the language model reads the slots themselves."""
        if len(memories) != len(prompts):
            raise ValueError(f"{len(memories)} memories and the prompts of {len(prompts)}")
        return [None] * len(memories)

    @torch.inference_mode()
    def merge(
        self,
        memories: Iterable[Memory],
        settings: MemorySettings,
        *,
        frame_counts: Sequence[int] | None = None,
    ) -> Memory:
        """Merge the memories of a video's segments, in time order, into one of the bank's length.

        With the ``frame_counts`` of the memories, only one memory is held at a time. Raises ValueError if there is no
        memory, or if their shapes differ.
        """
        slots = None
        if frame_counts is not None:
            slots = sum(min(settings.length, count) for count in frame_counts)
        return merge_memories(memories, length=settings.length, policy=settings.policy, slots=slots)


def _bank(tokens_SNLC: Tensor, *, rows: int, steps: int, settings: MemorySettings) -> Bank:
    _, positions, layers, channels = tokens_SNLC.shape
    return Bank(
        rows=rows,
        length=settings.length,
        steps=steps,
        positions=positions,
        channels=layers * channels,
        policy=merge_policy(settings.policy),
        device=tokens_SNLC.device,
        dtype=torch.promote_types(tokens_SNLC.dtype, torch.float32),
        compared=channels,
    )


def _whole_steps(frames: np.ndarray, each: int) -> Tensor:
    """The frames, with the last one repeated to fill whole steps."""
    clip = clip_tensor(frames)
    lacking = -len(clip) % each
    return torch.cat([clip, clip[-1:].expand(lacking, -1, -1, -1)]) if lacking else clip
