"""Plain families against transformers' own models, on what its own processors make of the same frames."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from support.record_processors import RECORDS
from support.tiny_families import FAMILIES, model_class, save_tiny, tiny_frames
from transformers import GenerationConfig

from malmm.model.checkpoints.checkpoint import Checkpoint, quiet_transformers
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.number_words import in_words
from malmm.model.families.qwen3_vl import patches
from malmm.model.families.registry import family_of
from malmm.model.memory.settings import MemorySettings

RECORDED = json.loads(RECORDS.read_text())
NEW_TOKENS = 8
SETTINGS = MemorySettings(length=12)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    made: dict[tuple[str, bool], Path] = {}

    def make(family, *, tied=False):
        if (family, tied) not in made:
            made[family, tied] = tmp_path_factory.mktemp(f"{family}-{tied}")
            save_tiny(made[family, tied], family, tied=tied)
        return made[family, tied]

    return make


class Halves:
    """Our two halves of a checkpoint, loaded apart, and transformers' whole of it."""

    def __init__(self, directory, family, dtype):
        self.family, self.dtype = family, dtype
        self.checkpoint = Checkpoint.open(str(directory), model_types=None)
        ours = family_of(self.checkpoint)
        self.encoder = ours.load_encoder(self.checkpoint, dtype=dtype)
        self.language = ours.load_language(self.checkpoint, dtype=dtype)
        with quiet_transformers():
            self.whole = model_class(family).from_pretrained(directory, dtype=dtype).eval()
        self.whole.generation_config = GenerationConfig()

    def slots(self, frames, fps, settings=SETTINGS):
        [encoded] = self.encoder.encode([frames], [["x"]], settings)
        times = [at / fps for at in range(len(frames))]
        spans = encoded.memory.spans(times, 0.0, len(frames) / fps)
        pairs = family_of(self.checkpoint).frames_per_step > 1
        said = tuple(span.centre_s if pairs else span.timestamp_s for span in spans)
        return Slots(encoded.memory.tokens, said, len(frames) / fps)

    def pixels(self, frames):
        """Normalised pixels in the shape that the processor gives them."""
        pixels = self.encoder.vision.pixels(torch.from_numpy(frames))
        if not self.family.startswith("qwen"):
            return pixels[None].contiguous()
        pixels = torch.cat([pixels, pixels[-1:]]) if len(pixels) % 2 else pixels
        return patches(pixels, 4, 2)[0]

    def inputs(self, frames, ids, grid):
        """transformers' arguments for frames and ids."""
        pixels = self.pixels(frames).to(self.dtype)
        given = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        given["pixel_values" if self.family == "smolvlm" else "pixel_values_videos"] = pixels
        if self.family.startswith("qwen"):
            video = self.whole.config.video_token_id
            given |= {
                "video_grid_thw": torch.tensor(grid),
                "mm_token_type_ids": (given["input_ids"] == video).int() * 2,
            }
        return given

    def official(self, frames, ids, grid, **options):
        tokens = self.language.text_tokens
        with torch.inference_mode():
            if self.family.startswith("qwen"):
                self.whole.model.rope_deltas = None
            made = self.whole.generate(
                **self.inputs(frames, ids, grid),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=list(tokens.end),
                pad_token_id=tokens.padding,
                **options,
            )[0, len(ids) :]
        return self.language.tokenizer.decode(made, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def halves(directories):
    made: dict[tuple[str, torch.dtype], Halves] = {}

    def make(family, dtype=torch.float64):
        if (family, dtype) not in made:
            made[family, dtype] = Halves(directories(family), family, dtype)
        return made[family, dtype]

    return make


def ids_of(record):
    return [key for key, count in record["ids"] for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_pixels_are_those_of_the_processor(halves, family):
    ours = halves(family, torch.float32)
    for record in RECORDED["families"][family]:
        frames = tiny_frames(family, record["frames"])
        asked = Asked(record["prompt"], slots=ours.slots(frames, record["fps"]), system=record["system"])
        assert ours.language.ids(asked) == ids_of(record)
        pixels = ours.pixels(frames)
        assert list(pixels.shape) == record["pixels_shape"]
        assert (
            hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16).hexdigest() == record["pixels_blake2b"]
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bank_that_merges_nothing_answers_as_transformers_does(halves, family, dtype):
    ours = halves(family, dtype)
    texts = set()
    for record in RECORDED["families"][family]:
        frames = tiny_frames(family, record["frames"])
        asked = Asked(record["prompt"], slots=ours.slots(frames, record["fps"]), system=record["system"])
        for beams in (1, 3):
            [text] = ours.language.generate_texts([asked], Decoding(NEW_TOKENS, beams))
            assert text == ours.official(frames, ids_of(record), record["grid"], num_beams=beams)
            texts.add(text)
    # The tiny Qwen3.5 writes one text of anything; that it sees is held by its label scores below.
    assert len(texts) > 1 or family == "qwen3_5"


def test_numbers_are_written_as_num2words_writes_them():
    assert {number: in_words(int(number)) for number in RECORDED["words"]} == RECORDED["words"]
    for number in (-1, 1_000_000):
        with pytest.raises(ValueError, match="cannot be written in words"):
            in_words(number)


PROMPTS = ["What?", "Who is the one that is here?", "Where did it go in the end, and why did it?"]
LABELS = ["yes", "no", "perhaps not"]


def asked_of(slots, prompts):
    return [Asked(prompt, slots=slots) for prompt in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_on_the_same_slots_share_a_prefill_and_answer_as_alone(halves, family):
    ours = halves(family)
    two = [ours.slots(tiny_frames(family, 5, seed), 1.0, MemorySettings(length=3)) for seed in (1, 2)]
    asked = [
        question
        for pair in zip(*(asked_of(slots, PROMPTS) for slots in two), strict=True)
        for question in pair
    ]
    visual = ours.language.tokenizer.convert_tokens_to_ids(ours.language.wording.token)
    seen = []
    hook = ours.language.model.register_forward_hook(
        lambda module, given, kwargs, made: seen.append(bool((kwargs["input_ids"] == visual).any())),
        with_kwargs=True,
    )
    for beams in (1, 3):
        seen.clear()
        together = ours.language.generate_texts(asked, Decoding(5, beams))
        assert sum(seen) == 2
        assert together == [
            text
            for question in asked
            for text in ours.language.generate_texts([question], Decoding(5, beams))
        ]
    hook.remove()
    scores = ours.language.score_labels(asked, LABELS)
    for question, found in zip(asked, scores, strict=True):
        [alone] = ours.language.score_labels([question], LABELS, batch_size=2)
        assert found.probabilities == pytest.approx(alone.probabilities, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_label_scores_are_those_of_one_pass_over_everything(halves, family):
    ours = halves(family)
    record = RECORDED["families"][family][1]
    frames, ids = tiny_frames(family, record["frames"]), ids_of(record)
    [found] = ours.language.score_labels(
        [Asked(record["prompt"], slots=ours.slots(frames, record["fps"]))], LABELS
    )
    expected = []
    for label in LABELS:
        tokenizer = ours.language.tokenizer
        target = [*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        given = ours.inputs(frames, [*ids, *target[:-1]], record["grid"])
        with torch.inference_mode():
            if family.startswith("qwen"):
                ours.whole.model.rope_deltas = None
            logits = ours.whole(**given).logits[0, len(ids) - 1 :].log_softmax(-1)
        expected.append(logits[range(len(target)), target].sum())
    # Qwen3.5's linear layers compute in float32 whatever the weights are.
    close = 1e-4 if family == "qwen3_5" else 1e-9
    assert found.probabilities == pytest.approx(torch.stack(expected).softmax(0).tolist(), rel=close)
    with pytest.raises(ValueError, match="labels that differ"):
        ours.language.score_labels([], ["a", "a"])


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_encoded_together_are_those_encoded_alone(halves, family):
    ours = halves(family)
    clips = [tiny_frames(family, count, count) for count in (4, 9, 1, 5)]
    settings = MemorySettings(length=3)
    together = ours.encoder.encode(clips, [["x"]] * 4, settings, vision_batch=8)
    for clip, encoded in zip(clips, together, strict=True):
        [alone] = ours.encoder.encode([clip], [["x"]], settings)
        assert encoded.query_output is None
        assert torch.equal(encoded.memory.sizes, alone.memory.sizes)
        assert torch.equal(encoded.memory.first, alone.memory.first)
        assert torch.allclose(encoded.memory.tokens, alone.memory.tokens, rtol=0, atol=1e-9)
        assert encoded.memory.sizes.sum(0).tolist() == [len(clip)] * encoded.memory.sizes.shape[1]
        assert len(encoded.memory.spans([float(at) for at in range(len(clip))], 0.0, float(len(clip)))) <= 3


def test_layers_are_merged_with_the_pairs_and_weights_of_the_first(halves):
    """Against the mean, per position, of the steps that the first layer's slots are the mean of."""
    ours = halves("qwen3_vl")
    clip = tiny_frames("qwen3_vl", 12, 3)
    [whole] = ours.encoder.encode([clip], [["x"]], MemorySettings(length=12))
    [merged] = ours.encoder.encode([clip], [["x"]], MemorySettings(length=2))
    steps_SNLC, memory = whole.memory.tokens, merged.memory
    assert steps_SNLC.shape[2] == 3
    for slot in range(2):
        for position in range(0, steps_SNLC.shape[1], 7):
            begin = int(memory.first[slot, position]) // 2
            end = begin + int(memory.sizes[slot, position]) // 2
            expected = steps_SNLC[begin:end, position].mean(0)
            assert torch.allclose(memory.tokens[slot, position], expected, rtol=0, atol=1e-9)
    assert len(memory.sizes.unique()) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_seen_and_when_changes_the_answer(halves, family):
    ours = halves(family)
    slots = ours.slots(tiny_frames(family, 4), 1.0)
    [base] = ours.language.score_labels([Asked("What?", slots=slots)], LABELS)
    turned = Slots(slots.tokens.flip(0), slots.times_s, slots.end_s)
    later = Slots(slots.tokens, tuple(time_s + 60 for time_s in slots.times_s), slots.end_s + 60)
    for other in (turned, later) if family != "llava_onevision" else (turned,):
        [found] = ours.language.score_labels([Asked("What?", slots=other)], LABELS)
        assert found.probabilities != pytest.approx(base.probabilities, rel=1e-6)


@pytest.mark.parametrize("text", ["a <image> b", "<|video_pad|>", "<video>"])
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_a_prompt_cannot_forge_slots(halves, family, text):
    ours = halves(family)
    slots = ours.slots(tiny_frames(family, 2), 1.0)
    wording = ours.language.wording
    if wording.token in text or wording.placeholder in text:
        with pytest.raises(ValueError, match="may not contain the model's own token"):
            ours.language.ids(Asked(text, slots=slots))
    else:
        assert (
            ours.language.ids(Asked(text, slots=slots)).count(
                ours.language.tokenizer.convert_tokens_to_ids(wording.token)
            )
            == slots.tokens.shape[0] * slots.tokens.shape[1]
        )
