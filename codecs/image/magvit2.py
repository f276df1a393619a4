"""Open-MAGVIT2 (Luo et al., arXiv 2409.04410): lookup-free quantization, and the image tokenizer that publishes it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .. import batches, foreign
from ..codec import Codec, LatentCodec, build
from ..quantizers import BSQ, MAX_CODEBOOK
from ..registry import register
from ..types import Codes, CodeSpec, Modality
from ..validate import are_integers, is_integer

GROUPS, EPSILON = 32, 1e-6
"""Of every group norm."""
MAX_WIDTH = 4096
PUBLISHED = ("imagenet_256_L.ckpt", "imagenet_128_L.ckpt", "pretrain256_262144.ckpt", "pretrain256_16384.ckpt")
COMMITMENT = 0.25
"""Weight of the commitment beside the entropy term of .1: both of the published training."""

Picture = Float[Tensor, "batch channels height width"]


class LFQ(BSQ):
    """Lookup-free quantization: the signs of the latents are the code, ±1 the codeword.

    Yu et al., "Language Model Beats Diffusion" (MAGVIT-v2, arXiv 2310.05737), §3.1. Channels are split in order into
    `codebooks` groups; bit c of an index is the sign of channel c of its group (1: above 0). The entropy term (eq. 5
    and 6) is computed per group; over 2^18 entries at once it takes 45 ms a token on two cores.
    """

    spherical, commitment = False, COMMITMENT

    def __init__(self, bits: int, codebooks: int | None = None, entropy_weight: float = 0.1) -> None:
        if codebooks is None and is_integer(bits, 1, 1024):
            codebooks = next(n for n in range(1, bits + 1) if bits % n == 0 and 2 ** (bits // n) <= MAX_CODEBOOK)
        super().__init__(bits, codebooks, entropy_weight)
        self.basis = 2 ** torch.arange(self.bits)

    def bounded(self, latents: Tensor) -> Tensor:
        return latents

    def lookup(self, indices: Tensor) -> Tensor:
        basis = self.basis.reshape((-1,) + (1,) * (indices.ndim - 2))
        return (((indices.unsqueeze(2) & basis) > 0).float() * 2 - 1).flatten(1, 2)


def swish(x: Tensor) -> Tensor:
    """In two steps, as the official code has it: F.silu rounds differently, and a sign near 0 is a bit."""
    return x * torch.sigmoid(x)


class GroupNorm(nn.GroupNorm):
    """PyTorch's, which refuses a group of a single value: a picture within one code."""

    def __init__(self, width: int, affine: bool = True) -> None:
        super().__init__(GROUPS, width, EPSILON, affine)

    def forward(self, x: Picture) -> Picture:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Block(nn.Module):
    """Pre-norm residual block of two 3×3 convolutions without biases."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Picture) -> Picture:
        residual = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        x = self.conv1(swish(self.norm1(x)))
        return residual + self.conv2(swish(self.norm2(x)))


class Upsample(nn.Module):
    """Twice the size: a convolution makes four times the channels, the offset in depth-to-space outermost."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, x: Picture) -> Picture:
        x = self.conv1(x).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(x, 2)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are linear in the spread and the mean of the codewords over the picture."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.gn = GroupNorm(width, affine=False)
        self.gamma = nn.Linear(bits, width)
        self.beta = nn.Linear(bits, width)

    def forward(self, x: Picture, words: Picture) -> Picture:
        words = words.flatten(2)
        # of a single codeword the unbiased variance is 0 / 0
        variance = words.var(2, correction=min(1, words.shape[2] - 1))
        scale, shift = self.gamma((variance + EPSILON).sqrt()), self.beta(words.mean(2))
        return self.gn(x) * scale[:, :, None, None] + shift[:, :, None, None]


def _stage(before: int, after: int, blocks: int, **more: nn.Module) -> nn.ModuleDict:
    stack = [Block(before if i == 0 else after, after) for i in range(blocks)]
    return nn.ModuleDict({"block": nn.ModuleList(stack), **more})


