"""``malmm ask``: answer a question from stored memory."""

from __future__ import annotations

import argparse
import json

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.search import add_filters, add_models, chosen_videos
from malmm.jobs.commands.several import SEVERAL_CODE, add_archives, code_over, content_over, tell_left_out
from malmm.jobs.terminal.text import printable, span
from malmm.pipeline.schema.exit_codes import EXIT_NOT_FOUND, EXIT_OK

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "ask",
        run,
        help="ask an archive a question",
        description="Ask an archive a question. Without --video the moments that it seems to be about are found, and "
        "the segments that they lie in answer; with --video each of those videos answers as a whole. The answers come "
        "from stored memory, which the question is replayed over: no video is read. Says so when nothing relevant is "
        "found.",
        epilog="examples:\n"
        "  malmm ask 'Which way does the red circle move?' --archive archive\n"
        "  malmm ask 'What happens at the end?' --archive archive --video talk.mp4 --json\n\n"
        "exit codes: 0 answered, 4 nothing relevant found, 1 the archive cannot be asked, 2 wrong usage,\n"
        f"{SEVERAL_CODE}",
    )
    parser.add_argument("question", metavar="QUESTION", help="the question, in plain words")
    add_archives(parser)
    parser.add_argument(
        "-k", type=int, default=3, metavar="K", help="how many segments answer at most (%(default)s)"
    )
    add_filters(parser)
    parser.add_argument(
        "--moments",
        action="store_true",
        help="with --video too, answer from the segments of the best moments",
    )
    parser.add_argument(
        "--min-similarity",
        type=float,
        metavar="C",
        help="how similar a moment has to be to be relevant (default: what was measured for the model, or tells the "
        "archive's own captions apart)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (%(default)s)"
    )
    add_models(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Ask and print the answers."""
    from malmm.pipeline.archive.joined import open_archives
    from malmm.pipeline.searching.asker import Asker
    from malmm.pipeline.searching.searcher import Searcher

    searcher = Searcher(
        open_archives(arguments.archive), model=arguments.model, retrieval_model=arguments.retrieval_model
    )
    asker = Asker(searcher, max_new_tokens=arguments.max_new_tokens)
    archive = asker.archive
    tell_left_out(archive)
    reply = asker.ask(
        arguments.question,
        video_ids=chosen_videos(archive, arguments),
        k=arguments.k,
        threshold=arguments.min_similarity,
        # Videos that were only filtered by date are not named: there may be very many.
        whole=bool(arguments.video) and not arguments.moments,
        where=arguments.where,
    )
    if arguments.json:
        print(json.dumps(content_over(archive) | reply.to_dict(), indent=2))
    elif not reply.found:
        near = (
            ""
            if reply.similarity is None
            else f" (the nearest is {reply.similarity:.2f} similar, not {reply.threshold:.2f})"
        )
        print(f"Nothing relevant was found{near}.")
        if near and not arguments.video:
            print("A question that names nothing to be seen is put to one video: --video NAME")
    else:
        for answer in reply.answers:
            print(printable(answer.text) or "(no words)")
            where = "whole video" if answer.segment_id is None else span(answer.start_s, answer.end_s)
            print(f"    {printable(answer.uri)}, {where}")
            for moment in answer.moments:
                print(f"    see {span(moment.start_s, moment.end_s, moment.spans)}")
    return code_over(archive, EXIT_OK if reply.found else EXIT_NOT_FOUND)
