"""What of an archive's models a query opens, asked of a hub that remembers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import lance
import pytest
from support import hub
from support.drawn_archive import Drawn
from support.served import copied

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.hub import is_hub_id
from malmm.model.checkpoints.resolve import demo_checkpoint

SEARCH = """
import json, sys
from malmm.pipeline.searching.searcher import Searcher
found = Searcher(sys.argv[1]).search("a circle", k=1)
heavy = sorted({"torch", "transformers", "ray", "lancedb"} & sys.modules.keys())
print(json.dumps([found[0].similarity, heavy]))
"""
OPEN = """
import json, sys
from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import open_models
from malmm.pipeline.indexing.index import make_recipe
from malmm.pipeline.schema.config import IndexConfig
said = []
for name in sys.argv[1].split():
    try:
        recipe = make_recipe(IndexConfig(("x",), "x", model=name), open_models(name, "none"))
        said.append([recipe.model, recipe.model_fingerprint])
    except CheckpointError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def ran(script: str, argument: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, argument], capture_output=True, text=True, env=os.environ | environment
    )


@pytest.fixture
def repositories() -> dict[str, dict[str, Path]]:
    whole = demo_checkpoint()
    return {
        "lab/words": {"main": whole / "retrieval", "r1": whole},
        "lab/pictures": {"main": whole, "r1": whole / "retrieval"},
    }


def test_a_text_opens_the_retrieval_model_alone_and_offline_too(
    drawn: Drawn, tmp_path: Path, repositories: dict[str, dict[str, Path]]
) -> None:
    place = copied(drawn, tmp_path)
    recipe = replace(drawn.reader.recipe, model="lab/words@r1", retrieval_model="lab/pictures@r1")
    said = json.dumps(asdict(recipe), sort_keys=True).replace("'", "''")
    lance.dataset(f"{place}/recipes.lance").update({"recipe": f"'{said}'"})
    with hub.running(repositories) as served:
        environment = served.environment(tmp_path / "cache")
        online = ran(SEARCH, place, environment)
        assert online.returncode == 0, online.stderr
        assert served.of("lab/pictures")
        assert served.of("lab/words") == []
    similarity, heavy = json.loads(online.stdout)
    assert heavy == []
    assert similarity == pytest.approx(1.0, abs=1.0)
    # The hub is gone; what the cache holds of the revision does.
    offline = ran(SEARCH, place, environment | {"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 0, offline.stderr
    assert json.loads(offline.stdout) == [similarity, []]


def test_a_revision_is_pinned_and_kept_in_the_recipe(
    tmp_path: Path, repositories: dict[str, dict[str, Path]]
) -> None:
    with hub.running(repositories) as served:
        environment = served.environment(tmp_path / "cache")
        online = ran(OPEN, "lab/words lab/words@r1 lab/words@r2", environment)
    assert online.returncode == 0, online.stderr
    main, pinned, unknown = json.loads(online.stdout)
    assert "is of type 'blip-2'" in main  # the main revision is another model
    fingerprint = Checkpoint.open(str(demo_checkpoint()), model_types=("instructblip",)).fingerprint()
    assert pinned == ["lab/words@r1", fingerprint]
    assert "could not be fetched from the hub" in unknown
    # The hub is gone, and nobody says so.
    again = ran(OPEN, "lab/words@r1", environment)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == [pinned]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("owner/name", True),
        ("owner/name@main", True),
        ("owner/name@refs/pr/1", True),
        ("o-w.n_er/n-a.m_e@0123abc", True),
        ("owner/name@", False),
        ("owner", False),
        ("a/b/c", False),
        ("/owner/name", False),
        ("./name", False),
        ("~/name", False),
        ("../name", False),
        ("owner/", False),
        ("", False),
    ],
)
def test_names_of_the_hub_are_told_from_paths(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one
    if not is_one:
        with pytest.raises(CheckpointError):
            Checkpoint.open(name or "no", model_types=("blip-2",))
