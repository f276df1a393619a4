"""`image/flex`: as many tokens as a picture needs, from one to all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import targets
from ..codec import LatentCodec
from ..quantizers import FSQ, MAX_CODEBOOK
from ..registry import register
from ..types import Codes, CodeSpec, Modality, Settings
from ..validate import are_integers, is_integer
from .resampler import HEAD, Decoder, Encoder, start

CHUNK = 64
"""Tiles that go through the networks at once."""
MAX_TOKENS = 512


@register("image/flex")
class Flex(LatentCodec):
    """A tokenizer whose tokens are one-dimensional, ordered and nested: any prefix of them decodes.

    After FlexTok (Bachmann et al., arXiv 2502.13967): registers of a transformer, quantised (FSQ),
    and nested dropout, so that the first tokens hold what matters most. Pictures larger than a
    tile are cut into tiles, each coded by itself; edges are replicated.

    levels  FSQ levels of a token; tokens  of a tile at most; tile  its side in pixels;
    patch   side of the patches that the transformer sees, even; width  channels, a multiple of 64;
    depths  transformer blocks of the encoder and of the decoder

    Setting: tokens a tile. Codes are one row (batch, 1, positions), by rank: the first token of
    every tile, then the second of every tile, and so on, so that a prefix is a worse picture and
    not a part of one. A tile that has fewer tokens than others says so with the entry `end`, the
    last of the codebook, in place of its next token; the row ends where all have ended. What
    follows the last entry of a tile that ended, or is full, means nothing.
    """

    def __init__(
        self, levels: list[int] = (8, 5, 5, 5), tokens: int = 64, tile: int = 64, patch: int = 8, width: int = 192,
        depths: list[int] = (1, 2),
    ) -> None:  # fmt: skip
        quantizer = FSQ(list(levels))
        _check(quantizer, tokens, tile, patch, width, depths)
        self.end = quantizer.sizes[0]
        spec = CodeSpec(
            Modality.IMAGE, (self.end + 1,), (), channels=3, sample_rate=None, total=True, ordered=True, causal=False
        )
        super().__init__(spec, quantizer)
        sweep = sorted({2**i for i in range(tokens.bit_length())} | {tokens})
        self.settings = Settings("tokens", "per tile", tokens, (1, *sweep[1:][-7:]), tuple(range(1, tokens + 1)))
        self.tokens, self.tile = tokens, tile
        self.starts_on = 4 * tokens * quantizer.dim
        self.encoder = Encoder(tile // patch, patch, width, depths[0], tokens, quantizer.dim)
        self.decoder = Decoder(tile // patch, patch, width, depths[1], tokens, quantizer.dim)
        self.to(memory_format=torch.channels_last)

    def tiles(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of tiles that cover a picture of `size`."""
        return -(-size[0] // self.tile), -(-size[1] // self.tile)

    def span(self, size: tuple[int, ...]) -> tuple[int, int]:
        rows, columns = self.tiles(size)
        return rows * columns, rows * columns * self.tokens

    # -- one tile -------------------------------------------------------------------------------

    def analyze(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width), a tile or smaller → latents (batch, dim, tokens); edges replicated."""
        x = F.pad(x, (0, self.tile - x.shape[3], 0, self.tile - x.shape[2]), mode="replicate")
        return self.encoder(x * 2 - 1)

    def synthesize(self, latents: Tensor) -> Tensor:
        """The first quantised latents (batch, dim, 1 to `tokens`) → tiles (batch, 3, tile, tile), not clamped."""
        missing = self.tokens - latents.shape[2]
        kept = torch.arange(self.tokens, device=latents.device) < latents.shape[2]
        return self._paint(F.pad(latents, (0, missing)), kept.expand(len(latents), -1))

    def _paint(self, latents: Tensor, kept: Tensor) -> Tensor:
        return (self.decoder(latents, kept) + 1) / 2

    def start(self, x: Tensor) -> None:
        """Principal components of the data in place of a random start."""
        rows, columns = self.tiles(tuple(x.shape[2:]))
        some = x[: -(-self.starts_on // (rows * columns))]
        start(self.encoder, self.decoder, self.quantizer, self._tiles(some) * 2 - 1)

    # -- whole pictures -------------------------------------------------------------------------

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Nested dropout (Rippel et al., arXiv 1402.0915): every tile keeps a random number of its first tokens.

        That number is ⌈tokens · u²⌉ with u uniform: a quarter of the tiles keep a sixteenth or less.
        """
        rows, columns = self.tiles(tuple(x.shape[2:]))
        tiles = self._tiles(x)
        quantized = self.quantizer.quantize(self.analyze(tiles))
        count = (self.tokens * torch.rand(len(tiles), 1, device=x.device).square()).ceil().clamp_min(1)
        painted = self._paint(quantized.latents, torch.arange(self.tokens, device=x.device) < count)
        grid = painted.unflatten(0, (rows, columns, len(x)))
        return grid.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3), quantized.loss

    def tokenise(self, x: Tensor) -> Tensor:
        """Pictures → all tokens of all tiles, (batch, tiles, tokens) int64."""
        places = itertools.product(*map(range, self.tiles(tuple(x.shape[2:]))))
        rows = []
        with torch.autocast(x.device.type, enabled=False):
            for some in _batched(((item, place) for place in places for item in range(len(x))), CHUNK):
                tiles = torch.cat([self._cut(x[i : i + 1], *place) for i, place in some])
                rows.append(self.quantizer.search(self.analyze(tiles))[:, 0])
        return torch.cat(rows).unflatten(0, (-1, len(x))).transpose(0, 1)

    def _tiles(self, x: Tensor) -> Tensor:
        """All tiles of all pictures, (tiles · batch, 3, tile, tile)."""
        places = itertools.product(*map(range, self.tiles(tuple(x.shape[2:]))))
        return torch.cat([self._cut(x, *place) for place in places])

    def _cut(self, x: Tensor, row: int, column: int) -> Tensor:
        top, left = row * self.tile, column * self.tile
        x = x[:, :, top : top + self.tile, left : left + self.tile]
        return F.pad(x, (0, self.tile - x.shape[3], 0, self.tile - x.shape[2]), mode="replicate")

    def _encode(self, x: Tensor, setting: int) -> Codes:
        table = self.tokenise(x)[:, :, :setting]
        indices = table.transpose(1, 2).flatten(1).unsqueeze(1).contiguous()
        sizes = torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1)
        return Codes(indices, sizes, torch.full((len(x),), indices.shape[2], device=x.device))

    def truncate(self, codes: Codes, setting: int) -> Codes:
        tiles = torch.tensor([math.prod(self.tiles(tuple(size))) for size in codes.sizes.tolist()])
        lengths = torch.minimum(tiles.to(codes.lengths) * setting, codes.lengths)
        return Codes(codes.indices[:, :, : int(lengths.max())], codes.sizes, lengths)

    def _decode(self, codes: Codes) -> Tensor:
        """Tile by tile onto a canvas, so that memory is bounded by the picture and not by its tiles."""
        largest = codes.sizes.amax(0).tolist()
        canvas = torch.zeros(len(codes), 3, *largest, device=codes.indices.device)
        for some in _batched(self._jobs(codes), CHUNK):
            table = torch.stack([tokens for *_, tokens in some])
            with torch.autocast(table.device.type, enabled=False):
                tiles = self._paint(self.quantizer.lookup(table.clamp_min(0)[:, None]), table >= 0).float().clamp(0, 1)
            for (item, row, column, _), tile in zip(some, tiles, strict=True):
                top, left = row * self.tile, column * self.tile
                height, width = codes.sizes[item].tolist()
                spot = canvas[item, :, top : min(top + self.tile, height), left : min(left + self.tile, width)]
                spot.copy_(tile[:, : spot.shape[1], : spot.shape[2]])
        return canvas

    def pieces(self, size: tuple[int, ...]) -> int:
        return math.prod(self.tiles(size))

    def curve(self, x: Tensor) -> targets.Curve:
        """Every setting; where there are several tiles also every step from one token each to all, the best first."""
        tiles = self.pieces(tuple(x.shape[2:]))
        if tiles == 1:
            return super().curve(x)
        full = self.encode(x, self.tokens)
        even = [self.truncate(full, setting) for setting in self.settings.values]
        errors = torch.stack([self._errors(x, codes) for codes in even], 1)
        figures = [targets.decibel(error / x.numel()) for error in errors.sum(0).tolist()]
        tokens = [tiles * setting for setting in self.settings.values]
        steps = [step for tile, row in enumerate(errors.tolist()) for step in _hull(tile, row)]
        steps.sort(key=lambda step: -step.gain / step.tokens)
        counts, error = [1] * tiles, float(errors[:, 0].sum())
        for step in steps:
            counts[step.tile] += step.tokens
            error -= step.gain
            tokens.append(row_length(counts))
            figures.append(targets.decibel(max(error, 0.0) / x.numel()))

        def codes(place: int) -> Codes:
            if place < len(even):
                return even[place]
            counts = torch.ones(tiles, dtype=torch.int64, device=x.device)
            for step in steps[: place - len(even) + 1]:
                counts[step.tile] += step.tokens
            row = by_rank(full.indices.unflatten(2, (self.tokens, tiles))[0, 0].T, counts, self.end)
            return Codes(row[None, None], full.sizes, torch.tensor([len(row)], device=x.device))

        return targets.Curve(tokens, figures, codes)

    def _errors(self, x: Tensor, codes: Codes) -> Tensor:
        """(tiles,) float64: the squared error of each tile, of 8-bit values."""
        error = ((x * 255).round() - (self.decode(codes) * 255).round()).double().square().sum(1, keepdim=True)
        padding = (0, -x.shape[3] % self.tile, 0, -x.shape[2] % self.tile)
        return F.avg_pool2d(F.pad(error, padding), self.tile).flatten() * self.tile**2

    def _jobs(self, codes: Codes) -> Iterator[tuple[int, int, int, Tensor]]:
        """(item, row, column, its tokens or −1) of every tile."""
        for item, (size, length) in enumerate(zip(codes.sizes.tolist(), codes.lengths.tolist(), strict=True)):
            rows, columns = self.tiles(tuple(size))
            table = by_tile(codes.indices[item, 0, :length], rows * columns, self.tokens, self.end)
            for n, (row, column) in enumerate(itertools.product(range(rows), range(columns))):
                yield item, row, column, table[n]

    def embed(self, codes: Codes) -> Tensor:
        """Codes → quantised latents, float32 (batch, dim, positions); zero where no token is."""
        known = torch.arange(codes.indices.shape[2], device=codes.indices.device) < codes.lengths[:, None]
        known = known[:, None] & (codes.indices != self.end)
        return self.quantizer.lookup(codes.indices.where(known, 0)) * known


