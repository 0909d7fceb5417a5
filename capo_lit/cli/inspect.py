"""`capo inspect`: a page with a run's rollouts, critiques and curves, to open in a browser."""

import argparse
import re
import sys
from pathlib import Path
from typing import Annotated

from capo_lit.cli.command import command
from capo_lit.cli.show import tracked
from capo_lit.core.errors import ConfigError
from capo_lit.core.files import write_atomic

_PORT = 8765
_Steps = tuple[int | None, int | None]


def _steps(text: str) -> _Steps:
    """FIRST:LAST, either of which may be left out, or one step."""
    match = re.fullmatch(r"(\d*)(:?)(\d*)", text)
    if not match or not (match[1] or match[3]):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected FIRST:LAST, FIRST:, :LAST or one step")
    first = int(match[1]) if match[1] else None
    last = int(match[3]) if match[3] else None
    return (first, last) if match[2] else (first, first)


def inspect(
    runs: Annotated[list[Path], {"metavar": "RUN"}],
    out: Annotated[Path | None, {"metavar": "FILE.html"}] = None,
    serve: Annotated[int | None, {"nargs": "?", "const": _PORT, "metavar": "PORT"}] = None,
    steps: Annotated[_Steps | None, {"type": _steps, "metavar": "FIRST:LAST"}] = None,
    limit: Annotated[int, {"metavar": "N"}] = 10_000,
) -> None:
    """Write one HTML file that shows the rollouts of runs.

    It has their steps, critiques, votes, rewards and advantages, and the curves of training, and needs no network and
    no other file.

    Args:
        runs: run folders, record folders or record files
        out: where to write it (default: inspect.html)
        serve: serve it on loopback until interrupted (port 8765; 0: any); written only if --out says where
        steps: both ends included
        limit: rollouts at most, in whole groups spread evenly
    """
    from capo_lit.records.viewer.build import build, find

    if limit < 1:
        raise ConfigError(str(limit), "at least 1", change="--limit")
    if out is None and serve is None:
        out = Path("inspect.html")
    if out is not None:
        _check_out(out)
    sources = [find(path, steps or (None, None)) for path in runs]
    page = build(sources, limit, lambda files: tracked(files, "reading records", len(files)))
    if out is not None:
        write_atomic(out, lambda path: path.write_text(page, encoding="utf-8"), "--out")
        sys.stdout.write(f"{out}\n")
    if serve is not None:
        _serve(page, serve)


def _check_out(out: Path) -> None:
    """Refuse to write over anything but an earlier page, before the work is done."""
    from capo_lit.records.viewer.page import MARK

    if not out.exists():
        return
    with_mark = False
    if out.is_file():
        with out.open("rb") as file:
            with_mark = file.read(len(MARK)) == MARK.encode()
    if not with_mark:
        raise ConfigError("a file that capo inspect did not write", "a new file or its own page", str(out), "--out")


def _serve(page: str, port: int) -> None:
    from capo_lit.records.viewer.serve import HOST, server

    with server(page, port) as serving:
        sys.stdout.write(f"http://{HOST}:{serving.server_port}/ (Ctrl-C ends)\n")
        sys.stdout.flush()
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


main = command(inspect)
