"""The task pages of docs/ do what they say."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from support.drawn_archive import Drawn
from support.inline_evaluation import InlineEvaluation
from support.task_pages import DOCS, blocks_of, continued, walk

from malmm.jobs.cli import make_parser
from malmm.jobs.files.loading import load
from malmm.pipeline import Searcher
from malmm.pipeline.evaluation import run as evaluation
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

#: Pages that are run here. All continue getting-started.md, which is run first.
PAGES = (
    *("annotating.md", "asking.md", "indexing.md", "searching.md"),
    *(
        "duplicates.md",
        "evaluation.md",
        "exporting.md",
        "filters.md",
        "many-drivers.md",
        "review.md",
        "typed-answers.md",
    ),
)
#: Pages with tests of their own: jobs.md and clusters.md need a cluster, improve.md continues finetune.md, and more is
#: checked of talks.md. Of the last four, tests below check what can be had without a server, a tool or the hub.
ELSEWHERE = (
    *("jobs.md", "clusters.md", "talks.md", "finetune.md", "improve.md"),
    *("serving.md", "own-pipeline.md", "mcp.md", "authors-checkpoints.md"),
)
_RETRIEVERS = {"langchain_core": "langchain-core", "llama_index": "llama-index-core"}
_ROOT = DOCS.parent
_FENCED = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}[^\n]*\n)+", re.MULTILINE)
_OURS = re.compile(r"^(?:\$ )?(?:[A-Z_]+=(?:\"\$\([^)]*\)\"|\S*) )*(malmm .*)$")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(
    page: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "asking", InlineEvaluation())
    walked = walk(page, tmp_path, tmp_path_factory, monkeypatch)
    assert walked.done


def test_every_task_page_of_the_site_is_run_by_a_test() -> None:
    """A page that is listed under Tasks or More tasks in mkdocs.yml is run here or elsewhere, whole."""
    settings = (_ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/name:", "")
    sections = {name: part for each in yaml.safe_load(settings)["nav"] for name, part in each.items()}
    pages = {page for name in ("Tasks", "More tasks") for entry in sections[name] for page in entry.values()}
    assert pages == {*PAGES, *ELSEWHERE}
    for page in ("getting-started.md", *PAGES):
        assert {block.language for block in blocks_of(page)} <= {"sh", "python", "text", "yaml", "xml"}, page
        assert continued(page) == (None if page == "getting-started.md" else "getting-started.md")


def _commands() -> Iterator[tuple[str, str]]:
    """Each line of a block of any page that begins with ``malmm``, and the page."""
    for path in (*sorted(DOCS.glob("*.md")), *sorted(_ROOT.glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        blocks = [block[2] for block in _FENCED.finditer(text)]
        blocks += [textwrap.dedent(block[0]) for block in _INDENTED.finditer(_FENCED.sub("", text))]
        for block in blocks:
            for line in block.replace("\\\n", " ").splitlines():
                if command := _OURS.match(line):
                    yield path.name, command[1]


def _words(line: str) -> list[str]:
    """The words of a line up to what a shell takes for itself."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&>")
    lexer.whitespace_split = True
    return list(takewhile(lambda word: not word or set(word) - set("|&>"), lexer))


def test_all_commands_of_all_pages_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of those that no test can run: their commands and options exist."""
    parser, seen = make_parser(), 0
    for page, line in _commands():
        try:
            parser.parse_args(_words(line)[1:])
        except SystemExit:
            pytest.fail(f"{page}: {line}: {capsys.readouterr().err}")
        seen += 1
    assert seen > 120


def test_all_job_files_of_all_pages_are_job_files(tmp_path: Path) -> None:
    seen = 0
    for path in sorted(DOCS.glob("*.md")):
        for language, text in _FENCED.findall(path.read_text(encoding="utf-8")):
            if language == "yaml" and isinstance(content := yaml.safe_load(text), dict):
                if {"archive"} < content.keys():
                    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
                    load(str(tmp_path / "job.yaml"))
                    seen += 1
            elif language == "json":
                json.loads(text)
    assert seen > 1


def test_the_requests_of_serving_are_answered(drawn: Drawn) -> None:
    [block] = [block.text for block in blocks_of("serving.md") if "curl" in block.text]
    row = drawn.reader.videos().to_pylist()[0]
    config = ServeConfig(drawn.place, media_roots=(str(Path(row["uri"]).parent),))
    with TestClient(make_app(config), base_url="http://127.0.0.1:8000") as client:
        for line in block.replace("VIDEO_ID", row["video_id"]).splitlines():
            words = shlex.split(line)
            headers = dict(words[at + 1].split(": ") for at, word in enumerate(words) if word == "-H")
            body = words[words.index("-d") + 1] if "-d" in words else None
            [address] = [word for word in words if word.startswith("http:")]
            answer = client.request("POST" if body else "GET", address, headers=headers, content=body)
            assert answer.status_code == (206 if "Range" in headers else 200), line


def test_the_middle_of_a_pipeline_is_that_of_the_example() -> None:
    [block] = [block.text for block in blocks_of("own-pipeline.md") if block.language == "python"]
    assert textwrap.indent(block, "    ") in (_ROOT / "examples" / "own_stage.py").read_text(encoding="utf-8")


def test_the_retrievers_of_other_libraries_compile() -> None:
    blocks = [block for block in blocks_of("mcp.md") if block.language == "python"]
    for block in blocks:
        compile(block.text, str(block.title), "exec")
    assert len(blocks) == 2


@pytest.mark.parametrize("library", ["langchain_core", "llama_index"])
def test_a_retriever_of_another_library_finds_the_moments_of_a_search(drawn: Drawn, library: str) -> None:
    pytest.importorskip(
        library, reason=f"{library} is not among the tested versions: `pip install {_RETRIEVERS[library]}`"
    )
    [block] = [block for block in blocks_of("mcp.md") if block.language == "python" and library in block.text]
    made: dict[str, Any] = {"__name__": "retrievers"}
    exec(block.text, made)  # noqa: S102
    retriever = made["MomentRetriever"](archive=drawn.place, k=3)
    expected = [(m.uri, m.start_s, m.end_s) for m in Searcher(drawn.place).search("a red circle", k=3)]
    if library == "langchain_core":
        about = [found.metadata for found in retriever.invoke("a red circle")]
    else:
        about = [found.node.metadata for found in retriever.retrieve("a red circle")]
    assert [(each["uri"], each["start_s"], each["end_s"]) for each in about] == expected
    assert len(expected) == 3
