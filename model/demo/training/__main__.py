"""Train the demo checkpoint: ``python -m malmm.model.demo.training DIR``.

Each stage has a fixed seed, and its result is saved in DIR/work; a run that was stopped resumes at the first unfinished
stage. The checkpoint is written to DIR/checkpoint. docs/demo-model.md describes each stage, and what was tried.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Blip2ForImageTextRetrieval,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerModel,
    LlamaForCausalLM,
)

from malmm.model.demo.checkpoint import (
    BACKGROUND_SLOTS,
    GRID,
    QUERIES,
    VISION,
    initial_time_positions,
    instructblip_config,
    language_tokenizer,
    qformer_tokenizer,
    retrieval_config,
    save_instructblip,
    save_retrieval,
)
from malmm.model.demo.training.films import Reel
from malmm.model.demo.training.lessons import Tokens
from malmm.model.demo.training.matching import background, train_matching
from malmm.model.demo.training.matching_head import train_matching_head
from malmm.model.demo.training.pool import Pool
from malmm.model.demo.training.seeing import new_vision, train_vision
from malmm.model.demo.training.speaking import Speaker, TimeLine, train_speaker
from malmm.model.demo.training.watching import PARTS, Teacher, train_watching
from malmm.model.demo.training.work import Work, folder_and_effort, say, say_written
from malmm.model.families.instructblip.qformer import OnlineQFormer
from malmm.model.families.instructblip.vision import VisionEncoder
from malmm.model.memory.positions import TimePositions
from malmm.model.towers.blip2 import RetrievalModel

__all__ = ["Stages", "main"]

_ENCODED_AT_ONCE = 256


class Stages:
    """The stages in order. ``effort`` scales their lengths; the shipped checkpoint was trained with 1."""

    def __init__(self, directory: Path, effort: float) -> None:
        self.directory = directory
        self.work = Work(directory / "work", effort)
        self.tokens = Tokens(qformer_tokenizer(), language_tokenizer())
        self.config = instructblip_config()
        self.positions = TimePositions(initial_time_positions(VISION["hidden_size"])).requires_grad_(False)

    def run(self) -> None:
        """Run all unfinished stages."""
        pool = self.work.pool(3500, side=VISION["image_size"], grid=GRID, seed=1)
        vision = self._vision(pool)
        speaker, line = self._speaker()
        tokens = self._tokens(pool, vision)
        qformer = self._qformer(pool, tokens, speaker, line)
        retrieval = self._retrieval(pool, tokens)
        reel = Reel(pool, tokens, random.Random(9))  # noqa: S311 - training, not secrets
        seen = background(retrieval, reel, self.positions, count=BACKGROUND_SLOTS)
        self._save(vision, qformer, speaker, retrieval, seen)

    def _vision(self, pool: Pool) -> VisionEncoder:
        torch.manual_seed(0)
        vision = new_vision()
        if not self.work.done("vision", vision.model):
            train_vision(vision, pool, steps=self.work.count(4000), batch=64, rate=1.5e-3, seed=2, say=say)
            self.work.keep("vision", vision.model.state_dict())
        return vision.eval().requires_grad_(False)

    def _speaker(self) -> tuple[Speaker, TimeLine]:
        torch.manual_seed(3)
        hidden = self.config.qformer_config.hidden_size
        speaker = Speaker(
            nn.Linear(hidden, self.config.text_config.hidden_size), LlamaForCausalLM(self.config.text_config)
        )
        line = TimeLine(QUERIES, hidden)
        both = nn.ModuleDict({"speaker": speaker, "line": line})
        # Up to long films first, then at home in those of a minute.
        for number, (steps, rate, begin_s, end_s) in enumerate(
            ((1400, 2e-3, 12, 110), (600, 1.5e-3, 60, 60))
        ):
            name = f"speaking-{number + 1}"
            if not self.work.done(name, both):
                train_speaker(
                    speaker,
                    line,
                    self.tokens,
                    steps=self.work.count(steps),
                    videos=24,
                    each=8,
                    rate=rate,
                    begin_s=begin_s,
                    end_s=end_s,
                    seed=4 + number,
                    say=say,
                )
                self.work.keep(name, both.state_dict())
        return speaker, line

    def _tokens(self, pool: Pool, vision: VisionEncoder) -> Tensor:
        path = self.work.file("tokens")
        if not path.exists():
            frames = torch.from_numpy(pool.frames)
            with torch.inference_mode():
                tokens = torch.cat([vision(part).half() for part in frames.split(_ENCODED_AT_ONCE)])
            self.work.keep("tokens", {"tokens": tokens})
        return load_file(path)["tokens"]

    def _qformer(self, pool: Pool, tokens: Tensor, speaker: Speaker, line: TimeLine) -> OnlineQFormer:
        torch.manual_seed(5)
        config = self.config.qformer_config
        queries = nn.Parameter(0.5 * torch.randn(1, QUERIES, config.hidden_size))
        qformer = OnlineQFormer(InstructBlipQFormerModel(config), queries)
        both = nn.ModuleDict({"qformer": qformer, "speaker": speaker})
        # Each part's own seeds, so that a run that goes on does what an unbroken one does.
        for number, part in enumerate(PARTS):
            name = f"watching-{part.name}"
            if self.work.done(name, both):
                continue
            chance = random.Random(100 + number)  # noqa: S311 - training, not secrets
            reel = Reel(pool, tokens, chance)
            teacher = Teacher(reel, qformer, self.positions, self.tokens, chance)
            train_watching(
                qformer, speaker, line, teacher, part, steps=self.work.count(part.steps), seed=number, say=say
            )
            self.work.keep(name, both.state_dict())
        return qformer

    def _retrieval(self, pool: Pool, tokens: Tensor) -> RetrievalModel:
        torch.manual_seed(6)
        config = retrieval_config()
        queries = 0.5 * torch.randn(1, config.num_query_tokens, config.qformer_config.hidden_size)
        model = RetrievalModel(config, self.tokens.qformer, queries, with_images=True)
        if not self.work.done("matching", model):
            reel = Reel(pool, tokens, random.Random(7))  # noqa: S311 - training, not secrets
            train_matching(
                model,
                reel,
                self.positions,
                steps=self.work.count(600),
                films=12,
                texts=96,
                rate=1e-3,
                seed=8,
                say=say,
            )
            self.work.keep("matching", model.state_dict())
        if not self.work.done("matching-head", model):
            torch.manual_seed(10)
            reel = Reel(pool, tokens, random.Random(11))  # noqa: S311 - training, not secrets
            train_matching_head(
                model,
                reel,
                self.positions,
                steps=self.work.count(1500),
                films=8,
                texts=64,
                rate=1e-3,
                seed=12,
                say=say,
            )
            self.work.keep("matching-head", model.state_dict())
        return model

    def _save(
        self,
        vision: VisionEncoder,
        qformer: OnlineQFormer,
        speaker: Speaker,
        retrieval: RetrievalModel,
        seen: Tensor,
    ) -> None:
        directory = self.directory / "checkpoint"
        whole = InstructBlipForConditionalGeneration(self.config)
        whole.vision_model.load_state_dict(vision.model.state_dict())
        whole.qformer.load_state_dict(qformer.qformer.state_dict())
        whole.query_tokens.data.copy_(qformer.query_tokens.data)
        whole.language_projection.load_state_dict(speaker.projection.state_dict())
        whole.language_model.load_state_dict(speaker.model.state_dict())
        save_instructblip(directory, whole, self.positions.weight.data)
        companion = Blip2ForImageTextRetrieval(retrieval_config())
        companion.vision_model.load_state_dict(vision.model.state_dict())
        companion.query_tokens.data.copy_(retrieval.query_tokens.data)
        for name in ("embeddings", "qformer", "vision_projection", "text_projection", "itm_head"):
            getattr(companion, name).load_state_dict(getattr(retrieval, name).state_dict())
        save_retrieval(directory / "retrieval", companion, seen)
        say_written(directory)


def main() -> None:
    """Read the command line and train."""
    directory, effort = folder_and_effort("python -m malmm.model.demo.training", __doc__)
    Stages(directory, effort).run()


if __name__ == "__main__":
    main()
