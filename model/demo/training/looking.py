"""Plain family, stage 1: fit the connector, so that a frame's token is what the language model knows how to read.

The language model of the InstructBLIP demo checkpoint learned to read vectors that say what a window of time shows.
Its Q-Former writes them, also from a single frame. The connector's weights are the least-squares solution that writes
their mean from the vision encoder's output for that frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from malmm.model.demo.training.pool import Pool
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.settings import MemorySettings

__all__ = ["fitted", "window_vectors"]

_PROMPT = "Describe the video."
_AT_ONCE = 64
# The first and last windows also say that a scene begins or ends there.
_INNER = slice(6, 26)


@torch.inference_mode()
def window_vectors(encoder: Encoder, language: LanguageModel, pool: Pool) -> Tensor:
    """What the language model is given for the inside of each scene [S, D], from its middle frame."""
    middles = (pool.begins[:-1] + pool.begins[1:] - 1) // 2
    found = []
    for begin in range(0, len(middles), _AT_ONCE):
        frames = [pool.frames[place : place + 1] for place in middles[begin : begin + _AT_ONCE]]
        encoded = encoder.encode(frames, [[_PROMPT]] * len(frames), MemorySettings(1))
        outputs = [each.query_output[0] for each in encoded if each.query_output is not None]
        found.append(language.projection(torch.stack(outputs))[:, _INNER].mean(1))
    return torch.cat(found)


def fitted(seen: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """Weights [D, C] of the linear map from ``seen`` [F, C] to ``wanted`` [F, D], and the share that it leaves open.

    A little ridge keeps weights small where frames say nothing.
    """
    gram = seen.T @ seen
    ridge = 1e-4 * gram.diagonal().mean() * torch.eye(len(gram))
    weights = torch.linalg.solve(gram + ridge, seen.T @ wanted)
    left = (seen @ weights - wanted).pow(2).mean() / (wanted - wanted.mean(0)).pow(2).mean()
    return weights.T, float(left)
