"""A run whose texts a vLLM server writes, and the servers that are refused before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.archive_contents import contents
from support.completions_server import CompletionsServer, completions
from support.http_server import Reply, serving
from support.inline_runs import Clean, Go
from support.inline_stages import InlineStages
from support.tiny_families import save_tiny

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.generation.language_checkpoint import write_language
from malmm.model.generation.vllm_server import served_name
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.served_engine import check_engine
from malmm.pipeline.schema.config import AnnotateConfig, Prompt
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.engines import server_of
from malmm.pipeline.schema.errors import ConfigError

Serve = Callable[..., AbstractContextManager[CompletionsServer]]
KIND = Prompt("kind", "Which kind?", "classification", ("indoors", "outdoors"))


@pytest.fixture(scope="module")
def debug() -> Checkpoint:
    return open_models("debug", NO_RETRIEVAL).checkpoint


@pytest.fixture(scope="module")
def alone(debug: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("language") / "alone"
    write_language(debug, made)
    return made


@pytest.fixture
def server(alone: Path, debug: Checkpoint) -> Iterator[CompletionsServer]:
    with completions(CompletionsServer(alone, served_name(debug))) as serving_it:
        yield serving_it


def test_an_archive_with_a_server_is_the_archive_without(
    server: CompletionsServer, go: Go, clean: Clean, place: str, videos: dict[str, Path]
) -> None:
    report = go(videos["two"], prompts=(KIND,), engine=f"vllm={server.address}")
    assert report.exit_code == 0, report.failures
    archive = ArchiveReader.open(place)
    assert contents(archive) == clean(videos["two"], prompts=(KIND,))
    # A caption of each segment and of the video; the classification is not the server's.
    assert len(server.asked) == archive.count("segments") + 1 + 1  # and the probe
    question = Prompt("question", "What is it?")
    done = annotate(AnnotateConfig(place, (question,), engine=f"vllm={server.address}"))
    assert (done.exit_code, done.texts) == (0, archive.count("segments") + 1)


def test_texts_of_a_server_that_was_away_are_tried_again(
    server: CompletionsServer, go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    def goes_away(_: object) -> None:
        if stages.calls["decoded"] == 1:
            server.away = 1

    stages.mishap = goes_away
    report = go(videos["two"], engine=f"vllm={server.address}")
    assert server.away == 0
    assert (report.exit_code, report.segments_indexed, report.failures) == (0, 2, [])
    assert contents(ArchiveReader.open(place)) == clean(videos["two"])


def test_a_server_that_does_not_answer_is_refused_before_the_work(
    go: Go, stages: InlineStages, videos: dict[str, Path], debug: Checkpoint
) -> None:
    with serving() as web:
        address = web.address
    with pytest.raises(ConfigError, match=rf"--engine vllm={address}: no vLLM server answers at {address}"):
        go(videos["two"], engine=f"vllm={address}")
    assert not stages.calls


def test_one_that_serves_another_model(server: CompletionsServer, debug: Checkpoint) -> None:
    server.name = "meta-llama/Llama"
    with pytest.raises(
        ConfigError, match=r"serves 'meta-llama/Llama', and this checkpoint's language model is"
    ):
        check_engine(f"vllm={server.address}", debug, "")


def test_one_without_prompt_embeddings(server: CompletionsServer, debug: Checkpoint) -> None:
    server.takes_embeddings = False
    with pytest.raises(
        ConfigError, match=r"takes no prompt embeddings: start it with --enable-prompt-embeds$"
    ):
        check_engine(f"vllm={server.address}", debug, "")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": 1}'])
def test_one_that_is_another_kind_of_server(body: bytes, debug: Checkpoint) -> None:
    with serving() as web:
        web.files["/v1/models"] = Reply(body)
        with pytest.raises(ConfigError, match="answers, but not as a vLLM server does"):
            check_engine(f"vllm={web.address}", debug, "")


def test_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "qwen3_vl")
    checkpoint = Checkpoint.open(str(tmp_path / "model"), model_types=None)
    with pytest.raises(ConfigError, match="is of Qwen3-VL, which vLLM cannot be given as embeddings"):
        check_engine("vllm=http://127.0.0.1:1", checkpoint, "")


@pytest.mark.parametrize("settings", [TextSettings(beams=2), TextSettings(repetition_penalty=1.5)])
def test_texts_that_are_not_greedy(settings: TextSettings, debug: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="it writes greedy texts, and these have"):
        check_engine("vllm=http://127.0.0.1:1", debug, settings.to_text())


def test_how_an_engine_is_named() -> None:
    assert server_of("transformers") == ""
    assert server_of("vllm=http://gpu-1:8000/") == "http://gpu-1:8000"
    assert server_of("vllm=https://[::1]:8000") == "https://[::1]:8000"
    wrong = (
        "",
        "vllm",
        "vllm=",
        "vllm=gpu-1:8000",
        "vllm=ftp://x",
        "http://x:1",
        "vllm=http://x:1/v1",
        "sglang",
    )
    for name in (*wrong, "vllm=http://x:port", "vllm=http://a:b@x:1", "vllm=http://x:1?y"):
        with pytest.raises(ConfigError, match=r"transformers, or vllm=http://HOST:PORT$"):
            server_of(name)
