"""Costs of codes against values that were computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from tokenloom.codecs import Codes, CodeSpec, Modality, rate

NAN = math.nan
PAIR = CodeSpec(Modality.IMAGE, (4, 8), (2, 2), 3)
"""Two quantizers of 2 and 3 bits, one position per 2 × 2 pixels."""
NESTED = CodeSpec(Modality.AUDIO, (4, 8, 16), (10,), 1, 8000, ordered=True)
TILES = CodeSpec(Modality.IMAGE, (4,), (), 3, ordered=True)
WORDS = CodeSpec(Modality.TEXT, (32,), (), 0)


def codec(spec: CodeSpec, *counts: list[int]) -> SimpleNamespace:
    """Return the part of a codec that rates use. Rows of counts have the length of the largest codebook."""
    longest = max(spec.codebook_sizes)
    rows = [row + [0] * (longest - len(row)) for row in counts]
    return SimpleNamespace(spec=spec, counts=torch.tensor(rows) if rows else None)


def pictures() -> Codes:
    """A picture of 3 × 4 pixels, so of 2 × 2 positions, and one of 1 × 1 pixel, so of one position."""
    indices = torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    indices[0, 0], indices[0, 1] = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[7, 7], [0, 7]])
    indices[1, 0, 0, 0], indices[1, 1, 0, 0] = 3, 5
    return Codes(indices, torch.tensor([[3, 4], [1, 1]]))


def nested() -> Codes:
    """Waveforms of 25 and 11 samples, so of 3 and 2 positions, with 3 and 1 quantizers."""
    indices = torch.tensor([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 0], [-1] * 3, [-1] * 3]])
    return Codes(indices, torch.tensor([[25], [11]]))


# -- positions and tokens -----------------------------------------------------------------------


def test_positions_and_tokens_leave_padding_out():
    assert rate.positions(PAIR, pictures()).tolist() == [4, 1]
    assert rate.tokens(PAIR, pictures()).tolist() == [8, 2]
    assert rate.positions(NESTED, nested()).tolist() == [3, 2]
    assert rate.tokens(NESTED, nested()).tolist() == [9, 2]
    words = Codes(torch.zeros(2, 1, 7, dtype=torch.int64), torch.tensor([[20], [9]]), torch.tensor([7, 3]))
    assert rate.positions(WORDS, words).tolist() == [7, 3] == rate.tokens(WORDS, words).tolist()
    assert rate.positions(WORDS, Codes(words.indices, words.sizes)).tolist() == [7, 7]


def test_bits_of_a_codebook():
    assert rate.bits_per_token(PAIR) == (2.0, 3.0)
    assert rate.bits_per_position((4, 8)) == 5.0 and rate.bits_per_position((5,)) == math.log2(5)
    assert rate.bits_per_position(()) == 0


# -- nominal ------------------------------------------------------------------------------------


def test_nominal_bits_are_positions_times_bits():
    assert rate.nominal(PAIR, pictures()).tolist() == [4 * 5, 1 * 5]
    assert rate.nominal(NESTED, nested()).tolist() == [3 * (2 + 3 + 4), 2 * 2]
    assert rate.nominal(PAIR, pictures()).dtype == torch.float64


def test_side_information_costs_32_bits_per_number():
    side = {"scale": torch.tensor([[1.0, 2.0, 3.0], [4.0, NAN, NAN]]), "quality": torch.tensor([5.0, 6.0])}
    codes = Codes(pictures().indices, pictures().sizes, None, side)
    assert rate.nominal(PAIR, codes).tolist() == [20 + 4 * 32, 5 + 2 * 32]
    assert rate.modelled(torch.tensor([math.log(2), math.log(8)]), codes).tolist() == pytest.approx([1 + 128, 3 + 64])


def test_a_length_that_the_encoder_chose_costs_a_byte_per_7_bits():
    indices = torch.zeros(4, 1, 20_000, dtype=torch.int64)
    codes = Codes(indices, torch.full((4, 2), 9), torch.tensor([1, 127, 128, 16_384]))
    assert rate.nominal(TILES, codes).tolist() == [2 + 8, 254 + 8, 256 + 16, 32_768 + 24]
    words = Codes(indices[:2], torch.full((2, 1), 9), torch.tensor([1, 200]))
    assert rate.nominal(WORDS, words).tolist() == [5, 1000], "the length of a text is not a choice"


# -- entropy ------------------------------------------------------------------------------------


def test_counts_are_smoothed_by_a_half():
    """Krichevsky and Trofimov: (n + ½) / (N + K / 2)."""
    assert rate.smoothed(torch.tensor([3, 0])).tolist() == [3.5 / 4, 0.5 / 4]
    assert rate.smoothed(torch.tensor([[1, 1, 0, 0], [5, 0, 1, 0]])).tolist() == [
        [1.5 / 4, 1.5 / 4, 0.5 / 4, 0.5 / 4], [5.5 / 8, 0.5 / 8, 1.5 / 8, 0.5 / 8],
    ]  # fmt: skip
    assert rate.smoothed(torch.tensor([0, 1])).dtype == torch.float64


def test_entropy_is_the_cost_under_the_smoothed_counts():
    """Per quantizer: the sum of −log2 of each code's probability, padding excluded."""
    made = codec(PAIR, [15, 7, 3, 3], [1, 1, 1, 1, 1, 1, 1, 13])
    p = rate.smoothed(made.counts[0, :4])
    assert p.tolist() == [15.5 / 30, 7.5 / 30, 3.5 / 30, 3.5 / 30]
    first = [-math.log2(15.5 / 30) - 3 * math.log2(7.5 / 30), -math.log2(3.5 / 30)]
    second = [-3 * math.log2(13.5 / 24) - math.log2(1.5 / 24), -math.log2(1.5 / 24)]
    bits = rate.entropy(made, pictures())
    assert bits.tolist() == pytest.approx([first[0] + second[0], first[1] + second[1]])
    assert bits.dtype == torch.float64


