"""The oracle: the decoder in exactly the integers of the two-party protocol
(`docs/protocols/arithmetic.md`).

Same operations, same order, same truncation events as the parties; what their shares leave to
chance comes from a `Rounding`. Values are signed representatives modulo p, or modulo 2^64 inside
look-ups, so whatever the text, it wraps where the parties do. With `Replay` the result must equal a
private run bit for bit.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cryptogen.numerics.anchors import ANCHORS, anchor_rows
from cryptogen.numerics.pieces import F
from cryptogen.numerics.plan import Attention, NumericPlan, Rope, tables
from cryptogen.numerics.quantise import IntegerModel

from .exact import cat_rows, product, scores_of, weighted_values
from .exponential import HeadPowers
from .field import Ints, minus, plus, times, total
from .rounding import Rounding
from .scalars import ScalarTables

OFF = 256  # units that prepared shares of products with a matrix of 16 bits are off by at most (A5.3)
ROWS = 64  # of one head at a time where order does not matter: what fits in a processor's cache


class Place(NamedTuple):
    """Where look-ups left their range: `kind` is norm, sigma or activation; `head` where there is
    one."""

    kind: str
    layer: int
    head: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}, layer {self.layer}" + ("" if self.head is None else f", head {self.head}")


class FixedBackend:
    """Implements the decoder's `Backend` on int64 arrays, rows of one call first.

    `range_events`: of each row of the last `logits` call, as the client would learn them (A7).
    `events`: how many of them came from where; `excess`: how far outside at most, a factor
    (activations: of half the window's width). `raw_logits`: the integers of the last `logits` call,
    of 24 bits.
    """

    def __init__(self, model: IntegerModel, plan: NumericPlan, rounding: Rounding) -> None:
        self.plan, self.shape, self.rounding = plan, plan.model, rounding
        self.events: Counter[Place] = Counter()
        self.excess: dict[Place, float] = {}
        self.raw_logits: Ints = np.empty((0, plan.model.vocab), dtype=np.int64)
        self.range_events: list[int] = []
        self._model = model
        self._off_embed = OFF + (int(np.abs(model.embed).max(initial=0)) >> 8)  # larger numbers, larger errors
        self._tables = tables(plan)
        sites = plan.model.norm_sites()
        self._plan_norms = dict(zip(sites, plan.norms, strict=True))
        self._norms = {
            site: ScalarTables([norm.scalar], self._tables, cleared=site != "final_norm")
            for site, norm in self._plan_norms.items()
        }
        self._heads = [_Heads(a, self._tables) for a in plan.attention]
        self._neurons = [_Neurons(plan, i, self._tables) for i in range(plan.model.layers)]
        self._in_shift = {site: np.array(linear.in_shift, dtype=np.int64) for site, linear in plan.linears.items()}
        self._out_shift = {site: np.array(linear.out_shift, dtype=np.int64) for site, linear in plan.linears.items()}
        self._start = self._end = 0  # rows of the current call
        self._rows: Ints = np.zeros(0, dtype=np.int64)  # range events of each of them
        self._pending = 0  # range events of earlier rows that were not sampled
        none: Ints = np.empty((0, self.shape.kv_heads, self.shape.head_dim), dtype=np.int64)
        self._keys, self._values = [none] * self.shape.layers, [none] * self.shape.layers

    @property
    def position(self) -> int:
        """Rows appended so far."""
        return self._end

    def cached(self, layer: int) -> tuple[Ints, Ints]:
        """Keys, rotated, and values of a layer's rows, [L, kv_heads, head_dim] each, scale F."""
        return self._keys[layer], self._values[layer]

    def crop(self, rows: int) -> None:
        """Forgets all rows but the first `rows`."""
        self._end = min(self._end, rows)
        self._keys, self._values = [k[:rows] for k in self._keys], [v[:rows] for v in self._values]

    def embed(self, tokens: Sequence[int], sampled: int) -> Ints:
        """A5.1: `h = TR(E[token] + P[position], shift)`, [T, d], scale F."""
        self._pending += int(self._rows.sum())
        self._rows = np.zeros(len(tokens), dtype=np.int64)
        self._start, self._end = self._end, self._end + len(tokens)
        h = self._model.embed[np.asarray(tokens)].astype(np.int64)  # [T, d]
        if self._model.pos is not None:
            h = h + self._model.pos[self._start : self._end]
        return self.rounding.truncate(h, self.plan.embed.shift, self._off_embed)

    def norm(self, h: Ints, site: str) -> Ints:
        """A5.2: `x̂ = h·ρ`, `ρ = SCALAR(Σ TR(h, pre_shift)²)`, [T, d]; exact, not yet truncated."""
        small = self.rounding.truncate(h, self._plan_norms[site].pre_shift)  # [T, d]
        m = total(times(small, small), 1)[:, None]  # [T, 1]
        rho, events = self._norms[site](m, self.rounding)
        self._rows[-len(h) :] += events[:, 0]
        if events.any():
            layer = self.shape.layers if site == "final_norm" else int(site.split(".")[1])
            place = Place("norm", layer)
            self._note(place, events, self._norms[site].outside(m[events[:, 0] > 0], 0))
        return times(h, rho)

    def linear(self, x: Ints, site: str) -> Ints:
        """A5.3: `y = TR(W·TR(x̂, in_shift) + b, out_shift)`, [T, d_out], scale F (the head: no
        final truncation)."""
        behind_activation = site.endswith(".down")
        truncate = self.rounding.truncate_word if behind_activation else self.rounding.truncate
        y = product(truncate(x, self._in_shift[site]), self._model.matrices[site])  # [T, d_out]
        if site in self._model.biases:
            y = plus(y, self._model.biases[site])
        return y if site == "head" else self.rounding.truncate(y, self._out_shift[site], OFF)

    def attention(self, qkv: Ints, layer: int) -> Ints:
        """A5.4–5: rotates, appends to the cache, attends. [T, q_dim]; exact, not yet truncated."""
        m, rows = self.shape, len(qkv)
        q, k, v = np.split(qkv, [m.q_dim, m.q_dim + m.kv_dim], axis=1)
        q, k = q.reshape(rows, m.heads, m.head_dim), k.reshape(rows, m.kv_heads, m.head_dim)
        v = v.reshape(k.shape)
        if (rope := self.plan.rope[layer]) is not None:
            q, k = self._rotate(q, rope), self._rotate(k, rope)
        keys = self._keys[layer] = cat_rows(self._keys[layer], k)  # [L, kv_heads, head_dim]
        values = self._values[layer] = cat_rows(self._values[layer], v)
        out = np.empty_like(q)  # [T, heads, head_dim]
        alone = 1 if self._start == 0 else 0  # row 0 attends only to itself
        if rows > alone:
            out[alone:] = self._attend(q[alone:], keys, values, layer, self._start + alone)
        if alone:
            shift = self._in_shift[f"layers.{layer}.o"].reshape(m.heads, m.head_dim)
            out[0] = times(v[0].repeat(m.heads // m.kv_heads, axis=0), np.int64(1) << shift)
        return out.reshape(rows, m.q_dim)

    def _rotate(self, x: Ints, rope: Rope) -> Ints:
        """A5.4: half-rotation RoPE at the positions of this call; one event in the layout of x [T,
        heads, head_dim]."""
        pairs = self.shape.head_dim // 2
        cos, sin = (self._tables[n].reshape(-1, 1, pairs)[self._start : self._end] for n in (rope.cos, rope.sin))
        low, high = np.split(x, 2, axis=2)
        turned = [minus(times(low, cos), times(high, sin)), plus(times(high, cos), times(low, sin))]
        return self.rounding.truncate(np.concatenate(turned, axis=2), rope.bits)

    def _attend(self, q: Ints, keys: Ints, values: Ints, layer: int, start: int) -> Ints:
        """A5.5 for rows start… of q [T, heads, head_dim]: `o'·ρ`, [T, heads, head_dim]."""
        heads = self._heads[layer]
        s = scores_of(q, keys)  # [T, heads, L]
        last = np.arange(start, start + len(q))  # [T], the row's own position
        for g, anchor in enumerate(heads.anchors):
            s[:, g] = _relative(s[:, g], last, anchor)
        e = np.zeros_like(s)
        if self.rounding.ordered:
            hidden = np.arange(len(keys)) <= last[:, None]  # [T, L]
            seen = np.broadcast_to(hidden[:, None, :], s.shape)
            head = np.broadcast_to(np.arange(self.shape.heads)[:, None], s.shape)[seen]
            e[seen] = self._exponentials(s[seen], head, layer)
        else:  # a few rows of one head at a time
            for at in range(0, len(q), ROWS):
                rows = slice(at, at + ROWS)
                seen = np.arange(start + min(at + ROWS, len(q))) <= last[rows, None]  # [≤ ROWS, L]
                width = seen.shape[1]
                for g in range(self.shape.heads):
                    weights = np.zeros(seen.shape, dtype=np.int64)
                    weights[seen] = self._exponentials(s[rows, g, :width][seen], g, layer)
                    e[rows, g, :width] = weights
        sigma = total(e, 2)  # [T, heads]
        o = self.rounding.truncate(weighted_values(e, values), heads.o_shift[:, None])  # [T, heads, head_dim]
        rho, events = heads.scalar(sigma, self.rounding)
        self._rows[-len(q) :] += events.sum(axis=1)
        for g in np.flatnonzero(events.any(axis=0)).tolist():
            outside = heads.scalar.outside(sigma[events[:, g] > 0, g], g)
            self._note(Place("sigma", layer, g), events[:, g], outside)
        return times(o, rho[:, :, None])

    def _exponentials(self, s: Ints, head: NDArray[np.int64] | int, layer: int) -> Ints:
        """`e'` of scores [N] of one head, or of the heads [N], relative to their anchors, scale 2F:
        A5.5a, b."""
        heads = self._heads[layer]
        x = self.rounding.truncate(s, F + heads.anchor_bits[head])  # scale F
        fraction = self.rounding.fraction(x)
        return self.rounding.exponential(heads.powers.of(x, fraction, head))

    def activation(self, u: Ints, layer: int) -> Ints:
        """A5.6: `A[j]·u² + B[j]·u + C[j]`, gated: `A[j]·gate·up + B[j]·up`; [T, ff], modulo 2^64,
        not yet truncated."""
        neurons, ff = self._neurons[layer], self.shape.ff
        gate, factor = u[:, :ff], u[:, -ff:]  # without gates the same
        argument = self.rounding.lift(times(gate, factor))
        j = self.rounding.index(plus(gate, neurons.half), neurons.h, neurons.k) + neurons.first  # [T, ff]
        if neurons.guard is not None and (events := neurons.guard.take(j)).any():
            self._rows += events.sum(axis=1)
            where = events > 0
            self._note(Place("activation", layer), events, float((np.abs(gate) / neurons.half)[where].max()))
        a: Ints = neurons.a.take(j)
        b: Ints = neurons.b.take(j)
        y = a * argument + b * factor
        return y if neurons.c is None else y + neurons.c.take(j)

    def add(self, h: Ints, y: Ints) -> Ints:
        """A5.7."""
        return plus(h, y)

    def last(self, h: Ints) -> Ints:
        return h[-1:]

    def logits(self, x: Ints) -> NDArray[Any]:
        """A5.8, A8: real logits [T, vocab], float64; the integers stay in `raw_logits`."""
        exact = self.linear(x, "head")  # [T, vocab]
        self.raw_logits = self.rounding.leading(
            times(exact, np.array(1 << self.plan.logit_shift)), OFF << self.plan.logit_shift
        )
        n = len(x)
        sampled = self._rows[-n:].copy()
        sampled[0] += self._pending + int(self._rows[:-n].sum())
        self.range_events = [int(count) for count in sampled]
        self._pending, self._rows = 0, np.zeros(0, dtype=np.int64)
        return self.raw_logits / 2.0**self.plan.coarse_logit_bits

    def _note(self, place: Place, events: Ints, outside: float) -> None:
        self.events[place] += int(events.sum())
        self.excess[place] = max(self.excess.get(place, 0.0), outside)


def _relative(s: Ints, own: NDArray[np.int64], anchor: str) -> Ints:
    """Scores [T, L] of one head relative to its anchor: A5.5a, before the truncation. `own` [T]:
    the rows' own positions."""
    level = total(np.take_along_axis(s, anchor_rows(anchor, own), axis=1), 1)[:, None]  # [T, 1]
    return minus(times(s, np.array(1 << ANCHORS[anchor])), level)


class _Heads:
    """The public constants of one layer's attention."""

    def __init__(self, attention: Attention, made: list[NDArray[np.int64]]) -> None:
        heads = attention.heads
        self.anchors = [h.anchor for h in heads]
        self.anchor_bits = np.array([ANCHORS[anchor] for anchor in self.anchors], dtype=np.int64)  # [G]
        self.powers = HeadPowers(attention)
        self.o_shift = np.array([h.o_shift for h in heads], dtype=np.int64)  # [G]
        self.scalar = ScalarTables([h.scalar for h in heads], made)


class _Neurons:
    """The windows of one layer's activation, neuron by neuron; tables of all windows one behind the
    other."""

    def __init__(self, plan: NumericPlan, layer: int, made: list[NDArray[np.int64]]) -> None:
        spec = plan.activations[layer]
        of, windows = np.array(spec.of), spec.windows
        self.k = spec.k
        self.h = np.array([w.h for w in windows], dtype=np.int64)[of]  # [ff]
        self.half = np.int64(1) << (self.h + self.k - 1)
        self.first = of.astype(np.int64) << self.k
        self.a, self.b = (np.concatenate([made[getattr(w, name)] for w in windows]) for name in ("a", "b"))
        added = [made[w.c] for w in windows if w.c is not None]
        self.c = np.concatenate(added) if added else None
        guards = [made[w.g] for w in windows if w.g is not None]
        self.guard = np.concatenate(guards) if guards else None
