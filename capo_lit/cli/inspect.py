"""`capo inspect`: a page with a run's rollouts, critiques and curves, to open in a browser."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from capo_lit.core.errors import CapoError, ConfigError, DataError

_PORT = 8765


def main(argv: Sequence[str]) -> int:
    """Run `capo inspect`.

    Args:
        argv: the arguments after `inspect`.

    Returns:
        The exit status: 0, or 1 if there is nothing to show or it cannot be written or served.
    """
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except CapoError as error:
        sys.stderr.write(f"capo inspect: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="capo inspect",
        description="Write one HTML file that shows the rollouts of runs, their steps, critiques, votes, rewards and "
        "advantages, and the curves of training. It needs no network and no other file.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, record folders or record files")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="where to write it (default: inspect.html)")
    parser.add_argument(
        "--serve",
        type=int,
        nargs="?",
        const=_PORT,
        metavar="PORT",
        help=f"serve it on loopback until interrupted (port {_PORT}; 0: any); written only if --out says where",
    )
    parser.add_argument("--steps", type=_steps, default=(None, None), metavar="FIRST:LAST", help="both ends included")
    parser.add_argument(
        "--limit", type=int, default=10_000, metavar="N", help="rollouts at most, in whole groups spread evenly (10000)"
    )
    return parser


def _steps(text: str) -> tuple[int | None, int | None]:
    """FIRST:LAST, either of which may be left out, or one step."""
    match = re.fullmatch(r"(\d*)(:?)(\d*)", text)
    if not match or not (match[1] or match[3]):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected FIRST:LAST, FIRST:, :LAST or one step")
    first = int(match[1]) if match[1] else None
    last = int(match[3]) if match[3] else None
    return (first, last) if match[2] else (first, first)


def _run(args: argparse.Namespace) -> None:
    from capo_lit.records.viewer.build import build, find

    if args.limit < 1:
        raise ConfigError(str(args.limit), "at least 1", change="--limit")
    out = args.out or (Path("inspect.html") if args.serve is None else None)
    if out is not None:
        _check_out(out)
    page = build([find(path, args.steps) for path in args.runs], args.limit, _tracked)
    if out is not None:
        _write(page, out)
        sys.stdout.write(f"{out}\n")
    if args.serve is not None:
        _serve(page, args.serve)


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


def _write(page: str, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"a file that cannot be written ({error})", "a place to write to", str(out), "--out") from error


def _tracked(files: Sequence[Any]) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(files, "reading records", console=console, disable=not console.is_terminal, transient=True)


def _serve(page: str, port: int) -> None:
    from capo_lit.records.viewer.serve import HOST, server

    with server(page, port) as serving:
        sys.stdout.write(f"http://{HOST}:{serving.server_port}/ (Ctrl-C ends)\n")
        sys.stdout.flush()
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            sys.stdout.write("\n")
