"""The values of the command's options: each function reads one from its text, or says what was expected."""

from __future__ import annotations

import argparse


def to_count(text: str) -> int:
    """Read a positive integer. Raises argparse.ArgumentTypeError."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def to_number(text: str) -> int:
    """Read the number of a configuration, from 0 on. Raises argparse.ArgumentTypeError."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a config; they count from 0")
    return int(text)


def to_names(text: str) -> list[str]:
    """Read names with commas between them, like "sm_90,gfx942". Raises argparse.ArgumentTypeError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} has no names")
    return names


def to_seed(text: str) -> int:
    """Read a seed, an integer of 0 or more. Raises argparse.ArgumentTypeError."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: an integer of 0 or more")
    return int(text)


def to_sizes(text: str) -> tuple[int, ...]:
    """Read B,NH,S or B,NH,S,K,V. Raises argparse.ArgumentTypeError."""
    parts = text.split(",")
    if len(parts) not in (3, 5) or not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no B,NH,S and no B,NH,S,K,V")
    return tuple(map(int, parts))


def to_seconds(text: str) -> float:
    """Read a positive number of seconds. Raises argparse.ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return seconds


def to_minutes(text: str) -> float:
    """Read a positive number of minutes. Raises argparse.ArgumentTypeError."""
    try:
        return to_seconds(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of minutes") from None
