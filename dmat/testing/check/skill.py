"""The page of `dmat skill`, for programs that write kernels."""

PAGE = """\
# dmat, for programs that write kernels

dmat tests a kernel of the log-gate decay matrix D~, or a fused operator that contains it (linear attention,
mLSTM, softmax, delta rules). It compares the kernel with exact values within derived bounds. There is no
tolerance to choose.

## When to run what

After each edit, seconds:         dmat check --first FILE.py:FUNCTION
Before you say that it is done:   dmat check --gate CONTRACT.json FILE.py:FUNCTION
To see why one case fails:        dmat replay counterexamples/NAME
When it replaces another kernel:  dmat compare OLD.py:FUNCTION NEW.py:FUNCTION
To see how accurate it is:        dmat grade FILE.py:FUNCTION
For the fields of a contract:     python -c "import dmat.testing; help(dmat.testing.FusedContract)"
To freeze a contract, once:       dmat check --freeze CONTRACT.json FILE.py:FUNCTION

A person who says what the kernel must do freezes the contract. --shape B,NH,S,K,V adds sizes to the file; the
gate tries them too.

## How to read a verdict

Exit code 0, SOUND: every law that the contract implies was tried and held. Exit code 1, BROKEN: a law does
not hold. Exit code 2, COULD NOT: the kernel could not be imported or called, or a law was not tried. A check
that ended with 2 says nothing good about the kernel.

The last line of --gate is JSON: verdict, exit, target, contract (the digest), seed, broken (each law with its
dtype and device), why (the causes in words), cases, not_run (each law with the reason). The exit code says
the same as the verdict.

The page above it names each cause once, with its mildest case: the gates, the computed and the exact value,
and the bound. Mend the first cause, then check again. --seed N repeats the cases of a check. Each failure is
kept in counterexamples/: the case, and repro.py, which needs torch and the kernel alone.

A kernel that is wrong by a little is wrong: bounds follow from the formats in which it may sum. If an error
grows with S or with the gates, look for a difference of cumulative sums, or a sum in a half type.

## What not to do

Do not loosen the contract. The gate reads the file; the decorator is not asked. A changed file is refused.
Do not special-case the probes: sizes, gates and seeds are new in each check.
Do not cache results, and do not use an output buffer twice. Each call answers for its own inputs.
Do not look for the expected values. They are not in the kernel's process, and dmat cannot be imported there.
Do not end the process, print a verdict or write the report. Only the exit code of dmat counts.
If a promise cannot be kept, say which one, and show the case. A person decides whether to promise less.
"""
