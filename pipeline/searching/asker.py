"""Ask an archive: search for the question, replay it over the stored memory of what was found, answer, cite moments.

Runs in this process, from stored memory alone: reads no video and needs no cluster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from malmm.pipeline.archive.empty_hint import empty_hint
from malmm.pipeline.archive.filters import scope_of, videos_within
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import TO_REPLAY, Carried, carried, rows_table
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.searcher import Found, Searcher
from malmm.pipeline.searching.several import of_one_model
from malmm.pipeline.searching.speech import has_words_of, speech_of, with_speech

__all__ = ["Answer", "Asker", "Question", "Reply", "ask"]

_LOOKED_AT = 20
# A question may have words of several sentences: so much before and after a moment counts as said there.
_AROUND_S = 30.0
_MOST_ANSWERS = 100


@dataclass(frozen=True)
class Answer:
    """The answer of one segment, or of one whole video if ``segment_id`` is None, and the moments that it cites."""

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
    """Answers to a question, most relevant first; empty if nothing relevant was found.

    ``similarity`` is the best moment's, None if the archive has no vectors. ``threshold`` is the similarity that it had
    to reach, None also if whole videos were asked. Where the question's words are said, no similarity is needed.
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


def _ignored(_: Any) -> None:
    """Do nothing: the default callback."""


@dataclass(frozen=True)
class Question:
    """A question and how to answer it. Raises ConfigError for an empty text or a ``k`` out of range.

    With ``whole``, each of ``video_ids`` answers as a whole; otherwise the segments with the best moments in them do.
    ``k`` is the largest number of segments that answer. ``threshold`` is the cosine that a moment has to reach, by
    default the archive's own. ``where`` is a filter of moments (``archive.filters``); a video answers as a whole if one
    of its moments is left. ``on_begun`` is called with each answer before it has a text, then ``on_words`` with the
    words of that text as they are generated; an exception raised by either ends the question.
    """

    text: str
    video_ids: tuple[str, ...] | None = None
    k: int = 3
    threshold: float | None = None
    whole: bool = True
    where: str | None = None
    on_begun: Callable[[Answer], None] = _ignored
    on_words: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError("an empty question has no answer: ask something, such as 'What happens?'")
        if not 1 <= self.k <= _MOST_ANSWERS:
            raise ConfigError(f"-k {self.k}: from 1 to {_MOST_ANSWERS} answers")


@dataclass(frozen=True)
class _Subject:
    """What to ask: a segment, or a whole video if ``segment`` is None; its stored segments, and the moments to cite."""

    video: Video
    segment: Segment | None
    segment_ids: tuple[str, ...]
    moments: tuple[Found, ...]

    @property
    def row(self) -> dict[str, Any]:
        """The row for replay, with the question as the first prompt."""
        columns = Carried(self.video, self.segment, None).columns()
        return columns | {"segment_ids": list(self.segment_ids), "prompts": [0]}

    @property
    def answer(self) -> Answer:
        """The answer before it has a text."""
        video, segment = self.video, self.segment
        return Answer(
            video.video_id,
            video.uri,
            segment.segment_id if segment else None,
            segment.start_s if segment else video.start_s,
            segment.end_s if segment else video.start_s + video.duration_s,
            "",
            self.moments,
        )


