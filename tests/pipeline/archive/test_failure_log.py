"""Failures as an archive keeps them."""

from __future__ import annotations

import dataclasses

from support.archive_rows import (
    segment,
    video,
)

from malmm.pipeline.schema import ids, records
from malmm.pipeline.schema.stable_ids import stable_id


class TestFailures:
    FAILURE = records.Failure(video(0), segment(0), "file:///videos/0.mp4", "decode", "truncated", "it's cut")

    def test_a_failure_counts_up_and_is_forgotten(self, archive):
        archive.record_failures([self.FAILURE])
        (first,) = archive.failures().to_pylist()
        assert (first["attempts"], first["first_seen"]) == (1, first["last_seen"])
        again = dataclasses.replace(self.FAILURE, message="it's still cut")
        archive.record_failures([again, dataclasses.replace(self.FAILURE, segment_id=None)])
        rows_ = {row["segment_id"]: row for row in archive.failures().to_pylist()}
        assert rows_[segment(0)]["attempts"] == 2
        assert rows_[segment(0)]["message"] == "it's still cut"
        assert rows_[segment(0)]["first_seen"] == first["first_seen"] < rows_[segment(0)]["last_seen"]
        assert rows_[None]["attempts"] == 1
        whole, part = (ids.failure_id(video(0), key, "decode") for key in (None, segment(0)))
        assert archive.clear_failures([part, stable_id("unknown")]) == 1
        assert archive.clear_failures([whole]) == 1
        assert archive.failures().num_rows == 0

    def test_failures_of_segments_that_are_no_more_are_forgotten(self, archive):
        kept, gone = (dataclasses.replace(self.FAILURE, segment_id=segment(n)) for n in (0, 1))
        whole = dataclasses.replace(self.FAILURE, segment_id=None)
        other = dataclasses.replace(gone, video_id=video(1))
        archive.record_failures([kept, gone, whole, other])
        assert archive.clear_stale_failures({video(0): [segment(0)], video(2): []}) == 1
        left = {(row["video_id"], row["segment_id"]) for row in archive.failures().to_pylist()}
        assert left == {(video(0), segment(0)), (video(0), None), (video(1), segment(1))}
