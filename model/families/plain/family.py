"""A plain family (without Q-Former) as an object: its differences as fields, and the loading that all share."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.normalisation import Normalisation
from malmm.model.checkpoints.parts import load_without, tokenizer_for
from malmm.model.families.family import Counts, half_precision
from malmm.model.families.operations import encoder_flop, product_flop
from malmm.model.families.plain.chat import try_template
from malmm.model.families.plain.encoder import PlainEncoder
from malmm.model.families.plain.language import PlainLanguage, Wording
from malmm.model.families.plain.vision import StepVision
from malmm.model.families.registry import image_size, token_shape

__all__ = ["PlainFamily"]

_Parameters = list[tuple[str, torch.nn.Parameter]]


@dataclass(frozen=True)
class PlainFamily:
    """A family of vision encoder, projector and language model.

    ``config_class`` and ``model_class`` are names of transformers' classes. ``prefixes`` are those of the parts in a
    file; ``renamed`` are pairs (regular expression for names in the file, replacement for the class), ``optional``
    tensors that may be absent, ``ignored`` prefixes of unused tensors. ``vision`` loads the vision part from
    (checkpoint, configuration, dtype, side of frames), and ``normalised`` reads mean and deviation of pixels.
    ``without_vision`` empties a configuration's vision part in place, and ``vision_names`` is a regular expression for
    its tensors; ``language_names`` is one for the language model's tensors, ``projector_names`` for the projector's.
    ``wording`` makes the text part from (checkpoint, configuration, tokenizer). ``pools_projected`` means that patches
    are projected before they are pooled.
    """

    name: str
    config_class: str
    model_class: str
    prefixes: tuple[str, ...]
    vision: Callable[[Checkpoint, Any, torch.dtype, int], StepVision]
    normalised: Callable[[Checkpoint], Normalisation]
    without_vision: Callable[[Any], None]
    vision_names: str
    language_names: str
    projector_names: str
    wording: Callable[[Checkpoint, Any, PreTrainedTokenizerBase], Wording]
    renamed: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ("lm_head.weight",)
    ignored: tuple[str, ...] = ()
    frames_per_step: int = 1
    pools_projected: bool = False
    reads_slots: bool = True

    def config(self, checkpoint: Checkpoint) -> Any:
        """A copy of the checkpoint's configuration. Raises CheckpointError, also for tensors that belong to no part."""
        checkpoint.check_prefixes(self.prefixes, optional=self.optional, ignored=self.ignored)
        return copy.deepcopy(checkpoint.parsed(getattr(transformers, self.config_class)))

    def verify(self, checkpoint: Checkpoint) -> None:
        """Compare a checkpoint's tensors with the model's, and read its tokenizer and template.

        Reads only headers of weight files: modules are built on the meta device. Raises CheckpointError.
        """
        config = self.config(checkpoint)
        image_size(checkpoint)
        checkpoint.check(self._whole(checkpoint, config), "", renamed=self.renamed, ignored=self.ignored)
        self.normalised(checkpoint)
        tokenizer = tokenizer_for(checkpoint, int(config.text_config.vocab_size))
        wording = self.wording(checkpoint, config, tokenizer)
        try_template(checkpoint, tokenizer, wording.template, wording.placeholder)

    def parameters(self, checkpoint: Checkpoint) -> Counts:
        """Numbers of parameters of each part, from the configuration. Raises CheckpointError."""
        vision, projector, language = (
            sum(parameter.numel() for _, parameter in part) for part in self._parts(checkpoint)
        )
        return Counts(vision, projector, language)

    def frame_flop(self, checkpoint: Checkpoint) -> int:
        """Operations of a frame in vision encoder and projector. Raises CheckpointError."""
        vision, projector, _ = self._parts(checkpoint)
        config = checkpoint.parsed(getattr(transformers, self.config_class)).vision_config
        patches = (image_size(checkpoint) // config.patch_size) ** 2
        layers = getattr(config, "depth", None) or config.num_hidden_layers
        seen = encoder_flop(vision, patches, layers=layers, width=config.hidden_size)
        rows = patches if self.pools_projected else token_shape(checkpoint)[0]
        return (seen + product_flop(projector, rows)) // self.frames_per_step

    def _whole(self, checkpoint: Checkpoint, config: Any) -> torch.nn.Module:
        """The whole model on the meta device. Raises CheckpointError if transformers cannot build it."""
        try:
            with torch.device("meta"):
                return getattr(transformers, self.model_class)._from_config(config)
        except Exception as error:  # a configuration can fail in as many ways as modules can be built
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(
                f"model {checkpoint.name!r}: no {self.model_class} can be built from its config.json: {reason}"
            ) from error

    def _parts(self, checkpoint: Checkpoint) -> tuple[_Parameters, _Parameters, _Parameters]:
        """Named parameters of vision encoder, projector and language model on the meta device, tied ones once."""
        config = copy.deepcopy(checkpoint.parsed(getattr(transformers, self.config_class)))
        model = self._whole(checkpoint, config)
        parts: tuple[_Parameters, _Parameters, _Parameters] = ([], [], [])
        for name, parameter in model.named_parameters():
            place = 0
            if re.search(self.language_names, name):
                place = 2
            elif re.search(self.projector_names, name):
                place = 1
            parts[place].append((name, parameter))
        return parts

    def load_encoder(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        with_vision: bool = True,
        compile_vision: bool = False,
    ) -> PlainEncoder:
        """Load the vision part, without the language model. Raises CheckpointError, also for ``compile_vision``."""
        if compile_vision:
            raise CheckpointError(
                f"model {checkpoint.name!r}: --compile is for InstructBLIP, not for {self.name}"
            )
        device = torch.device(device)
        config = self.config(checkpoint)
        vision = None
        if with_vision:
            vision = self.vision(checkpoint, config, dtype or half_precision(device), image_size(checkpoint))
        return PlainEncoder(vision).to(device).eval().requires_grad_(False)

    def load_language(
        self, checkpoint: Checkpoint, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> PlainLanguage:
        """Load the language model, with an empty vision part. Raises CheckpointError."""
        device = torch.device(device)
        config = self.config(checkpoint)
        tokenizer = tokenizer_for(checkpoint, int(config.text_config.vocab_size))
        wording = self.wording(checkpoint, config, tokenizer)
        self.without_vision(config)
        kind = getattr(transformers, self.model_class)
        model = load_without(
            checkpoint, kind, config, dtype or half_precision(device), left_out=self.vision_names
        )
        return PlainLanguage(model, tokenizer, wording).to(device).eval().requires_grad_(False)
