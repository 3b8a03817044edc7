"""Stage 2: train the language model to read a time line, without pictures.

The time line is the output that the Q-Former will learn to write: one vector for each of its queries, which encodes the
content of one window of the video. Here it is made from the scenes themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from malmm.model.demo.training.lessons import Answers, Tokens, ask, attributes_of, window_weights
from malmm.model.demo.training.optimising import Optimiser
from malmm.model.demo.training.pool import ABSENT, IGNORED
from malmm.model.demo.training.progress import Progress
from malmm.model.demo.world import plan_scenes

__all__ = ["Speaker", "TimeLine", "answer_loss", "edges", "train_speaker"]

_PREFIX = -2
# Films become longer whenever so many answers are right: thrown at long ones at once, it learns little.
_GOOD = 0.75


def edges(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a scene begins, and whether one ends, in each window; scenes fill them by ``weights`` [windows, S]."""
    scene = weights.argmax(1)
    other = scene[1:] != scene[:-1]
    return F.pad(other, (1, 0), value=True), F.pad(other, (0, 1), value=True)


class TimeLine(nn.Module):
    """What a video shows in each window of its time, as vectors of unit variance.

    A window shows the scene that fills most of it. Its own place is added, so that "last" and "near the end" can
    be read off (a language model with rotary positions knows only how far apart two windows are), and
    whether a scene begins or ends there, which it would have to find by comparing neighbours.
    """

    def __init__(self, windows: int, size: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count + 1, size) for _ in range(2) for count in ABSENT)
        self.places = nn.Embedding(windows, size)
        self.edges = nn.Embedding(4, size)
        self.size = size

    def forward(self, attributes: Tensor, weights: Tensor) -> Tensor:
        """[windows, D] of scenes' ``attributes`` [S, 2, 3], of which each window holds ``weights`` [windows, S].

        Left or only object first; ``ABSENT`` stands for no second one.
        """
        begins, ends = edges(weights)
        flat = attributes[weights.argmax(1)].flatten(-2)
        total = self.places.weight + self.edges(2 * begins.long() + ends.long())
        for index, table in enumerate(self.tables):
            total = total + table(flat[..., index])
        return F.layer_norm(total, (self.size,))


class Speaker(nn.Module):
    """The projection and the language model: query outputs and ids to a loss."""

    def __init__(self, projection: nn.Linear, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.projection = projection
        self.model = model

    def loss(self, query: Tensor, answers: Answers) -> tuple[Tensor, Tensor]:
        """``answer_loss`` of answers about query outputs [V, Q, D]."""
        prefix = self.projection(query)
        return answer_loss(self.model, prefix, prefix.new_ones(prefix.shape[:2], dtype=torch.bool), answers)


def answer_loss(
    model: LlamaForCausalLM, prefix: Tensor, present: Tensor, answers: Answers
) -> tuple[Tensor, Tensor]:
    """Mean loss over answer tokens, and whether each answer is right to the last token [V, K].

    ``prefix`` [V, P, D] are the embeddings that a film's questions share, and ``present`` [V, P] those that are not
    padding. Questions do not see each other, so each has the same logits as alone.
    """
    films, length = present.shape
    embeds = torch.cat([prefix, model.get_input_embeddings()(answers.ids)], dim=1)
    before = torch.where(present, _PREFIX, -1)
    belongs = torch.cat([before, answers.question], dim=1)
    total = belongs.shape[1]
    seen = (belongs[:, :, None] == belongs[:, None, :]) | (belongs == _PREFIX)[:, None, :]
    seen &= torch.ones(total, total, dtype=torch.bool).tril()
    start = (present.cumsum(1) - 1).clamp(min=0)
    hidden = model.model(
        inputs_embeds=embeds,
        attention_mask=seen[:, None],
        position_ids=torch.cat([start, answers.position + present.sum(1, keepdim=True)], dim=1),
        use_cache=False,
    ).last_hidden_state
    # Logits only where an answer token comes next.
    row, place = (answers.labels != IGNORED).nonzero(as_tuple=True)
    logits = model.lm_head(hidden[row, place + length - 1])
    truth = answers.labels[row, place]
    count = int(answers.question.max()) + 1
    which = row * count + answers.question[row, place]
    wrong = torch.zeros(films * count).index_add_(0, which, (logits.argmax(-1) != truth).float())
    return F.cross_entropy(logits, truth), (wrong == 0).view(films, count)


def train_speaker(
    speaker: Speaker,
    line: TimeLine,
    tokens: Tokens,
    *,
    steps: int,
    videos: int,
    each: int,
    rate: float,
    begin_s: int,
    end_s: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train both in place on planned videos, of up to ``begin_s`` seconds first and ``end_s`` in the end."""
    chance = random.Random(seed)  # noqa: S311 - training, not secrets
    optimiser = Optimiser([speaker, line], rate=rate, steps=steps, warm=60)
    progress = Progress("speaking", steps, say)
    longest = begin_s
    for step in range(steps):
        rows, asked = [], []
        for number in range(videos):
            seconds = chance.randint(3, longest)
            scenes = plan_scenes(seconds, (seed, step, number))
            begins = [int(scene.start_s) for scene in scenes]
            weights = window_weights(begins, seconds, line.places.num_embeddings)
            rows.append(line(torch.tensor([attributes_of(scene) for scene in scenes]), weights))
            asked.append(ask(scenes, each, chance))
        query = torch.stack(rows)
        loss, right = speaker.loss(query + 0.1 * torch.randn_like(query), tokens.answers(asked))
        optimiser.step(loss)
        progress.add(asked, right, loss=loss.item())
        if progress.said(step, f"up to {longest} s") and progress.least > _GOOD:
            longest = min(end_s, longest + 8)
