"""The oracle: the decoder in exactly the integers of the two-party protocol (`docs/protocols/arithmetic.md`).

Same operations, same order, same truncation events as the parties; what their shares leave to chance comes from a
`Rounding`. With `Replay` the result must equal a private run bit for bit.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.numerics.pieces import F
from cryptogen.numerics.plan import Plan, tables
from cryptogen.numerics.quantise import IntegerModel

from .exact import cat_rows, product, scores_of, weighted_values
from .rounding import Ints, Rounding
from .scalars import HeadTables, ScalarTables


class FixedBackend:
    """Implements the decoder's `Backend` on int64 arrays, rows of one call first.

    `events` counts what the plan did not foresee, by kind: a value outside its window (`norm`, `score`, `sigma`,
    `activation`) or above a calibrated bound (`bound`). `raw_logits`: the integers of the last `logits` call.
    """

    def __init__(self, model: IntegerModel, plan: Plan, rounding: Rounding) -> None:
        self.plan, self.shape, self.rounding = plan, plan.model, rounding
        self.events: Counter[str] = Counter()
        self.raw_logits: Ints = np.empty((0, plan.model.vocab), dtype=np.int64)
        self._model = model
        self._tables = tables(plan)
        self._norms = {
            site: ScalarTables([norm.scalar], self._tables)
            for site, norm in zip(plan.model.norm_sites(), plan.norms, strict=True)
        }
        self._plan_norms = dict(zip(plan.model.norm_sites(), plan.norms, strict=True))
        self._heads = [HeadTables(a, self._tables) for a in plan.attention]
        self._in_shift = {site: np.array(linear.in_shift, dtype=np.int64) for site, linear in plan.linears.items()}
        self._reset()

    def _reset(self) -> None:
        self._start = self._end = 0  # rows of the current call
        none: Ints = np.empty((0, self.shape.kv_heads, self.shape.head_dim), dtype=np.int64)
        self._keys, self._values = [none] * self.shape.layers, [none] * self.shape.layers

    @property
    def position(self) -> int:
        """Rows appended so far."""
        return self._end

    def truncate(self, rows: int) -> None:
        """Forgets all rows but the first `rows`."""
        self._end = min(self._end, rows)
        self._keys, self._values = [k[:rows] for k in self._keys], [v[:rows] for v in self._values]

    def embed(self, tokens: Sequence[int]) -> Ints:
        """A5.1: `h = TR(E[token] + P[position], shift)`, [T, d], scale F."""
        self._start, self._end = self._end, self._end + len(tokens)
        h = self._model.embed[np.asarray(tokens)]  # [T, d]
        if self._model.pos is not None:
            h = h + self._model.pos[self._start : self._end]
        self._check_bound(h, self.plan.embed.bound)
        return self.rounding.truncate(h, self.plan.embed.shift)

    def norm(self, h: Ints, site: str) -> Ints:
        """A5.2: `x̂ = h·ρ`, `ρ = SCALAR(Σ TR(h, pre_shift)²)`, [T, d]; exact, not yet truncated."""
        norm = self._plan_norms[site]
        self._check_bound(h, norm.h_bound)
        small = self.rounding.truncate(h, norm.pre_shift)  # [T, d]
        m = (small * small).sum(axis=1, keepdims=True)  # [T, 1]
        rho, outside = self._norms[site](m, self.rounding)
        self._count("norm", outside)
        return h * rho

    def linear(self, x: Ints, site: str) -> Ints:
        """A5.3: `y = TR(W·TR(x̂, in_shift) + b, out_shift)`, [T, d_out], scale F (the head: no final truncation)."""
        linear = self.plan.linears[site]
        self._check_bound(x, linear.in_bound)
        x = self.rounding.truncate(x, self._in_shift[site])  # [T, d_in], scale F
        y = product(x, self._model.matrices[site])  # [T, d_out]
        if site in self._model.biases:
            y += self._model.biases[site]
        self._check_bound(y, linear.out_bound)
        return y if site == "head" else self.rounding.truncate(y, linear.out_shift)

    def attention(self, qkv: Ints, layer: int) -> Ints:
        """A5.4–5: rotates, appends to the cache, attends. [T, q_dim]; exact, not yet truncated."""
        m, rows = self.shape, len(qkv)
        q, k, v = np.split(qkv, [m.q_dim, m.q_dim + m.kv_dim], axis=1)
        q, k = q.reshape(rows, m.heads, m.head_dim), k.reshape(rows, m.kv_heads, m.head_dim)
        v = v.reshape(k.shape)
        if m.rope:
            q, k = self._rotate(q), self._rotate(k)
        keys = self._keys[layer] = cat_rows(self._keys[layer], k)  # [L, kv_heads, head_dim]
        values = self._values[layer] = cat_rows(self._values[layer], v)
        out = np.empty_like(q)  # [T, heads, head_dim]
        alone = 1 if self._start == 0 else 0  # row 0 attends only to itself
        if rows > alone:
            out[alone:] = self._attend(q[alone:], keys, values, layer, self._start + alone)
        if alone:
            shift = self._in_shift[f"layers.{layer}.o"].reshape(m.heads, m.head_dim)
            out[0] = v[0].repeat(m.heads // m.kv_heads, axis=0) << shift
        return out.reshape(rows, m.q_dim)

    def _rotate(self, x: Ints) -> Ints:
        """A5.4: half-rotation RoPE at the positions of this call; one event in the layout of x [T, heads, head_dim]."""
        rope = self.plan.rope
        assert rope is not None
        pairs = self.shape.head_dim // 2
        cos, sin = (self._tables[n].reshape(-1, 1, pairs)[self._start : self._end] for n in (rope.cos, rope.sin))
        low, high = np.split(x, 2, axis=2)
        turned = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)
        return self.rounding.truncate(turned, rope.bits)

    def _attend(self, q: Ints, keys: Ints, values: Ints, layer: int, start: int) -> Ints:
        """A5.5 for rows start… of q [T, heads, head_dim]: `o'·ρ`, [T, heads, head_dim]."""
        heads = self._heads[layer]
        seen = np.arange(len(keys)) <= np.arange(start, start + len(q))[:, None]  # [T, L]
        where = np.nonzero(np.broadcast_to(seen[:, None, :], (len(q), self.shape.heads, len(keys))))
        head = where[1]
        s = self.rounding.truncate(scores_of(q, keys)[where], F)  # [pairs (t, g, j) with j ≤ t], scale F
        e, outside = heads.exp(s, head, self.rounding)
        self._count("score", outside)
        e = self.rounding.truncate(e, heads.e_shift[head])
        dense: Ints = np.zeros((len(q), self.shape.heads, len(keys)), dtype=np.int64)  # [T, heads, L]
        dense[where] = e
        sigma = dense.sum(axis=2)  # [T, heads]
        o = weighted_values(dense, values)  # [T, heads, head_dim]
        o = self.rounding.truncate(o, heads.o_shift[:, None])
        rho, outside = heads.scalar(sigma, self.rounding)
        self._count("sigma", outside)
        return o * rho[:, :, None]

    def activation(self, u: Ints, layer: int) -> Ints:
        """A5.6: `A[j]·u + B[j]`, gated: `A[j]·gate·up + B[j]·up`; [T, ff], exact, not yet truncated."""
        p = self.plan.activations[layer]
        gate, up = (u[:, : self.shape.ff], u[:, self.shape.ff :]) if self.shape.gated else (u, None)
        x = gate - p.offset
        self._count("activation", (x < 1 << p.h) | (x >= 1 << (p.h + p.k)))
        j = self.rounding.index(x, p.h, p.k)  # [T, ff]
        y = self._tables[p.a][j] * (gate - p.center) + self._tables[p.b][j]
        return y if up is None else y * up

    def add(self, h: Ints, y: Ints) -> Ints:
        """A5.7."""
        return h + y

    def last(self, h: Ints) -> Ints:
        return h[-1:]

    def logits(self, x: Ints) -> NDArray[Any]:
        """A5.8: real logits [T, vocab], float64; the integers stay in `raw_logits`."""
        self.raw_logits = self.linear(x, "head")
        return self.raw_logits / 2.0**self.plan.logit_bits

    def _check_bound(self, x: Ints, bound: int) -> None:
        self._count("bound", np.abs(x) > bound)

    def _count(self, kind: str, wrong: NDArray[np.bool_]) -> None:
        if n := int(np.count_nonzero(wrong)):
            self.events[kind] += n