class Encoder(nn.Module):
    """(batch, 3, h, w) in [-1, 1] → latents (batch, bits, h / stride, w / stride)."""

    def __init__(self, channels: int, multipliers: list[int], blocks: int, bits: int) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        stages = []
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            last = i == len(widths) - 1
            more = {} if last else {"downsample": nn.Conv2d(after, after, 3, stride=2, padding=1)}
            stages.append(_stage(before, after, blocks, **more))
        self.down = nn.ModuleList(stages)
        self.mid_block = nn.ModuleList(Block(widths[-1], widths[-1]) for _ in range(blocks))
        self.norm_out = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], bits, 1)

    def forward(self, x: Picture) -> Picture:
        x = self.conv_in(x)
        for stage in self.down:
            for block in stage["block"]:
                x = block(x)
            if "downsample" in stage:
                x = stage["downsample"](x)
        for block in self.mid_block:
            x = block(x)
        return self.conv_out(swish(self.norm_out(x)))


class Decoder(nn.Module):
    """Codewords → (batch, 3, h, w) around [-1, 1]; `up` and `adaptive` count from full resolution and run backwards."""

    def __init__(self, channels: int, multipliers: list[int], blocks: int, bits: int) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        self.conv_in = nn.Conv2d(bits, widths[-1], 3, padding=1)
        self.mid_block = nn.ModuleList(Block(widths[-1], widths[-1]) for _ in range(blocks))
        coarser = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            _stage(before, after, blocks, **({"upsample": Upsample(after)} if i else {}))
            for i, (before, after) in enumerate(zip(coarser, widths, strict=True))
        )
        self.adaptive = nn.ModuleList(AdaptiveGroupNorm(bits, before) for before in coarser)
        self.norm_out = GroupNorm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, words: Picture) -> Picture:
        x = self.conv_in(words)
        for block in self.mid_block:
            x = block(x)
        for stage, norm in zip(reversed(self.up), reversed(self.adaptive), strict=True):
            x = norm(x, words)
            for block in stage["block"]:
                x = block(x)
            if "upsample" in stage:
                x = stage["upsample"](x)
        return self.conv_out(swish(self.norm_out(x)))


