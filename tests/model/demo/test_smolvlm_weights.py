"""The plain demo checkpoint that ships: small, in SmolVLM2's format, right about most of what it knows."""

from __future__ import annotations

import numpy as np
from support.drawn_frames import frames_of

from malmm.model.checkpoints.resolve import DEMO_NOTICE, DEMO_SMOLVLM, demo_checkpoint, open_models
from malmm.model.checkpoints.verify import verify_models
from malmm.model.decoding import Decoding
from malmm.model.demo.questions import questions
from malmm.model.demo.world import plan_scenes
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of, image_size
from malmm.model.memory.settings import MemorySettings

SECONDS = 30


def test_it_is_small_and_says_what_it_is() -> None:
    models = open_models(DEMO_SMOLVLM)
    files = demo_checkpoint(DEMO_SMOLVLM).rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 15e6
    assert models.notice == DEMO_NOTICE
    assert models.retrieval is None
    verify_models(models)


def test_it_is_right_about_most_of_what_is_drawn_and_memory_beats_frames() -> None:
    checkpoint = open_models(DEMO_SMOLVLM).checkpoint
    family, side = family_of(checkpoint), image_size(checkpoint)
    encoder, language = family.load_encoder(checkpoint), family.load_language(checkpoint)
    right = {"bank": 0, "uniform": 0}
    total = 0
    for number in range(4):
        scenes = plan_scenes(SECONDS, (77_000, number))
        frames = frames_of(scenes, SECONDS, side, number)
        times = [float(second) for second in range(SECONDS)]
        asked = questions(scenes)
        total += len(asked)
        some = np.arange(SECONDS // 10, SECONDS, SECONDS // 5)
        for way, (shown, at) in {
            "bank": (frames, times),
            "uniform": (frames[some], [times[one] for one in some]),
        }.items():
            [encoded] = encoder.encode([shown], [["x"]], MemorySettings(5))
            slots = Slots.of(encoded.memory, at, float(SECONDS))
            said = language.generate_texts(
                [Asked(question.prompt, slots=slots) for question in asked], Decoding(100)
            )
            right[way] += sum(text == question.answer for text, question in zip(said, asked, strict=True))
    assert right["bank"] / total > 0.85
    assert right["bank"] > right["uniform"]
