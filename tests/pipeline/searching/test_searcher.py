from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.drawn_archive import Drawn, make_archive

from malmm.model.checkpoints.resolve import open_models
from malmm.model.towers.blip2 import RetrievalModel
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.searching.searcher import Like, Searcher, search


@pytest.fixture(scope="module")
def searcher(drawn: Drawn) -> Searcher:
    return Searcher(drawn.place)


def test_what_is_drawn_is_found_where_it_is(drawn: Drawn, searcher: Searcher) -> None:
    asked = drawn.only_once()
    assert len(asked) > 5
    right = 0
    for name, video, scene in asked:
        best = searcher.search(f"a {name}", k=1)[0]
        overlap = min(best.end_s, scene.end_s) - max(best.start_s, scene.start_s)
        right += best.video_id == video and overlap > 0
        assert "vectors" in best.signals
    assert right / len(asked) >= 0.8


def test_similarity_is_the_models_own(drawn: Drawn, searcher: Searcher) -> None:
    """As in BLIP-2: the largest cosine of a slot's vectors with the text's."""
    models = open_models("demo")
    assert models.retrieval is not None
    model = RetrievalModel.load(models.retrieval, instructblip=models.instructblip)
    text = f"a {drawn.only_once()[0][0]}"
    word = model.text_vectors([text])[0]
    expected = {}
    for segment, tokens, _ in drawn.reader.memory_tokens(sorted(drawn.reader.completed_segments())):
        vectors = model.slot_vectors(torch.from_numpy(tokens.astype(np.float32)))
        for place, value in enumerate((vectors @ word).amax(1).tolist()):
            expected[segment, place] = value
    found = searcher.search(text, k=100, signals=("vectors",))
    best = max(expected.values())
    assert found[0].similarity == pytest.approx(best, abs=2e-3)
    for each in found:
        values = [value for (segment, _), value in expected.items() if segment == each.segment_id]
        assert min(abs(value - (each.similarity or 0)) for value in values) < 2e-3


def test_a_hit_says_all_that_people_look_at(drawn: Drawn, searcher: Searcher) -> None:
    name, video, _ = drawn.only_once()[0]
    best = searcher.search(name, k=1)[0]
    assert best.video_id == video
    assert best.uri.endswith(".mp4")
    assert best.start_s <= best.timestamp_s < best.end_s
    assert best.caption
    assert best.thumbnail is not None
    with Image.open(BytesIO(best.thumbnail)) as picture:
        assert picture.format == "JPEG"
    assert best.to_dict()["signals"] == list(best.signals)
    assert "thumbnail" not in best.to_dict()


