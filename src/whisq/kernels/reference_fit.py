"""What ``kernels.fit`` computes, in numpy: the definition that the native core (``native/fit.h``) is tested against.

Rows are blocks or sub-blocks; everything is float32, sums are taken one element after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from whisq.kernels import reference
from whisq.kernels.blocks import Parts, format_of
from whisq.kernels.blocks.format import as_half, inverse_of
from whisq.kernels.core_types import CORE_TYPES
from whisq.kernels.reference_search import of_largest_magnitude, sequential_sum
from whisq.types import TensorType, parse_type

if TYPE_CHECKING:
    from whisq.kernels.blocks.bits import Bytes, Floats, Integers

F = np.float32


@dataclass(frozen=True, slots=True)
class Search:
    """A type as its search sees it: the numbers of ``native/fit.h`` and ``kernels.h``.

    Integers or indices go from ``low`` to ``high``. ``n``, ``first`` and ``step`` are the starts; ``refits`` of the
    best follow, and ``halves`` neighbours in f16. Scales of sub-blocks go from ``scale_low`` to ``scale_high``;
    ``units`` are tried.
    """

    low: int
    high: int
    n: int
    first: float
    step: float
    refits: int
    halves: int = 0
    scale_low: int = 0
    scale_high: int = 0
    units: int = 0
    unit_step: float = 0.0
    has_minimum: bool = False
    has_book: bool = False
    is_power_of_two: bool = False


SEARCHES: dict[str, Search] = {
    "q4_0": Search(-8, 7, 24, 0.68, 0.025, 1, 1),
    "q5_0": Search(-16, 15, 24, 0.8, 0.015, 1, 1),
    "q8_0": Search(-127, 127, 24, 0.88, 0.005, 1, 2),
    "q4_1": Search(0, 15, 5, -0.08, 0.04, 2, 1, has_minimum=True),
    "q5_1": Search(0, 31, 6, -0.08, 0.02, 2, 1, has_minimum=True),
    "q2_K": Search(0, 3, 4, -0.05, 0.1, 2, 0, 0, 15, 7, 0.05, has_minimum=True),
    "q3_K": Search(-4, 3, 16, 0.55, 0.05, 1, 0, -32, 31, 5, 0.05),
    "q4_K": Search(0, 15, 5, -0.08, 0.04, 2, 0, 0, 63, 5, 0.025, has_minimum=True),
    "q5_K": Search(0, 31, 5, -0.05, 0.02, 2, 0, 0, 63, 3, 0.03, has_minimum=True),
    "q6_K": Search(-32, 31, 16, 0.8, 0.015, 1, 0, -128, 127, 3, 0.03),
    "iq4_nl": Search(0, 15, 12, 0.7, 0.05, 1, 1, has_book=True),
    "iq4_xs": Search(0, 15, 12, 0.7, 0.05, 1, 0, -32, 31, 5, 0.025, has_book=True),
    "mxfp4": Search(0, 14, 4, 0.5, 0.5, 0, 0, has_book=True, is_power_of_two=True),
}
ONE_HALF, UNIT_ROUNDS, WORST, MOST_GROWTH = F(0.0006), 3, F(3.4e38), F(1.5)


class Scales(NamedTuple):
    """A block decodes to scale × value + offset."""

    scale: Floats
    offset: Floats


class Normal(NamedTuple):
    """Sums over a block's weights of w v², w v, w, w v e and w e, with v the value and e the error."""

    vv: Floats
    v: Floats
    w: Floats
    ve: Floats
    e: Floats

    def solved(self, has_offset: bool) -> Scales:
        """Return the change of scale and offset that loses least, the values as they are."""
        alone = np.where(self.vv > 0, self.ve / self.vv, F(0)).astype(F)
        if not has_offset:
            return Scales(alone, np.zeros_like(alone))
        determinant = self.vv * self.w - self.v * self.v
        sound = determinant > F(1e-6) * (self.vv * self.w)
        scale = np.where(sound, (self.w * self.ve - self.v * self.e) / determinant, alone)
        return Scales(scale, np.where(sound, (self.vv * self.e - self.v * self.ve) / determinant, F(0)))


def least(a: Floats, b: Floats | np.float32) -> Floats:
    """Return C's ``a < b ? a : b``, which takes the second where one is NaN."""
    return np.where(a < b, a, b)


def most(a: Floats, b: Floats | np.float32) -> Floats:
    """Return C's ``a > b ? a : b``."""
    return np.where(a > b, a, b)


def power_of_two(values: Floats) -> Floats:
    """Return the nearest power of two from 2^-126 to 2^124, the least for what is not positive."""
    power = ((values.astype(F).view(np.int32) + 0x00400000) & 0x7F800000).view(F)
    least_power = F(2.0**-126)
    return np.where(values > 0, least(most(power, least_power), F(2.0**124)), least_power)


