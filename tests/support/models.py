"""Plain references for MA-LMM and helpers around debug-size checkpoints.

``PlainBank`` and ``plain_pass`` follow the paper and nothing else: memory is a list, every frame projects the
whole bank and computes every similarity again, a row at a time. They share no code with what they check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.memory.positions import FramePositions, TimePositions

MERGING = ("token", "frame", "average")
BOUNDED = (*MERGING, "fifo")


class PlainBank:
    """One row's memory: a list of (tokens [N, C], sizes [N], first [N]) in time order.

    ``covers`` are the appended ordinals that each entry holds, for policies that merge whole entries.
    """

    def __init__(self, length: int, policy: str = "token") -> None:
        self.length = length
        self.policy = policy
        self.entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.covers: list[set[int]] = []
        self.appended = 0

    def append(
        self, tokens: np.ndarray, sizes: np.ndarray | None = None, first: np.ndarray | None = None
    ) -> None:
        if self.policy != "none" and self.length and len(self.entries) > self.length:
            self.compress()
        if not self.length:
            self.entries, self.covers = [], []
        count = np.ones(len(tokens)) if sizes is None else np.asarray(sizes, dtype=np.float64)
        begin = np.full(len(tokens), self.appended) if first is None else first
        self.entries.append((tokens, count, begin))
        self.covers.append({self.appended})
        self.appended += 1

    def finish(self) -> None:
        if self.policy != "none" and self.length and len(self.entries) > self.length:
            self.compress()

    @property
    def tokens(self) -> np.ndarray:
        return np.stack([entry[0] for entry in self.entries])

    @property
    def sizes(self) -> np.ndarray:
        return np.stack([entry[1] for entry in self.entries])

    @property
    def first(self) -> np.ndarray:
        return np.stack([entry[2] for entry in self.entries])

    def compress(self) -> None:
        if self.policy == "fifo":
            del self.entries[0]
            return
        if self.policy == "episode":
            self.join_any_two()
            return
        tokens, sizes, first = self.tokens, self.sizes, self.first
        before, after = tokens[:-1], tokens[1:]
        cosines = (before * after).sum(-1) / (
            np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
        )
        positions = tokens.shape[1]
        columns = []
        for n in range(positions):
            if self.policy == "token":
                pair = int(cosines[:, n].argmax())
            elif self.policy == "frame":
                pair = int(cosines.mean(axis=1).argmax())
            else:
                pair = int((sizes[:-1, n] + sizes[1:, n]).argmin())
            column = [(tokens[s, n], sizes[s, n], first[s, n]) for s in range(len(tokens))]
            (a, a_size, a_first), (b, b_size, _) = column[pair], column[pair + 1]
            merged = (a * a_size + b * b_size) / (a_size + b_size)
            column[pair : pair + 2] = [(merged, a_size + b_size, a_first)]
            columns.append(column)
        self.entries = [
            tuple(np.stack([np.asarray(column[s][k]) for column in columns]) for k in range(3))  # type: ignore[misc]
            for s in range(len(tokens) - 1)
        ]

    def join_any_two(self) -> None:
        """HERMES's episodic compressor, its mean weighted by frames: the most similar two entries of all."""
        tokens, sizes = self.tokens, self.sizes
        unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
        best, pair = -np.inf, (0, 1)
        for earlier in range(len(tokens)):
            for later in range(earlier + 1, len(tokens)):
                alike = (unit[earlier] * unit[later]).sum(-1).mean()
                if alike > best:
                    best, pair = alike, (earlier, later)
        earlier, later = pair
        total = sizes[earlier] + sizes[later]
        merged = tokens[earlier] * sizes[earlier][:, None] + tokens[later] * sizes[later][:, None]
        self.entries[earlier] = (merged / total[:, None], total, self.entries[earlier][2])
        del self.entries[later]
        self.covers[earlier] |= self.covers.pop(later)