def by_tile(row: Tensor, tiles: int, tokens: int, end: int) -> Tensor:
    """One row of symbols, by rank → (tiles, tokens) int64, −1 where a tile has no token."""
    table = row.new_full((tiles, tokens), -1)
    alive, at = torch.arange(tiles, device=row.device), 0
    for rank in range(tokens):
        symbols = row[at : at + len(alive)]
        at += len(symbols)
        goes_on = symbols != end
        alive = alive[: len(symbols)][goes_on]
        table[alive, rank] = symbols[goes_on]
        if not len(alive):
            break
    return table


def by_rank(table: Tensor, counts: Tensor, end: int) -> Tensor:
    """The inverse: the first counts[t] tokens of tile t as one row, the shortest that says it."""
    rank = torch.arange(table.shape[1], device=table.device)
    marked = table.where(rank < counts[:, None], end).T[rank[:, None] <= counts]
    return marked[: int((marked != end).nonzero().max()) + 1]


def row_length(counts: list[int]) -> int:
    """Symbols of the row that `by_rank` makes: tiles that end before the last token of all say so."""
    most = max(counts)
    last = len(counts) - counts[::-1].index(most)
    return sum(counts) + sum(n < most - 1 for n in counts) + counts[:last].count(most - 1)


class Step(NamedTuple):
    """More tokens for one tile, and the squared error that they take away."""

    tile: int
    tokens: int
    gain: float