class Part:
    """The search for one scale and offset: of a block, or of a sub-block."""

    def __init__(self, kind: TensorType, x: Floats, w: Floats) -> None:
        self.search, self.x, self.w = SEARCHES[kind.name], x, w
        self.is_super = self.search.scale_high > 0
        self.book: Floats | None = None
        if self.search.has_book:
            self.book = np.unique(format_of(kind).values(np.arange(16, dtype=np.int32)))
        ends = (self.book[0], self.book[-1]) if self.book is not None else (self.search.low, self.search.high)
        self.ends = (F(ends[0]), F(ends[1]))
        self.best = Scales(np.zeros(len(x), F), np.zeros(len(x), F))
        self.loss = np.full(len(x), WORST)

    def levels(self, s: Scales) -> Floats:
        """Return the level nearest to every weight: an integer, or an index of the book."""
        inverse = inverse_of(s.scale)[:, None]
        scaled = (self.x - s.offset[:, None]) * inverse if self.search.has_minimum else self.x * inverse
        if self.book is None:
            return most(least(np.rint(scaled), F(self.search.high)), F(self.search.low))
        thresholds = (self.book[:-1] + self.book[1:]) / F(2)
        indices: Floats = (~(scaled[..., None] < thresholds)).sum(-1).astype(F)
        return indices

    def values_and_errors(self, s: Scales) -> tuple[Floats, Floats]:
        """Return the values nearest to the weights, and what is then left of those."""
        levels = self.levels(s)
        values = levels if self.book is None else self.book[levels.astype(np.int32)]
        decoded = s.scale[:, None] * values
        return values, self.x - (decoded + s.offset[:, None] if self.search.has_minimum else decoded)

    def loss_of(self, s: Scales) -> Floats:
        """Return what a scale and an offset lose."""
        _, error = self.values_and_errors(s)
        return sequential_sum(self.w * error * error)

    def normal(self, s: Scales) -> Normal:
        """Return what least squares asks of the values that a scale and an offset give."""
        values, error = self.values_and_errors(s)
        wv = self.w * values
        sums = (wv * values, wv, self.w, wv * error, self.w * error)
        return Normal(*(sequential_sum(one) for one in sums))

    def written(self, scale: Floats, offset: Floats) -> Scales:
        """Return the nearest that the type can write; of a sub-block any, but that its offset is not positive."""
        if self.is_super:
            return Scales(scale, least(offset, F(0)) if self.search.has_minimum else np.zeros_like(scale))
        as_stored = power_of_two(scale) if self.search.is_power_of_two else as_half(scale)
        return Scales(as_stored, as_half(offset) if self.search.has_minimum else np.zeros_like(scale))

    def keep(self, s: Scales) -> None:
        """Keep a scale and an offset where they lose less than those so far."""
        loss = self.loss_of(s)
        better = loss < self.loss
        self.loss = np.where(better, loss, self.loss)
        self.best = Scales(*(np.where(better, mine, kept) for mine, kept in zip(s, self.best, strict=True)))

    def attempt(self, s: Scales) -> None:
        """Fit scale and offset to the values that they give, and keep them where they lose less."""
        sums = self.normal(s)
        by = sums.solved(self.search.has_minimum)
        scale, offset = s.scale + by.scale, s.offset + by.offset
        if self.is_super and self.search.has_minimum:
            change = np.where(sums.vv > 0, (sums.ve + s.offset * sums.v) / sums.vv, F(0)).astype(F)
            scale = np.where(offset > 0, s.scale + change, scale)
        self.keep(self.written(scale, offset))

    def run(self) -> None:
        """Find ``best``."""
        search = self.search
        places = [F(search.first) + F(search.step) * F(i) for i in range(search.n)]
        zero = np.zeros(len(self.x), F)
        if search.has_minimum:
            low, high = self.x[:, 0], self.x[:, 0]
            for column in self.x.T[1:]:
                low, high = least(column, low), most(column, high)
            low = least(low, F(0)) if self.is_super else low
            spread = high - low
            for below in places:
                for above in places:
                    start, stop = low + spread * below, high - spread * above
                    self.attempt(self.written(((stop - start) / F(search.high)).astype(F), start))
        else:
            largest = of_largest_magnitude(self.x)
            for end in self.ends:
                for place in places:
                    self.attempt(self.written(largest / (end * place), zero))
        for _ in range(search.refits):
            self.attempt(self.best)
        centre, around = self.best, range(-search.halves, search.halves + 1)
        for a in around:
            for b in around if search.has_minimum else (0,):
                if a or b:
                    near = (value * (F(1) + ONE_HALF * F(by)) for value, by in zip(centre, (a, b), strict=True))
                    self.keep(self.written(*near))


