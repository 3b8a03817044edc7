from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from malmm.pipeline.evaluation.catalogue import DATA_SETS
from malmm.pipeline.evaluation.metrics.captions import bleu_of, bleu_parts, cider, rouge_l
from malmm.pipeline.evaluation.metrics.matching import chosen, digits, matches
from malmm.pipeline.evaluation.metrics.meteor import coco_words, meteor, missing_for_meteor
from malmm.pipeline.evaluation.metrics.resampling import figure_of
from malmm.pipeline.evaluation.metrics.words import words
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.evaluation.scoring import Answered, difference, score

RECORDED = json.loads((Path(__file__).parents[2] / "data/captions/recorded.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "found"), RECORDED["words"])
def test_words_are_those_of_the_java_tokenizer(text: str, found: str) -> None:
    assert words(text) == found.split()


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_caption_metrics_equal_those_of_pycocoevalcap(case: dict[str, Any]) -> None:
    captions = [text.split() for text in case["captions"]]
    references = [[text.split() for text in each] for each in case["references"]]
    pairs = list(zip(captions, references, strict=True))
    total = np.sum([bleu_parts(*pair) for pair in pairs], axis=0)
    np.testing.assert_allclose(
        [bleu_of(total, order) for order in range(1, 5)], case["bleu"], rtol=0, atol=1e-9
    )
    np.testing.assert_allclose([rouge_l(*pair) for pair in pairs], case["rouge_l"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(cider(captions, references), case["cider"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("texts", "answer", "first_word", "right"),
    [
        (["yes", "no"], "yes", False, [True, False]),
        (["Yes"], "yes", False, [False]),
        (["guitar solo"], "guitar", False, [False]),
        (["guitar solo"], "guitar", True, [True]),
        (["a guitar", "guitar"], "guitar", True, [False, True]),
        # Where the right answer has two words, its first one does not do.
        (["high and low"], "high and low", True, [False]),
        ([""], "", True, [True]),
    ],
)
def test_answers_are_equal_to_the_letter(
    texts: list[str], answer: str, first_word: bool, right: list[bool]
) -> None:
    assert matches(texts, answer, first_word=first_word) == right


@pytest.mark.parametrize(
    ("text", "choices", "named"),
    [
        ("B", "ABC", "B"),
        ("(C) a red circle", "ABC", "C"),
        ("The answer is A.", "ABC", "A"),
        ("A man, so B", "ABC", "A"),
        ("D", "ABC", "D"),
        ("it is blue", "ABC", "it is blue"),
        ("Abc", "ABC", "A"),
        ("yes, it is", ("Yes", "No"), "Yes"),
        ("Not sure", ("No", "Not sure"), "Not sure"),
    ],
)
def test_a_written_answer_names_a_choice(text: str, choices: tuple[str, ...], named: str) -> None:
    assert chosen(text, tuple(choices)) == named


@pytest.mark.parametrize(
    ("text", "read"), [("3", "3"), ("3 times.", "3"), ("about 12", "12"), ("two", ""), ("2 or 3", "23")]
)
def test_a_counted_number_is_read_as_ovo_bench_reads_it(text: str, read: str) -> None:
    assert digits(text) == read


def mean(total: np.ndarray) -> float:
    return float(total[0] / total[1])


def test_an_interval_is_that_of_whole_videos() -> None:
    # Ten videos of 20 answers each, all of a video alike: as uncertain as ten answers, not as two hundred.
    parts = np.array([(float(video < 5), 1.0) for video in range(10) for _ in range(20)])
    groups = [str(video) for video in range(10) for _ in range(20)]
    figure = figure_of("x", parts, groups, mean, seed=0)
    assert (figure.value, figure.count, figure.videos) == (0.5, 200, 10)
    # Of ten draws at even odds, 95 % lie between two and eight.
    assert (figure.low, figure.high) == (0.2, 0.8)
    assert figure == figure_of("x", parts, groups, mean, seed=0)


@pytest.mark.parametrize("name", ["own", "mlvu"])
def test_a_difference_is_drawn_on_the_same_videos(name: str) -> None:
    # Half of the videos are hard for both ways, and of each video's ten answers the first way has one more right.
    kind = DATA_SETS[name]
    questions = [
        Question(f"{video}-{number}", Clip(str(video)), "?", ("yes",), task="ab"[number % 2])
        for video in range(10)
        for number in range(10)
    ]

    def told(right: tuple[int, int]) -> list[Answered]:
        return [
            Answered(
                each, ("yes" if int(each.question_id[2:]) < right[int(each.question_id[0]) % 2] else "no",)
            )
            for each in questions
        ]

    first, other = (score(kind, told(right)) for right in ((9, 4), (8, 3)))
    less = difference(kind, told((8, 3)), other.marks, first.marks)
    assert less.value == pytest.approx(other.figures[0].value - first.figures[0].value) == pytest.approx(-10)
    # Every video has the same difference, so no draw has another, although both figures' intervals are wide.
    assert (less.low, less.high) == pytest.approx((-10, -10))
    assert first.figures[0].high - first.figures[0].low > 20
    assert (less.count, less.videos) == (100, 10)


def test_a_mean_over_tasks_counts_each_task_once() -> None:
    parts = np.array([(1.0, 1.0)] * 9 + [(0.0, 1.0)])
    tasks = ["a"] * 9 + ["b"]
    figure = figure_of("x", parts, [str(number) for number in range(10)], mean, seed=0, strata=tasks)
    assert figure.value == 0.5
    assert figure.low <= 0.5 <= figure.high


def test_one_video_has_no_interval() -> None:
    figure = figure_of("x", np.array([(1.0, 1.0), (0.0, 1.0)]), ["a", "a"], mean, seed=0)
    assert (figure.value, figure.low, figure.high) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="answers"):
        figure_of("x", np.empty((0, 2)), [], mean, seed=0)


def test_missing_java_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'malmm-ray[metrics]'" in missing_for_meteor()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("PATH", "")
    assert "`java`" in missing_for_meteor()


# pycocoevalcap leaves pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.needs("meteor")
def test_meteor_and_its_words_are_javas() -> None:
    texts, found = zip(*RECORDED["words"], strict=True)
    assert coco_words([texts]) == [[words.split() for words in found]]
    case = RECORDED["cases"][0]
    captions = [text.split() for text in case["captions"]]
    references = [[text.split() for text in each] for each in case["references"]]
    assert meteor(captions, references) == pytest.approx(case["meteor"], abs=1e-9)
