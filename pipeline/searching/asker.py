"""Asking an archive: find what a question is about, replay it over stored memory, answer, and say where.

Runs in this process, on the stored memory alone: no video is read, and no cluster is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import TO_REPLAY, Carried, carried, rows_table
from malmm.pipeline.searching.searcher import Found, Searcher

__all__ = ["Answer", "Asker", "Reply", "ask"]

_LOOKED_AT = 20


@dataclass(frozen=True)
class Answer:
    """What one segment, or without ``segment_id`` one whole video, says to the question, and the moments cited."""

    video_id: str
    uri: str
    segment_id: str | None
    start_s: float
    end_s: float
    text: str
    moments: tuple[Found, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"moments": [moment.to_dict() for moment in self.moments]}


@dataclass(frozen=True)
class Reply:
    """Answers to a question, the most relevant first; none where nothing relevant was found.

    ``similarity`` is that of the best moment, and ``threshold`` what it has to reach; None where a question is about
    videos that were named, or the archive has no vectors.
    """

    question: str
    answers: tuple[Answer, ...]
    similarity: float | None
    threshold: float | None

    @property
    def found(self) -> bool:
        """Whether there is an answer."""
        return bool(self.answers)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "question": self.question,
            "found": self.found,
            "similarity": self.similarity,
            "threshold": self.threshold,
            "answers": [answer.to_dict() for answer in self.answers],
        }


class Asker:
    """Answers questions of one archive. Loads its models at the first question, and keeps them.

    ``searcher`` may be shared with others, and knows where the models lie. ``device`` is chosen unless given.
    """

    def __init__(self, searcher: Searcher, *, max_new_tokens: int = 128, device: str | None = None) -> None:
        self.searcher = searcher
        self.archive: ArchiveReader = searcher.archive
        self._options = (max_new_tokens, device)
        self._replayer: Any = None
        self._generator: Any = None
        self._listeners: tuple[Callable[[Answer], None] | None, Callable[[str], None] | None] = (None, None)

    def ask(
        self,
        question: str,
        *,
        video_ids: Sequence[str] | None = None,
        k: int = 3,
        threshold: float | None = None,
        whole: bool = True,
        on_begun: Callable[[Answer], None] | None = None,
        on_words: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer from the whole videos named, or, without any, from the segments of the best moments of all.

        Unless ``whole``, videos named also answer by the segments of their best moments. ``k`` is how many segments
        answer at most. ``threshold`` is the cosine that the best moment has to reach, by default the archive's own.
        ``on_begun`` hears of each answer before it has a text, ``on_words`` then that text's words as they come; what
        either raises ends the asking. Raises ConfigError for an empty question or an unknown video, CheckpointError
        when the archive's model is not to be found.
        """
        if not question.strip():
            raise ConfigError("an empty question has no answer: ask something, such as 'What happens?'")
        if not 1 <= k <= 100:
            raise ConfigError(f"-k {k}: from 1 to 100 answers")
        if self.archive.count("segments") == 0:
            raise ArchiveError(f"{self.archive.root} is empty: index videos first", uri=self.archive.root)
        self._listeners = (on_begun, on_words)
        if video_ids is not None and whole:
            return self._of_videos(question, list(dict.fromkeys(video_ids)))
        moments = self.searcher.search(question, k=_LOOKED_AT, video_ids=video_ids, thumbnails=False)
        similarities = [moment.similarity for moment in moments if moment.similarity is not None]
        best = max(similarities, default=None)
        wanted = None
        if best is not None:
            wanted = threshold
            if wanted is None:
                wanted = self.searcher.relevance_threshold(question, video_ids)
            moments = [m for m in moments if m.similarity is not None and m.similarity >= wanted]
        by_segment: dict[str, list[Found]] = {}
        for moment in moments:
            if moment.segment_id is not None:
                by_segment.setdefault(moment.segment_id, []).append(moment)
        chosen = list(by_segment)[:k]
        if not chosen:
            return Reply(question, (), best, wanted)
        rows = self.archive.segment_rows(chosen)
        videos = self._videos({row["video_id"] for row in rows.values()})
        asked, cited = [], []
        for segment_id in chosen:
            row = rows.get(segment_id)
            if row is None or row["video_id"] not in videos:
                continue  # its video is only begun
            video = videos[row["video_id"]]
            segment = Segment(
                segment_id,
                video.video_id,
                video.uri,
                row["index"],
                row["start_s"],
                row["end_s"],
                is_last=False,
            )
            asked.append(
                Carried(video, segment, None).columns() | {"segment_ids": [segment_id], "prompts": [0]}
            )
            cited.append(tuple(by_segment[segment_id]))
        return Reply(question, tuple(self._answers(question, asked, cited)), best, wanted)

    def _of_videos(self, question: str, video_ids: Sequence[str]) -> Reply:
        videos = self._videos(video_ids)
        missing = [identity for identity in video_ids if identity not in videos]
        if missing:
            raise ConfigError(
                f"the archive holds no video {missing[0]!r}: `malmm show --archive …` lists what it holds"
            )
        asked, cited = [], []
        best: float | None = None
        for identity in video_ids:
            segments = self.archive.segments(identity)["segment_id"].to_pylist()
            asked.append(
                Carried(videos[identity], None, None).columns() | {"segment_ids": segments, "prompts": [0]}
            )
            moments = self.searcher.search(question, k=3, video_ids=[identity], thumbnails=False)
            cited.append(tuple(moments))
            for moment in moments:
                if moment.similarity is not None:
                    best = max(best if best is not None else -1.0, moment.similarity)
        return Reply(question, tuple(self._answers(question, asked, cited)), best, None)

    def _answers(
        self, question: str, asked: list[dict[str, Any]], cited: list[tuple[Found, ...]]
    ) -> list[Answer]:
        if not asked:
            return []
        replay, generate = self._operators(question)
        on_begun, generate.on_words = self._listeners
        answers = []
        for row, moments in zip(asked, cited, strict=True):
            [subject] = carried(rows_table([row], TO_REPLAY))
            if subject.video is None:
                raise ArchiveError(
                    "the question could not be put to memory: its video is unknown", uri=self.archive.root
                )
            video, segment = subject.video, subject.segment
            answer = Answer(
                video.video_id,
                video.uri,
                segment.segment_id if segment else None,
                segment.start_s if segment else video.start_s,
                segment.end_s if segment else video.start_s + video.duration_s,
                "",
                moments,
            )
            if on_begun is not None:
                on_begun(answer)
            texts = generate(replay(rows_table([row], TO_REPLAY)))
            [done] = carried(texts)
            if done.failure is not None:
                raise ArchiveError(
                    f"the question could not be put to memory: {done.failure.message}", uri=self.archive.root
                )
            answers.append(replace(answer, text=texts["texts"][0].as_py()[0]))
        return answers

    def _operators(self, question: str) -> tuple[Any, Any]:
        """Replay and generate, for this question as their only prompt."""
        if self._replayer is None:
            # The Q-Former and the language model: search does without both.
            from malmm.model.families.instructblip.qformer import MemorySettings
            from malmm.operators.generate import GenerateTexts
            from malmm.operators.replay import ReplayPrompts

            recipe = self.archive.recipe
            name = self.searcher.models().checkpoint.name
            tokens, device = self._options
            settings = MemorySettings(length=recipe.bank_length, policy=recipe.merge_policy)
            self._replayer = ReplayPrompts(
                archive=self.archive.root, model=name, settings=settings, prompts=(), device=device
            )
            self._generator = GenerateTexts(model=name, prompts=(), max_new_tokens=tokens, device=device)
        prompt = Prompt("question", question)
        self._replayer.prompts = self._generator.prompts = (prompt,)
        return self._replayer, self._generator

    def _videos(self, video_ids: Any) -> dict[str, Video]:
        fields = list(Video.__dataclass_fields__)
        return {
            row["video_id"]: Video(**row)
            for row in self.archive.video_rows(video_ids).select(fields).to_pylist()
        }


def ask(archive: str, question: str, **options: Any) -> Reply:
    """Ask an archive. See ``Asker.ask``; an ``Asker`` keeps the models between questions."""
    return Asker(Searcher(archive)).ask(question, **options)
