"""What several adapters put around a function: scans without q and k, chunks one after another."""

import torch


def scan(solve):
    """Make o of h[t] = exp(g[t]) h[t - 1] + x[t]: h = solve(g, x), each (batch, time, channel); K = 1."""

    def o(q, k, v, g):
        shape = q.shape[0] * q.shape[1], *v.shape[2:]
        gates = g[..., None].expand(v.shape).reshape(shape)
        return q * solve(gates, (v * k).reshape(shape)).reshape(v.shape)

    return o


def log(values):
    """Return the logarithm, -300 of 0: scans in log space take what is above 0, and e^-300 is their 0."""
    return torch.where(values > 0, values.clamp(min=1e-30).log(), -300.0)


def in_chunks(fn, size):
    """Call fn(q, k, v, state) -> (o, state) on one chunk after another."""

    def o(q, k, v, state=None):
        found = []
        for parts in zip(*(x.split(size, dim=2) for x in (q, k, v)), strict=True):
            part, state = fn(*parts, state)
            found.append(part)
        return torch.cat(found, dim=2), state

    return o