def _hull(tile: int, errors: list[float]) -> list[Step]:
    """The lower convex hull of a tile's error over 1, 2, … tokens, as steps of falling gain a token."""
    steps: list[Step] = []
    for i in range(1, len(errors)):
        step = Step(tile, 1, errors[i - 1] - errors[i])
        while steps and step.gain / step.tokens >= steps[-1].gain / steps[-1].tokens:
            last = steps.pop()
            step = Step(tile, last.tokens + step.tokens, last.gain + step.gain)
        steps.append(step)
    return [step for step in steps if step.gain > 0]


def _batched(items: Iterator, size: int) -> Iterator[list]:
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


def _check(quantizer: FSQ, tokens: int, tile: int, patch: int, width: int, depths: list[int]) -> None:
    """Raise one line where the numbers do not make a codec."""
    if len(quantizer.sizes) > 1 or quantizer.sizes[0] >= MAX_CODEBOOK:
        raise ValueError(f"levels {list(quantizer.levels)} make more entries than one codebook of {MAX_CODEBOOK - 1}")
    if not is_integer(tokens, 2, MAX_TOKENS):
        raise ValueError(f"tokens {tokens!r:.80} is no whole number from 2 to {MAX_TOKENS}")
    if not is_integer(patch, 2, 64) or patch % 2:
        raise ValueError(f"patch {patch!r:.80} is no even number of pixels from 2 to 64")
    if not is_integer(tile, patch, 32 * patch) or tile % patch:
        raise ValueError(f"tile {tile!r:.80} is no multiple of patch {patch} up to {32 * patch} pixels")
    if not is_integer(width, HEAD, 4096) or width % HEAD:
        raise ValueError(f"width {width!r:.80} is no multiple of {HEAD} up to 4096")
    if not are_integers(depths, 0, 64, 2) or len(depths) != 2:
        raise ValueError(f"depths are two whole numbers from 0 to 64, not {depths!r:.80}")
