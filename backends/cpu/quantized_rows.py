"""Convolutions of 8 bits with a number of channels that is no multiple of 4: a network's first.

The bytes that a row of the window covers are neighbours in NHWC, so that words are taken from whole
rows and few of their bytes have no weight: 6 words for 7 columns of 3 channels. They begin at any
byte. The input has its padding written out, and columns behind it that the last words reach into
(:func:`beyond`); the arguments are those of :mod:`burnish.backends.cpu.quantized`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from burnish.backends.cpu.codes import ByteWords
from burnish.backends.cpu.conv import ConvSpec, DirectLoops, Row
from burnish.backends.cpu.dot8 import PACK
from burnish.backends.cpu.gemm import pack_columns, packed_size
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import RegisterTile
from burnish.backends.cpu.quantized import (
    Codes8,
    QuantizedSpec,
    as_words,
    declare_epilogue,
    declare_results,
)
from burnish.backends.cpu.tir import Index, Kernel, floordiv, hold, kernel, serial, static


def takes_rows(spec: QuantizedSpec) -> bool:
    """Whether the template is for this convolution."""
    conv = spec.conv
    wide = conv.kernel[1] > 1 and conv.dilations[1] == 1
    return wide and conv.groups == 1 and conv.ic % PACK != 0


def row_words(conv: ConvSpec) -> int:
    """Words of a row of the window."""
    return -(-conv.ic * conv.kernel[1] // PACK)


def beyond(conv: ConvSpec) -> int:
    """Columns that the last words of a row reach into."""
    spare = row_words(conv) * PACK - conv.ic * conv.kernel[1]
    return -(-spare // conv.ic)


def _in_rows(spec: QuantizedSpec, isa: Isa) -> ConvSpec:
    """A convolution of one column, with words as channels, over as many pixels.

    ``spec`` is of the input as the kernel reads it: with padding and the columns beyond.
    """
    conv = spec.conv
    ow = floordiv(static(conv.w) - (beyond(conv) + conv.kernel[1]), conv.strides[1]) + 1
    return replace(
        conv,
        ic=row_words(conv),
        kernel=(conv.kernel[0], 1),
        w=static((ow - 1) * conv.strides[1] + 1),
        dot=spec.words(isa).dot,
    )


def pack_rows(w: Codes8, spec: QuantizedSpec, isa: Isa) -> Codes8:
    """Weights [OC, IC, KH, KW] in int8 as the kernel reads them: 1-D."""
    oc = w.shape[0]
    inner = _in_rows(spec, isa)
    padded = np.zeros((inner.kernel[0], inner.ic * PACK, oc), np.int8)
    rows = w.transpose(2, 3, 1, 0).reshape(inner.kernel[0], -1, oc)
    padded[:, : rows.shape[1]] = rows
    words = padded.reshape(-1, PACK, oc).transpose(0, 2, 1)
    flat = np.ascontiguousarray(words).view(np.int32).reshape(-1, oc)
    packed = pack_columns(flat, inner.columns(isa), isa)
    return np.ascontiguousarray(packed).view(np.int8)


def packed_rows_size(spec: QuantizedSpec, isa: Isa) -> int:
    """Bytes of the packed weights."""
    depth = row_words(spec.conv) * spec.conv.kernel[0]
    return PACK * packed_size(depth, spec.conv.oc, isa)


def rows_tile(spec: QuantizedSpec, isa: Isa) -> str:
    """The register tile, for reports."""
    tile = _in_rows(spec, isa).columns(isa)[0].tile
    return f"{tile.rows}x{tile.vectors}"


def quantized_rows(isa: Isa, spec: QuantizedSpec, name: str = "qconv_rows") -> Kernel:
    """Build the kernel of ``spec``, whose sizes are those of the padded input."""
    conv, inner = spec.conv, _in_rows(spec, isa)
    shape = (conv.n, inner.oh, inner.ow, conv.oc)
    with kernel(name, isa) as k:
        x = k.input("x", (conv.n, conv.h, conv.w, conv.ic), spec.x_dtype)
        w = k.input("w", (packed_rows_size(spec, isa),), "int8")
        epilogue = declare_epilogue(k, spec, shape)
        y, to = declare_results(k, spec, shape)
        x = replace(x, flat=ByteWords(x.flat, spec.x_dtype == "int8"))
        w = replace(w, flat=as_words(w))
        pixel, line = conv.ic * conv.strides[1], static(conv.w) * conv.ic
        _RowLoops(isa, inner, inner.columns(isa), x, w, y, epilogue, to, pixel, line).emit()
    return k.result


@dataclass(frozen=True)
class _RowLoops(DirectLoops):
    """The direct loops, with addresses of the input in bytes.

    Attributes:
        pixel: Bytes between the windows of neighbouring results.
        line: Bytes of a row of the input.
    """

    pixel: int = 0
    line: Index = 0

    def _reduce(self, row: Row, tile: RegisterTile, begin: Index, inside: bool) -> None:
        """Sum over the rows of the window."""
        spec = self.spec
        wide = tile.vectors * self.isa.lanes
        panel = hold(row.first * (self.isa.lanes * self.depth))
        with serial(spec.kernel[0]) as kh:
            top = row.oh * spec.strides[0] + kh * spec.dilations[0]
            base = hold((row.image * spec.h + top) * self.line + begin * self.pixel)
            weights = hold(panel + kh * (spec.ic * wide))

            def places(step: Index, base: Index = base) -> Sequence[Index]:
                return [base + (r * self.pixel + step * PACK) for r in range(tile.rows)]

            def panel_at(step: Index, weights: Index = weights) -> Index:
                return weights + step * wide

            tile.stream(self.x.flat, places, self.w.flat, panel_at, (0, spec.ic))
