from __future__ import annotations

from pathlib import Path

import pytest
from support.media import VideoSpec, make_video, run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.plan_segments import segments_of
from malmm.operators.probe import probe_files
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.rows import FILES, PROBED, carried, rows_table


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    make_video(folder, VideoSpec("good.mp4", duration_s=2.0))
    make_video(folder, VideoSpec("turned.mp4", duration_s=1.0, rotation=90))
    make_video(folder, VideoSpec("late.ts", duration_s=2.0, offset_s=5.0))
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "sound.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n")
    names = ("good.mp4", "turned.mp4", "late.ts", "sound.mp4", "empty.mp4", "text.mp4", "gone.mp4")
    return {name: str(folder / name) for name in names}


def probed(*uris: str) -> list:
    table = probe_files(rows_table([{"uri": uri, "fingerprint": f"of {uri}"} for uri in uris], FILES))
    assert table.schema == PROBED
    assert table.num_rows == len(uris)
    return carried(table)


def test_a_video_is_what_its_file_says(files: dict[str, str]) -> None:
    for row, name in zip(probed(files["good.mp4"], files["late.ts"]), ("good.mp4", "late.ts"), strict=True):
        info, video = probe(files[name]), row.video
        assert row.failure is None
        assert video.video_id == video_id(files[name])
        assert (video.uri, video.fingerprint) == (files[name], f"of {files[name]}")
        for field in ("start_s", "duration_s", "fps", "width", "height", "codec"):
            assert getattr(video, field) == getattr(info, field)


def test_width_and_height_are_as_displayed(files: dict[str, str]) -> None:
    [row] = probed(files["turned.mp4"])
    assert (row.video.width, row.video.height) == (64, 96)


def test_what_is_no_video_says_why(files: dict[str, str]) -> None:
    kinds = {
        "sound.mp4": "no_video_stream",
        "empty.mp4": "empty_file",
        "text.mp4": "not_a_video",
        "gone.mp4": "missing",
    }
    rows = probed(*(files[name] for name in kinds))
    for row, (name, kind) in zip(rows, kinds.items(), strict=True):
        assert row.video is None
        assert (row.failure.stage, row.failure.kind) == ("probe", kind)
        assert row.failure.uri == files[name]
        assert row.failure.video_id == video_id(files[name])
        assert row.failure.segment_id is None
        assert files[name] in row.failure.message


def test_a_batch_gives_what_each_file_gives_alone(files: dict[str, str]) -> None:
    assert probed(*files.values()) == [row for uri in files.values() for row in probed(uri)]


def test_segments_follow_the_scenes_when_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    scenes = ("testsrc2=size=96x64:rate=12:duration=4", "smptebars=size=96x64:rate=12:duration=7")
    parts = [item for scene in scenes for item in ("-f", "lavfi", "-i", scene)]
    joined = "[0:v]format=yuv420p,setsar=1[a];[1:v]format=yuv420p,setsar=1[b];[a][b]concat=n=2[out]"
    run_ffmpeg(*parts, "-filter_complex", joined, "-map", "[out]", "-c:v", "libx264", path)
    table = rows_table([{"uri": str(path), "fingerprint": "f"}], FILES)
    [row] = carried(probe_files(table, min_segment_s=2.0, segment_s=6.0))
    assert row.video is not None
    assert row.video.cuts == pytest.approx([4.0, 9.0])
    segments = segments_of(row.video, "0" * 24, 6.0, 1.0)
    assert [(round(s.start_s, 6), round(s.end_s, 6)) for s in segments] == [(0, 4), (4, 9), (9, 11)]
    assert [s.is_last for s in segments] == [False, False, True]
    [plain] = carried(probe_files(table))
    assert plain.video is not None
    assert plain.video.cuts == ()
