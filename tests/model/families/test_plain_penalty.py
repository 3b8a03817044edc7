from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_families import save_tiny

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of, token_shape


@pytest.mark.parametrize("beams", [1, 3])
def test_the_penalty_is_for_what_was_generated_and_not_for_the_prompt(tmp_path: Path, beams: int) -> None:
    save_tiny(tmp_path, "smolvlm")
    checkpoint = Checkpoint.open(str(tmp_path), model_types=None)
    language = family_of(checkpoint).load_language(checkpoint)
    tokens = torch.randn(3, *token_shape(checkpoint), generator=torch.Generator().manual_seed(2))
    asked = [Asked("What happens?", slots=Slots(tokens, (0.0, 1.0, 2.0), 3.0))]
    [first] = language.generate_texts(asked, Decoding(1, beams))
    assert language.generate_texts(asked, Decoding(1, beams, repetition_penalty=1e6)) == [first]
    spoken = [Asked(f"What happens? {first}", slots=asked[0].slots)]
    [again] = language.generate_texts(spoken, Decoding(1, beams))
    assert language.generate_texts(spoken, Decoding(1, beams, repetition_penalty=1e6)) == [again]
    [text] = language.generate_texts(asked, Decoding(12, beams, repetition_penalty=1e6))
    assert len(set(text)) == len(text)
