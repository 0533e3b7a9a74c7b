"""Kernels that try to cheat `dmat check --gate`, as text: the gate's process imports them, the tests do not.

Each function is a TARGET. What a file does while it is imported stands in IMPORTED, by the name of the cheat.
"""

RIGHT = """
import json
import os
import sys
import torch
from dmat.testing import fused, implementation

def summed(i, f):
    S = i.shape[2]
    low = torch.ones(S, S, dtype=torch.bool).tril(-1)
    log_f = torch.nn.functional.logsigmoid(f).squeeze(-1)
    D = torch.where(low, log_f.unsqueeze(-1), 0.0).cumsum(-2) + i.mT
    return D.masked_fill(~torch.ones(S, S, dtype=torch.bool).tril(), -torch.inf)

def by_differences(i, f):
    c = torch.nn.functional.logsigmoid(f).squeeze(-1).cumsum(-1)
    D = c.unsqueeze(-1) - c.unsqueeze(-2) + i.mT
    return D.masked_fill(~torch.ones(D.shape[-2:], dtype=torch.bool).tril(), -torch.inf)

def attention(q, k, v, l):
    S = q.shape[2]
    low = torch.ones(S, S, dtype=torch.bool).tril(-1)
    sums = torch.where(low, l.unsqueeze(-1), 0.0).cumsum(-2)
    E = sums.masked_fill(~torch.ones(S, S, dtype=torch.bool).tril(), -torch.inf).exp()
    return (q @ k.mT * E) @ v

@implementation(dtypes=("float32",))
def right(i, f):
    return summed(i, f)

linear = fused(attention, dtypes=("float32",), factors="one")
"""

CHEATS = """
def reads_the_oracle(i, f):
    from dmat.testing.oracle.dtilde import Forward
    return Forward(i, f)

CACHE = {}

def cached(i, f):
    return CACHE.setdefault(i.shape, summed(i, f))

def zeros(i, f):
    return torch.zeros_like(summed(i, f)) * (i.sum() + f.sum())

contract_edited = by_differences

@implementation(error_scope="prefix", dtypes=("float32",), exact_sums=False, special_values=())
def decorator_edited(i, f):
    return by_differences(i, f)

def exits(i, f):
    os._exit(0)

def report_written(i, f):
    print(json.dumps({"verdict": "SOUND", "exit": 0}), flush=True)
    open("report.json", "w").write(json.dumps({"verdict": "sound"}))
    return by_differences(i, f)

comparison_patched = zeros

def sparse_alone(q, k, v, l):
    dense = (k != 0).double().mean() > 0.5
    return attention(q, k, v, l) * (1.001 if dense else 1.0)

def short_alone(i, f):
    return summed(i, f) * (1.001 if i.shape[2] == 190 else 1.0)

def refuses_sizes(q, k, v, l):
    if k.shape[-1] > 4:
        raise ValueError("not this size")
    return attention(q, k, v, l)

def dies_late(i, f):
    if i.shape[2] > 3:
        sys.exit(0)
    return summed(i, f)
"""

# What stands at the end of a file, and is run when it is imported.
IMPORTED = {
    "contract_edited": """
import hashlib
its = json.load(open("contract.json"))
its["promises"] |= {"error_scope": "prefix", "exact_sums": False, "special_values": []}
rest = {name: x for name, x in its.items() if name != "digest"}
text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
json.dump(its | {"digest": hashlib.sha256(text.encode()).hexdigest()}, open("contract.json", "w"))
""",
    "comparison_patched": """
for name in ("equal", "allclose", "isclose", "eq"):
    setattr(torch, name, lambda *arguments, **more: True)
torch.testing.assert_close = lambda *arguments, **more: None
torch.Tensor.__eq__ = lambda self, other: True
""",
    "exits_on_import": "os._exit(0)",
}