def random_qformer(seed: int, **sizes: int) -> InstructBlipQFormerModel:
    """A float64 Q-Former with weights large enough that every part of it matters."""
    config = InstructBlipQFormerConfig(
        vocab_size=sizes.get("vocab", 30),
        hidden_size=sizes.get("hidden", 16),
        num_hidden_layers=sizes.get("layers", 3),
        num_attention_heads=sizes.get("heads", 2),
        intermediate_size=sizes.get("inter", 24),
        encoder_hidden_size=sizes.get("enc", 12),
        cross_attention_frequency=sizes.get("cross_attention_frequency", 2),
        max_position_embeddings=sizes.get("positions", 16),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = InstructBlipQFormerModel(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if name.lower().endswith("layernorm.weight"):
                parameter += 1
    return model.requires_grad_(False)


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def _attention(
    weights: Mapping[str, Tensor],
    name: str,
    x: Tensor,
    memory: Tensor,
    present: Tensor,
    heads: int,
    eps: float,
) -> Tensor:
    """Attention of ``x`` [X, D] over ``memory`` [Y, C], of which only ``present`` [Y] is looked at."""

    def split(y: Tensor) -> Tensor:
        return y.reshape(len(y), heads, -1).transpose(0, 1)

    q = split(_linear(weights, f"{name}.attention.query", x))
    k = split(_linear(weights, f"{name}.attention.key", memory))
    v = split(_linear(weights, f"{name}.attention.value", memory))
    scores = q @ k.transpose(1, 2) / (q.shape[-1] ** 0.5)
    scores = scores.masked_fill(~present, -torch.inf)
    context = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
    return _norm(
        weights, f"{name}.output.LayerNorm", _linear(weights, f"{name}.output.dense", context) + x, eps
    )


def plain_pass(
    weights: Mapping[str, Tensor],
    config: InstructBlipQFormerConfig,
    query_tokens: Tensor,
    frames: Tensor,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    length: int,
    policy: str = "token",
    visual: bool = True,
    query: bool = True,
) -> tuple[Tensor, PlainBank]:
    """One segment under one prompt: outputs [T, Q + L, D] and the visual bank after the last frame.

    ``query_tokens`` [Q, D], ``frames`` [T, N, C], ``input_ids`` and ``attention_mask`` [L].
    """
    eps, heads = config.layer_norm_eps, config.num_attention_heads
    queries = len(query_tokens)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    present = torch.cat([torch.ones(queries, dtype=torch.bool), mask.bool()])
    words = weights["embeddings.word_embeddings.weight"][input_ids]
    words = words + weights["embeddings.position_embeddings.weight"][: len(input_ids)]
    embedded = _norm(weights, "embeddings.layernorm", torch.cat([query_tokens, words]), eps)
    seen = PlainBank(length if visual else 0, policy)
    past = [PlainBank(length if query else 0, policy) for _ in range(config.num_hidden_layers)]
    outputs = []
    for frame in frames:
        seen.append(frame.numpy())
        bank = torch.from_numpy(seen.tokens).flatten(0, 1)
        hidden = embedded
        for index in range(config.num_hidden_layers):
            layer = f"encoder.layer.{index}"
            past[index].append(hidden.numpy())
            memory = torch.from_numpy(past[index].tokens)
            hidden = _attention(
                weights,
                f"{layer}.attention",
                hidden,
                memory.flatten(0, 1),
                present.repeat(len(memory)),
                heads,
                eps,
            )
            image, text = hidden[:queries], hidden[queries:]
            if index % config.cross_attention_frequency == 0:
                everything = torch.ones(len(bank), dtype=torch.bool)
                image = _attention(weights, f"{layer}.crossattention", image, bank, everything, heads, eps)
            parts = []
            for part, suffix in ((image, "_query"), (text, "")):
                wide = F.gelu(_linear(weights, f"{layer}.intermediate{suffix}.dense", part))
                narrow = _linear(weights, f"{layer}.output{suffix}.dense", wide) + part
                parts.append(_norm(weights, f"{layer}.output{suffix}.LayerNorm", narrow, eps))
            hidden = torch.cat(parts)
        outputs.append(hidden)
    return torch.stack(outputs), seen


def with_table(
    encoder: Encoder, table: Tensor, kind: type[FramePositions | TimePositions] = TimePositions
) -> Encoder:
    """The same encoder with positions in time, of the table's rows."""
    return Encoder(encoder.vision, encoder.qformer, encoder.tokenizer, kind(table).requires_grad_(False))


def random_clips(seed: int, lengths: Sequence[int]) -> list[np.ndarray]:
    """Random frames of segments of these lengths."""
    return [random_frames(seed % 2**32 + place, length) for place, length in enumerate(lengths)]


def random_frames(seed: int, count: int, side: int = 56) -> np.ndarray:
    """uint8 [T, side, side, 3]: noise over a slowly changing colour."""
    generator = np.random.default_rng(seed)
    colour = generator.integers(0, 200, (1, 1, 1, 3)) + generator.normal(0, 20, (count, 1, 1, 3)).cumsum(0)
    noise = generator.integers(-60, 60, (count, side, side, 3))
    return (colour + noise).clip(0, 255).astype(np.uint8)


def edit_weights(directory: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite ``model.safetensors`` of a checkpoint after ``edit`` has changed its tensors in place."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def random_table(seed: int, rows: int, channels: int) -> Tensor:
    """A table of time positions [rows, channels], in float64 and large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, generator=generator, dtype=torch.float64)


def give_positions(
    directory: Path, table: Tensor, name: str = "weight", *, kind: str = "time_positions"
) -> None:
    """Add ``time_positions.weight`` or the table of another ``kind``, or another tensor beside it, to a checkpoint."""
    edit_weights(directory, lambda tensors: tensors.update({f"{kind}.{name}": table.float()}))


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    """Rewrite a JSON file after ``edit`` has changed it in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def shard(directory: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Split ``model.safetensors`` into files, each with the tensors whose names begin with its prefixes."""
    whole = directory / "model.safetensors"
    tensors = load_file(whole)
    weight_map: dict[str, str] = {}
    for name, prefixes in parts.items():
        chosen = {key: value for key, value in tensors.items() if key.startswith(tuple(prefixes))}
        save_file(chosen, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, name)
    assert weight_map.keys() == tensors.keys()
    whole.unlink()
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
