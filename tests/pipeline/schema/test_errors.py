from __future__ import annotations

import pickle

import pytest

from malmm.pipeline.schema import errors

EXAMPLES = [
    errors.MalmmError("it went wrong"),
    errors.ConfigError("--fps -1: must be above 0"),
    errors.SourceError("no videos in /films", uri="/films"),
    errors.DataSetError("/lvu/test.json is not LVU's annotations: it is not JSON", path="/lvu/test.json"),
    errors.MediaError("/films/a.mp4 is cut short", uri="/films/a.mp4", kind="truncated"),
    errors.ArchiveError("no archive at /archive", uri="/archive"),
    errors.ArchiveBusy("/archive is being written by process 7 on a since noon", uri="/archive"),
    errors.WorkerError("a worker failed: no GPU"),
    errors.RunLost("the actor is gone: run again"),
    errors.RecipeMismatch("other options", uri="/archive", differences=[("fps", "1.0", "2.0")]),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == str(error) == error.message
    assert vars(again) == vars(error)
    assert again.args == error.args


def test_notes_survive_pickling():
    error = errors.MediaError("cut", uri="a", kind="truncated")
    error.add_note("while indexing")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while indexing"]  # noqa: S301


def test_every_error_is_exported_and_has_an_example():
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert {*errors.__all__} - {"MediaKind"} == defined == {type(error).__name__ for error in EXAMPLES}
    assert all(issubclass(getattr(errors, name), errors.MalmmError) for name in defined)
