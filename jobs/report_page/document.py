"""A self-contained HTML document, without scripts or external resources. All outside text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["document", "escaped", "section", "table"]

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;"
    "background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}"
    "td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;overflow-wrap:anywhere}"
    "svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#444}.axis{fill:none;stroke:#999}"
    ".low{stroke:#0b62c4;stroke-width:2}"
    ".curve{fill:none;stroke:#0b62c4;stroke-width:2}.bar{fill:#0b62c4}"
    ".examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:1rem}"
    "figure{margin:0}img{width:100%;border-radius:4px}figcaption{font-size:.85rem;overflow-wrap:anywhere}"
)


def document(title: str, parts: Sequence[str]) -> str:
    """A page of these parts, which are HTML; the title is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A heading before content that is HTML; nothing without content."""
    return f"<h2>{escaped(title)}</h2>{content}" if content else ""


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Rows of a name and a value, both text; nothing without rows."""
    lines = "".join(f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>" if lines else ""


def escaped(text: str) -> str:
    """Text as HTML."""
    return html.escape(text, quote=True)
