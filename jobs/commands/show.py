"""``malmm show``: what an archive holds."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_where
from malmm.jobs.commands.several import (
    SEVERAL_CODE,
    add_archives,
    code_over,
    content_over,
    is_several,
    tell_left_out,
)
from malmm.jobs.terminal.text import about, clock, printable, shortened
from malmm.pipeline.archive.metadata_values import metadata_of
from malmm.pipeline.archive.video_selection import one_video, select_videos
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.tables import GIVEN_TASKS

__all__ = ["add_parser", "run", "timeline"]

_SAMPLED = {
    "rate": "{:g} frames a second",
    "keyframes": "key frames, at most {:g} a second",
    "count": "{:g} frames a second in even steps",
}
_SHADES = "█░▓▒"


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "show",
        run,
        help="show what an archive holds",
        description="Show an archive's videos, or one video's segments, texts and memory slots on a time line.",
        epilog="examples:\n  malmm show --archive archive\n  malmm show --archive archive talk.mp4 --json\n"
        "  malmm show --archive archive --where \"camera = 'north' and label.weather = 'rain'\"\n"
        "  malmm show --archive 'archives/*'\n\n"
        f"exit codes: 0 shown, 1 the archive cannot be read, 2 wrong usage, {SEVERAL_CODE}",
    )
    parser.add_argument("video", nargs="?", metavar="VIDEO", help="a video: its path, URI, file name or id")
    add_archives(parser)
    add_where(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the archive or one of its videos."""
    from malmm.pipeline.archive.joined import open_archives
    from malmm.pipeline.indexing.index import notice_of

    archive = open_archives(arguments.archive)
    if arguments.video and arguments.where is not None:
        raise ConfigError("--where chooses among an archive's videos: leave it out where one is named")
    content = _video(archive, arguments.video) if arguments.video else _overview(archive, arguments.where)
    content["notice"] = notice_of(archive.recipe.model)
    tell_left_out(archive)
    if arguments.json:
        print(json.dumps(content, indent=2, default=str))
        return code_over(archive, 0)
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
    lines = _video_lines(content, width) if arguments.video else _overview_lines(content, width)
    if content["notice"]:
        lines += ["", f"Note: {content['notice']}"]
    print("\n".join(lines))
    return code_over(archive, 0)


def _overview(archive: Any, where: str | None) -> dict[str, Any]:
    segments = archive.segments().select(["video_id", "start_s", "end_s", "frame_count"]).to_pylist()
    per_video: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for segment in segments:
        per_video[segment["video_id"]].append(segment)
    captions = {
        row["video_id"]: row["text"]
        for row in archive.annotations().to_pylist()
        if row["segment_id"] is None and row["prompt_name"] == CAPTION.name and row["task"] not in GIVEN_TASKS
    }
    videos = [
        {
            **row,
            "segments": len(per_video[row["video_id"]]),
            "frames": sum(segment["frame_count"] for segment in per_video[row["video_id"]]),
            "caption": captions.get(row["video_id"]),
        }
        for row in select_videos(archive, where=where).to_pylist()
    ]
    metadata = metadata_of(archive).values()
    finished = archive.completed_videos().keys()
    over: dict[str, Any] = {"archive": archive.uri}
    if is_several(archive):
        over = content_over(archive)
        names = archive.names_of(finished)
        videos = [video | {"archive": names.get(video["video_id"])} for video in videos]
    return {
        **over,
        "recipe": vars(archive.recipe) | {"recipe_id": archive.recipe.recipe_id},
        "rows": {
            name: archive.count(name)
            for name in ("videos", "segments", "memories", "annotations", "failures")
        },
        "metadata": [{"name": each.key, "type": each.kind, "note": each.note} for each in metadata],
        "videos": videos,
        "unfinished_videos": len(set(per_video) - finished),
        "failures": archive.failures().to_pylist(),
    }


def _overview_lines(content: dict[str, Any], width: int) -> list[str]:
    recipe, rows = content["recipe"], content["rows"]
    total = sum(video["duration_s"] for video in content["videos"])
    archives = [
        f"{printable(each['name'])}, {printable(each['archive'])}" for each in content.get("archives", ())
    ]
    lines = [
        *(f"Archive  {each}" for each in archives or [printable(content["archive"])]),
        f"Recipe   model {printable(recipe['model'])}, {_SAMPLED[recipe['sampling']].format(recipe['fps'])}, "
        f"segments of {recipe['segment_s']:g} s, bank length {recipe['bank_length']}, {recipe['merge_policy']} merge"
        + (", tokens in 8 bits" if recipe["tokens"] == "int8" else ""),
        f"Rows     {rows['videos']} videos ({clock(total)}), {rows['segments']} segments, "
        f"{rows['memories']} memory slots, {rows['annotations']} texts",
    ]
    for number, each in enumerate(content["metadata"]):
        said = f"{printable(each['name'])}: {printable(each['note'] or each['type'])}"
        lines.append(f"{'' if number else 'Metadata':<8} {said}")
    if content["unfinished_videos"]:
        lines.append(
            f"         {content['unfinished_videos']} more videos are begun: index again to finish them"
        )
    if content["videos"]:
        lines += ["", f"{'length':>9}  {'segments':>8}  {'frames':>7}  video"]
    for video in content["videos"]:
        whose = f"  ({printable(video['archive'])})" if video.get("archive") else ""
        lines.append(
            f"{clock(video['duration_s']):>9}  {video['segments']:>8}  {video['frames']:>7}  "
            f"{printable(video['uri'])}{whose}"
        )
        if video["caption"]:
            lines.append(f"{'':>30}{shortened(video['caption'], max(20, width - 30))}")
    if content["failures"]:
        lines += ["", f"Failed: {len(content['failures'])}"]
        lines += [f"  {about(failure['uri'], failure['message'])}" for failure in content["failures"]]
    return lines