@register("image/magvit2")
class MAGVIT2(LatentCodec):
    """Open-MAGVIT2's image tokenizer; the defaults are those published for 256×256 with 2^18 entries.

    channels        of the finest stage, a multiple of 32; multipliers  of them in each stage, finest first
    blocks          residual blocks of each stage; bits  of a code, 18 or 14 in what is published
    codebooks       how many quantizers expose them (default: as few as keep each at 2^14 entries or below: 18 bits
                    make two of 2^9, 14 bits one); see `official_index`
    entropy_weight  of LFQ's entropy term in training

    Its group norms see the whole picture: it is not local. Pictures are replicated at the bottom and right up to the
    stride of 2^(stages − 1).
    """

    def __init__(
        self, channels: int = 128, multipliers: list[int] = (1, 1, 2, 2, 4), blocks: int = 4, bits: int = 18,
        codebooks: int | None = None, entropy_weight: float = 0.1,
    ) -> None:  # fmt: skip
        if not is_integer(channels, GROUPS, MAX_WIDTH) or channels % GROUPS:
            raise ValueError(f"channels {channels!r:.80} are no multiple of {GROUPS} up to {MAX_WIDTH}")
        if not are_integers(multipliers, 1, MAX_WIDTH // channels, longest=8):
            raise ValueError(
                f"multipliers are 1 to 8 whole numbers from 1 to {MAX_WIDTH // channels} for {channels} channels, "
                f"not {multipliers!r:.80}"
            )
        if not is_integer(blocks, 1, 16):
            raise ValueError(f"a stage has 1 to 16 residual blocks, not {blocks!r:.80}")
        quantizer = LFQ(bits, codebooks, entropy_weight)
        stride = 2 ** (len(multipliers) - 1)
        spec = CodeSpec(
            Modality.IMAGE, quantizer.sizes, (stride, stride), channels=3, sample_rate=None, total=True,
            ordered=False, causal=False,
        )  # fmt: skip
        super().__init__(spec, quantizer)
        self.encoder = Encoder(channels, list(multipliers), blocks, bits)
        self.decoder = Decoder(channels, list(multipliers), blocks, bits)

    @classmethod
    def imported(cls, checkpoint: str, codebooks: int | None = None) -> Codec:
        """From Open-MAGVIT2's Lightning `.ckpt` (a path or a hub id), the averaged weights where it has them.

        Those (`model_ema.…`) are what the official evaluation and its figures use. Losses, discriminator and
        optimizers stay out. Raises FileNotFoundError, or ValueError where it is another model.
        """
        path = foreign.locate(checkpoint, *PUBLISHED)
        state = foreign.tensors(foreign.read(path), "state_dict")
        architecture = _architecture(state, checkpoint) | {"codebooks": codebooks}
        if codebooks is None:
            architecture["codebooks"] = len(LFQ(architecture["bits"]).sizes)
        codec = build(cls.name, **architecture)
        return foreign.adopt(codec, _generator(state), checkpoint)

    def analyze(self, x: Tensor) -> Tensor:
        """(batch, 3, height, width) in [0, 1] → latents (batch, bits, *grid); edges replicated up to the stride."""
        x = batches.pad_to_stride(x, self.spec.stride[0])
        # not channels_last: it gains 15 % here, and its group norm has 8 times the rounding error
        return self.encoder((x * 2 - 1).contiguous())

    def synthesize(self, latents: Tensor) -> Tensor:
        """Quantised latents → images, not yet cropped or clamped."""
        return (self.decoder(latents) + 1) / 2

    def _decode(self, codes: Codes) -> Tensor:
        return batches.decode_by_size(super()._decode, codes, self.spec)

    def official_index(self, codes: Codes | Tensor) -> Tensor:
        """Codes → the index of the official code, (batch, *grid) int64 in 0 … 2^bits − 1.

        Bit c is the sign of channel c, so quantizer q holds bits q·b … (q + 1)·b − 1, where b = bits / quantizers; with
        18 bits and two quantizers: first + 512 · second.
        """
        indices = codes.indices if isinstance(codes, Codes) else codes
        return sum(indices[:, q] << (q * self.quantizer.bits) for q in range(len(self.quantizer.sizes)))

    def from_official(self, index: Tensor) -> Tensor:
        """The inverse: official indices (batch, *grid) int64 → `Codes.indices` (batch, quantizers, *grid)."""
        bits = self.quantizer.bits
        return torch.stack([(index >> (q * bits)) & (2**bits - 1) for q in range(len(self.quantizer.sizes))], 1)


def _architecture(state: Mapping[str, Tensor], source: str) -> dict:
    """The constructor's arguments from the shapes of a state dict; one line where it is another model's."""
    if other := next((name for name in state if name.startswith(("quantize.", "quant_conv."))), None):
        raise ValueError(f"{source} holds {other}, so it is no lookup-free tokenizer but another model, such as IBQ")
    if "encoder.conv_in.weight" not in state:
        raise ValueError(f"{source} lacks encoder.conv_in.weight: it is no image tokenizer of Open-MAGVIT2")
    stages = 1 + max(int(m[1]) for name in state if (m := re.match(r"encoder\.down\.(\d+)\.", name)))
    first = [name for name in state if re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", name)]
    outputs = [f"encoder.down.{i}.block.0.conv1.weight" for i in range(stages)]
    shapes = foreign.sizes(state, ["encoder.conv_in.weight", "encoder.conv_out.weight", *outputs])
    if any(len(shape) != 4 for shape in shapes):
        raise ValueError(f"{source} has convolutions in {len(shapes[0]) - 2} dimensions: it is no image tokenizer")
    channels = shapes[0][0]
    return {
        "channels": channels,
        "multipliers": [shape[0] // channels for shape in shapes[2:]],
        "blocks": len(first),
        "bits": shapes[1][0],
    }


def _generator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder; of their moving averages, named without dots, where those are there."""
    own = {name: value for name, value in state.items() if name.startswith(("encoder.", "decoder."))}
    if not any(name.startswith(("model_ema.encoder", "model_ema.decoder")) for name in state):
        return own
    averages = {name: f"model_ema.{name.replace('.', '')}" for name in own}
    foreign.sizes(state, averages.values())
    return {name: state[average] for name, average in averages.items()}
