"""The ways in which a clip can be watched before questions about it are answered."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WATCHING", "Way"]

#: What a way watches: the bank over all frames; as many single frames as the bank has slots, evenly spread or the last
#: ones; all frames, each a slot; captions of pieces of the clip; captions in front of a bank.
WATCHING = ("bank", "uniform", "last", "all", "captions", "captions+bank")


@dataclass(frozen=True)
class Way:
    """A way of watching: one of ``WATCHING``, with a bank of ``length`` slots.

    For captions the clip is cut into ``pieces``, each of which is described (``describe`` is the prompt) with a bank of
    this length. The notes have at most as many tokens as the bank's memory has in the language model. In front of the
    bank of a family that reads slots, both have half. Raises ValueError for another way.
    """

    watching: str
    length: int
    policy: str = "token"
    pieces: int = 4
    describe: str = "Describe the video."

    def __post_init__(self) -> None:
        if self.watching not in WATCHING:
            raise ValueError(f"{self.watching!r} is not one of {', '.join(WATCHING)}")

    @property
    def reads_notes(self) -> bool:
        """Whether captions are read."""
        return self.watching.startswith("captions")
