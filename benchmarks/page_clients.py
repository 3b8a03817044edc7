"""Clients that search a served archive at the same time, in a process of their own: the server's CPU time is apart.

    python benchmarks/page_clients.py ADDRESS CLIENTS < lines of text

Each client takes the next text and searches for it, over a connection that it keeps. Prints one JSON object: seconds of
each search, and of all together.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

PAGE = 24


def main() -> None:
    """Search for all texts, and print what it took."""
    address, clients = urlsplit(sys.argv[1]), int(sys.argv[2])
    texts = [line.strip() for line in sys.stdin if line.strip()]

    def client(own: list[str]) -> list[float]:
        connection = HTTPConnection(address.hostname or "", address.port)
        took = []
        for text in own:
            began = time.perf_counter()
            # As the page asks.
            connection.request(
                "GET", f"/api/search?{urlencode({'text': text, 'limit': PAGE, 'explain': 'true'})}"
            )
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != 200 or not found["moments"]:
                raise SystemExit(f"{text!r}: {answer.status} {found}")
            took.append(time.perf_counter() - began)
        return took

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        took = [
            each
            for part in threads.map(client, [texts[place::clients] for place in range(clients)])
            for each in part
        ]
    print(json.dumps({"took_s": took, "all_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
