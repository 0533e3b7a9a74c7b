"""Count the hints on every mutant: right, absent, wrong. `python -m tests.zoo.hints [MUTANT ...]`

A label says which kinds of sentences are true of a mutant, by its fault. Any other sentence is wrong.
"contract" stands where a wider or another contract admits the mutant, as far as the laws that the hint tries.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections import Counter
from contextlib import nullcontext
from typing import Any

from hypothesis import Phase, settings

from dmat.testing.explain.message import longer, what_is_tried
from dmat.testing.explain.place import likely_place
from dmat.testing.registry import law_named

from .mutants import MUTANTS
from .trial import first_rejection, subjects
from .wrong import FUSED_MUTANTS

PROFILES = [
    settings(max_examples=n, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
    for n in (50, 2000)
]

# The kinds of sentences, by their words.
SENTENCES = {
    "contract": "allows:|is that meant|must say it|^tried: |if that loss is meant",
    "gate formula": "the result is that of|1 - sigmoid|logsigmoid.f. and|computes as softplus|which drops up",
    "rounded": "was rounded to|an error of its own|the result was truncated|as it was stored",
    "slope": "gate's derivative",
    "factor": "every wrong entry is the exact value times",
    "sign": "with the sign turned",
    "limit": "is (below|above) that: a limit",
    "zero": "every wrong entry is 0",
    "transposed": "of the transposed place|state transposed",
    "head": "another head",
    "future": "reads the future",
    "window": "its window is k =",
    "column": "reads i at k",
    "no input": "changes with no input",
    "layout": "the layout of",
    "chunk": "is a multiple of|likely place: the (carry|product)",
    "swapped": "exchanged it is right",
    "mask": "likely place: the (diagonal|mask)",
    "no state": "as if no state",
}
FREE = {"zero", "limit"}  # arithmetic on the wrong entries alone, true wherever it is said

# What may be said of each mutant: D~, then fused kernels. A mutant that is not listed has no true sentence.
LABELS = {
    "fused_group_by_modulo": "contract",
    "fused_normaliser_cut_off": "contract",
    "fused_channel_first_row_undecayed": "chunk",
    "even_lengths_differ": "factor",
    "slightly_too_large": "factor",
    "tail_gates_dropped": "chunk, window",
    "tail_gradient_dropped": "chunk",
    "tail_reads_zero": "chunk",
    "carry_forgotten": "chunk, window",
    "two_tiles_only": "chunk, window",
    "decay_for_its_log": "chunk",
    "later_block_overwrites": "chunk",
    "padding_uninitialised": "chunk",
    "strict_mask": "mask",
    "mask_of_1e30": "mask",
    "mask_of_1e9": "mask",
    "mask_of_finfo_min": "mask",
    "mask_added_to_specials": "mask, future",
    "one_to_the_infinity": "mask, future",
    "transposed": "transposed, future, mask",
    "log_forgotten": "gate formula",
    "softplus_threshold": "gate formula",
    "log_of_one_plus": "gate formula, contract",
    "epsilon_in_log": "gate formula",
    "log_gate_clamped": "gate formula",
    "gate_clamped": "gate formula",
    "gate_path_in_bfloat16": "rounded",
    "decay_in_bfloat16": "rounded",
    "clamp_at_zero": "factor",
    "slope_forgotten": "slope, factor",
    "slope_of_plus": "slope, factor",
    "slope_by_difference": "gate formula, contract",
    "undeclared_difference": "contract",
    "difference_after_reset": "contract",
    "difference_reads_the_past": "contract",
    "total_less_cumsum": "contract",
    "gradient_total_less_cumsum": "contract",
    "gradient_by_difference": "contract",
    "window_one_early": "window",
    "window_one_late": "window",
    "window_without_last": "window",
    "window_with_own_gate": "window, mask",
    "first_gate_read": "window",
    "input_gate_of_row": "column",
    "forget_gate_on_diagonal": "window, column, mask",
    "gates_swapped": "swapped, window, column",
    "shifted_by_row_maximum": "column",
    "next_head": "head, window",
    "first_batch": "head, window",
    "batch_for_head": "head, window",
    "wrong_at_three_heads": "head, window",
    "strides_ignored": "layout",
    "cotangent_strides_ignored": "layout",
    "zero_stride_read_once": "layout",
    "bfloat16_truncated": "rounded",
    "half_sums": "rounded",
    "half_gradient": "rounded",
    "sign_of_last_gate": "sign, factor",
    "summed_over_heads": "head",
    "slope_of_next_head": "head",
    "anchored_on_last_row": "future",
    "cached_by_shape": "no input, column, window",
    "fused_strict_triangle": "mask",
    "fused_one_step_of_the_future": "future",
    "fused_gates_of_another_head": "head, window",
    "fused_own_gate_read": "window",
    "fused_bfloat16_sums": "rounded",
    "fused_half_products": "contract",
    "fused_undeclared_differences": "contract",
    "fused_scale_forgotten": "contract",
    "fused_q_and_k_swapped": "swapped",
    "fused_v_of_another_head": "head",
    "fused_values_clipped": "factor",
    "fused_carry_forgotten": "chunk, window",
    "fused_carry_not_decayed": "chunk, window",
    "fused_carry_of_another_head": "head, chunk, window",
    "fused_wrong_past_four_chunks": "chunk, factor",
    "fused_chunks_of_64": "contract",
    "fused_state_ignored": "no state",
    "fused_state_once_narrow": "contract",
    "fused_tail_decays_state": "chunk",
    "fused_carry_left_out_back": "chunk",
    "fused_undeclared_suffix_sum": "contract",
    "fused_dl_of_another_head": "head",
    "fused_rate_left_out": "slope, factor",
    "fused_dq_without_scale": "factor",
    "fused_softmax_scale": "contract",
    "fused_softmax_own_gate": "window",
    "fused_undeclared_truncation": "contract",
    "fused_softmax_rescaling": "chunk",
    "fused_softmax_dk": "factor",
    "fused_softmax_narrow_lse": "contract",
    "fused_mean_of_the_sequence": "future",
    "fused_anchored_on_whole_head": "future",
    "fused_anchored_on_all_heads": "head",
    "fused_padding_from_empty": "chunk",
    "fused_strides_of_q": "layout",
    "fused_cotangent_taken_as_flat": "layout",
}


def said(kernel: Any, name: str, law: str) -> list[str] | None:
    """Return the sentences on the smallest case on which its law rejects the mutant, None if it does not."""
    wrong = subjects(kernel, name)
    entry = law_named(law, wrong[0].kind)
    found = first_rejection(entry, wrong, PROFILES) if entry.cost == "cheap" else None
    if found is None:
        return None
    subject = next(subject for subject in wrong if subject.dtype == found.dtype)
    failure = found.failure
    further = (
        longer(entry, subject, failure.case, lambda case: nullcontext()) if failure.reproducible else None
    )
    shown = [failure.known[0], *([] if further is None else [further])]
    again = failure.reproducible
    lines = (
        what_is_tried(entry, subject, shown, failure.known[1:], lambda case: nullcontext()) if again else []
    )
    return [*lines, *likely_place(shown)]


def sentences_of(message: str) -> list[str]:
    """Return the sentences of a whole message: what is tried, and the likely place."""
    lines = message.partition("\non the case")[0].splitlines()[3:]  # after law, kernel and quantity
    return [line.strip() for line in lines if re.match(r"  (?! |wrong\b)", line)]


def kinds(lines: list[str]) -> set[str]:
    """Return the kinds of these sentences."""
    return {kind for kind, words in SENTENCES.items() for line in lines if re.search(words, line)}


def judged(name: str, lines: list[str]) -> str:
    """Return "right", "absent" or "wrong". The line "no more can be said" is wrong everywhere."""
    labels = [LABELS.get(one, "").split(", ") for one in name.split("__")]  # of a pair (pairs.py): of both
    allowed = set().union(*labels) | FREE
    found = kinds(lines)
    unknown = [line for line in lines if not kinds([line])]
    if unknown or not found <= allowed:
        return "wrong"
    return "right" if found - FREE else "absent"


def main() -> None:
    """Print each mutant with its sentences, and the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.hints", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MUTANT", help="default: all")
    names = parser.parse_args().names
    os.nice(15)
    every = [(x.name, x.implementation, x.law) for x in MUTANTS if x.device == "cpu"]
    every += [(f"fused_{x.name}", x.kernel, x.law) for x in FUSED_MUTANTS]
    counts: Counter[str] = Counter()
    for name, kernel, law in every:
        if names and name not in names:
            continue
        begun = time.perf_counter()
        lines = said(kernel, name, law)
        verdict = "not tried" if lines is None else judged(name, lines)
        label = "absent, though labelled" if verdict == "absent" and name in LABELS else verdict
        counts[label] += 1
        print(f"{label:10} {name} ({law}), {time.perf_counter() - begun:.1f} s", flush=True)
        for line in lines or ():
            print(f"             {line}", flush=True)
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()))


if __name__ == "__main__":
    main()
