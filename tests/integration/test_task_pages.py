"""The task pages of docs/ do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.task_pages import DOCS, blocks_of, continued, walk

#: Pages that are run here. All continue getting-started.md, which is run first.
PAGES = ("annotating.md", "asking.md", "indexing.md", "searching.md")
#: Pages with tests of their own: jobs.md and clusters.md need a cluster, and more is checked of talks.md.
ELSEWHERE = ("jobs.md", "clusters.md", "talks.md")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(
    page: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = walk(page, tmp_path, tmp_path_factory, monkeypatch)
    assert walked.done


def test_every_task_page_of_the_site_is_run_by_a_test() -> None:
    """A page that is listed under Tasks in mkdocs.yml is run here or elsewhere, whole."""
    import yaml

    settings = DOCS.with_name("mkdocs.yml").read_text(encoding="utf-8").replace("!!python/name:", "")
    listed = next(part["Tasks"] for part in yaml.safe_load(settings)["nav"] if "Tasks" in part)
    pages = {page for entry in listed for page in entry.values()}
    assert pages - set(ELSEWHERE) == set(PAGES)
    for page in ("getting-started.md", *PAGES):
        assert {block.language for block in blocks_of(page)} <= {"sh", "python", "text"}, page
        assert continued(page) == (None if page == "getting-started.md" else "getting-started.md")
