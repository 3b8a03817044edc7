"""The InstructBLIP family, with Vicuna and with FLAN-T5."""

from __future__ import annotations

import torch
from transformers import InstructBlipConfig

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.family import Counts
from malmm.model.families.instructblip.encoder import INSTRUCTBLIP_OPTIONAL, INSTRUCTBLIP_PREFIXES, Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.meta import meta_parts
from malmm.model.families.operations import encoder_flop
from malmm.model.memory.positions import table_rows

__all__ = ["FAMILY", "InstructBlipFamily"]


class InstructBlipFamily:
    """Frozen image encoder, Q-Former with both banks, language model."""

    reads_slots = False
    frames_per_step = 1

    def verify(self, checkpoint: Checkpoint) -> None:
        """Compare a checkpoint's tensors with the model's, reading only headers. Raises CheckpointError."""
        checkpoint.check_prefixes(INSTRUCTBLIP_PREFIXES, optional=INSTRUCTBLIP_OPTIONAL)
        config = checkpoint.parsed(InstructBlipConfig)
        for name, part in meta_parts(config).items():
            if name != "query_tokens":
                checkpoint.check(part, f"{name}.")
        table_rows(checkpoint, int(config.qformer_config.encoder_hidden_size))
        checkpoint.tokenizer()
        checkpoint.tokenizer("qformer_tokenizer")

    def parameters(self, checkpoint: Checkpoint) -> Counts:
        """Numbers of parameters of image encoder, of Q-Former with projection, and of language model."""
        config = checkpoint.parsed(InstructBlipConfig)
        parts = meta_parts(config)
        queries = parts.pop("query_tokens").numel()
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        language = counts.pop("language_model")
        text = config.text_config
        if not getattr(text, "scale_decoder_outputs", True):
            # T5 1.1, which FLAN-T5 is: transformers ties its output layer to the embeddings by configuration,
            # and unties it when it loads weights that hold both.
            language += text.vocab_size * text.d_model
        return Counts(counts.pop("vision_model"), sum(counts.values()) + queries, language)

    def frame_flop(self, checkpoint: Checkpoint) -> int:
        """Operations of a frame in the image encoder; those of the Q-Former depend on banks and prompts."""
        config = checkpoint.parsed(InstructBlipConfig).vision_config
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        vision = meta_parts(checkpoint.parsed(InstructBlipConfig))["vision_model"]
        return encoder_flop(
            vision.named_parameters(), tokens, layers=config.num_hidden_layers, width=config.hidden_size
        )

    def load_encoder(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        with_vision: bool = True,
        compile_vision: bool = False,
    ) -> Encoder:
        """Image encoder and Q-Former, without the language model. Raises CheckpointError and CompileError."""
        return Encoder.load(checkpoint, device=device, with_vision=with_vision, compile_vision=compile_vision)

    def load_language(
        self, checkpoint: Checkpoint, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> LanguageModel:
        """The language model and its projection. Raises CheckpointError."""
        return LanguageModel.load(checkpoint, device=device, dtype=dtype)


FAMILY = InstructBlipFamily()
