"""Stage 1: the vision encoder, supervised patch by patch on colour, shape and motion."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

from malmm.model.demo.checkpoint import IMAGE_MEAN, IMAGE_STD, VISION
from malmm.model.demo.training.optimising import warm_cosine
from malmm.model.demo.training.pool import ABSENT, IGNORED, Pool
from malmm.model.vision import VisionEncoder

__all__ = ["PatchHeads", "new_vision", "train_vision"]


def new_vision() -> VisionEncoder:
    """A vision encoder with random weights."""
    model = InstructBlipVisionModel(InstructBlipVisionConfig(**VISION, initializer_range=0.02))
    with torch.no_grad():
        model.embeddings.position_embedding.normal_(std=0.02)
    return VisionEncoder(model, IMAGE_MEAN, IMAGE_STD)


class PatchHeads(nn.Module):
    """Linear readings of a patch's token: no object, the left or only one, or the right one of two; and its
    colour, shape and motion.

    Which of two it is must be in the token: nothing after the vision encoder knows where a patch lies.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.there = nn.Linear(channels, 3)
        self.attributes = nn.ModuleList(nn.Linear(channels, count) for count in ABSENT)

    def loss(self, tokens: Tensor, patches: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of object patches with all three right.

        ``tokens`` [B, P, C] of ``patches`` [B, P], ``attributes`` [B, 2, 3].
        """
        known = patches != IGNORED
        loss = F.cross_entropy(self.there(tokens[known]), patches[known] + 1)
        row, place = (patches >= 0).nonzero(as_tuple=True)
        shown = tokens[row, place]
        truth = attributes[row, patches[row, place]]
        right = torch.ones(len(truth), dtype=torch.bool)
        for index, head in enumerate(self.attributes):
            logits = head(shown)
            loss = loss + F.cross_entropy(logits, truth[:, index])
            right &= logits.argmax(-1) == truth[:, index]
        return loss, right.float().mean()


def train_vision(
    vision: VisionEncoder,
    pool: Pool,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    say: Callable[[str], None],
) -> PatchHeads:
    """Train in place; gives the heads, which are not shipped."""
    heads = PatchHeads(vision.channels)
    parameters = [*vision.model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: warm_cosine(step, min(200, steps // 10), steps)
    )
    random = np.random.default_rng(seed)
    vision.train()
    began, seen = time.monotonic(), []
    for step in range(steps):
        chosen = random.integers(0, len(pool.frames), batch)
        frames = torch.from_numpy(pool.frames[chosen])
        tokens = vision(frames)[:, 1:]
        loss, right = heads.loss(
            tokens,
            torch.from_numpy(pool.patches[chosen]),
            torch.from_numpy(pool.attributes[pool.scene_of[chosen]]),
        )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        seen.append((loss.item(), right.item()))
        if step % 100 == 99:
            mean_loss, mean_right = np.mean(seen[-100:], axis=0)
            say(
                f"vision step {step + 1}/{steps} loss {mean_loss:.3f} right {mean_right:.4f} "
                f"{batch * (step + 1) / (time.monotonic() - began):.0f} images/s"
            )
    vision.eval().requires_grad_(False)
    return heads
