"""The options that the commands of stage 0 share. It trains nothing."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from training.bi_encoder.source import EncoderInputs

S = TypeVar("S")


def encoder_parser(
    description: str | None, settings: Any = None, out: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with `--tower`, `--text`, `--cache`, and an option for every field of a
    settings class; `--out` and `--threads` for the commands that write into a folder.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("tower", "text", "cache", *(["out"] if out else [])):
        parser.add_argument(f"--{name}", type=Path, required=True)
    if out:
        parser.add_argument("--threads", type=int, default=1)

    for name, value in asdict(settings()).items() if settings else ():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value, help="%(default)s")
    return parser


def inputs_from(parser: argparse.ArgumentParser, args: argparse.Namespace) -> EncoderInputs:
    """Return the inputs that were named; exit with 2 where RNX_DATA is not set."""
    data = os.environ.get("RNX_DATA")
    if not data:
        parser.error("RNX_DATA is not set; it names the folder of the development data")
    return EncoderInputs(data=Path(data), tower=args.tower, text=args.text, cache=args.cache)


def settings_from(args: argparse.Namespace, settings: type[S]) -> S:
    """Return the settings that were given, the others at their defaults."""
    names = asdict(settings())  # type: ignore[call-overload]
    return settings(**{name: getattr(args, name) for name in names})