def test_words_alone_need_no_model(drawn: Drawn) -> None:
    script = (
        "import sys; from malmm.pipeline.searching.searcher import search\n"
        f"found = search({drawn.place!r}, 'a cross', signals=('text',))\n"
        "assert found and found[0].text\n"
        "print(sorted({'ray', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_search_loads_neither_ray_nor_a_language_model(drawn: Drawn) -> None:
    script = (
        "import sys; from malmm.pipeline.searching.searcher import search\n"
        f"assert search({drawn.place!r}, 'a red circle')\n"
        "family = 'malmm.model.families.instructblip'\n"
        "print(sorted({'ray', 'av', f'{family}.language', f'{family}.encoder'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_videos_can_be_chosen(drawn: Drawn, searcher: Searcher) -> None:
    for video in drawn.scenes:
        assert {each.video_id for each in searcher.search("a cross", video_ids=[video])} == {video}
    assert searcher.search("a cross", video_ids=[]) == []


@pytest.mark.parametrize("text", ['red "circle', "AND OR NOT", "a:b^2~", "(((", "*", "'; --", "\N{SNOWMAN}"])
def test_no_text_is_a_syntax_error(searcher: Searcher, text: str) -> None:
    assert len(searcher.search(text, k=3)) <= 3


def test_an_image_finds_what_looks_like_it(drawn: Drawn, searcher: Searcher, tmp_path: Path) -> None:
    name, video, scene = drawn.only_once()[0]
    shown = searcher.search(name, k=1)[0].thumbnail
    assert shown is not None
    path = tmp_path / "still.jpg"
    path.write_bytes(shown)
    best = searcher.search(image=path, k=1)[0]
    assert best.video_id == video
    assert best.start_s < scene.end_s
    assert best.end_s > scene.start_s


def test_more_like_a_moment_is_not_the_moment(drawn: Drawn, searcher: Searcher) -> None:
    _, video, scene = drawn.only_once()[0]
    at_s = (scene.start_s + scene.end_s) / 2
    found = searcher.search(like=Like(video, at_s), k=5)
    assert found
    assert not any(each.video_id == video and each.start_s <= at_s < each.end_s for each in found)
    with pytest.raises(ConfigError, match="no memory at 999 s"):
        searcher.search(like=Like(video, 999.0))


def test_reranking_orders_by_the_matching_head(drawn: Drawn, searcher: Searcher) -> None:
    found = searcher.search("a red circle", k=10, rerank=True)
    chances = [each.matched for each in found]
    assert None not in chances
    assert chances == sorted(chances, reverse=True)  # type: ignore[type-var]
    assert all("match" in each.signals for each in found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "  "}, "an empty query"),
        ({"text": "a", "k": 0}, "-k 0"),
        ({"text": "a", "k": 10**6}, "-k 1000000"),
        ({}, "nothing to search for"),
        ({"text": "a", "image": "gone.png"}, "no such image"),
        ({"text": "a", "without": [" "]}, "an empty query"),
        ({"text": "a", "without": ["b"], "rerank": True}, "re-ranked"),
        ({"text": "a", "signals": ("smell",)}, "smell"),
        ({"image": "gone.png"}, "no such image"),
        ({"image": __file__}, "is not an image"),
        ({"image": "b.png", "rerank": True}, "re-ranked"),
    ],
)
def test_queries_that_cannot_be(searcher: Searcher, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        searcher.search(**options)


def test_an_empty_archive_finds_nothing(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    assert search(made.root, "a circle", signals=("text",)) == []


def test_an_archive_without_vectors_is_searched_for_words(tmp_path: Path) -> None:
    plain = make_archive(tmp_path, videos=1, seconds=12, retrieval_model="none")
    found = search(plain.place, "a circle square triangle star cross")
    assert found[0].signals == ("text",)
    with pytest.raises(ArchiveError, match="has no retrieval vectors"):
        search(plain.place, "a circle", signals=("vectors",))


def test_random_checkpoints_of_the_published_format_are_searched_too(tmp_path: Path) -> None:
    made = make_archive(tmp_path, videos=1, seconds=12, model="debug", segment_s=6.0, max_new_tokens=4)
    found = search(made.place, "anything", k=3, rerank=True)
    assert found
    assert all(each.similarity is not None and -1 <= each.similarity <= 1 for each in found)


def test_slots_of_a_text_are_ranked_as_an_exact_search_does(drawn: Drawn, searcher: Searcher) -> None:
    reader = drawn.reader
    segments = sorted(reader.completed_segments())
    one = searcher.text_vectors(["a red circle"])[0]
    several = reader.slots.vectors_at(reader.videos()["video_id"][0].as_py(), 1.0)
    assert several is not None
    for query in (one, several):
        asked = reader.table("memories").search(query, vector_column_name="vectors").distance_type("cosine")
        expected = {
            (row["segment_id"], row["slot"]): 1 - row["_distance"] / len(np.atleast_2d(query))
            for row in asked.limit(1000).to_list()
        }
        found = reader.slots.similarities(segments, query, ["segment_id", "slot"], limit=1000)
        assert len(found) == len(expected) == reader.count("memories")
        for row, similarity in found:
            assert similarity == pytest.approx(expected[row["segment_id"], row["slot"]], abs=2e-3)
        assert [similarity for _, similarity in found] == sorted((s for _, s in found), reverse=True)
    few = reader.slots.similarities(segments[:1], one, ["segment_id"], limit=3)
    assert {row["segment_id"] for row, _ in few} == {segments[0]}
    assert len(few) == 3
    assert reader.slots.similarities([], one, ["slot"], limit=3) == []
