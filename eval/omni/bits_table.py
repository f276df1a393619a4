"""Bits of text, pictures and sound under a model, by channel of its vocabulary, on test data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes, Modality
from tokenloom.models.vocabulary import DOCUMENT, STOP, Channel

from .packs import Missing
from .records import BitsTable, ChannelBits, ItemBits, SequenceShare, TokenBits
from .session import OmniSession

BATCH = 32
"""Number of documents of a forward pass."""
FLOPS_ITEMS = 4
"""Number of items to average the FLOPs of a codec over."""
PACKS = {Modality.TEXT: "emoji64", Modality.IMAGE: "emoji64", Modality.AUDIO: "spoken_digits"}
UNITS = {Modality.TEXT: "bits per byte", Modality.IMAGE: "bits per pixel", Modality.AUDIO: "kbit/s"}
ABOUT = {
    "vocabulary": "ids of the channel, the entries of all its quantizers",
    "tokens": "codes of one item, mean over the test items, without BEGIN, size digits and END",
    "nominal": "log2 of the entries of a code's quantizer",
    "entropy": "cross-entropy under order-0 counts of the training split, for each quantizer",
    "transformer": "teacher-forced cross-entropy of the codes, of END, and of the size if the model chooses it, "
    "divided by the number of codes; alone: at the start of a document; given: after the item's other segment (text "
    "after its picture, picture after its caption, sound after its word)",
    "sequence": "one sequence of a caption, a picture and a spoken digit of mean length; a second channel of a "
    "modality replaces the first",
    "compute": "FLOPs of the transformer's forward pass over that sequence: 2 per weight and token, 4 · width · layers "
    "per token attended to, 2 · width per id of the softmax; teacher-forced, without guidance and codecs",
    "codec": "FLOPs of encoding one item, including the search for a target, and of decoding it, counted by "
    "torch.utils.flop_counter (convolutions and products)",
}


def measure(session: OmniSession) -> BitsTable:
    """Return the bits of every channel, means over items."""
    rows, absent = [], {}
    for name, channel in session.omni.vocabulary.channels.items():
        try:
            rows.append(_row(session, name, channel))
        except Missing as reason:
            absent[name] = str(reason)
    _add_shares(session, rows)
    return BitsTable(ABOUT, rows, absent)


def _row(session: OmniSession, name: str, channel: Channel) -> ChannelBits:
    spec, vocabulary = channel.codec.spec, session.omni.vocabulary
    own, other_name, other = _signals(session, channel)
    codes = [channel.encode(_batch(x)) for x in own]
    segments = [vocabulary.segment(name, c)[0] for c in codes]
    given = [vocabulary.segment(other_name, vocabulary.channels[other_name].encode(_batch(x)))[0] for x in other]
    fixed = session.omni.sizes.get(name)
    header = len(vocabulary.header(name, fixed)) if fixed else 1
    tokens = torch.tensor([float(rate.tokens(spec, c)[0]) for c in codes], dtype=torch.float64)
    nominal = torch.cat([rate.nominal(spec, c) for c in codes])
    entropy = _entropy(session, channel, codes)
    alone = bits_of(session, [[s] for s in segments], header)
    after = bits_of(session, [[g, s] for g, s in zip(given, segments, strict=True)], header)
    amounts = torch.tensor([_amount(x, spec.sample_rate) for x in own], dtype=torch.float64)
    quantizers = [vocabulary.range(name, q) for q in range(codes[0].indices.shape[1])]

    def per_token(bits: Tensor | None) -> float | None:
        return None if bits is None else (bits.sum() / tokens.sum()).item()

    return ChannelBits(
        channel=name,
        modality=str(channel.modality),
        n=len(own),
        vocabulary=sum(map(len, quantizers)),
        quantizers=len(quantizers),
        tokens=tokens.mean().item(),
        bits_per_token=TokenBits(
            *map(per_token, (nominal, alone, after)), None if entropy is None else per_token(entropy)
        ),
        bits_per_item=ItemBits(*(bits.mean().item() for bits in (nominal, alone, after))),
        unit=UNITS[channel.modality],
        rate=ItemBits(*((bits / amounts).mean().item() for bits in (nominal, alone, after))),
        codec_flops=_codec_flops(channel, own[:FLOPS_ITEMS]),
    )


def _signals(session: OmniSession, channel: Channel) -> tuple[list, str, list]:
    """Return the test signals of a channel, and the name and signals of the channel that precedes them in `given`."""
    pack, vocabulary = session.packs[f"{PACKS[channel.modality]}-test"], session.omni.vocabulary
    rows = session.draw(len(pack))
    texts, signals = [pack.captions[i] for i in rows], [session.signal(pack.items[i]) for i in rows]
    if channel.modality is Modality.TEXT:
        return texts, vocabulary.channel(Modality.IMAGE).name, signals
    return signals, vocabulary.channel(Modality.TEXT).name, texts


def _batch(signal: Tensor | str) -> Tensor | list[str]:
    return [signal] if isinstance(signal, str) else signal[None]


def _amount(signal: Tensor | str, sample_rate: int | None) -> float:
    """Return the bytes of a text, pixels of a picture or milliseconds of a sound."""
    if isinstance(signal, str):
        return float(len(signal.encode("utf-8")))
    return signal.shape[-1] * 1000 / sample_rate if sample_rate else float(signal.shape[-1] * signal.shape[-2])


def _entropy(session: OmniSession, channel: Channel, codes: Sequence[Codes]) -> Tensor | None:
    """Return the bits of each item, (items,), under the codec's counts, else (text) those of the training captions."""
    known = [bits for c in codes if (bits := rate.entropy(channel.codec, c)) is not None]
    if len(known) == len(codes):
        return torch.cat(known)
    if channel.modality is not Modality.TEXT:
        return None
    train = channel.encode(session.packs["emoji64-train"].captions)
    used = torch.cat([row[0, :n] for row, n in zip(train.indices.cpu(), train.lengths.tolist(), strict=True)])
    cost = -rate.smoothed(torch.bincount(used, minlength=channel.codec.spec.codebook_sizes[0])).log2()
    return torch.stack([cost[c.indices[0, 0, : int(c.lengths[0])].cpu()].sum() for c in codes])


