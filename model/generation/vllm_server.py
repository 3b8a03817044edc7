"""A client of a vLLM server that is given prompts as embeddings, and the name by which it has to serve the model.

vLLM pins other versions of torch and transformers than this package, so it runs in an environment of its own, and only
HTTP is between. Written for the completions of vLLM 0.32, with the standard library alone.

Shape suffixes: P positions of a prompt, E channels of the language model.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import torch
from torch import Tensor

from malmm.model.checkpoints.checkpoint import Checkpoint

__all__ = ["ServerError", "VllmServer", "served_name"]

# A server answers when a text is written, behind all that wait before it.
_TEXT_S = 3600.0
_LOOK_S = 20.0
_MESSAGE_CHARS = 300


class ServerError(RuntimeError):
    """A server that cannot be reached, refuses a request, or serves another model. One sentence for people."""


def served_name(checkpoint: Checkpoint) -> str:
    """The name under which a server has to serve this checkpoint's language model: it holds the weights' hash."""
    return f"malmm-{checkpoint.fingerprint()[:16]}"


@dataclass(frozen=True)
class VllmServer:
    """The server at ``address``, such as ``http://host:8000``, which serves ``model``."""

    address: str
    model: str

    def check(self, width: int) -> None:
        """Ask what is served, and for one token after embeddings of ``width`` channels. Raises ServerError."""
        listed = self._answer("/v1/models", None, _LOOK_S)
        try:
            names = [str(each["id"]) for each in listed["data"]]
        except (KeyError, TypeError):
            raise ServerError(f"{self.address} answers, but not as a vLLM server does") from None
        if self.model not in names:
            raise ServerError(
                f"the vLLM server at {self.address} serves {', '.join(map(repr, names)) or 'nothing'}, and this "
                f"checkpoint's language model is {self.model!r}: write it out with "
                "`python -m malmm.model.generation.language_checkpoint`, and serve it as that says"
            )
        self._token_ids(torch.zeros(2, width), 1, 0, (), _LOOK_S)

    def token_ids(
        self, embeds_PE: Tensor, *, max_new_tokens: int, min_new_tokens: int, end: Sequence[int]
    ) -> list[int]:
        """The ids of a greedy text after a prompt, with the one that ends it. Raises ServerError."""
        return self._token_ids(embeds_PE, max_new_tokens, min_new_tokens, end, _TEXT_S)

    def _token_ids(
        self, embeds_PE: Tensor, most: int, least: int, end: Sequence[int], limit_s: float
    ) -> list[int]:
        asked = {
            "model": self.model,
            "prompt_embeds": _as_base64(embeds_PE),
            "temperature": 0,
            "max_tokens": most,
            "min_tokens": least,
            # The tokenizer's ends, and not those of a configuration.
            "ignore_eos": True,
            "stop_token_ids": list(end),
            "return_token_ids": True,
        }
        answered = self._answer("/v1/completions", asked, limit_s)
        try:
            ids = [int(token) for token in answered["choices"][0]["token_ids"]]
        except (KeyError, TypeError, IndexError):
            raise ServerError(
                f"the server at {self.address} returns no token ids: it needs vLLM 0.32 or newer"
            ) from None
        # vLLM writes less, without a word, where prompt and text are longer than its context.
        if len(ids) < most and ids[-1:] not in [[token] for token in end]:
            raise ServerError(
                f"the vLLM server at {self.address} has no room for {most} tokens after a prompt of {len(embeds_PE)}: "
                "give it a larger --max-model-len, or the run a smaller --max-new-tokens"
            )
        return ids

    def _answer(self, path: str, asked: Mapping[str, Any] | None, limit_s: float) -> Any:
        request = urllib.request.Request(self.address + path)  # noqa: S310 - an address that a person gave
        if asked is not None:
            request.data = json.dumps(asked).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"no vLLM server answers at {self.address} from {socket.gethostname()}: {_line(reason)}"
            ) from error
        except ValueError as error:
            raise ServerError(f"{self.address} answers, but not as a vLLM server does") from error

    def _refused(self, error: urllib.error.HTTPError) -> ServerError:
        text = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(text)["error"]["message"])
        if "enable-prompt-embeds" in text:
            return ServerError(
                f"the vLLM server at {self.address} takes no prompt embeddings: start it with "
                "--enable-prompt-embeds"
            )
        return ServerError(
            f"the vLLM server at {self.address} refuses a prompt ({error.code}): {_line(text)}"
        )


def _as_base64(embeds_PE: Tensor) -> str:
    """As vLLM reads them: torch.save's bytes in base64. A view would be saved with all of its storage."""
    raw = io.BytesIO()
    torch.save(embeds_PE.detach().cpu().clone(), raw)
    return base64.b64encode(raw.getvalue()).decode()


def _line(reason: object) -> str:
    return " ".join(str(reason).split())[:_MESSAGE_CHARS] or type(reason).__name__
