"""Recorded training steps and generated texts of the authors' whole model, through the code that ships.

The vision encoder is left out: ``raw_tokens`` [B, T, N, C] are what it gave, before the last layer norm. Names of the
language model's weights are those of Hugging Face's ``LlamaForCausalLM``; positions are by frame number.

The authors' own LLaMA computes in single precision in three places, whatever the model's type: the variance of a norm,
the softmax of attention, and the sines and cosines of positions. So does the language model here for the loss.
The recordings were made with AVX-512. Other vector widths sum in another order, which in single precision is another
last bit: on such a machine errors of loss and gradients up to 2e-6 are rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from malmm.model.conformance.cases import CaseError, largest_error, recorded_qformer, under
from malmm.model.decoding import Decoding
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.positions import FramePositions
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.step import Lesson, Trainee

__all__ = ["check_whole_model", "numbered_tokenizer", "recorded_trainee"]

_PADDING, _END = 0, 2
_GENERATED = "generated."
_ROUNDING = 2e-6


@dataclass(frozen=True)
class _Manner:
    """How a kind of text was generated: beams, length penalty and the maximum length with the begin token."""

    num_beams: int
    length_penalty: float
    max_length: int


_MANNERS = {
    "greedy": _Manner(1, 1.0, 8),
    "caption": _Manner(5, 1.0, 8),
    "classes": _Manner(5, 1.0, 5),
    "answer": _Manner(5, 0.0, 10),
}
# Names in the files and in ``Trainee``.
_RENAMED = (
    ("image_pe.", "positions."),
    ("ln_vision.", "norm."),
    ("query_tokens", "qformer.query_tokens"),
    ("qformer.", "qformer.qformer."),
    ("language_projection.", "language.projection."),
)


def check_whole_model(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[CaseError]:
    """Errors of the loss and of its gradients, and the number of generated tokens that differ.

    Compares what the file holds. Raises ValueError for a kind of text whose settings are not known, and where the file
    holds nothing to compare.
    """
    manners = {key.removeprefix(_GENERATED) for key in tensors if key.startswith(_GENERATED)}
    if unknown := sorted(manners - _MANNERS.keys()):
        raise ValueError(f"generated.{unknown[0]} is of no known kind: {', '.join(_MANNERS)}")
    gradients = under(tensors, "grad.")
    if not (manners or gradients or "loss" in tensors):
        raise ValueError("it holds no loss, gradient or generated text to compare with")
    trainee = recorded_trainee(tensors, metadata)
    settings = MemorySettings(length=int(metadata["M"]))
    if "loss" in tensors or gradients:
        yield from _check_training(name, tensors, gradients, trainee, settings)
    for manner in sorted(manners):
        theirs = tensors[_GENERATED + manner]
        ours = _generated(tensors, metadata, trainee, settings, manner)
        error = float((ours != theirs).sum()) if ours.shape == theirs.shape else float("inf")
        yield CaseError(name, f"{_GENERATED}{manner}", error)


def recorded_trainee(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Trainee:
    """The recorded model in float64, from the weights of a file and the sizes in its metadata."""
    language = under(tensors, "weights.language_model.")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=int(metadata["llm_vocab"]),
            hidden_size=int(metadata["llm_hidden"]),
            intermediate_size=language["model.layers.0.mlp.gate_proj.weight"].shape[0],
            num_hidden_layers=int(metadata["llm_layers"]),
            num_attention_heads=int(metadata["llm_heads"]),
            tie_word_embeddings=False,
        )
    ).to(torch.float64)
    model.load_state_dict(language, strict=True)
    for name, part in list(model.named_modules()):
        if isinstance(part, LlamaRMSNorm):
            model.set_submodule(name, _SingleVariance(part))
    norm = nn.LayerNorm(int(metadata["enc"]), eps=float(metadata["ln_vision_eps"])).to(torch.float64)
    norm.load_state_dict(under(tensors, "weights.ln_vision."), strict=True)
    projection = nn.Linear(int(metadata["hidden"]), int(metadata["llm_hidden"])).to(torch.float64)
    projection.load_state_dict(under(tensors, "weights.language_projection."), strict=True)
    qformer = recorded_qformer(under(tensors, "weights.qformer."), tensors["weights.query_tokens"], metadata)
    positions = FramePositions(tensors["weights.image_pe.weight"].to(torch.float64))
    tokenizer = numbered_tokenizer(int(metadata["llm_vocab"]))
    return Trainee(norm, positions, qformer, LanguageModel(projection, model, tokenizer)).eval()


class _SingleVariance(nn.Module):
    """A norm that takes the variance in single precision and scales the states in theirs."""

    def __init__(self, norm: LlamaRMSNorm) -> None:
        super().__init__()
        self.weight = norm.weight
        self.epsilon = norm.variance_epsilon

    def forward(self, states: Tensor) -> Tensor:
        variance = states.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (states * torch.rsqrt(variance + self.epsilon))


def numbered_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are their own ids as digits: recorded texts are ids."""
    vocabulary = {str(number): number for number in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token=str(_PADDING))),
        eos_token=str(_END),
        pad_token=str(_PADDING),
    )