@torch.inference_mode()
def bits_of(session: OmniSession, documents: Sequence[Sequence[Tensor]], header: int) -> Tensor:
    """Return the bits of the last segment of each document without its first `header` ids, float64 (documents,)."""
    vocabulary, network = session.omni.vocabulary, session.omni.transformer
    bits = torch.zeros(len(documents), dtype=torch.float64)
    order = sorted(range(len(documents)), key=lambda i: sum(map(len, documents[i])))
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        rows = [torch.cat([torch.tensor([DOCUMENT]), *documents[i], torch.tensor([STOP])]) for i in some]
        width = max(map(len, rows)) - 1
        ids, places = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width, dtype=torch.int64)
        targets, kinds, where = [], [], []
        for n, row in enumerate(rows):
            kind, place = vocabulary.states(row)
            ids[n, : len(row) - 1], places[n, : len(row) - 1] = row[:-1], place[:-1]
            last = slice(len(row) - 1 - len(documents[some[n]][-1]) + header, len(row) - 1)  # without STOP
            targets.append(row[last])
            kinds.append(kind[last.start - 1 : last.stop - 1])
            where.append(torch.arange(last.start - 1, last.stop - 1) + n * width)
        device = session.omni.device
        hidden = network(ids.to(device), places.to(device)).flatten(0, 1)[torch.cat(where).to(device)]
        nats = network.losses(hidden, torch.cat(targets).to(device), torch.cat(kinds).to(device), vocabulary.kinds)
        nats = nats.cpu().double()
        for i, part in zip(some, nats.split([len(t) for t in targets]), strict=True):
            bits[i] = part.sum() / math.log(2)
    return bits


# -- shares ------------------------------------------------------------------------------------


def _add_shares(session: OmniSession, rows: Sequence[ChannelBits]) -> None:
    """Set the share of each row in the tokens, the bits and the compute of a sequence."""
    first = {row.modality: row for row in reversed(rows)}
    for row in rows:
        sequence = [row if row.modality == modality else first[modality] for modality in first]
        sequence.sort(key=lambda r: list(Modality).index(Modality(r.modality)))
        flops, start = {}, 0.0
        for part in sequence:
            flops[part.channel] = _flops(session, part, start)
            start += part.tokens
        bits = row.bits_per_item.given / sum(part.bits_per_item.given for part in sequence)
        row.share = SequenceShare(row.tokens / start, bits, flops[row.channel] / sum(flops.values()))
        row.flops = flops[row.channel]


def _flops(session: OmniSession, row: ChannelBits, start: float) -> float:
    """Return the FLOPs of the transformer over a segment that begins after `start` tokens."""
    network = session.omni.transformer
    config = network.config
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Linear))
    attended = start + row.tokens / 2
    softmax = row.vocabulary / row.quantizers
    return (
        2 * weights + 4 * config["width"] * config["layers"] * attended + 2 * config["width"] * softmax
    ) * row.tokens


def _codec_flops(channel: Channel, signals: Sequence[Tensor | str]) -> float:
    """Return the mean FLOPs of encoding and decoding a signal."""
    with FlopCounterMode(display=False) as counter:
        for signal in signals:
            channel.codec.decode(channel.encode(_batch(signal)))
    return counter.get_total_flops() / len(signals)
