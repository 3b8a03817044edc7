"""The page on Ray Serve, its models in a replica of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

from support.drawn_archive import Drawn
from support.processes import Session


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_searching_and_asking_go_through_replicas(drawn: Drawn, tmp_path: Path) -> None:
    port = free_port()
    session = Session(["serve", "--archive", drawn.place, "--port", str(port), "--ray"], tmp_path)
    try:
        until = time.monotonic() + 240
        while session.alive and "Serving" not in session.output.read_text() and time.monotonic() < until:
            time.sleep(0.2)
        assert "Serving" in session.output.read_text(), session.errors.read_text()
        name, video, _ = drawn.only_once()[0]
        at = f"http://127.0.0.1:{port}/api"
        with urllib.request.urlopen(f"{at}/search?text=a+{name.replace(' ', '+')}&limit=1") as answer:  # noqa: S310
            assert json.load(answer)["moments"][0]["video_id"] == video
        body = json.dumps({"question": f"Which way does the {name} move?", "k": 1}).encode()
        request = urllib.request.Request(f"{at}/ask", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            kinds = [json.loads(line)["event"] for line in answer]
        assert kinds[:2] == ["started", "begun"]
        assert kinds[-2:] == ["answered", "done"]
    finally:
        if session.alive:
            os.kill(session.process.pid, signal.SIGTERM)
            session.wait()
        session.end(within_s=40)
