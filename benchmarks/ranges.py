"""Bytes read from an object store for all segments of a video, against its size.

    python benchmarks/ranges.py VIDEO [--segment-s 100] [--processes 1]

Reads a local file by ranges, as if it were remote, and counts the bytes. Decodes only key frames, which does not change
the bytes that are read. With ``--processes N`` the segments are divided among N readers that share nothing, as on N
workers, each of which reads the file's index.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.media.sampling import plan_spans


class Counted(LocalFileSystem):
    """This machine's files behind a scheme of their own, so that they are read as remote ones."""

    protocol = "counted"
    bytes_read = 0
    requests = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("counted://"))

    def cat_file(self, path: Any, start: Any = None, end: Any = None, **kwargs: Any) -> Any:
        """The bytes, counted."""
        data = super().cat_file(path, start=start, end=end, **kwargs)
        Counted.bytes_read += len(data)
        Counted.requests += 1
        return data


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--segment-s", type=float, default=100.0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    fsspec.register_implementation("counted", Counted)
    uri, size = f"counted://{options.video.absolute()}", options.video.stat().st_size
    info = probe(uri)
    spans = plan_spans(info.start_s, info.duration_s, options.segment_s, 1.0)
    print(f"{options.video.name}: {info.duration_s:.0f} s, {size / 1e6:.1f} MB, {len(spans)} segments")
    print(f"probing: {Counted.bytes_read / 1e6:.2f} MB in {Counted.requests} requests\n")
    print("| readers | MB read | of the file's size | requests a segment |\n|---|---|---|---|")
    Counted.bytes_read = Counted.requests = 0
    for reader in range(options.processes):
        cache = FileCache()
        for number in range(reader, len(spans), options.processes):
            last = number == len(spans) - 1
            decode_span(SpanRequest(uri, *spans[number], 1.0, 32, is_last=last, keyframes=True), cache)
    print(
        f"| {options.processes} | {Counted.bytes_read / 1e6:.1f} | {Counted.bytes_read / size:.3f} | "
        f"{Counted.requests / len(spans):.1f} |"
    )


if __name__ == "__main__":
    main()
