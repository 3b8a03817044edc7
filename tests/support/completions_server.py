"""A server of vLLM's protocol for prompt embeddings, on loopback, with transformers' own `generate` behind it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from support.answering import answering

__all__ = ["CompletionsServer", "completions"]


class CompletionsServer:
    """Serves a directory under a name. ``takes_embeddings`` is vLLM's option; ``away`` texts are cut off, from now on.
    As with vLLM, texts end where prompt and text fill ``context``.

    ``asked`` are the bodies of all requests for texts, and ``prompts`` their embeddings.
    """

    def __init__(self, directory: Path, name: str, *, takes_embeddings: bool = True) -> None:
        self.name, self.takes_embeddings, self.away = name, takes_embeddings, 0
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.context = 100_000
        self.asked: list[dict[str, Any]] = []
        self.prompts: list[torch.Tensor] = []
        self.address = ""
        self._one = threading.Lock()

    def answer(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for a request for a text."""
        if asked["model"] != self.name:
            return 404, {"error": {"message": f"The model `{asked['model']}` does not exist."}}
        if not self.takes_embeddings:
            return 400, {
                "error": {
                    "message": "You must set `--enable-prompt-embeds` to input `prompt_embeds`. "
                    "(parameter=prompt_embeds)"
                }
            }
        embeds_PE = torch.load(io.BytesIO(base64.b64decode(asked["prompt_embeds"])), weights_only=True)
        width = self.model.config.hidden_size
        if embeds_PE.ndim != 2 or embeds_PE.shape[1] != width:
            return 400, {"error": {"message": f"hidden_size does not match the model's hidden_size {width}."}}
        ends = asked["stop_token_ids"]
        room = self.context - len(embeds_PE)
        config = GenerationConfig(
            max_new_tokens=min(asked["max_tokens"], room),
            min_new_tokens=min(asked["min_tokens"], room) or None,
            do_sample=bool(asked["temperature"]),
            eos_token_id=ends or None,
            pad_token_id=0,
        )
        with self._one:
            self.asked.append(asked)
            self.prompts.append(embeds_PE)
            # What a directory says of ends is ignored, as it was asked for.
            self.model.generation_config = GenerationConfig()
            made = self.model.generate(
                inputs_embeds=embeds_PE[None],
                attention_mask=torch.ones(1, len(embeds_PE), dtype=torch.long),
                generation_config=config,
            )
        return 200, {"choices": [{"index": 0, "text": "not read", "token_ids": made[0].tolist()}]}


@contextmanager
def completions(server: CompletionsServer) -> Iterator[CompletionsServer]:
    """Answer for the time of the block, at ``server.address``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": server.name, "object": "model"}]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if server.away:
                server.away -= 1
                self.close_connection = True
                return
            self._send(*server.answer(json.loads(body)))

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{listening.server_address[1]}"
    with answering(listening):
        yield server
