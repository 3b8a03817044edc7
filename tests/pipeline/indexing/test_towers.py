"""An archive of any family with a tower of its own, from videos to moments, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.drawn_archive import make_archive
from support.tiny_families import save_tiny
from support.tiny_towers import VECTOR, save_tiny_tower

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import open_models
from malmm.model.families.registry import family_of, image_size
from malmm.model.memory.settings import MemorySettings
from malmm.model.towers.registry import open_tower, text_vectors_of, tower_of
from malmm.operators.media.reader import decode_span
from malmm.operators.media.span import SpanRequest
from malmm.pipeline.indexing.reembed import reembed
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.reembed_config import ReembedConfig
from malmm.pipeline.searching.searcher import Like, Searcher

OPTIONS: dict[str, Any] = {"segment_s": 6.0, "fps": 1.0, "bank_length": 3, "max_new_tokens": 6}


def test_slots_are_found_by_the_frames_that_they_hold(tmp_path: Path) -> None:
    model, tower = tmp_path / "model", tmp_path / "tower"
    save_tiny(model, "smolvlm")
    save_tiny_tower(tower, "clip")
    drawn = make_archive(
        tmp_path, videos=1, seconds=12.0, model=str(model), retrieval_model=str(tower), **OPTIONS
    )
    archive = drawn.reader
    checkpoint = open_tower(str(tower))
    assert archive.recipe.retrieval_model == str(tower)
    assert archive.recipe.retrieval_fingerprint == checkpoint.fingerprint()
    [video] = archive.videos().to_pylist()
    models = open_models(str(model), str(tower))
    encoder = family_of(models.checkpoint).load_encoder(models.checkpoint)
    slots = tower_of(checkpoint).load_slots(checkpoint, model=models.checkpoint)
    expected = []
    for segment in archive.segments(video["video_id"]).to_pylist():
        side = image_size(models.checkpoint)
        span = decode_span(SpanRequest(video["uri"], segment["start_s"], segment["end_s"], 1.0, side))
        [done] = encoder.encode([span.frames], [["x"]], MemorySettings(3))
        vectors = slots.of_slots(done.memory, span.frames, (video["width"], video["height"]))
        stored = archive.slots.segment_vectors(segment["segment_id"])
        assert stored is not None
        assert stored.shape == (3, 1, VECTOR)
        np.testing.assert_allclose(stored, vectors, rtol=0, atol=2e-3)
        expected.append(stored)

    searcher = Searcher(archive)
    [word] = text_vectors_of(checkpoint).vectors(["a red circle"])
    found = searcher.search("a red circle", signals=("vectors",))
    # Lance takes the cosine of the stored vectors and of the query in their type, float16.
    held = np.concatenate(expected)[:, 0].astype(np.float64)
    query = word.astype(np.float16).astype(np.float64)
    similarities = held @ query / np.linalg.norm(held, axis=1) / np.linalg.norm(query)
    assert found[0].similarity == pytest.approx(float(similarities.max()), abs=1e-6)

    picture = tmp_path / "frame.png"
    Image.fromarray(span.frames[0]).resize((video["width"], video["height"])).save(picture)
    assert searcher.search(image=picture)[0].similarity is not None
    assert searcher.search(like=Like(video["video_id"], 0.5))
    with pytest.raises(ConfigError, match=r"CLIP, which has no matching head: search without --rerank"):
        searcher.search("a red circle", rerank=True)

    # Another one, from frames that are decoded again: as if it had been indexed with it.
    save_tiny_tower(tmp_path / "other", "siglip", seed=1)
    other = open_tower(str(tmp_path / "other"))
    report = reembed(ReembedConfig(drawn.place, str(tmp_path / "other"), source="frames"))
    assert report.segments == {"frames": 2}
    others = tower_of(other).load_slots(other, model=models.checkpoint)
    stored = drawn.reader.slots.segment_vectors(segment["segment_id"])
    assert stored is not None
    shape = (video["width"], video["height"])
    np.testing.assert_allclose(stored, others.of_slots(done.memory, span.frames, shape), rtol=0, atol=2e-3)
    with pytest.raises(CheckpointError, match=r"reads InstructBLIP's memory and not that of SmolVLM2"):
        reembed(ReembedConfig(drawn.place, "debug"))


def test_instructblip_takes_a_dual_encoder_too(tmp_path: Path) -> None:
    save_tiny_tower(tmp_path / "tower", "siglip")
    drawn = make_archive(tmp_path, videos=1, seconds=6.0, retrieval_model=str(tmp_path / "tower"), **OPTIONS)
    assert Searcher(drawn.reader).search("a red circle", signals=("vectors",))
