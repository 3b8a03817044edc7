"""A training's losses and measurements as event files for TensorBoard, by the library tensorboardX."""

from __future__ import annotations

from malmm.model.training.loop import State

__all__ = ["EventFiles"]


class EventFiles:
    """Event files in ``folder``. Raises ImportError where tensorboardX is not installed."""

    def __init__(self, folder: str) -> None:
        # An extra.
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(folder)
        self._losses = self._points = 0

    def follow(self, state: State) -> None:
        """Write what is new of a training."""
        for number in range(self._losses, len(state.losses)):
            self._writer.add_scalar("loss", state.losses[number], number + 1)
        for point in state.points[self._points :]:
            if point.accuracy is not None and point.held_back_loss is not None:
                self._writer.add_scalar("held back/right", point.accuracy, point.step)
                self._writer.add_scalar("held back/loss", point.held_back_loss, point.step)
        self._losses, self._points = len(state.losses), len(state.points)
        self._writer.flush()
