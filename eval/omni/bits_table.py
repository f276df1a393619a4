"""Where the bits of one sequence are: text, pictures and sound of a model's vocabulary, measured on test data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes, Modality
from tokenloom.models.vocabulary import DOCUMENT, STOP, Channel

from .bench import Bench
from .packs import Missing, draw

ROWS = 32
"""Documents of a forward pass."""
PACKS = {Modality.TEXT: "emoji64", Modality.IMAGE: "emoji64", Modality.AUDIO: "spoken_digits"}
UNITS = {Modality.TEXT: "bits per byte", Modality.IMAGE: "bits per pixel", Modality.AUDIO: "kbit/s"}
ABOUT = {
    "vocabulary": "ids of the channel: the entries of each quantizer that takes part",
    "tokens": "codes of one item, mean over the test items; BEGIN, size digits and END are not counted",
    "nominal": "log2 of the entries of a code's quantizer",
    "entropy": "cross-entropy under order-0 counts of the training split, for each quantizer",
    "transformer": "teacher-forced cross-entropy of the codes, of END, and of the size where the model chooses it, "
    "divided by the codes; alone: nothing before it; given: after the item's other segment (text after its picture, "
    "picture after its caption, sound after its word)",
    "sequence": "one sequence of a caption, a picture and a spoken digit of mean length; a second channel of a "
    "modality takes the place of the first",
    "compute": "FLOPs of the transformer's forward pass over that sequence: 2 a weight and token, 4 · width · layers "
    "a token attended to, 2 · width an id of the softmax; teacher-forced, without guidance and codecs",
    "codec": "FLOPs of encoding one item, the search for a target included, and decoding it, counted by "
    "torch.utils.flop_counter (convolutions and products)",
}


def measure(bench: Bench) -> dict[str, Any]:
    """The table: {"about": …, "rows": one a channel, "absent": channel → reason}; all bits are means over items."""
    rows, absent = [], {}
    for name, channel in bench.omni.vocabulary.channels.items():
        try:
            rows.append(_row(bench, name, channel))
        except Missing as reason:
            absent[name] = str(reason)
    _shares(bench, rows)
    return {"about": ABOUT, "rows": rows, "absent": absent}


def _row(bench: Bench, name: str, channel: Channel) -> dict[str, Any]:
    spec, pack = channel.codec.spec, bench.packs[f"{PACKS[channel.modality]}-test"]
    chosen = draw(len(pack), bench.most, bench.seed)
    texts = [pack.captions[i] for i in chosen]
    signals = [bench.at_rate(pack.items[i]) for i in chosen]
    mine = texts if channel.modality is Modality.TEXT else signals
    vocabulary = bench.omni.vocabulary
    text = vocabulary.channel(Modality.TEXT).name
    other = (vocabulary.channel(Modality.IMAGE).name, signals)
    other = other if channel.modality is Modality.TEXT else (text, texts)
    codes = [channel.encode(_batch(x)) for x in mine]
    segments = [vocabulary.segment(name, c)[0] for c in codes]
    given = [vocabulary.segment(other[0], vocabulary.channels[other[0]].encode(_batch(x)))[0] for x in other[1]]
    tokens = torch.tensor([float(rate.tokens(spec, c)[0]) for c in codes], dtype=torch.float64)
    nominal = torch.cat([rate.nominal(spec, c) for c in codes])
    entropy = _entropy(bench, channel, codes)
    fixed = bench.omni.sizes.get(name)
    header = len(vocabulary.header(name, fixed)) if fixed else 1
    alone = bits_of(bench, [[s] for s in segments], header)
    after = bits_of(bench, [[g, s] for g, s in zip(given, segments, strict=True)], header)
    amount = torch.tensor([_amount(x, spec.sample_rate) for x in mine], dtype=torch.float64)
    quantizers = [vocabulary.range(name, q) for q in range(codes[0].indices.shape[1])]
    return {
        "channel": name,
        "modality": str(channel.modality),
        "n": len(mine),
        "vocabulary": sum(map(len, quantizers)),
        "quantizers": len(quantizers),
        "tokens": tokens.mean().item(),
        "bits_per_token": {
            kind: None if bits is None else (bits.sum() / tokens.sum()).item()
            for kind, bits in {"nominal": nominal, "entropy": entropy, "alone": alone, "given": after}.items()
        },
        "bits_per_item": {"nominal": nominal.mean().item(), "alone": alone.mean().item(), "given": after.mean().item()},
        "unit": UNITS[channel.modality],
        "rate": {"nominal": _rate(nominal, amount), "alone": _rate(alone, amount), "given": _rate(after, amount)},
        "codec_flops": _codec_flops(channel, mine[: min(4, len(mine))]),
    }


def _batch(signal: Tensor | str) -> Tensor | list[str]:
    return [signal] if isinstance(signal, str) else signal[None]


def _amount(signal: Tensor | str, sample_rate: int | None) -> float:
    """Bytes of a text, pixels of a picture, milliseconds of a sound."""
    if isinstance(signal, str):
        return float(len(signal.encode("utf-8")))
    return signal.shape[-1] * 1000 / sample_rate if sample_rate else float(signal.shape[-1] * signal.shape[-2])


def _rate(bits: Tensor, amount: Tensor) -> float:
    return (bits / amount).mean().item()


def _entropy(bench: Bench, channel: Channel, codes: Sequence[Codes]) -> Tensor | None:
    """(items,) bits under the codec's own training counts; where it has none, under those of the training captions."""
    known = [rate.entropy(channel.codec, c) for c in codes]
    if all(bits is not None for bits in known):
        return torch.cat(known)
    if channel.modality is not Modality.TEXT:
        return None
    train = channel.encode(bench.packs["emoji64-train"].captions)
    used = torch.cat([row[0, :n] for row, n in zip(train.indices, train.lengths.tolist(), strict=True)])
    cost = -rate.smoothed(torch.bincount(used, minlength=channel.codec.spec.codebook_sizes[0])).log2()
    return torch.stack([cost[c.indices[0, 0, : int(c.lengths[0])]].sum() for c in codes])