def test_entropy_reads_the_entries_of_each_codebook_only():
    """Entries of a shorter codebook take no probability from counts beyond it."""
    bits = rate.entropy(codec(PAIR, [3, 3, 3, 3, 99, 99, 99, 99], [0] * 8), pictures())
    assert bits.tolist() == pytest.approx([4 * (2 + 3), 2 + 3])


def test_entropy_includes_side_information():
    made = codec(PAIR, [3, 3, 3, 3], [2] * 8)
    side = {"scale": torch.tensor([[1.0, 2.0], [3.0, NAN]])}
    bits = rate.entropy(made, Codes(pictures().indices, pictures().sizes, None, side))
    assert bits.tolist() == pytest.approx([20 + 64, 5 + 32])


def test_entropy_of_a_prefix_and_of_a_chosen_length():
    bits = rate.entropy(codec(NESTED, [1] * 4, [1] * 8, [1] * 16), nested())
    assert bits.tolist() == pytest.approx([3 * 9, 2 * 2]), "unused quantizers cost nothing"
    codes = Codes(torch.tensor([[[0, 1, 2]], [[3, 0, 0]]]), torch.full((2, 2), 9), torch.tensor([3, 1]))
    bits = rate.entropy(codec(TILES, [3, 3, 1, 1]), codes)
    p = [3.5 / 10, 3.5 / 10, 1.5 / 10, 1.5 / 10]
    assert bits.tolist() == pytest.approx([8 - sum(math.log2(p[i]) for i in (0, 1, 2)), 8 - math.log2(p[3])])


def test_entropy_without_counts_is_none():
    assert rate.entropy(codec(PAIR), pictures()) is None
    assert rate.entropy(codec(PAIR, [0] * 8, [0] * 8), pictures()) is None
    assert rate.entropy(codec(PAIR, [0] * 8, [0] * 7 + [1]), pictures()) is not None


# -- units --------------------------------------------------------------------------------------


def test_units_refer_to_the_unpadded_signal():
    assert rate.samples(pictures()).tolist() == [12, 1] and rate.samples(nested()).tolist() == [25, 11]
    assert rate.bits_per_pixel(torch.tensor([24.0, 3.0]), pictures()).tolist() == [2, 3]
    assert rate.kbps(torch.tensor([25.0, 22.0]), nested(), NESTED).tolist() == pytest.approx([8, 16])
    assert rate.coded([b"", b"abc"]).tolist() == [0, 24] and rate.coded([b"a"]).dtype == torch.float64
    for spec in (CodeSpec(Modality.IMAGE, (4,), (2,), 3, 8000), CodeSpec(Modality.AUDIO, (4,), (2,), 1)):
        with pytest.raises(ValueError, match="audio"):
            rate.kbps(torch.tensor([1.0, 1.0]), pictures(), spec)
