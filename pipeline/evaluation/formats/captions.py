"""MSRVTT, MSVD and YouCook2 captions as MA-LMM's authors publish them: ``cap_test.json`` and ``coco_gt/cap_test.json``.

The first is an object of captions with ``video`` and ``frame_length`` (for YouCook2 ``segment``, ``start_time``,
``end_time`` and ``duration``), the second has the references as COCO's ``annotations``. A video with many captions is
asked once. Source: boheumd/MA-LMM, ``lavis/datasets/datasets/*_caption_datasets.py`` and ``lavis/tasks/captioning.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from malmm.pipeline.evaluation.formats.annotation_file import AnnotationFile, Entry
from malmm.pipeline.evaluation.formats.reading import Reading, Source, of_tasks
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.evaluation.sampling import evenly, evenly_cut

__all__ = ["read_segment_captions", "read_video_captions"]

PROMPT = "what does the video describe?"
_FORM = "caption annotations of MA-LMM's authors (an object of captions with video and frame_length)"
_SEGMENTS = (
    "YouCook2's annotations of MA-LMM's authors (an object of segments with video, start_time, end_time)"
)
_REFERENCES = "references in COCO's form (an object with annotations, each with image_id and caption)"


def read_video_captions(source: Source) -> Reading:
    """MSRVTT and MSVD: a caption for each whole video. Raises DataSetError."""

    def clip(entry: Entry) -> tuple[str, Clip]:
        video, frames = entry.get("video", str), entry.get("frame_length", int)
        if frames < 1:
            raise entry.wrong(f"a video of {frames} frames")
        return video, Clip(video, evenly(0, frames - 1, source.frames))

    return _read(source, _FORM, clip)


def read_segment_captions(source: Source) -> Reading:
    """YouCook2: a caption for each segment. Raises DataSetError."""

    def clip(entry: Entry) -> tuple[str, Clip]:
        video = entry.get("video", str)
        start_s = max(0.0, entry.get("start_time", float))
        end_s = min(entry.get("duration", float), entry.get("end_time", float))
        if end_s < start_s:
            raise entry.wrong(f"it ends at {end_s:g} s, before it begins at {start_s:g} s")
        return entry.get("segment", str), Clip(video, evenly_cut(start_s, end_s, source.frames))

    return _read(source, _SEGMENTS, clip)


def _read(source: Source, form: str, clip: Callable[[Entry], tuple[str, Clip]]) -> Reading:
    file = AnnotationFile.find(source.annotations, f"cap_{source.split}.json", form)
    folder = source.annotations if source.annotations.is_dir() else source.annotations.parent
    told = AnnotationFile.find(folder / "coco_gt", f"cap_{source.split}.json", _REFERENCES)
    references = _references(told)
    clips: dict[str, Clip] = {}
    for entry in file.named():
        name, watched = clip(entry)
        clips.setdefault(name, watched)
    if not clips:
        raise file.wrong("it has no caption")
    lacking = [name for name in clips if name not in references]
    if lacking:
        raise told.wrong(f"{lacking[0]!r}, which {file.path} asks for, has no reference")
    prompt = source.template.format(PROMPT)
    questions = tuple(
        Question(name, watched, prompt, tuple(references[name])) for name, watched in clips.items()
    )
    notes = []
    if unasked := len(references.keys() - clips.keys()):
        notes.append(f"{unasked} videos have references and no question: they are left out.")
    return Reading(of_tasks(questions, source), (file.path, told.path), _training(source, form), tuple(notes))


def _references(file: AnnotationFile) -> dict[str, list[str]]:
    found = file.read()
    if not isinstance(found, dict) or not isinstance(found.get("annotations"), list):
        raise file.wrong("it has no list 'annotations'")
    references: defaultdict[str, list[str]] = defaultdict(list)
    for place, values in enumerate(found["annotations"]):
        if not isinstance(values, dict):
            raise file.wrong(f"annotation {place + 1} is not an object")
        entry = Entry(file, f"annotation {place + 1}", values)
        references[entry.get("image_id", str)].append(entry.get("caption", str))
    return dict(references)


def _training(source: Source, form: str) -> frozenset[tuple[str, str]]:
    path = source.annotations / "cap_train.json"
    if source.split == "train" or not path.is_file():
        return frozenset()
    return frozenset(("", entry.get("video", str)) for entry in AnnotationFile(path, form).named())
