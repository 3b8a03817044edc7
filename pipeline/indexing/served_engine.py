"""Whether a vLLM server can write a run's texts: asked before the run divides its work."""

from __future__ import annotations

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.engines import server_of
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["check_engine"]


def check_engine(engine: str, checkpoint: Checkpoint, decoding: str) -> None:
    """Raise ConfigError for an engine that cannot write texts of this checkpoint with the recipe's ``decoding``.

    Asks the server what it serves, and for one token. Does nothing for the workers' own engine.
    """
    address = server_of(engine)
    if not address:
        return
    # Loads torch.
    from malmm.model.decoding import Decoding
    from malmm.model.generation.language_checkpoint import served_config
    from malmm.model.generation.vllm_engine import is_served
    from malmm.model.generation.vllm_server import ServerError, VllmServer, served_name

    settings = TextSettings.from_text(decoding)
    drawn = Decoding(
        num_beams=settings.beams,
        begin_token=settings.begin_token,
        repetition_penalty=settings.repetition_penalty,
    )
    if not is_served(drawn):
        raise ConfigError(
            f"--engine {engine}: it writes greedy texts, and these have --beams, --repetition-penalty or --begin-token"
        )
    try:
        width = int(served_config(checkpoint).hidden_size)
        VllmServer(address, served_name(checkpoint)).check(width)
    except (CheckpointError, ServerError) as error:
        raise ConfigError(f"--engine {engine}: {error}") from error
