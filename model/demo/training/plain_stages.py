"""Train the demo checkpoint of a plain family, SmolVLM2: ``python -m malmm.model.demo.training.plain_stages DIR``.

It starts from the InstructBLIP demo checkpoint: DIR/checkpoint if there is one, else the one that ships. The result of
each stage is saved in DIR/plain-work, and a run that was stopped resumes. The checkpoint is written to DIR/plain.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, SmolVLMForConditionalGeneration

from malmm.model.checkpoints.resolve import DEMO, NO_RETRIEVAL, open_models
from malmm.model.demo.checkpoint import GRID, IMAGE_MEAN, IMAGE_STD, VISION, language_tokenizer
from malmm.model.demo.plain import (
    plain_config,
    plain_tokenizer,
    save_plain,
    start_of_language,
    start_of_vision,
)
from malmm.model.demo.training.films import Reel
from malmm.model.demo.training.looking import fitted, window_vectors
from malmm.model.demo.training.pool import Pool
from malmm.model.demo.training.reading import PARTS, Chat, train_reading
from malmm.model.demo.training.work import Work, folder_and_effort, say, say_written
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.smolvlm import step_vision

__all__ = ["PlainStages", "main"]

_SCENES = 250
_ENCODED_AT_ONCE = 256


class PlainStages:
    """The stages in order. ``start`` is the InstructBLIP demo checkpoint, by directory or ``demo``."""

    def __init__(self, directory: Path, effort: float, start: str) -> None:
        self.directory = directory
        self.start = open_models(start, NO_RETRIEVAL).checkpoint
        self.work = Work(directory / "plain-work", effort)
        self.tokenizer = plain_tokenizer()
        self.config = plain_config(self.tokenizer)

    def run(self) -> Path:
        """Run all unfinished stages, and return the directory of the checkpoint."""
        pool = self.work.pool(_SCENES, side=VISION["image_size"], grid=GRID, seed=11)
        encoder, language = Encoder.load(self.start), LanguageModel.load(self.start)
        if encoder.vision is None:
            raise ValueError("the demo checkpoint has a vision encoder")
        torch.manual_seed(12)
        whole = SmolVLMForConditionalGeneration(self.config).requires_grad_(False).eval()
        whole.model.vision_model.load_state_dict(start_of_vision(encoder.vision.model.state_dict()))
        model = start_of_language(language.model, language_tokenizer(), self.tokenizer)
        tokens = self._look(whole, pool, lambda: window_vectors(encoder, language, pool))
        for number, part in enumerate(PARTS):
            name = f"reading-{number + 1}"
            if self.work.done(name, model):
                continue
            reel = Reel(pool, tokens, random.Random(200 + number))  # noqa: S311 - training, not secrets
            train_reading(
                model,
                Chat(self.tokenizer),
                reel,
                part,
                steps=self.work.count(part.steps),
                each=6,
                seed=210 + number,
                say=say,
            )
            self.work.keep(name, model.state_dict())
            self._save(whole, model, self.work.folder / name)
        return self._save(whole, model, self.directory / "plain")

    def _look(
        self, whole: SmolVLMForConditionalGeneration, pool: Pool, wanted: Callable[[], Tensor]
    ) -> Tensor:
        """Fit the connector, and return the tokens [F, 1, D] of the pool's frames."""
        path = self.work.file("looking")
        if not path.exists():
            vision = step_vision(whole.model, (IMAGE_MEAN, IMAGE_STD), VISION["image_size"])
            with torch.inference_mode():
                parts = torch.from_numpy(pool.frames).split(_ENCODED_AT_ONCE)
                pixels = map(vision.pixels, parts)
                seen = torch.cat([whole.model.vision_model(each).last_hidden_state[:, 0] for each in pixels])
            fit, left = fitted(seen, wanted()[torch.from_numpy(pool.scene_of)])
            say(f"connector fitted, {100 * left:.1f} % left open")
            self.work.keep("looking", {"fit": fit, "tokens": (seen @ fit.T)[:, None].half()})
        made = load_file(path)
        # The corner's output alone: what else the picture shows is in it already.
        weight = whole.model.connector.modality_projection.proj.weight
        weight.zero_()[:, : VISION["hidden_size"]] = made["fit"]
        return made["tokens"]

    def _save(
        self, whole: SmolVLMForConditionalGeneration, language: LlamaForCausalLM, directory: Path
    ) -> Path:
        state = whole.state_dict()
        for name, tensor in language.state_dict().items():
            state[name if name == "lm_head.weight" else name.replace("model.", "model.text_model.", 1)] = (
                tensor
            )
        made = SmolVLMForConditionalGeneration(self.config)
        made.load_state_dict(state)
        save_plain(directory, made)
        say_written(directory)
        return directory


def main() -> None:
    """Read the command line and train."""
    directory, effort = folder_and_effort("python -m malmm.model.demo.training.plain_stages", __doc__)
    own = directory / "checkpoint"
    start = str(own) if (own / "config.json").is_file() else DEMO
    PlainStages(directory, effort, start).run()


if __name__ == "__main__":
    main()
