"""The page on Ray Serve, its models in a replica of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path

from support.drawn_archive import Drawn
from support.lean_ray import command
from support.processes import Session
from support.waiting import until


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def asked(request: urllib.request.Request) -> tuple[int, HTTPResponse | urllib.error.HTTPError]:
    """The status of an answer, and the answer."""
    try:
        answer = urllib.request.urlopen(request)  # noqa: S310
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal
    return answer.status, answer


def patiently(request: urllib.request.Request) -> HTTPResponse | urllib.error.HTTPError:
    """The answer, once the model is not busy any more."""

    def answered() -> list[HTTPResponse | urllib.error.HTTPError]:
        status, answer = asked(request)
        if status == 200:
            return [answer]
        assert (status, json.load(answer)["kind"]) == (503, "busy")
        return []

    return until(answered)[0]


def test_searching_and_asking_go_through_replicas(drawn: Drawn, tmp_path: Path) -> None:
    port = free_port()
    session = Session(
        command("serve", "--archive", drawn.place, "--port", str(port), "--ray", "--waiting", "0"), tmp_path
    )
    try:
        until(lambda: "Serving" in session.output.read_text(), going=session.ended)
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
        wholes = json.dumps({"question": "What appears first?", "video_ids": sorted(drawn.scenes)}).encode()
        whole = urllib.request.Request(f"{at}/ask", wholes, {"Content-Type": "application/json"})  # noqa: S310
        # Nobody may wait, so whoever comes while another is answered is sent away.
        with ThreadPoolExecutor(4) as visitors:
            together = list(visitors.map(asked, [whole] * 4))
        lines = {status: answer.read().splitlines() for status, answer in together}
        assert lines.keys() == {200, 503}
        assert json.loads(lines[200][-1])["event"] == "done"
        assert json.loads(lines[503][0])["kind"] == "busy"
        # Who leaves in the middle of an answer makes room in the replica of the models.
        with patiently(whole) as answer:
            assert any(json.loads(line)["event"] == "words" for line in answer)
        with patiently(whole) as answer:
            assert [json.loads(line)["event"] for line in answer][-2:] == ["answered", "done"]
    finally:
        if session.alive:
            os.kill(session.process.pid, signal.SIGTERM)
            session.wait()
        session.end(within_s=40)