def _video(archive: Any, wanted: str) -> dict[str, Any]:
    video = one_video(archive.videos(), wanted)
    segments = archive.segments(video["video_id"]).to_pylist()
    texts = archive.annotations(video["video_id"]).to_pylist()
    slots = archive.memory_rows(
        [segment["segment_id"] for segment in segments],
        ("segment_id", "slot", "start_s", "end_s", "timestamp_s", "frame_count", "spans"),
    ).to_pylist()
    failures = [row for row in archive.failures().to_pylist() if row["video_id"] == video["video_id"]]
    whose = (
        {"archive": archive.names_of([video["video_id"]])[video["video_id"]]} if is_several(archive) else {}
    )
    return {
        "video": video | whose,
        "annotations": [
            text for text in texts if text["segment_id"] is None and text["task"] not in GIVEN_TASKS
        ],
        "given": [text for text in texts if text["task"] in GIVEN_TASKS],
        "segments": [
            {
                **segment,
                "annotations": [
                    text
                    for text in texts
                    if text["segment_id"] == segment["segment_id"] and text["task"] not in GIVEN_TASKS
                ],
                "slots": [slot for slot in slots if slot["segment_id"] == segment["segment_id"]],
            }
            for segment in segments
        ],
        "failures": failures,
    }


def timeline(slots: Sequence[Sequence[tuple[float, float]]], start_s: float, end_s: float, width: int) -> str:
    """Slots on a line of ``width`` characters, each in the shade of its number; a slot may have several spans."""
    line = [" "] * width
    length = max(end_s - start_s, 1e-9)
    # In time order: the later of two spans that share a character has it.
    ordered = sorted((span, number) for number, spans in enumerate(slots) for span in spans)
    for (begin, end), number in ordered:
        first = max(0, min(width - 1, int((begin - start_s) / length * width)))
        last = min(width, max(first + 1, round((end - start_s) / length * width)))
        line[first:last] = _SHADES[number % len(_SHADES)] * (last - first)
    return "".join(line)


def _spans(slot: dict[str, Any]) -> list[tuple[float, float]]:
    """The spans that a slot covers: one, or several where slots join what is not adjacent."""
    return [(span["start_s"], span["end_s"]) for span in slot["spans"] or [slot]]


def _text_lines(texts: Sequence[dict[str, Any]], indent: str, width: int) -> list[str]:
    lines = []
    for text in texts:
        score = f" ({text['score']:.2f})" if text["score"] is not None else ""
        said = shortened(text["text"], max(20, width - len(indent) - 12)) or "(no words)"
        lines.append(f"{indent}{printable(text['prompt_name'])}: {said}{score}")
    return lines


def _track_lines(texts: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each transcript and import: what it is called, its language, number of texts, and where it is from."""
    counted = Counter((text["prompt_name"], text["language"], text["origin"]) for text in texts)
    lines = []
    for (name, language, origin), count in counted.items():
        told = f"{name} in {language}" if language else name
        lines.append(
            f"  {printable(told)}: {count} texts" + (f", from {printable(origin)}" if origin else "")
        )
    return lines


def _video_lines(content: dict[str, Any], width: int) -> list[str]:
    video = content["video"]
    lines = [
        printable(video["uri"]),
        f"  {clock(video['duration_s'])} from {clock(video['start_s'])}, {video['width']}x{video['height']}, "
        f"{video['fps']:.3g} frames a second, {printable(video['codec'])}, id {video['video_id']}"
        + (f", in {printable(video['archive'])}" if "archive" in video else ""),
        *_text_lines(content["annotations"], "  ", width),
        *_track_lines(content["given"]),
    ]
    for segment in content["segments"]:
        slots = segment["slots"]
        lines += [
            "",
            f"  Segment {segment['index']}  {clock(segment['start_s'])} to {clock(segment['end_s'])}, "
            f"{segment['frame_count']} frames in {len(slots)} slots",
            *_text_lines(segment["annotations"], "    ", width),
        ]
        spans = [_spans(slot) for slot in slots]
        room = max(20, min(width - 6, 100))
        lines.append(f"    {timeline(spans, segment['start_s'], segment['end_s'], room)}")
        held = Counter(slot["frame_count"] for slot in slots)
        if held:
            lines.append(
                f"    slots hold {min(held)} to {max(held)} frames; the longest is "
                f"{clock(max(sum(end - begin for begin, end in of_slot) for of_slot in spans))}"
                + (f", in {max(map(len, spans))} spans at most" if max(map(len, spans)) > 1 else "")
            )
    if content["failures"]:
        lines += ["", "  Failed:"]
        lines += [f"    {printable(failure['message'])}" for failure in content["failures"]]
    return lines