@dataclass
class Super:
    """Super-blocks on their way: units ``[n]``, and the sub-blocks' integers ``[n, sub-blocks]`` with their losses."""

    unit: Floats
    minimum_unit: Floats
    integer: Floats
    minimum: Floats
    losses: Floats
    loss: Floats

    def keep(self, other: Super) -> None:
        """Take from another what loses less there."""
        better = other.loss < self.loss
        for name in ("unit", "minimum_unit", "integer", "minimum", "losses", "loss"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, np.where(better if mine.ndim == 1 else better[:, None], theirs, mine))


class SuperPart:
    """The search of a type whose blocks have parts."""

    def __init__(self, kind: TensorType, x: Floats, w: Floats) -> None:
        self.n_subs = CORE_TYPES[kind.ggml_type].sub_blocks
        size = kind.block_size // self.n_subs
        self.part = Part(kind, x.reshape(-1, size), w.reshape(-1, size))
        self.search, self.n = self.part.search, len(x)

    def scales(self, s: Super) -> Scales:
        """Return what the sub-blocks decode with."""
        scale = s.unit[:, None] * s.integer
        offset = -(s.minimum_unit[:, None] * s.minimum) if self.search.has_minimum else np.zeros_like(scale)
        return Scales(scale.reshape(-1), offset.reshape(-1))

    def rated(self, s: Super) -> Super:
        """Return it with its losses."""
        losses = self.part.loss_of(self.scales(s)).reshape(self.n, -1)
        return replace(s, losses=losses, loss=sequential_sum(losses))

    def clamped(self, values: Floats, low: int) -> Floats:
        """Return integers of scales or minimums within their range."""
        return most(least(values, F(self.search.scale_high)), F(low))

    def with_units(self, unit: Floats, minimum_unit: Floats) -> Super:
        """Return the integers that come nearest to the sub-blocks' own scales."""
        found = Scales(*(values.reshape(self.n, -1) for values in self.part.best))
        unit, minimum_unit = as_half(unit), as_half(minimum_unit)
        integer = self.clamped(np.rint(found.scale * inverse_of(unit)[:, None]), self.search.scale_low)
        minimum = np.zeros_like(integer)
        if self.search.has_minimum:
            minimum = self.clamped(np.rint(-found.offset * inverse_of(minimum_unit)[:, None]), 0)
        else:
            minimum_unit = np.zeros_like(unit)
        return self.rated(Super(unit, minimum_unit, integer, minimum, integer, unit))

    def descend(self, s: Super) -> None:
        """Move every sub-block's integers by one, both at once where there are two."""
        integer, minimum = s.integer, s.minimum
        for a in (-1, 0, 1):
            for b in (-1, 0, 1) if self.search.has_minimum else (0,):
                if a == 0 and b == 0:
                    continue
                moved = replace(
                    s,
                    integer=self.clamped(integer + F(a), self.search.scale_low),
                    minimum=self.clamped(minimum + F(b), 0),
                )
                losses = self.rated(moved).losses
                better = losses < s.losses
                s.integer = np.where(better, moved.integer, s.integer)
                s.minimum = np.where(better, moved.minimum, s.minimum)
                s.losses = np.where(better, losses, s.losses)
        s.loss = sequential_sum(s.losses)

    def refit(self, s: Super) -> None:
        """Fit the units to the values that they give, and keep them where they lose less."""
        sums = Normal(*(one.reshape(self.n, -1) for one in self.part.normal(self.scales(s))))
        i, m = s.integer, -s.minimum
        products = (i * i * sums.vv, i * m * sums.v, m * m * sums.w, i * sums.ve, m * sums.e)
        by = Normal(*(sequential_sum(one) for one in products)).solved(self.search.has_minimum)
        minimum_unit = as_half(s.minimum_unit + by.offset) if self.search.has_minimum else s.minimum_unit
        s.keep(self.rated(replace(s, unit=as_half(s.unit + by.scale), minimum_unit=minimum_unit)))

    def run(self) -> Super:
        """Return the super-blocks found."""
        self.part.run()
        search = self.search
        end = F(search.scale_low if search.scale_low < 0 else search.scale_high)
        scales, offsets = (values.reshape(self.n, -1) for values in self.part.best)
        unit = of_largest_magnitude(scales) / end
        minimum_unit = of_largest_magnitude(-offsets) / F(search.scale_high)
        factors = [F(1) + F(search.unit_step) * F(i - search.units // 2) for i in range(search.units)]
        nothing = np.zeros((self.n, self.n_subs), F)
        best = Super(F(0) * unit, F(0) * unit, nothing, nothing, nothing, np.full(self.n, WORST))
        for a in factors:
            for b in factors if search.has_minimum else factors[:1]:
                best.keep(self.with_units(unit * a, minimum_unit * b))
        for _ in range(UNIT_ROUNDS):
            self.descend(best)
            self.refit(best)
        return best


class Result:
    """What was found for blocks: units, and the integers of sub-blocks where there are such."""

    def __init__(self, kind: TensorType, x: Floats, w: Floats) -> None:
        self.kind, self.x, self.w = kind, x, w
        self.integer: Floats | None = None
        self.minimum: Floats | None = None
        if SEARCHES[kind.name].scale_high:
            found = SuperPart(kind, x, w)
            s = found.run()
            self.part, scales = found.part, found.scales(s)
            self.unit, self.minimum_unit, self.integer, self.minimum = s.unit, s.minimum_unit, s.integer, s.minimum
        else:
            self.part = Part(kind, x, w)
            self.part.run()
            self.unit, self.minimum_unit = scales = self.part.best
        levels = self.part.levels(scales)
        self.values = (levels if self.part.book is None else self.part.book[levels.astype(np.int32)]).reshape(x.shape)
        self.levels = levels.reshape(x.shape)

    def decoded(self, unit: Floats, minimum_unit: Floats) -> Floats:
        """Return what the integers decode to with these units."""
        scale, offset = unit[:, None], minimum_unit[:, None]
        if self.integer is not None and self.minimum is not None:
            scale, offset = scale * self.integer, -(offset * self.minimum)
        found = scale[..., None] * self.values.reshape(*scale.shape, -1)
        if self.part.search.has_minimum:
            found = found + offset[..., None]
        decoded: Floats = found.reshape(self.x.shape)
        return decoded

    def loss(self, unit: Floats, minimum_unit: Floats) -> Floats:
        """Return what the integers lose with these units."""
        error = self.x - self.decoded(unit, minimum_unit)
        return sequential_sum(self.w * error * error)

    def grown(self) -> Scales:
        """Return units so much larger that a block is as large as its weights; the integers stay."""
        wx = self.w * self.x
        weights, found = sequential_sum(wx * self.x), sequential_sum(wx * self.decoded(self.unit, self.minimum_unit))
        by = np.where(found > 0, least(weights / found, MOST_GROWTH), F(1)).astype(F)
        unit, search = self.unit * by, self.part.search
        unit = power_of_two(unit) if search.is_power_of_two else as_half(unit)
        return Scales(unit, as_half(self.minimum_unit * by) if search.has_minimum else self.minimum_unit)

    def parts(self, unit: Floats, minimum_unit: Floats) -> Parts:
        """Return the blocks with these units, whose zeros have no sign."""
        integers = [None if x is None else x.astype(np.int32) for x in (self.integer, self.minimum)]
        return Parts(_stored(self.kind, self.levels), unit + F(0), minimum_unit + F(0), *integers)


def _stored(kind: TensorType, levels: Floats) -> Integers:
    search = SEARCHES[kind.name]
    if not search.has_book:
        return levels.astype(np.int32) - search.low
    values = format_of(kind).values(np.arange(16, dtype=np.int32))
    first = np.array([int(np.argmax(values == value)) for value in np.unique(values)], np.int32)
    return first[levels.astype(np.int32)]


def quantize_fitted(weights: Floats, type: str | TensorType, importance: Floats | None = None) -> Bytes:
    """Return ``float32[rows, columns]`` in a block format: ``uint8[rows, row bytes]``, as ``kernels.fit`` does.

    ``importance`` is ``float32[columns]``. Raises ``KernelError`` for a type without blocks.
    """
    kind = parse_type(type)
    definition = format_of(kind)
    x = np.ascontiguousarray(weights, F).reshape(-1, kind.block_size)
    costs = np.ones(weights.shape[1], F) if importance is None else importance.astype(F)
    plain = reference.quantize(weights, kind)
    with np.errstate(all="ignore"):
        mean = sequential_sum(x * x) / F(kind.block_size)
        w = np.tile(costs, len(weights)).reshape(x.shape) * np.sqrt(mean[:, None] + x * x)
        lost = x - reference.dequantize(plain, kind).reshape(x.shape)
        before = sequential_sum(w * lost * lost)
        result = Result(kind, x, w)
        nearest, grown = Scales(result.unit, result.minimum_unit), result.grown()
        is_grown = result.loss(*grown) < before
        units = [np.where(is_grown, larger, near) for larger, near in zip(grown, nearest, strict=True)]
        better = is_grown | (result.loss(*nearest) < before)
        fitted = definition.pack(result.parts(units[0], units[1]))
        blocks = np.where(better[:, None], fitted, plain.reshape(len(x), -1))
    return blocks.reshape(len(weights), -1)
