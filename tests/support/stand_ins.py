"""Stand-ins for published data sets: the demo world's videos, with annotations in the form of each data set."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from malmm.model.demo.questions import Question, questions
from malmm.model.demo.videos import draw_video
from malmm.model.demo.world import Scene

SECONDS = 8
FRAMES = 10 * SECONDS
VIDEOS = 3


@dataclass(frozen=True)
class World:
    """Drawn videos by name, and the folder that they lie in."""

    folder: Path
    scenes: dict[str, list[Scene]]

    def asked(self, video: str, kinds: tuple[str, ...] = ("first", "last", "count")) -> list[Question]:
        return [each for each in questions(self.scenes[video]) if each.kind in kinds]

    def description(self, video: str) -> str:
        return next(each.answer for each in questions(self.scenes[video]) if each.kind == "describe")


def draw_world(folder: Path) -> World:
    videos = folder / "videos"
    videos.mkdir(parents=True)
    names = [f"drawn{number}" for number in range(VIDEOS)]
    return World(
        videos,
        {
            name: draw_video(videos / f"{name}.mp4", seconds=float(SECONDS), seed=(19, number))
            for number, name in enumerate(names)
        },
    )


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _lvu(world: World, place: Path) -> None:
    content = {}
    for video in world.scenes:
        first, *_ = world.asked(video, ("first",))
        content[video] = {
            "subset": "test",
            "duration": SECONDS,
            "num_frames": FRAMES,
            "scene": first.answer,
            "scene_answer": "(a)",
            "genre": "drawn",
            "genre_answer": "(b)",
        }
    _write(place / "test.json", content)


def _breakfast(world: World, place: Path) -> None:
    content = {
        video: {
            "duration": SECONDS,
            "frame_length": FRAMES,
            "class_name": scenes[0].objects[0].shape,
            "class_label": 0,
        }
        for video, scenes in world.scenes.items()
    }
    _write(place / "val.json", content)


def _coin(world: World, place: Path) -> None:
    content: dict[str, Any] = {
        video: {
            "subset": "val",
            "duration": float(SECONDS),
            "num_frames_actual": FRAMES,
            "target": scenes[0].objects[0].colour,
        }
        for video, scenes in world.scenes.items()
    }
    content["never_fetched"] = {"subset": "val", "duration": 1.0, "target": "red"}
    content["other_subset"] = {"subset": "train", "duration": 1.0, "num_frames_actual": 10, "target": "red"}
    _write(place / "COIN.json", content)


def _open_questions(world: World, place: Path) -> None:
    content: dict[str, Any] = {}
    answers: dict[str, int] = {}
    for video in world.scenes:
        for each in world.asked(video):
            name = f"{len(content):07d}"
            content[name] = {
                "answer": each.answer,
                "question": each.prompt,
                "answer_type": each.kind,
                "question_id": name,
                "video": video,
                "frame_length": FRAMES,
            }
            answers[each.answer] = len(answers)
    _write(place / "qa_test.json", content)
    _write(place / "qa_ans2label.json", answers)


def _activitynet(world: World, place: Path) -> None:
    """Kinds of questions are numbers, and there is no list of answers."""
    content: dict[str, Any] = {}
    for video in world.scenes:
        for number, each in enumerate(world.asked(video), 1):
            name = f"v_{video}_{number}"
            content[name] = {
                "answer": each.answer,
                "answer_type": number,
                "question": each.prompt,
                "question_id": name,
                "video": video,
                "frame_length": FRAMES,
            }
    _write(place / "qa_test.json", content)


def _video_captions(world: World, place: Path) -> None:
    content: dict[str, Any] = {}
    references: list[dict[str, Any]] = []
    for video in world.scenes:
        # Two references of a video are two entries.
        for text in (world.description(video), f"{world.description(video)} again"):
            name = len(content)
            content[str(name)] = {
                "image_id": f"{video}.mp4",
                "caption": text,
                "id": name,
                "video": video,
                "frame_length": FRAMES,
            }
            references.append({"image_id": video, "caption": text, "id": name})
    _write(place / "cap_test.json", content)
    _write(
        place / "coco_gt" / "cap_test.json",
        {"annotations": references, "images": [{"id": video} for video in world.scenes]},
    )


def _segment_captions(world: World, place: Path) -> None:
    content: dict[str, Any] = {}
    references: list[dict[str, Any]] = []
    for video, scenes in world.scenes.items():
        for scene in scenes:
            start, end = int(scene.start_s), int(scene.end_s)
            name = f"{video}_{start:04d}_{end:04d}"
            text = " and ".join(f"a {thing.name}" for thing in scene.objects)
            content[name] = {
                "video": video,
                "segment": name,
                "id": len(content),
                "duration": SECONDS - 0.1,
                "start_time": start,
                "end_time": end,
                "frame_length": FRAMES,
                "recipe": "drawn",
                "caption": text,
            }
            references.append({"image_id": name, "caption": text, "id": len(references)})
    _write(place / "cap_val.json", content)
    _write(place / "coco_gt" / "cap_val.json", {"annotations": references})


def _choices(world: World, video: str) -> tuple[str, list[str], str]:
    """A question, its choices and the right one."""
    first, last = world.asked(video, ("first", "last"))
    other = last.answer if last.answer != first.answer else "a grey circle"
    return first.prompt, [other, first.answer, "nothing at all"], first.answer


def _mlvu(world: World, place: Path) -> None:
    content = []
    for video in world.scenes:
        question, choices, answer = _choices(world, video)
        content.append(
            {
                "video": f"{video}.mp4",
                "duration": float(SECONDS),
                "question": question,
                "candidates": choices,
                "answer": answer,
                "question_type": "plotQA",
            }
        )
    _write(place / "1_plotQA.json", content)
    free = {
        "video": "drawn0.mp4",
        "question": "Sum it up.",
        "answer": "It moves.",
        "question_type": "summary",
    }
    _write(place / "9_summary.json", [free])


def _video_mme_rows(world: World) -> list[dict[str, Any]]:
    rows = []
    for number, video in enumerate(world.scenes):
        question, choices, answer = _choices(world, video)
        options = [f"{chr(65 + place)}. {choice}" for place, choice in enumerate(choices)]
        rows.append(
            {
                "video_id": f"{number:03d}",
                "duration": ("short", "medium", "long")[number % 3],
                "videoID": video,
                "question_id": f"{number:03d}-1",
                "task_type": "Object Recognition",
                "question": question,
                "options": options,
                "answer": chr(65 + choices.index(answer)),
            }
        )
    return rows


def _video_mme(world: World, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(_video_mme_rows(world)), place / "test-00000-of-00001.parquet")


def video_mme_nested(world: World, place: Path) -> None:
    """The form of the authors' repository: questions below their video, and two keys by other names."""
    own = ("question_id", "task_type", "question", "answer")
    content = [
        {
            "video_id": row["video_id"],
            "videoID": row["videoID"],
            "duration_category": row["duration"],
            "questions": [{key: row[key] for key in own} | {"choices": row["options"]}],
        }
        for row in _video_mme_rows(world)
    ]
    _write(place / "video_mme.json", content)


