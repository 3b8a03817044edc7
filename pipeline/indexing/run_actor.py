"""The one actor of a run beside those with models. It holds what the run's tasks ask: file queue and host desk.

Every actor is a process that loads Ray and Arrow, for more than a second of CPU time, so one holds both.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from malmm.pipeline.schema.errors import RunLost

__all__ = ["Held", "RunActor", "endless"]

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)


class Held:
    """The actor itself: objects by name."""

    def __init__(self, name: str, kind: Callable[..., Any], *arguments: Any) -> None:
        self._objects = {name: kind(*arguments)}

    def make(self, name: str, kind: Callable[..., Any], *arguments: Any) -> None:
        """Make an object, unless there is one of that name."""
        if name not in self._objects:
            self._objects[name] = kind(*arguments)

    def here(self) -> None:
        """Answer that the actor is there."""

    def ask(self, name: str, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of an object. Raises what that raises."""
        return getattr(self._objects[name], method)(*arguments, **options)


class RunActor:
    """The actor of a run, on the driver's machine, started with the first object. Can be pickled to workers after that.

    Raises RunLost once the actor is gone, on workers too: then the run cannot go on. What waits in the queue could be
    listed again, but the files at a position could not: tasks that Ray runs again must get the same ones.
    """

    def __init__(self) -> None:
        self._actor: Any = None

    def make(self, name: str, kind: Callable[..., Any], *arguments: Any) -> None:
        """Make an object in the actor, by a class that workers can import."""
        if self._actor is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
            self._actor = ray.remote(**options)(Held).remote(name, kind, *arguments)
        else:
            self._called("make", name, kind, *arguments)

    def ask(self, name: str, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of an object in the actor. All calls may safely arrive twice."""
        return self._called("ask", name, method, *arguments, **options)

    def check(self) -> None:
        """Raise RunLost if the actor is gone."""
        if self._actor is not None:
            self._called("here")

    def tell(self, name: str, method: str) -> None:
        """Call a method of an object in the actor, and wait for nothing."""
        self._actor.ask.remote(name, method)

    def end(self) -> None:
        """End the actor: tasks that still wait for an answer fail."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _called(self, what: str, *arguments: Any, **options: Any) -> Any:
        """Call the actor, and call again while it cannot be reached."""
        for pause_s in endless(_PAUSES_S):
            try:
                return ray.get(getattr(self._actor, what).remote(*arguments, **options))
            except ActorUnavailableError:
                time.sleep(pause_s)
            except RayActorError as error:
                raise RunLost(
                    "the actor that hands files and models to the workers is gone, with what it held; what was "
                    f"committed stays: run again to go on ({' '.join(str(error).split())})"
                ) from error
        raise AssertionError("endless")


def endless(pauses_s: Sequence[float]) -> Iterator[float]:
    """These pauses, and the last one again and again."""
    return itertools.chain(pauses_s, itertools.repeat(pauses_s[-1]))
