"""The online encoder: vision encoder and Q-Former with both memory banks, over segments in lock step.

This is the part of MA-LMM that sees frames. It holds no language model, so that it scales apart from it:
what it hands on for each prompt is the Q-Former's [Q, D] output, and for each segment its visual memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import InstructBlipConfig, InstructBlipQFormerModel, PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.parts import tokenizer_for
from malmm.model.families.family import Encoded, half_precision
from malmm.model.families.instructblip.compiled_vision import CompiledVision
from malmm.model.families.instructblip.qformer import OnlineQFormer
from malmm.model.families.instructblip.vision import VisionEncoder
from malmm.model.memory.positions import POSITIONS_KEY, TimePositions
from malmm.model.memory.settings import MemorySettings, falling_order
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
INSTRUCTBLIP_OPTIONAL = (POSITIONS_KEY,)

#: Frames that the Q-Former takes at once, times prompts and segments.
ROWS_AT_ONCE = 16


class Encoder(nn.Module):
    """Frames and prompts in, query outputs and memory out. Nothing carries over between calls.

    With ``positions``, a frame's visual tokens get the vector of its place in time before the memory bank.
    """

    def __init__(
        self,
        vision: VisionEncoder | None,
        qformer: OnlineQFormer,
        tokenizer: PreTrainedTokenizerBase,
        positions: TimePositions | None = None,
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
        """The encoder of an InstructBLIP checkpoint; ``with_vision=False`` for replay, which needs no frames.

        ``dtype`` is the vision encoder's; all else is float32, as the authors run it. ``compile_vision`` compiles the
        vision encoder, which takes a minute or so; the encoder then has to stay on its device.
        Raises CheckpointError, and CompileError where nothing can be compiled.
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
        positions = TimePositions.load(checkpoint, int(config.encoder_hidden_size))
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

        ``vision_batch`` is how many frames go through the vision encoder at once, taken from all segments
        that are still going. Raises ValueError for a segment without frames.
        """
        if self.vision is None:
            raise ValueError("this encoder was loaded without its vision encoder")
        if len(frames) != len(prompts):
            raise ValueError(f"{len(frames)} segments and the prompts of {len(prompts)}")
        order = falling_order([len(clip) for clip in frames])
        if not order or not len(frames[order[-1]]):
            raise ValueError("a segment without frames cannot be encoded")
        # Arrays out of an object store are read-only, which torch has no word for; those are copied.
        clips = [torch.from_numpy(np.require(frames[index], requirements=["C", "W"])) for index in order]
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
        results: list[Encoded | None] = [None] * len(clips)
        for place, index in enumerate(order):
            results[index] = Encoded(memories[place], outputs[place])
        return [result for result in results if result is not None]

    @torch.inference_mode()
    def replay(
        self, memories: Sequence[Memory], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> list[Tensor]:
        """Query outputs [K, Q, D] of new prompts on stored memory, stepping over its slots as if frames.

        An approximation of the online pass: the query bank sees as many steps as there are slots.
        """
        if len(memories) != len(prompts):
            raise ValueError(f"{len(memories)} memories and the prompts of {len(prompts)}")
        order = falling_order([len(memory) for memory in memories])
        if not order or not len(memories[order[-1]]):
            raise ValueError("a memory without slots cannot be replayed")
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
        results: list[Tensor | None] = [None] * len(ordered)
        for place, index in enumerate(order):
            results[index] = outputs[place]
        return [result for result in results if result is not None]

    @torch.inference_mode()
    def merge(
        self,
        memories: Iterable[Memory],
        settings: MemorySettings,
        *,
        frame_counts: Sequence[int] | None = None,
    ) -> Memory:
        """One memory of the segments of a video, in time order, compressed to the bank's length.

        What is similar is judged with each frame's place in the whole video. Told the ``frame_counts`` of the
        memories, which the same settings made, it takes one after the other and lets it go. Raises ValueError when
        there is no memory or they differ in shape.
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

    def _placed(self, memories: Iterable[Memory], positions: TimePositions, total: int) -> Iterator[Memory]:
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
        """Step segments, the longest first, and collect each one's outputs when it ends.

        ``entries(begin, end)`` gives the visual tokens of those steps for every segment that has any.
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
    """Steps [begin, end) in runs for the Q-Former to take at once: none goes over the end of a segment."""
    most = max(1, ROWS_AT_ONCE // rows)
    while begin < end:
        stop = min(begin + most, end, *(length for length in lengths if length > begin))
        yield begin, stop
        begin = stop