def _egoschema(world: World, place: Path) -> None:
    content, answers = [], {}
    for video in world.scenes:
        question, choices, answer = _choices(world, video)
        padded = [*choices, "a grey star", "a grey cross"]
        options = {f"option {place}": choice for place, choice in enumerate(padded)}
        content.append({"q_uid": video, "google_drive_id": "x", "question": question} | options)
        answers[video] = padded.index(answer)
    content.append(content[0] | {"q_uid": "answer-not-public"})
    _write(place / "questions.json", content)
    _write(place / "subset_answers.json", answers)


def _ovo_bench(world: World, place: Path) -> None:
    content: list[dict[str, Any]] = []
    for number, video in enumerate(world.scenes):
        question, choices, answer = _choices(world, video)
        content.append(
            {
                "id": number,
                "task": "EPM",
                "video": f"{video}.mp4",
                "realtime": SECONDS - 1,
                "question": question,
                "options": choices,
                "gt": choices.index(answer),
            }
        )
    times = [{"realtime": 2, "step": "drawing", "type": 1}, {"realtime": 5.5, "step": "cutting", "type": 0}]
    content.append({"id": 90, "task": "SSR", "video": "drawn0.mp4", "test_info": times})
    counts = [{"realtime": 4, "count": 0}]
    content.append({"id": 91, "task": "REC", "video": "drawn1.mp4", "activity": "jump", "test_info": counts})
    crr = {"id": 92, "task": "CRR", "video": "drawn2.mp4", "question": "What came?", "answer": "a star"}
    content.append(crr | {"test_info": [{"realtime": 3, "type": 0}]})
    _write(place / "ovo_bench.json", content)


def own_rows(world: World) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for video in world.scenes:
        for each in world.asked(video, ("first", "last", "exists", "colour")):
            rows.append(
                {"video": f"{video}.mp4", "question": each.prompt, "answer": each.answer, "task": each.kind}
            )
    question, choices, answer = _choices(world, "drawn1")
    rows.append({"video": "drawn1", "question": question, "answer": answer, "choices": choices, "end_s": 7.5})
    return rows


def _own(world: World, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    names = ("video", "question", "answer", "choices", "start_s", "end_s", "task")
    with (place / "questions.csv").open("w", newline="") as written:
        table = csv.DictWriter(written, names)
        table.writeheader()
        for row in own_rows(world):
            table.writerow(row | {"choices": " || ".join(row.get("choices", []))})


def _own_captions(world: World, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "video": video,
            "question": "Write a short description of the video.",
            "answers": [world.description(video)],
        }
        for video in world.scenes
    ]
    (place / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _demo(world: World, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for truth in world.folder.glob("*.mp4.json"):
        shutil.copy(truth, place)


#: What writes the annotations of each data set into a folder, and what ``--annotations`` is below it.
STAND_INS: dict[str, tuple[Callable[[World, Path], None], str]] = {
    "lvu": (_lvu, ""),
    "breakfast": (_breakfast, ""),
    "coin": (_coin, ""),
    "msrvtt-qa": (_open_questions, ""),
    "msvd-qa": (_open_questions, ""),
    "activitynet-qa": (_activitynet, ""),
    "msrvtt-caption": (_video_captions, ""),
    "msvd-caption": (_video_captions, ""),
    "youcook2": (_segment_captions, ""),
    "mlvu": (_mlvu, ""),
    "video-mme": (_video_mme, ""),
    "egoschema": (_egoschema, ""),
    "ovo-bench": (_ovo_bench, ""),
    "own": (_own, "questions.csv"),
    "own-caption": (_own_captions, "captions.jsonl"),
    "demo": (_demo, ""),
}
