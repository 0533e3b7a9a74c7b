"""The Hypothesis profile of fuzzing. Every field is set, so that none is inherited from a user's profile.

A user's profile may be derandomised or have no database. A nightly run would then silently repeat the same
one hundred cases for ever.
"""

from __future__ import annotations

from pathlib import Path

import hypothesis.core
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

from dmat.testing.errors import NoFuzzing

DATABASE = "hypothesis"  # name of the database's folder


def fuzzing(folder: Path) -> settings:
    """Return the profile. Its database lies in this folder.

    The path is absolute, because a relative path would depend on the current directory.
    """
    return settings(
        settings.get_profile("default"),
        max_examples=1000,
        derandomize=False,
        database=DirectoryBasedExampleDatabase(folder.resolve() / DATABASE),
        verbosity=Verbosity.quiet,
        phases=(Phase.reuse, Phase.generate, Phase.target),
        stateful_step_count=50,
        report_multiple_bugs=False,
        suppress_health_check=tuple(HealthCheck),
        deadline=None,  # the first call of a compiled or CUDA kernel takes seconds
        print_blob=False,
        backend="hypothesis",
    )


def require_fuzzing(profile: settings) -> None:
    """Raise NoFuzzing if searches under this profile would repeat the same cases or store nothing."""
    if profile.derandomize:
        raise NoFuzzing("the profile is derandomised: every night would try the same cases")
    if hypothesis.core.global_force_seed is not None:
        raise NoFuzzing("Hypothesis was given a seed: its database is off, and every night tries the same")
    if profile.database is None:
        raise NoFuzzing("the profile has no example database")
    _require_kept(profile.database)


def _require_kept(database: ExampleDatabase) -> None:
    key, value = b"dmat: is this kept?", b"yes"
    database.save(key, value)
    if value not in set(database.fetch(key)):
        raise NoFuzzing(f"the example database keeps nothing: {database!r}")
    database.delete(key, value)
