from __future__ import annotations

import logging
import os
import warnings

import pytest

from malmm.jobs.terminal.quiet_ray import held_errors, quiet_ray
from malmm.pipeline.schema.errors import WorkerError


def test_what_the_core_writes_while_it_starts_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with held_errors():
        os.write(2, b"noise\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


ERRORS = [(RuntimeError("x"), "the reason\n"), (KeyboardInterrupt(), "the reason\n"), (WorkerError("x"), "")]


@pytest.mark.parametrize(("error", "shown"), ERRORS)
def test_an_error_that_is_not_ours_lets_it_out(
    capfd: pytest.CaptureFixture[str], error: BaseException, shown: str
) -> None:
    def fail() -> None:
        with quiet_ray(verbose=False) as ray:
            ray.starting()
            os.write(2, b"the reason\n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert capfd.readouterr().err == shown


@pytest.mark.parametrize("verbose", [False, True])
def test_only_the_start_is_held_back_and_all_is_put_back(
    capfd: pytest.CaptureFixture[str], verbose: bool
) -> None:
    logger, filters = logging.getLogger("ray.data"), list(warnings.filters)
    level = logger.level
    with quiet_ray(verbose=verbose) as ray:
        os.write(2, b"before\n")
        ray.starting()
        os.write(2, b"noise\n")
        ray.started()
        os.write(2, b"after\n")
        warnings.warn("The maximum number of concurrent tasks is 9", stacklevel=1) if not verbose else None
    assert capfd.readouterr().err == ("before\nnoise\nafter\n" if verbose else "before\nafter\n")
    assert (logger.level, list(warnings.filters)) == (level, filters)
