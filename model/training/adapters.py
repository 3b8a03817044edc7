"""What of a language model is trained: nothing, low-rank adapters (LoRA), or all of it.

LoRA is Hu et al., 2022 (arXiv 2106.09685), by the library peft. When training ends, adapters are added to the weights
that they belong to, so that what is saved is an ordinary checkpoint.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LanguageTraining"]

_ADAPTER = "default"


class LanguageTraining:
    """Prepares the parts of ``model`` whose names match the regular expression ``names`` for training.

    All other parameters are frozen. ``how`` is one of ``malmm.model.training.choices.LANGUAGE``, ``rank`` that of the
    adapters, which begin with ``seed``. Raises ImportError for adapters where peft is not installed.
    """

    def __init__(self, model: Any, how: str, *, names: str = "", rank: int = 16, seed: int = 0) -> None:
        self.model, self.how, self.names = model, how, re.compile(names)
        model.requires_grad_(False)
        if how == "full":
            # Steps are smaller than half precision can add.
            for name, parameter in model.named_parameters():
                if self.names.search(name):
                    parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
                    parameter.requires_grad_(True)
        elif how == "lora":
            self._inject(rank, seed)

    def _inject(self, rank: int, seed: int) -> None:
        # An extra, which takes seconds to load.
        from peft import LoraConfig, inject_adapter_in_model

        head = self.model.get_output_embeddings()
        targets = [
            name
            for name, part in self.model.named_modules()
            if isinstance(part, nn.Linear) and part is not head and self.names.search(f"{name}.")
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            settings = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets)
            inject_adapter_in_model(settings, self.model, adapter_name=_ADAPTER)

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """Weights that training changed, under the names that the model had before, adapters added."""
        if self.how == "full":
            return {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        if self.how == "frozen":
            return {}
        from peft.tuners.lora import LoraLayer

        return {
            f"{name}.weight": part.get_base_layer().weight + part.get_delta_weight(_ADAPTER)
            for name, part in self.model.named_modules()
            if isinstance(part, LoraLayer)
        }
