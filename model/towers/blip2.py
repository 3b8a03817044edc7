"""Vectors that can be searched with words, from a BLIP-2 image-text model on the visual tokens in memory.

InstructBLIP has no contrastive head. ``Blip2ForImageTextRetrieval`` was trained on the same frozen image
encoder (Li et al., 2023, arXiv 2301.12597), and its score of a picture and a text is the largest of the 32
query vectors' cosines with one text vector. So a memory slot's tokens go through that model's Q-Former once.

The two models differ in the layer norm after the image encoder. Both are affine in the same normalised
vector, so one maps to the other exactly, and a weighted mean of tokens maps like a token. Whether the image
encoders are equal is checked from the two checkpoints' weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2Config, Blip2QFormerModel, InstructBlipConfig, PreTrainedTokenizerBase
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.vocabulary import check_vocabulary, within_table

__all__ = ["RETRIEVAL_PREFIXES", "RetrievalModel", "check_same_vision"]

RETRIEVAL_PREFIXES = (
    "vision_model.",
    "query_tokens",
    "embeddings.",
    "qformer.",
    "vision_projection.",
    "text_projection.",
    "itm_head.",
)
_NORM = "vision_model.post_layernorm."


def check_same_vision(instructblip: Checkpoint, retrieval: Checkpoint) -> None:
    """Raise CheckpointError if the two checkpoints have different image encoders.

    Weights are compared in the narrower of their two types, since publishers store the same training run in half
    and in single precision. The last layer norm may differ.
    """
    ours = [key for key in instructblip.keys("vision_model.") if not key.startswith(_NORM)]
    theirs = [key for key in retrieval.keys("vision_model.") if not key.startswith(_NORM)]
    if ours != theirs:
        odd = sorted(set(ours) ^ set(theirs))
        raise CheckpointError(
            f"retrieval model {retrieval.name!r} has another image encoder than {instructblip.name!r}: "
            f"{len(odd)} tensors are in one only, such as {odd[0]}"
        )
    for key in ours:
        a, b = instructblip.tensor(key), retrieval.tensor(key)
        narrow = min(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).bits)
        if a.shape != b.shape or not torch.equal(a.to(narrow), b.to(narrow)):
            raise CheckpointError(
                f"retrieval model {retrieval.name!r} has another image encoder than {instructblip.name!r}: "
                f"{key} differs, so its vectors would not describe these tokens. Use the retrieval model that "
                "was trained on the same image encoder, or --retrieval-model none"
            )
    a_config = instructblip.parsed(InstructBlipConfig).vision_config
    b_config = retrieval.parsed(Blip2Config).vision_config
    for name in ("layer_norm_eps", "num_attention_heads", "hidden_act"):
        mine, other = getattr(a_config, name), getattr(b_config, name)
        if mine != other:
            raise CheckpointError(
                f"retrieval model {retrieval.name!r} has another image encoder than {instructblip.name!r}: "
                f"its {name} is {other!r}, not {mine!r}"
            )


class RetrievalModel(nn.Module):
    """The Q-Former, text tower and matching head of a BLIP-2 image-text model, without its image encoder."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, config: Blip2Config, tokenizer: PreTrainedTokenizerBase, queries: Tensor, *, with_images: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        qformer = config.qformer_config
        self.query_tokens = nn.Parameter(queries)
        self.embeddings = Blip2TextEmbeddings(qformer)
        self.qformer = Blip2QFormerModel(qformer)
        self.vision_projection = nn.Linear(qformer.hidden_size, config.image_text_hidden_size)
        self.text_projection = nn.Linear(qformer.hidden_size, config.image_text_hidden_size)
        self.itm_head = nn.Linear(qformer.hidden_size, 2)
        self.with_images = with_images
        channels = int(config.vision_config.hidden_size)
        self.register_buffer("scale", torch.ones(channels), persistent=False)
        self.register_buffer("shift", torch.zeros(channels), persistent=False)

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        instructblip: Checkpoint | None = None,
        check_vision: bool = True,
        device: torch.device | str = "cpu",
    ) -> RetrievalModel:
        """Load for tokens of ``instructblip``'s image encoder, or without it for text vectors alone.

        ``check_vision`` compares the two image encoders, which reads all of their weights; a caller that has already
        called ``check_same_vision`` may switch it off.

        Raises CheckpointError, also when the two image encoders differ.
        """
        checkpoint.check_prefixes(RETRIEVAL_PREFIXES)
        config = checkpoint.parsed(Blip2Config)
        queries = checkpoint.tensor("query_tokens").to(torch.float32)
        if queries.ndim != 3 or queries.shape[2] != config.qformer_config.hidden_size:
            raise CheckpointError(
                f"retrieval model {checkpoint.name!r} has query_tokens {list(queries.shape)}, "
                f"not [1, Q, {config.qformer_config.hidden_size}]"
            )
        model = cls(config, checkpoint.tokenizer(), queries, with_images=instructblip is not None)
        check_vocabulary(checkpoint, model.tokenizer, int(config.qformer_config.vocab_size), "text table")
        for name in ("embeddings", "qformer", "vision_projection", "text_projection", "itm_head"):
            checkpoint.fill(getattr(model, name), f"{name}.")
        if instructblip is not None:
            if check_vision:
                check_same_vision(instructblip, checkpoint)
            model._map_norm(instructblip, checkpoint)
        return model.to(device).eval().requires_grad_(False)

    def _map_norm(self, instructblip: Checkpoint, retrieval: Checkpoint) -> None:
        ours_weight = instructblip.tensor(f"{_NORM}weight").double()
        theirs_weight = retrieval.tensor(f"{_NORM}weight").double()
        if bool((ours_weight.abs() < 1e-6 * ours_weight.abs().max()).any()):
            raise CheckpointError(
                f"model {instructblip.name!r} scales a visual channel to nothing in its last layer norm, so its "
                f"tokens cannot be mapped to those of {retrieval.name!r}"
            )
        scale = theirs_weight / ours_weight
        ours_bias = instructblip.tensor(f"{_NORM}bias").double()
        shift = retrieval.tensor(f"{_NORM}bias").double() - ours_bias * scale
        self.scale.copy_(scale)
        self.shift.copy_(shift)

    @property
    def vector_size(self) -> int:
        """Length of a retrieval vector: 256 for the published models."""
        return int(self.config.image_text_hidden_size)

    def _mapped(self, tokens_SNC: Tensor) -> Tensor:
        if not self.with_images:
            raise ValueError("this retrieval model was loaded for text only")
        return tokens_SNC.to(self.scale.device, self.scale.dtype) * self.scale + self.shift

    @torch.inference_mode()
    def slot_vectors(self, tokens: Tensor) -> Tensor:
        """Unit vectors [S, Q, V] of memory slots ``tokens`` [S, N, C]."""
        mapped_SNC = self._mapped(tokens)
        queries = self.query_tokens.expand(len(mapped_SNC), -1, -1)
        hidden = self.qformer(query_embeds=queries, encoder_hidden_states=mapped_SNC).last_hidden_state
        return F.normalize(self.vision_projection(hidden), dim=-1)

    def _text_inputs(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        longest = int(self.config.qformer_config.max_position_embeddings)
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        rows = int(self.config.qformer_config.vocab_size)
        input_ids = within_table(batch["input_ids"], rows, self.tokenizer.unk_token_id)
        return input_ids.to(self.scale.device), batch["attention_mask"].to(self.scale.device)

    @torch.inference_mode()
    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [B, V] of texts; one is compared with all of a slot's by cosine."""
        input_ids, attention_mask = self._text_inputs(texts)
        hidden = self.qformer(
            query_embeds=self.embeddings(input_ids=input_ids), query_length=0, attention_mask=attention_mask
        ).last_hidden_state
        return F.normalize(self.text_projection(hidden[:, 0]), dim=-1)

    @torch.inference_mode()
    def match(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """Probability [S] that slot s of ``tokens`` [S, N, C] and ``texts[s]`` belong together.

        The image-text matching head, which looks at both at once: slower and sharper than cosines.
        """
        mapped_SNC = self._mapped(tokens)
        input_ids, attention_mask = self._text_inputs(texts)
        queries = self.query_tokens.expand(len(mapped_SNC), -1, -1)
        present = attention_mask.new_ones(queries.shape[:2])
        hidden = self.qformer(
            query_embeds=self.embeddings(input_ids=input_ids, query_embeds=queries),
            query_length=queries.shape[1],
            attention_mask=torch.cat([present, attention_mask], dim=1),
            encoder_hidden_states=mapped_SNC,
        ).last_hidden_state[:, : queries.shape[1]]
        return self.itm_head(hidden).mean(dim=1).softmax(-1)[:, 1]