@torch.inference_mode()
def bits_of(bench: Bench, documents: Sequence[Sequence[Tensor]], header: int) -> Tensor:
    """(documents,) float64: bits of the last segment of each, its first `header` ids left out, teacher-forced."""
    vocabulary, network = bench.omni.vocabulary, bench.omni.transformer
    bits = torch.zeros(len(documents), dtype=torch.float64)
    order = sorted(range(len(documents)), key=lambda i: sum(map(len, documents[i])))
    for start in range(0, len(order), ROWS):
        mine = order[start : start + ROWS]
        rows = [torch.cat([torch.tensor([DOCUMENT]), *documents[i], torch.tensor([STOP])]) for i in mine]
        width = max(map(len, rows)) - 1
        ids, places = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
        targets, kinds, where = [], [], []
        for n, row in enumerate(rows):
            kind, place = vocabulary.states(row)
            ids[n, : len(row) - 1], places[n, : len(row) - 1] = row[:-1], place[:-1]
            last = slice(len(row) - 1 - len(documents[mine[n]][-1]) + header, len(row) - 1)  # STOP is left out, too
            targets.append(row[last])
            kinds.append(kind[last.start - 1 : last.stop - 1])
            where.append(torch.arange(last.start - 1, last.stop - 1) + n * width)
        hidden = network(ids, places).flatten(0, 1)[torch.cat(where)]
        nats = network.losses(hidden, torch.cat(targets), torch.cat(kinds), vocabulary.kinds).double()
        for i, part in zip(mine, nats.split([len(t) for t in targets]), strict=True):
            bits[i] = part.sum() / math.log(2)
    return bits


# -- shares ------------------------------------------------------------------------------------


def _shares(bench: Bench, rows: list[dict[str, Any]]) -> None:
    """Add to each row its share of the tokens, the bits and the compute of one sequence."""
    first = {row["modality"]: row for row in reversed(rows)}
    for row in rows:
        sequence = [row if row["modality"] == modality else first[modality] for modality in first]
        sequence.sort(key=lambda r: list(Modality).index(r["modality"]))
        flops, start = {}, 0.0
        for part in sequence:
            flops[part["channel"]] = _flops(bench, part, start)
            start += part["tokens"]
        row["share"] = {
            "tokens": row["tokens"] / start,
            "bits": row["bits_per_item"]["given"] / sum(part["bits_per_item"]["given"] for part in sequence),
            "compute": flops[row["channel"]] / sum(flops.values()),
        }
        row["flops"] = flops[row["channel"]]


def _flops(bench: Bench, row: dict[str, Any], start: float) -> float:
    """FLOPs of the transformer over the tokens of one segment that begins after `start` others."""
    network = bench.omni.transformer
    config = network.config
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Linear))
    attended = start + row["tokens"] / 2
    softmax = row["vocabulary"] / row["quantizers"]
    each = 2 * weights + 4 * config["width"] * config["layers"] * attended + 2 * config["width"] * softmax
    return each * row["tokens"]


def _codec_flops(channel: Channel, signals: Sequence[Tensor | str]) -> float:
    """Mean FLOPs of encoding and decoding one of these."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        for signal in signals:
            channel.codec.decode(channel.encode(_batch(signal)))
    return counter.get_total_flops() / len(signals)