class Asker:
    """Answers questions about one archive, or several as one. Loads its models at the first question and keeps them.

    Of several archives, those whose memory is not of the first one's model are left out; ``archive`` reads the others.
    Texts are generated by the first one's settings.

    ``searcher`` finds the models, and may be shared. ``device`` is chosen if not given. Several threads may ask at the
    same time: they share no state of a question, and take turns with the models.
    """

    def __init__(self, searcher: Searcher, *, max_new_tokens: int = 128, device: str | None = None) -> None:
        self.archive: ArchiveReader = of_one_model(searcher.archive)
        self.searcher = searcher if self.archive is searcher.archive else searcher.over(self.archive)
        self._options = (max_new_tokens, device)
        self._replayer: Any = None
        self._generator: Any = None
        self._reads_text = False
        # Tokenizers and compiled parts of a model are not thread-safe.
        self._models = threading.Lock()

    def ask(
        self,
        question: str,
        *,
        video_ids: Sequence[str] | None = None,
        k: int = 3,
        threshold: float | None = None,
        whole: bool = True,
        where: str | None = None,
        on_begun: Callable[[Answer], None] | None = None,
        on_words: Callable[[str], None] | None = None,
    ) -> Reply:
        """Answer from the given whole videos or, without ``video_ids``, from the segments with the best moments.

        The options are those of ``Question``. Raises ConfigError for an empty question or an unknown video,
        ArchiveError for an empty archive, and CheckpointError if the archive's model is missing.
        """
        asked = Question(
            question,
            video_ids=None if video_ids is None else tuple(dict.fromkeys(video_ids)),
            k=k,
            threshold=threshold,
            whole=whole,
            where=where,
            on_words=on_words,
        )
        return self.reply(asked if on_begun is None else replace(asked, on_begun=on_begun))

    def reply(self, question: Question) -> Reply:
        """Answer a question. Raises as ``ask`` does."""
        hint = empty_hint(self.archive)
        if hint is not None:
            raise ArchiveError(hint, uri=self.archive.root)
        if question.video_ids is not None and question.whole:
            return self._of_videos(question, self._with_moments(question.video_ids, question.where))
        query = SearchQuery(
            text=question.text, k=_LOOKED_AT, video_ids=question.video_ids, where=question.where
        )
        moments = self._found(query)
        similarities = [moment.similarity for moment in moments if moment.similarity is not None]
        best = max(similarities, default=None)
        wanted = None
        if best is not None:
            wanted = question.threshold
            if wanted is None:
                with self._models:
                    wanted = self.searcher.relevance_threshold(
                        question.text, question.video_ids, question.where
                    )
            told = self._told(question, moments)
            moments = [
                m for m in moments if m in told or (m.similarity is not None and m.similarity >= wanted)
            ]
        by_segment: dict[str, list[Found]] = {}
        for moment in moments:
            if moment.segment_id is not None:
                by_segment.setdefault(moment.segment_id, []).append(moment)
        chosen = list(by_segment)[: question.k]
        if not chosen:
            return Reply(question.text, (), best, wanted)
        rows = self.archive.segment_rows(chosen)
        videos = self._videos({row["video_id"] for row in rows.values()})
        subjects = []
        for segment_id in chosen:
            row = rows.get(segment_id)
            if row is None or row["video_id"] not in videos:
                continue  # its video is not finished
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
            subjects.append(_Subject(video, segment, (segment_id,), tuple(by_segment[segment_id])))
        return Reply(question.text, tuple(self._answers(question, subjects)), best, wanted)

    def _told(self, question: Question, moments: Sequence[Found]) -> list[Found]:
        """The moments around which the question's words are said, if the archive's model will read what is said.

        A cosine that was asked for is the only thing that counts.
        """
        if question.threshold is not None:
            return []
        told = []
        for moment in moments:
            if "text" in moment.signals:
                around = (moment.start_s - _AROUND_S, moment.end_s + _AROUND_S)
                heard = speech_of(self.archive, moment.video_id, around, [moment.start_s])
                if has_words_of(question.text, heard):
                    told.append(moment)
        return told if told and self._model_reads_text() else []

    def _model_reads_text(self) -> bool:
        from malmm.model.families.registry import row_of

        with self._models:
            return row_of(self.searcher.models().checkpoint).reads_slots

    def _found(self, query: SearchQuery) -> list[Found]:
        vector = None
        if self.archive.slots.has_vectors and query.text is not None:
            with self._models:
                vector = self.searcher.text_vectors([query.text])[0]
        return self.searcher.shown(self.searcher.ranked(query, vector)[: query.k], thumbnails=False)

    def _with_moments(self, video_ids: Sequence[str], where: str | None) -> Sequence[str]:
        """Those of the videos that a filter leaves a moment of."""
        if where is None:
            return video_ids
        left = videos_within(self.archive, scope_of(self.archive, where, video_ids))
        return [identity for identity in video_ids if identity in left]

    def _of_videos(self, question: Question, video_ids: Sequence[str]) -> Reply:
        videos = self._videos(video_ids)
        missing = [identity for identity in video_ids if identity not in videos]
        if missing:
            raise ConfigError(
                f"the archive holds no video {missing[0]!r}: `malmm show --archive …` lists what it holds"
            )
        subjects = []
        best: float | None = None
        for identity in video_ids:
            segments = self.archive.segments(identity)["segment_id"].to_pylist()
            moments = self._found(
                SearchQuery(text=question.text, k=3, video_ids=(identity,), where=question.where)
            )
            subjects.append(_Subject(videos[identity], None, tuple(segments), tuple(moments)))
            for moment in moments:
                if moment.similarity is not None:
                    best = max(best if best is not None else -1.0, moment.similarity)
        return Reply(question.text, tuple(self._answers(question, subjects)), best, None)

    def _answers(self, question: Question, subjects: Sequence[_Subject]) -> list[Answer]:
        if not subjects:
            return []
        answers = []
        for subject in subjects:
            answer = subject.answer
            question.on_begun(answer)
            with self._models:
                replay, generate = self._operators(question, subject)
                own = replay.for_archive(self.archive.home_of(subject.video.video_id))
                texts = generate(own(rows_table([subject.row], TO_REPLAY)))
            [done] = carried(texts)
            if done.failure is not None:
                raise ArchiveError(
                    f"the question could not be answered from memory: {done.failure.message}",
                    uri=self.archive.root,
                )
            answers.append(replace(answer, text=texts["texts"][0].as_py()[0]))
        return answers

    def _operators(self, question: Question, subject: _Subject) -> tuple[Any, Any]:
        """The operators replay and generate, with this question as their only prompt. Models are loaded once.

        Models that read what they are asked as a chat are given what is said there too.
        """
        if self._replayer is None:
            # Imported here: search needs neither the Q-Former nor the language model.
            from malmm.model.families.registry import row_of
            from malmm.model.memory.settings import MemorySettings
            from malmm.operators.generate import GenerateTexts
            from malmm.operators.replay import ReplayPrompts

            recipe = self.archive.recipe
            checkpoint = self.searcher.models().checkpoint
            name = checkpoint.name
            self._reads_text = row_of(checkpoint).reads_slots
            tokens, device = self._options
            settings = MemorySettings(length=recipe.bank_length, policy=recipe.merge_policy)
            self._replayer = ReplayPrompts(
                archive=self.archive.archives[0].root,
                model=name,
                settings=settings,
                prompts=(),
                device=device,
            )
            self._generator = GenerateTexts(
                model=name,
                prompts=(),
                max_new_tokens=tokens,
                decoding=recipe.decoding,
                device=device,
            )
        asked = question.text
        if self._reads_text:
            answer = subject.answer
            times_s = [moment.start_s for moment in subject.moments]
            heard = speech_of(self.archive, answer.video_id, (answer.start_s, answer.end_s), times_s)
            asked = with_speech(asked, heard)
        prompts = (Prompt("question", asked),)
        return (
            self._replayer.for_prompts(prompts),
            self._generator.for_prompts(prompts, on_words=question.on_words),
        )

    def _videos(self, video_ids: Any) -> dict[str, Video]:
        fields = list(Video.__dataclass_fields__)
        return {
            row["video_id"]: Video(**row)
            for row in self.archive.video_rows(video_ids).select(fields).to_pylist()
        }


def ask(archive: str | Sequence[str], question: str, **options: Any) -> Reply:
    """Ask an archive one question. See ``Asker.ask``; an ``Asker`` keeps the models between questions."""
    return Asker(Searcher(archive)).ask(question, **options)
