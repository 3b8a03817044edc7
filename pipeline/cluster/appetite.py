"""How many decoders a GPU is worth: what its encoder eats, against what one core decodes.

More decoders than that would fill the object store and hold CPUs that other jobs could use. Both rates are estimates
(docs/cost.md). The limit leans to too many decoders, for an idle GPU costs more than an idle core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf

from malmm.pipeline.cluster.cards import CARDS, UNKNOWN
from malmm.pipeline.cluster.placement import counted
from malmm.pipeline.cluster.resources import Node, Resources

__all__ = ["Appetite"]

# Of the data sheet's figure, as encoders usually reach (docs/cost.md).
_REACHED = 0.4
# Seconds of video that one core decodes in a second: 1080p, and 360p on an idle machine (docs/decoding.md).
_SLOW_VIDEO_S, _FAST_VIDEO_S = 15.0, 109.0
_KEYFRAMES_FASTER = 10.0


@dataclass(frozen=True)
class Appetite:
    """What encoders of a run eat: ``frame_flop`` returns the operations of a frame, of which there are ``fps`` a second
    of video; with ``keyframes`` only key frames are decoded.

    ``frame_flop`` is called once, and only if there are GPUs.
    """

    frame_flop: Callable[[], int]
    fps: float
    keyframes: bool = False

    @cached_property
    def _flop(self) -> int:
        return self.frame_flop()

    def cores_a_gpu(self, card: str = "", *, video_s_a_core: float = _SLOW_VIDEO_S) -> float:
        """Cores that decode as fast as a ``card`` (Ray's name of it) encodes; infinite if encoding costs nothing.

        A core decodes ``video_s_a_core`` seconds of video a second.
        """
        if not self._flop:
            return inf
        frames_s = _REACHED * 1e12 * CARDS.get(card, UNKNOWN).tflops / self._flop
        return frames_s / self.fps / video_s_a_core / (_KEYFRAMES_FASTER if self.keyframes else 1.0)

    def limited(self, resources: Resources, nodes: Sequence[Node]) -> Resources:
        """The resources with no more decoders than the GPUs of these nodes eat, and at least one a GPU."""
        if not resources.encode_gpus or not any(node.gpus >= 1 for node in nodes):
            return resources
        cores = sum(int(node.gpus) * self.cores_a_gpu(node.card) for node in nodes if node.gpus >= 1)
        if cores == inf:
            return resources
        most = max(resources.encode_workers, ceil(cores / max(1.0, resources.decode_cpus)))
        return replace(resources, decode_workers=min(resources.decode_workers, most))

    def note(self, resources: Resources, nodes: Sequence[Node]) -> str:
        """One sentence if the CPUs cannot feed the GPUs, even if all videos are small; else empty."""
        cards = [node.card for node in nodes for _ in range(int(node.gpus))]
        if not resources.encode_gpus or not all(card in CARDS for card in cards):
            return ""
        # A share of the cluster has the first of them.
        cards = cards[: ceil(resources.encode_workers * max(1.0, resources.encode_gpus))]
        cores = sum(self.cores_a_gpu(card, video_s_a_core=_FAST_VIDEO_S) for card in cards)
        there = resources.decode_workers * resources.decode_cpus
        if cores == inf or there >= cores:
            return ""
        return (
            f"{counted(len(cards), 'GPU')} will wait for decoding: they eat what some {ceil(cores)} cores decode of "
            f"small videos, and there are {there:g}; add nodes with CPUs, or decode less with --sampling keyframes"
        )
