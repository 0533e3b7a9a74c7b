"""`dmat.testing.laws`: the laws of a kernel as tests of the user's own suite.

It returns one parametrised test function, so that pytest, its options and its plugins treat it as any other.
The plugin of dmat is not needed; where it is loaded, its options --dmat-* count here too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis.errors import InvalidArgument

from dmat.testing.counterexample.corpus import Corpus, current, require_there
from dmat.testing.journals import journals_of
from dmat.testing.kernel.given import given, giving
from dmat.testing.kernel.select import Chosen, select
from dmat.testing.law.law import Law
from dmat.testing.plugin_of_laws import end_test
from dmat.testing.python.arguments import require_count
from dmat.testing.python.check import Names, names
from dmat.testing.python.untouched import untouched
from dmat.testing.registry import laws as laws_of
from dmat.testing.run.journal import SECONDS, Journal
from dmat.testing.run.run import run
from dmat.testing.run.session import Session

EXAMPLES = 100  # random cases per law and dtype, after the cases of its ladder
JOURNAL = pytest.StashKey[Journal]()


def laws(
    kernel: Callable[..., Any],
    *,
    dtypes: Names = (),
    devices: Names = (),
    examples: int | None = None,
    profile: str | settings | None = None,
    **promises: Any,
) -> Callable[..., None]:
    """Return a test of a kernel's laws: one pytest id a law, dtype and device.

        test_my_kernel = dmat.testing.laws(my_kernel, dtypes=["float32"])

    kernel, promises: as dmat.check takes them. dtypes, devices: default all that it promises. examples:
    random cases a law and dtype, beside its ladder; default: --dmat-examples, else 100. profile: Hypothesis'
    settings, or the name of a registered profile, to be used in the place of dmat's own. A law that the
    contract does not promise is skipped, with the reason.
    """
    require_count("examples", examples)
    _require_profile(profile)
    held = given(kernel, promises)
    with giving(held):
        chosen = select([held.implementation.name], names(devices), names(dtypes))
    cells = [(law, dtype, device) for law in laws_of(held.implementation.kind) for _, dtype, device in chosen]

    @pytest.mark.parametrize(
        ("law", "dtype", "device"),
        cells,
        ids=[f"{law.name}-{dtype}-{device}" for law, dtype, device in cells],
    )
    def test(law: Law, dtype: str, device: str, request: pytest.FixtureRequest) -> None:
        session = _session(request, chosen)
        own = _settings(request.config, examples, profile)
        with untouched(), giving(held):
            [record] = run(held.implementation, [law], [dtype], [device], profile=own, session=session)
        if request.config.getoption("--dmat-report", None):
            request.node.user_properties.append(("dmat", msgspec.to_builtins(record)))
        assert session.journal is not None
        end_test(record, session.journal)

    test.__doc__ = f"Every law of {held.implementation.name}."
    test.__module__ = sys._getframe(1).f_globals.get("__name__", __name__)
    test.place_as = _function_at(sys._getframe(1))  # type: ignore[attr-defined]  # where pytest says it stands
    return test


def _function_at(frame: FrameType) -> Callable[[], None]:
    """Return a function that seems to be defined where this frame is."""

    def nothing() -> None:
        """Do nothing."""

    code = frame.f_code
    nothing.__code__ = nothing.__code__.replace(co_filename=code.co_filename, co_firstlineno=frame.f_lineno)
    return nothing


def _settings(config: pytest.Config, examples: int | None, profile: str | settings | None) -> settings:
    """Return the settings of a law. A profile of the user's is used where the test names it."""
    asked = examples or config.getoption("--dmat-examples", None)
    if profile is None:
        return settings(settings.get_profile("default"), max_examples=asked or EXAMPLES)
    theirs = settings.get_profile(profile) if isinstance(profile, str) else profile
    return theirs if asked is None else settings(theirs, max_examples=asked)


def _require_profile(profile: object) -> None:
    """Raise TypeError for what is no profile, ValueError for a name that nobody has registered."""
    if profile is None or isinstance(profile, settings):
        return
    if not isinstance(profile, str):
        raise TypeError(f"profile is {profile!r}; expected Hypothesis' settings, or the name of a profile")
    try:
        settings.get_profile(profile)
    except InvalidArgument:
        raise ValueError(f"profile is {profile!r}; expected the name of a registered profile") from None


def _session(request: pytest.FixtureRequest, chosen: Sequence[Chosen]) -> Session:
    """Return the services of a test. Only a worker of xdist, which is replaced, may be ended by a kernel."""
    config = request.config
    worker = hasattr(config, "workerinput")
    if JOURNAL not in config.stash:
        limit = config.getoption("--dmat-time-limit", SECONDS)
        config.stash[JOURNAL] = Journal(journals_of(config), limit, deadly=worker)
    kept = config.getoption("--dmat-counterexamples", "counterexamples")
    folder = config.invocation_params.dir / kept if kept else None
    corpus = _corpus(config, chosen)
    return Session(config.stash[JOURNAL], corpus, folder, request.node.nodeid, replaceable=worker)


def _corpus(config: pytest.Config, chosen: Sequence[Chosen]) -> Corpus | None:
    start = config.invocation_params.dir
    named = [start / folder for folder in config.getoption("--dmat-corpus", None) or ()]
    require_there(named)
    return current(named or _configured(config), chosen)


def _configured(config: pytest.Config) -> list[Path]:
    """Return the corpora of the ini file; without one, corpus where pytest was started."""
    try:
        configured = config.getini("dmat_corpus")
    except ValueError:  # the plugin is not loaded
        configured = None
    return [config.invocation_params.dir / "corpus"] if configured is None else list(configured)