def _lesson(tensors: dict[str, Tensor]) -> Lesson:
    return Lesson(
        raw_tokens=tensors["raw_tokens"].to(torch.float64),
        qformer_ids=tensors["qformer_input_ids"],
        qformer_mask=tensors["qformer_attention_mask"],
        prompt_ids=tensors["llm_input_ids"],
        prompt_mask=tensors["llm_attention_mask"],
        answer_ids=tensors["output_ids"],
        answer_mask=tensors["output_attention_mask"],
    )


def _check_training(
    name: str,
    tensors: dict[str, Tensor],
    gradients: dict[str, Tensor],
    trainee: Trainee,
    settings: MemorySettings,
) -> Iterator[CaseError]:
    rounding = 0.0 if torch.backends.cpu.get_cpu_capability() == "AVX512" else _ROUNDING
    trainee.freeze()
    # This one takes the softmax in single precision. It fails for places that see nothing, such as the padding in front
    # of prompts when texts are generated.
    trainee.language.model.set_attn_implementation("eager")
    loss = trainee.loss(_lesson(tensors), settings)
    loss.backward()
    trainee.language.model.set_attn_implementation("sdpa")
    if "loss" in tensors:
        yield CaseError(name, "loss", largest_error(loss.detach()[None], tensors["loss"]), rounding)
    if not gradients:
        return
    theirs = {_renamed(key): value for key, value in gradients.items()}
    ours = {
        key: parameter.grad for key, parameter in trainee.named_parameters() if parameter.grad is not None
    }
    errors = [
        largest_error(ours.get(key, torch.zeros_like(theirs[key])), theirs[key])
        if key in theirs
        else float(ours[key].abs().max())
        for key in theirs.keys() | ours.keys()
    ]
    yield CaseError(name, f"{len(theirs)} gradients", max(errors), rounding)


def _renamed(key: str) -> str:
    for theirs, ours in _RENAMED:
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


@torch.inference_mode()
def _generated(
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    trainee: Trainee,
    settings: MemorySettings,
    manner: str,
) -> Tensor:
    theirs, how = tensors[_GENERATED + manner], _MANNERS[manner]
    ids, mask = tensors["generate_llm_input_ids"], tensors["generate_llm_attention_mask"]
    output = trainee.query_output(_lesson(tensors), settings)
    decoding = Decoding.of_lengths(
        max(how.max_length, theirs.shape[1]),
        begin_token=int(theirs[0, 0]),
        num_beams=how.num_beams,
        repetition_penalty=float(metadata["repetition_penalty"]),
        length_penalty=how.length_penalty,
        returned=len(theirs) // len(ids),
    )
    prompts = [row[present.bool()].tolist() for row, present in zip(ids, mask, strict=True)]
    return trainee.language.generate_ids(output, prompts, decoding)
