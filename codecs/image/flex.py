"""`image/flex`: an image tokenizer with a variable number of tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import batches, targets
from ..codec import LatentCodec
from ..layers import exact
from ..quantizers import FSQ, MAX_CODEBOOK
from ..registry import register
from ..types import Codes, CodeSpec, Modality, Settings
from ..validate import are_integers, is_integer, require_integer
from .resampler import HEAD, TileDecoder, TileEncoder, start
from .tile_tokens import by_rank, by_tile, refinements, row_length

CHUNK = 64
"""Number of tiles in a batch of the networks."""
MAX_TOKENS = 512


@register("image/flex")
class Flex(LatentCodec):
    """Tokenizer with ordered one-dimensional tokens. Every prefix of them decodes.

    The tokens are quantized (FSQ) registers of a transformer. Nested dropout in training moves the most important
    content to the first tokens. Images are cut into tiles, which are coded independently; edges are replicated.
    Source: FlexTok (Bachmann et al., arXiv 2502.13967).

    Setting: tokens per tile. Codes are one row (batch, 1, positions), ordered by rank (see tile_tokens.py), so a prefix
    is a coarser image. The last entry of the codebook is `end`. Positions after the last token of all tiles have no
    effect.

    Args:
        levels: FSQ levels of a token.
        tokens: Largest number of tokens per tile.
        tile: Side of a tile in pixels.
        patch: Side of the transformer's patches in pixels, even.
        width: Channels of the transformer, a multiple of 64.
        depths: Transformer blocks of the encoder and of the decoder.
    """

    exact = True

    def __init__(
        self, levels: list[int] = (8, 5, 5, 5), tokens: int = 64, tile: int = 64, patch: int = 8, width: int = 192,
        depths: list[int] = (1, 2),
    ) -> None:  # fmt: skip
        quantizer = FSQ(list(levels))
        _check(quantizer, tokens, tile, patch, width, depths)
        self.end = quantizer.sizes[0]
        super().__init__(CodeSpec(Modality.IMAGE, (self.end + 1,), (), channels=3, ordered=True), quantizer)
        sweep = sorted({2**i for i in range(tokens.bit_length())} | {tokens})
        self.settings = Settings("tokens", "per tile", tokens, (1, *sweep[1:][-7:]), tuple(range(1, tokens + 1)))
        self.tokens, self.tile = tokens, tile
        self.start_items = 4 * tokens * quantizer.dim
        self.encoder = TileEncoder(tile // patch, patch, width, depths[0], tokens, quantizer.dim)
        self.decoder = TileDecoder(tile // patch, patch, width, depths[1], tokens, quantizer.dim)

    def tiles(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Return the rows and columns of tiles that cover an image of `size`."""
        return -(-size[0] // self.tile), -(-size[1] // self.tile)

    def span(self, size: tuple[int, ...]) -> tuple[int, int]:
        rows, columns = self.tiles(size)
        return rows * columns, rows * columns * self.tokens

    def pieces(self, size: tuple[int, ...]) -> int:
        return math.prod(self.tiles(size))

    def working_memory(self, size: tuple[int, ...]) -> int:
        return super().working_memory((min(math.prod(size), CHUNK * self.tile**2),))

    # -- one tile -------------------------------------------------------------------------------

    def analyze(self, x: Tensor) -> Tensor:
        """Map tiles or smaller images (batch, 3, height, width) to latents (batch, dim, tokens)."""
        return self.encoder(self._pad_to_tile(x) * 2 - 1)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map the first latents (batch, dim, 1 to `tokens`) to tiles (batch, 3, tile, tile), not clamped."""
        missing = self.tokens - latents.shape[2]
        kept = torch.arange(self.tokens, device=latents.device) < latents.shape[2]
        return self._decode_tiles(F.pad(latents, (0, missing)), kept.expand(len(latents), -1))

    def _decode_tiles(self, latents: Tensor, kept: Tensor) -> Tensor:
        return (self.decoder(latents, kept) + 1) / 2

    def _pad_to_tile(self, x: Tensor) -> Tensor:
        """Replicate the edges up to a whole tile."""
        return F.pad(x, (0, self.tile - x.shape[3], 0, self.tile - x.shape[2]), mode="replicate")

    # -- training -------------------------------------------------------------------------------

    def start(self, x: Tensor) -> None:
        """Initialize the linear maps from the principal components of training images."""
        rows, columns = self.tiles(tuple(x.shape[2:]))
        some = x[: -(-self.start_items // (rows * columns))]
        start(self.encoder, self.decoder, self.quantizer, self._tiles(some) * 2 - 1)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct with nested dropout: each tile keeps its first ⌈tokens · u²⌉ tokens, with u uniform in [0, 1).

        Source: Rippel et al., arXiv 1402.0915.
        """
        rows, columns = self.tiles(tuple(x.shape[2:]))
        tiles = self._tiles(x)
        quantized = self.quantizer.quantize(self.analyze(tiles))
        count = (self.tokens * torch.rand(len(tiles), 1, device=x.device).square()).ceil().clamp_min(1)
        decoded = self._decode_tiles(quantized.latents, torch.arange(self.tokens, device=x.device) < count)
        grid = decoded.unflatten(0, (rows, columns, len(x)))
        return grid.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3), quantized.loss

    def _tiles(self, x: Tensor) -> Tensor:
        """Return all tiles of all images, (tiles · batch, 3, tile, tile)."""
        places = itertools.product(*map(range, self.tiles(tuple(x.shape[2:]))))
        return torch.cat([self._cut(x, *place) for place in places])

    def _cut(self, x: Tensor, row: int, column: int) -> Tensor:
        top, left = row * self.tile, column * self.tile
        return self._pad_to_tile(x[:, :, top : top + self.tile, left : left + self.tile])

    # -- codes ----------------------------------------------------------------------------------

    def _encode(self, x: Tensor, setting: int) -> Codes:
        places = itertools.product(*map(range, self.tiles(tuple(x.shape[2:]))))
        rows = []
        with torch.autocast(x.device.type, enabled=False):
            for some in _batched(((item, place) for place in places for item in range(len(x))), CHUNK):
                tiles = torch.cat([self._cut(x[i : i + 1], *place) for i, place in some])
                rows.append(exact.settled(self, tiles, None)[:, 0])
        table = torch.cat(rows).unflatten(0, (-1, len(x)))[:, :, :setting]  # (tiles, batch, tokens)
        indices = table.permute(1, 2, 0).flatten(1).unsqueeze(1).contiguous()
        sizes = torch.tensor(x.shape[2:], device=x.device).repeat(len(x), 1)
        return Codes(indices, sizes, torch.full((len(x),), indices.shape[2], device=x.device))

    def truncate(self, codes: Codes, setting: int) -> Codes:
        tiles = torch.tensor([self.pieces(tuple(size)) for size in codes.sizes.tolist()])
        lengths = torch.minimum(tiles.to(codes.lengths) * setting, codes.lengths)
        return Codes(codes.indices[:, :, : int(lengths.max())], codes.sizes, lengths)

    def _decode(self, codes: Codes) -> Tensor:
        """Decode the tiles in chunks, so that memory is bounded."""
        largest = codes.sizes.amax(0).tolist()
        canvas = torch.zeros(len(codes), 3, *largest, device=codes.indices.device)
        for some in _batched(self._tile_codes(codes), CHUNK):
            table = torch.stack([tokens for *_, tokens in some])
            with torch.autocast(table.device.type, enabled=False):
                latents = self.quantizer.lookup(table.clamp_min(0)[:, None])
                tiles = self._decode_tiles(latents, table >= 0).float().clamp(0, 1)
            for (item, row, column, _), tile in zip(some, tiles, strict=True):
                top, left = row * self.tile, column * self.tile
                height, width = codes.sizes[item].tolist()
                spot = canvas[item, :, top : min(top + self.tile, height), left : min(left + self.tile, width)]
                spot.copy_(tile[:, : spot.shape[1], : spot.shape[2]])
        return canvas

    def _tile_codes(self, codes: Codes) -> Iterator[tuple[int, int, int, Tensor]]:
        """Yield item, row, column and tokens of every tile. −1 marks a missing token."""
        for item, (size, length) in enumerate(zip(codes.sizes.tolist(), codes.lengths.tolist(), strict=True)):
            rows, columns = self.tiles(tuple(size))
            table = by_tile(codes.indices[item, 0, :length], rows * columns, self.tokens, self.end)
            for n, (row, column) in enumerate(itertools.product(range(rows), range(columns))):
                yield item, row, column, table[n]

    def _embed(self, codes: Codes) -> Tensor:
        """Return the quantized latents of codes, float32 (batch, dim, positions); 0 at positions without a token."""
        known = torch.arange(codes.indices.shape[2], device=codes.indices.device) < codes.lengths[:, None]
        known = known[:, None] & (codes.indices != self.end)
        return self.quantizer.lookup(codes.indices.where(known, 0)) * known

    # -- targets --------------------------------------------------------------------------------

    def curve(self, x: Tensor) -> targets.Curve:
        """Return the encodings at every setting. Several tiles also get allocations with unequal numbers of tokens."""
        tiles = self.pieces(tuple(x.shape[2:]))
        if tiles == 1:
            return super().curve(x)
        full = self.encode(x, self.tokens)
        even = [self.truncate(full, setting) for setting in self.settings.values]
        errors = torch.stack([self._errors(x, codes) for codes in even], 1)
        values = [targets.decibel(error / x.numel()) for error in errors.sum(0).tolist()]
        tokens = [tiles * setting for setting in self.settings.values]
        steps = refinements(errors.tolist())
        counts, error = [1] * tiles, float(errors[:, 0].sum())
        for step in steps:
            counts[step.tile] += step.tokens
            error -= step.gain
            tokens.append(row_length(counts))
            values.append(targets.decibel(max(error, 0.0) / x.numel()))

        def codes(place: int) -> Codes:
            if place < len(even):
                return even[place]
            counts = torch.ones(tiles, dtype=torch.int64, device=x.device)
            for step in steps[: place - len(even) + 1]:
                counts[step.tile] += step.tokens
            row = by_rank(full.indices.unflatten(2, (self.tokens, tiles))[0, 0].T, counts, self.end)
            return Codes(row[None, None], full.sizes, torch.tensor([len(row)], device=x.device))

        return targets.Curve(tokens, values, codes)

    def _errors(self, x: Tensor, codes: Codes) -> Tensor:
        """Return the squared error of each tile in 8-bit values, float64 (tiles,)."""
        error = ((x * 255).round() - (self.decode(codes) * 255).round()).cpu().double().square().sum(1, keepdim=True)
        padding = (0, -x.shape[3] % self.tile, 0, -x.shape[2] % self.tile)
        return F.avg_pool2d(F.pad(error, padding), self.tile).flatten() * self.tile**2

    # -- export: positions are tiles, quantizers are the tokens of a tile -----------------------------

    @property
    def position_stride(self) -> tuple[int, ...]:
        return self.tile, self.tile

    def indices_by_position(self, codes: Codes) -> Tensor:
        return codes.indices[:, 0].unflatten(1, (-1, *self.tiles(tuple(codes.sizes[0].tolist()))))

    def encode_indices(self, x: Tensor, setting: int) -> Tensor:
        x = batches.pad_to_stride(x, self.tile)
        batch, channels, height, width = x.shape
        parts = x.reshape(batch, channels, height // self.tile, self.tile, width // self.tile, self.tile)
        tiles = parts.permute(0, 2, 4, 1, 3, 5)
        tokens = self.quantizer.search(self.analyze(tiles.flatten(0, 2)))[:, 0, :setting]
        return tokens.unflatten(0, tiles.shape[:3]).permute(0, 3, 1, 2)

    def decode_indices(self, indices: Tensor, setting: int) -> Tensor:
        """Decode tiles of 1 to `tokens` tokens. `end` or −1 ends a tile."""
        batch, _, rows, columns = indices.shape
        missing = indices.new_full((batch, self.tokens, rows, columns), -1)
        tokens = torch.cat([indices, missing], 1).narrow(1, 0, self.tokens).permute(0, 2, 3, 1).flatten(0, 2)
        known = ((tokens < 0) | (tokens == self.end)).long().cumsum(1) == 0
        tiles = self._decode_tiles(self.quantizer.lookup(tokens.where(known, 0)[:, None]), known)
        grid = tiles.reshape(batch, rows, columns, 3, self.tile, self.tile).permute(0, 3, 1, 4, 2, 5)
        return grid.reshape(batch, 3, rows * self.tile, columns * self.tile)


def _batched(items: Iterator, size: int) -> Iterator[list]:
    items = iter(items)
    while some := list(itertools.islice(items, size)):
        yield some


def _check(quantizer: FSQ, tokens: int, tile: int, patch: int, width: int, depths: list[int]) -> None:
    """Raise ValueError if the sizes do not fit together or exceed the limits."""
    if len(quantizer.sizes) > 1 or quantizer.sizes[0] >= MAX_CODEBOOK:
        raise ValueError(f"levels must make at most {MAX_CODEBOOK - 1} entries, got {list(quantizer.levels)}")
    require_integer("tokens", tokens, 2, MAX_TOKENS)
    if not is_integer(patch, 2, 64) or patch % 2:
        raise ValueError(f"patch must be an even number of pixels from 2 to 64, got {patch!r:.80}")
    if not is_integer(tile, patch, 32 * patch) or tile % patch:
        raise ValueError(f"tile must be a multiple of patch {patch} up to {32 * patch} pixels, got {tile!r:.80}")
    if not is_integer(width, HEAD, 4096) or width % HEAD:
        raise ValueError(f"width must be a multiple of {HEAD} up to 4096, got {width!r:.80}")
    if not are_integers(depths, 0, 64, 2) or len(depths) != 2:
        raise ValueError(f"depths must be two integers from 0 to 64, got {depths!r:.80}")
