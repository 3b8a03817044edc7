"""Stage 1: train the vision encoder, supervised on colour, shape and motion of patches and of whole pictures."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

from malmm.model.demo.checkpoint import IMAGE_MEAN, IMAGE_STD, VISION
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.demo.training.pool import ABSENT, IGNORED, Pool
from malmm.model.families.instructblip.vision import VisionEncoder

__all__ = ["Heads", "new_vision", "train_vision"]


def new_vision() -> VisionEncoder:
    """A vision encoder with random weights."""
    model = InstructBlipVisionModel(InstructBlipVisionConfig(**VISION, initializer_range=0.02))
    with torch.no_grad():
        model.embeddings.position_embedding.normal_(std=0.02)
    return VisionEncoder(model, IMAGE_MEAN, IMAGE_STD)


class Heads(nn.Module):
    """Linear readings of tokens.

    Of a patch's: no object, the left or only one, or the right one of two; and its colour, shape and motion. Of
    the class token: those of both objects. Telling two objects apart is learned here, where every picture says
    so, and not by the Q-Former, for which the mean of the two is hard to leave.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.there = nn.Linear(channels, 3)
        self.attributes = nn.ModuleList(nn.Linear(channels, count) for count in ABSENT)
        self.whole = nn.ModuleList(nn.Linear(channels, count + 1) for _ in range(2) for count in ABSENT)

    def loss(self, tokens: Tensor, patches: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the share of object patches with all three right, and of pictures with all six.

        ``tokens`` [B, 1 + P, C], the class token first, of ``patches`` [B, P], ``attributes`` [B, 2, 3].
        """
        known = patches != IGNORED
        loss = F.cross_entropy(self.there(tokens[:, 1:][known]), patches[known] + 1)
        row, place = (patches >= 0).nonzero(as_tuple=True)
        shown = tokens[row, place + 1]
        truth = attributes[row, patches[row, place]]
        right = torch.ones(len(truth), dtype=torch.bool)
        for index, head in enumerate(self.attributes):
            logits = head(shown)
            loss = loss + F.cross_entropy(logits, truth[:, index])
            right &= logits.argmax(-1) == truth[:, index]
        both = attributes.flatten(1)
        whole = torch.ones(len(both), dtype=torch.bool)
        for index, head in enumerate(self.whole):
            logits = head(tokens[:, 0])
            loss = loss + F.cross_entropy(logits, both[:, index])
            whole &= logits.argmax(-1) == both[:, index]
        return loss, right.float().mean(), whole.float().mean()


def train_vision(
    vision: VisionEncoder,
    pool: Pool,
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    say: Callable[[str], None],
) -> Heads:
    """Train in place. Returns the heads, which are not shipped."""
    heads = Heads(vision.channels)
    optimiser = Optimiser([vision.model, heads], rate=rate, steps=steps, warm=min(200, steps // 10))
    random = np.random.default_rng(seed)
    vision.train()
    began, seen = time.monotonic(), []
    for step in range(steps):
        chosen = random.integers(0, len(pool.frames), batch)
        frames = torch.from_numpy(pool.frames[chosen])
        tokens = vision(frames)
        loss, right, whole = heads.loss(
            tokens,
            torch.from_numpy(pool.patches[chosen]),
            torch.from_numpy(pool.attributes[pool.scene_of[chosen]]),
        )
        optimiser.step(loss)
        seen.append((loss.item(), right.item(), whole.item()))
        if step % 100 == 99:
            mean_loss, mean_right, mean_whole = np.mean(seen[-100:], axis=0)
            pace = batch * (step + 1) / (time.monotonic() - began)
            say(
                f"vision step {step + 1}/{steps} loss {mean_loss:.3f} patches {mean_right:.4f} "
                f"pictures {mean_whole:.4f} {pace:.0f} images/s"
            )
    vision.eval().requires_grad_(False)
    return heads
