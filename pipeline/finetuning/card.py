"""What a fine-tuned checkpoint says of itself: its README, and the history of its training."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.registry import row_of
from malmm.model.training.loop import State
from malmm.pipeline.finetuning.work import Job

__all__ = ["card", "history_lines"]

_TRAINED = {
    "frozen": "Q-Former, queries, projection, last layer norm of the vision encoder and positions",
    "lora": "the language model, by low-rank adapters of rank {rank}, which are added to its weights",
    "full": "the language model",
}


def card(job: Job, base: Checkpoint, state: State, data_sha256: str) -> str:
    """The README, in Markdown: what it was trained on and how, and how well it answers what was held back."""
    config, examples = job.config, job.examples
    trained = _TRAINED[config.language or "frozen"].format(rank=config.rank)
    if not row_of(base).reads_slots and config.language != "frozen":
        trained = f"{_TRAINED['frozen']}, and {trained}"
    name = Path(config.output).name
    kept = "the last step" if state.best is None else f"step {state.best.step}, the best by {config.metric}"
    lines = [
        f"# {name}",
        "",
        f"`{config.model}` ({row_of(base).name}), fine-tuned by `malmm finetune` of malmm-ray {version('malmm-ray')} "
        f"on {datetime.now(UTC):%Y-%m-%d}. Its licence is the base's.",
        "",
        f"- Data: `{Path(config.data).name}` (SHA-256 {data_sha256[:16]}): {len(examples.train)} examples of "
        f"{examples.videos} videos.",
        f"- Held back: {len(examples.val)} rows to choose the weights, {examples.test} for an evaluation.",
        f"- Trained: {trained}. All else is the base's.",
        f"- Steps: {state.step} of {config.batch} examples; the weights are those of {kept}.",
        f"- Recipe: AdamW, learning rate {config.rate:g}, weight decay {config.decay:g}, warm-up and a cosine; "
        f"{config.fps:g} frames a second, at most {config.frames}; bank length {config.bank_length}, policy "
        f"{config.merge_policy}; seed {config.seed}.",
    ]
    if state.points:
        lines += ["", "| step | loss | held back: right | held back: loss |", "|---|---|---|---|"]
        for point in state.points:
            right = "" if point.accuracy is None else f"{point.accuracy:.1%}"
            held = "" if point.held_back_loss is None else f"{point.held_back_loss:.3f}"
            lines.append(f"| {point.step} | {point.loss:.3f} | {right} | {held} |")
    lines += ["", "`training/` has each step's loss (`history.jsonl`) and a picture of them (`curve.svg`)."]
    return "\n".join(lines) + "\n"


def history_lines(state: State) -> str:
    """A JSON line for each step with its loss, and for each measurement."""
    points = {point.step: point for point in state.points}
    lines = []
    for number, loss in enumerate(state.losses, 1):
        row: dict[str, float | int] = {"step": number, "loss": loss}
        point = points.get(number)
        if point is not None and point.accuracy is not None and point.held_back_loss is not None:
            row |= {"accuracy": point.accuracy, "held_back_loss": point.held_back_loss}
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"
