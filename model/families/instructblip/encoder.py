"""The online encoder: vision encoder and Q-Former with both memory banks, over segments in lock step.

This is the part of MA-LMM that reads frames. It has no language model, so that both can be scaled separately. Its
output is the Q-Former's [Q, D] output for each prompt, and the visual memory of each segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import InstructBlipConfig, InstructBlipQFormerModel, PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.parts import tokenizer_for
from malmm.model.families.batch_order import clip_tensor, frames_order, in_given_order, memories_order
from malmm.model.families.family import Encoded, half_precision
from malmm.model.families.instructblip.compiled_vision import CompiledVision
from malmm.model.families.instructblip.qformer import OnlineQFormer
from malmm.model.families.instructblip.vision import VisionEncoder
from malmm.model.memory.positions import POSITIONS_KEYS, Positions, load_positions
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import Memory, merge_memories

__all__ = [
    "INSTRUCTBLIP_OPTIONAL",
    "INSTRUCTBLIP_PREFIXES",
    "ROWS_AT_ONCE",
    "Encoder",
]

INSTRUCTBLIP_PREFIXES = (
    "vision_model.",
    "query_tokens",
    "qformer.",
    "language_projection.",
    "language_model.",
)
#: Tensors that published weights do not have.
INSTRUCTBLIP_OPTIONAL = POSITIONS_KEYS

#: Rows of one Q-Former call: frames times prompts times segments.
ROWS_AT_ONCE = 16


class Encoder(nn.Module):
    """Frames and prompts in, query outputs and memory out. Stateless between calls.

    With ``positions``, the vector of a frame's time is added to its visual tokens before the memory bank.
    """

    def __init__(
        self,
        vision: VisionEncoder | None,
        qformer: OnlineQFormer,
        tokenizer: PreTrainedTokenizerBase,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.qformer = qformer
        self.tokenizer = tokenizer
        self.positions = positions
        self.compiled: CompiledVision | None = None

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        with_vision: bool = True,
        compile_vision: bool = False,
    ) -> Encoder:
        """Load the encoder of an InstructBLIP checkpoint; ``with_vision=False`` for replay, which needs no frames.

        ``dtype`` is the vision encoder's; all else is float32, as in the authors' code. ``compile_vision`` compiles the
        vision encoder, which takes about a minute; the encoder must then stay on its device. Raises CheckpointError,
        and CompileError if this machine cannot compile.
        """
        device = torch.device(device)
        checkpoint.check_prefixes(INSTRUCTBLIP_PREFIXES, optional=INSTRUCTBLIP_OPTIONAL)
        config = checkpoint.parsed(InstructBlipConfig).qformer_config
        qformer = checkpoint.pretrained(InstructBlipQFormerModel, config, "qformer.", torch.float32)
        query_tokens = checkpoint.tensor("query_tokens").to(torch.float32)
        if query_tokens.ndim != 3 or query_tokens.shape[2] != config.hidden_size:
            raise CheckpointError(
                f"model {checkpoint.name!r} has query_tokens {list(query_tokens.shape)}, "
                f"not [1, Q, {config.hidden_size}]"
            )
        vision = None
        if with_vision:
            vision = VisionEncoder.load(checkpoint, dtype=dtype or half_precision(device))
        tokenizer = tokenizer_for(
            checkpoint, int(config.vocab_size), subfolder="qformer_tokenizer", part="the Q-Former"
        )
        positions = load_positions(checkpoint, int(config.encoder_hidden_size))
        encoder = cls(vision, OnlineQFormer(qformer, nn.Parameter(query_tokens)), tokenizer, positions)
        encoder.to(device).eval().requires_grad_(False)
        if vision is not None and compile_vision:
            encoder.compiled = CompiledVision(vision)
        return encoder

    def prompt_tokens(self, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask [S, K, L] of K prompts for each of S segments, padded at the end."""
        counts = {len(of_segment) for of_segment in prompts}
        if len(counts) != 1 or not counts.isdisjoint({0}):
            raise ValueError("every segment of a batch needs the same number of prompts, at least one")
        flat = [prompt for of_segment in prompts for prompt in of_segment]
        batch = self.tokenizer(flat, padding=True, padding_side="right", return_tensors="pt")
        shape = (len(prompts), counts.pop(), -1)
        device = self.qformer.device
        return batch["input_ids"].view(shape).to(device), batch["attention_mask"].view(shape).to(device)

    @torch.inference_mode()
    def encode(
        self,
        frames: Sequence[np.ndarray],
        prompts: Sequence[Sequence[str]],
        settings: MemorySettings,
        *,
        vision_batch: int = 32,
    ) -> list[Encoded]:
        """Encode segments in lock step: ``frames[s]`` is uint8 [T_s, H, W, 3], ``prompts[s]`` its K prompts.

        ``vision_batch`` is the number of frames in one call of the vision encoder, taken from all segments that have
        not ended. Raises ValueError for a segment without frames.
        """
        if self.vision is None:
            raise ValueError("this encoder was loaded without its vision encoder")
        order = frames_order(frames, prompts)
        clips = [clip_tensor(frames[index]) for index in order]
        lengths = [len(clip) for clip in clips]

        vision = self.vision
        see = self.compiled or vision
        of_frames = {}
        if self.positions is not None:
            of_frames = {length: self.positions.of_frames(length)[:, None] for length in set(lengths)}

        def entries(begin: int, end: int) -> list[Tensor]:
            """Visual tokens of frames [begin, end) of every segment that has any, in one pass."""
            parts = [clip[begin:end] for clip in clips if len(clip) > begin]
            tokens = see(torch.cat(parts)).split([len(part) for part in parts])
            if not of_frames:
                return list(tokens)
            ends = [length for length in lengths if length > begin]
            return [seen + of_frames[count][begin:end] for seen, count in zip(tokens, ends, strict=True)]

        chunk = max(1, vision_batch // len(clips))
        ordered = [prompts[index] for index in order]
        outputs, memories = self._run(
            lengths, ordered, settings, entries, chunk, tokens_per_frame=vision.tokens_per_frame
        )
        if self.positions is not None:
            memories = [self.positions.removed(memory) for memory in memories]
        encoded = [Encoded(memory, output) for memory, output in zip(memories, outputs, strict=True)]
        return in_given_order(encoded, order)

    @torch.inference_mode()
    def replay(
        self, memories: Sequence[Memory], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> list[Tensor]:
        """Query outputs [K, Q, D] of new prompts on stored memory, stepping over its slots as if they were frames.

        An approximation of the online pass: the query bank gets only as many steps as there are slots.
        """
        order = memories_order([len(memory) for memory in memories], prompts)
        ordered = [memories[index] for index in order]
        if self.positions is not None:
            ordered = [self.positions.added(memory) for memory in ordered]
        device, dtype = self.qformer.device, self.qformer.dtype

        def entries(begin: int, end: int) -> list[Tensor]:
            return [m.tokens[begin:end].to(device, dtype) for m in ordered if len(m) > begin]

        outputs, _ = self._run(
            [len(memory) for memory in ordered],
            [prompts[index] for index in order],
            settings,
            entries,
            len(ordered[0]),
            tokens_per_frame=ordered[0].tokens.shape[1],
            sizes=[memory.sizes for memory in ordered],
        )
        return in_given_order(outputs, order)

    @torch.inference_mode()
    def merge(
        self,
        memories: Iterable[Memory],
        settings: MemorySettings,
        *,
        frame_counts: Sequence[int] | None = None,
    ) -> Memory:
        """Merge the memories of a video's segments, in time order, into one of the bank's length.

        Similarity is measured with each frame's position in the whole video. With the ``frame_counts`` of the memories
        (made with the same settings), only one memory is held at a time. Raises ValueError if there is no memory, or if
        their shapes differ.
        """
        slots = None
        if frame_counts is None:
            memories = list(memories)
            frame_counts = [memory.appended for memory in memories]
        else:
            slots = sum(min(max(1, settings.length), count) for count in frame_counts)
        if self.positions is not None:
            memories = self._placed(memories, self.positions, sum(frame_counts))
        merged = merge_memories(memories, length=settings.length, policy=settings.policy, slots=slots)
        return merged if self.positions is None else self.positions.removed(merged)

    def _placed(self, memories: Iterable[Memory], positions: Positions, total: int) -> Iterator[Memory]:
        before = 0
        for memory in memories:
            yield positions.added(memory, before=before, total=total)
            before += memory.appended

    def _run(
        self,
        lengths: list[int],
        prompts: list[Sequence[str]],
        settings: MemorySettings,
        entries: Callable[[int, int], list[Tensor]],
        chunk: int,
        *,
        tokens_per_frame: int,
        sizes: list[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Memory]]:
        """Step over all segments, longest first, and collect each one's outputs when it ends.

        ``entries(begin, end)`` returns the visual tokens of those steps for every segment that has any.
        """
        input_ids_SKL, attention_mask_SKL = self.prompt_tokens(prompts)
        state = self.qformer.start(
            input_ids_SKL,
            attention_mask_SKL,
            steps=lengths[0],
            tokens_per_frame=tokens_per_frame,
            settings=settings,
        )
        each = state.prompts_per_segment
        outputs: list[Tensor | None] = [None] * len(lengths)
        for begin in range(0, lengths[0], chunk):
            coming = entries(begin, begin + chunk)
            for first, end in _together(lengths, begin, min(begin + chunk, lengths[0]), len(lengths) * each):
                active = sum(length > first for length in lengths)
                if active < state.active:
                    state.retire(active)
                seen = slice(first - begin, end - begin)
                frames_STNC = torch.stack([of_segment[seen] for of_segment in coming[:active]])
                sizes_STN = None
                if sizes is not None:
                    held = torch.stack([of_segment[first:end] for of_segment in sizes[:active]])
                    sizes_STN = held.to(frames_STNC.device)
                going_on = sum(length > end for length in lengths)
                output_RPD = self.qformer.step(
                    state, frames_STNC, want_output=going_on < active, sizes_STN=sizes_STN
                )
                if output_RPD is not None:
                    for place in range(going_on, active):
                        rows_KPD = output_RPD[place * each : (place + 1) * each]
                        outputs[place] = rows_KPD[:, : state.query_length].clone()
        memories = [Memory.of(held) for held in state.finish()]
        return [output for output in outputs if output is not None], memories


def _together(lengths: Sequence[int], begin: int, end: int, rows: int) -> Iterator[tuple[int, int]]:
    """Divide steps [begin, end) into runs for one Q-Former call each; no run crosses the end of a segment."""
    most = max(1, ROWS_AT_ONCE // rows)
    while begin < end:
        stop = min(begin + most, end, *(length for length in lengths if length > begin))
        yield begin, stop
        begin = stop
