"""The job file that ``malmm init`` writes: complete, commented, and ready to run."""

from __future__ import annotations

import json

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["example"]

_TEXT = """\
# A job for malmm-ray. Try it with `malmm run {file} --dry-run`, and run it with `malmm run {file}`.
# Keys are the options of the commands of the same names: `malmm index --help` explains them.
# ${{env:NAME}} puts an environment variable in, and ${{env:NAME:-default}} one that may be missing.

# How the job is called in histories and manifests.
name: {name}

# Where the archive is or will be: a directory (seen from where malmm is started) or an s3:// URI.
archive: {archive}

# For more GPUs than one driver can feed: several archives below that address, filled at once and searched as one.
# partitions: 8

# What is done, in this order. Every step is safe to repeat: what is there is not made twice.
steps:
  - index:
      # Videos, directories, globs, manifests.
      sources: {sources}
      # Without a model it is the archive's own, or one that fits the workers (`malmm models` lists them):
      # model: HuggingFaceTB/SmolVLM2-500M-Video-Instruct
      fps: 1
      segment_s: 100

  # A new question is put to stored memory, without reading a video again:
  # - annotate:
  #     prompts:
  #       people: Who is in the video?
  #       place:
  #         text: Where does it happen?
  #         labels: [indoors, outdoors]

  - optimize:

  # - export: {{format: vtt, output: captions}}

# `malmm schedule {file}` runs it by itself, at these times, while it is left running:
# schedule:
#   cron: "0 2 * * *"          # minute, hour, day of month, month, day of week: every night at two
#   timezone: UTC
#   jitter_s: 60               # up to a minute later, at random
#   retries: 2                 # after a failure, a minute later and then two
#   backoff_s: 60

# Where `malmm submit {file}` and `malmm render {file}` have it run:
# cluster:
#   address: http://127.0.0.1:8265
#   image: registry.example.com/malmm-ray:0.2.0
#   workers: 4
#   gpus: 1
#   secrets:
#     - {{env: AWS_SECRET_ACCESS_KEY, secret: store, key: secret-key}}
"""


def example(*, file: str, name: str, sources: list[str], archive: str) -> str:
    """Return the text of a new job file. Raises ConfigError if the name does not fit on one line."""
    for each in (file, archive, *sources):
        if not each.isprintable():
            raise ConfigError(f"{each!r} cannot be written into a job file: it holds control characters")
    return _TEXT.format(
        file=file, name=name, archive=_quoted(archive), sources="[" + ", ".join(map(_quoted, sources)) + "]"
    )


def _quoted(text: str) -> str:
    # A JSON string is YAML, whatever is in it; what looks like a variable is meant as it is.
    return json.dumps(text.replace("${env:", "$${env:"), ensure_ascii=False)
