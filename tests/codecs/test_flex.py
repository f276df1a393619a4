"""image/flex: ordered tokens, tiles with unequal numbers of tokens, and targets."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from support.codecs import one_line, structured, tiny

from tokenloom import codecs
from tokenloom.codecs import BitstreamError, Codes, Modality, Target, TargetError, bitstream, rate
from tokenloom.codecs.bitstream import container
from tokenloom.codecs.image.tile_tokens import by_rank, by_tile, row_length
from tokenloom.codecs.targets import Curve, psnr
from tokenloom.data import Item, Source, open_source
from tokenloom.eval.compare import Results, compare
from tokenloom.eval.compare.entries import CodecEntry
from tokenloom.eval.compare.targets import TargetSearch

PACKS = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def flex():
    return tiny("image/flex")


def halves(height=96, width=96):
    """Return an image with a flat left half and a detailed right half."""
    x = structured(tiny("image/flex"), (height, width))
    x[..., : width // 2] = 0.6
    return x


def cut(codes: Codes, count: int) -> Codes:
    return Codes(codes.indices[:, :, :count], codes.sizes, torch.full((len(codes),), count))


# -- tokens ---------------------------------------------------------------------------------------


def test_a_start_from_components_beats_a_random_one():
    torch.manual_seed(0)
    codec = codecs.build("image/flex", tokens=8, tile=48, patch=16, width=64, depths=[1, 1])
    *seen, new = smooth(81).split(1)
    before = psnr(new, codec.decode(codec.encode(new)))
    codec.start(torch.cat(seen))
    reached = [psnr(new, codec.decode(codec.encode(new, k))) for k in codec.settings.sweep]
    assert reached[-1] > before + 6 and reached == sorted(reached)


def smooth(batch):
    """Return unrelated images of few colors."""
    coarse = torch.rand(batch, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (48, 48), mode="bilinear")


def test_training_reaches_every_parameter_and_follows_the_seed(flex):
    codec = copy.deepcopy(flex).train()
    x = torch.cat([structured(codec, (96, 48), seed) for seed in range(2)])
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        y, loss = codec.reconstruct(x)
        outputs.append(y)
    assert torch.equal(*outputs) and y.shape == x.shape and loss == 0
    ((y - x).square().mean() + loss).backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.any()] == []
    torch.manual_seed(6)
    assert not torch.equal(codec.reconstruct(x)[0], y)  # other tokens are dropped


def test_a_prefix_of_the_tokens_is_what_a_lower_setting_gives(flex):
    x = torch.cat([structured(flex, (45, 38), seed) for seed in range(2)])
    full = flex.encode(x)
    pictures = []
    for count in flex.settings.values:
        few = flex.encode(x, count)
        assert torch.equal(few.indices, full.indices[:, :, :count]) and few.lengths.tolist() == [count] * 2
        assert torch.equal(flex.decode(few), flex.decode(cut(full, count)))
        lower = flex.truncate(full, count)
        assert torch.equal(lower.indices, few.indices) and torch.equal(lower.lengths, few.lengths)
        pictures.append(flex.decode(few))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(pictures))
    mixed = Codes(full.indices, full.sizes, torch.tensor([8, 3]))
    y = flex.decode(mixed)
    torch.testing.assert_close(y[0], pictures[7][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[1], pictures[2][1], rtol=0, atol=1e-5)
    assert not flex.embed(mixed)[1, :, 3:].any() and flex.embed(mixed)[0, :, 3:].any()


def test_tiles_are_coded_by_themselves(flex):
    x = structured(flex, (100, 60))
    y = flex.decode(flex.encode(x))
    for rows in (slice(0, 48), slice(48, 96), slice(96, 100)):
        for columns in (slice(0, 48), slice(48, 60)):
            one = x[:, :, rows, columns]
            torch.testing.assert_close(flex.decode(flex.encode(one)), y[:, :, rows, columns], rtol=0, atol=1e-5)


def slow_row(table, counts, end):
    row = []
    for rank in range(table.shape[1] + 1):
        for tile, count in enumerate(counts):
            row += [int(table[tile, rank])] if rank < count else [end] if rank == count < table.shape[1] else []
    while row[-1] == end:
        row.pop()
    return row


def test_rows_say_how_many_tokens_each_tile_has():
    generator = torch.Generator().manual_seed(2)
    for trial in range(200):
        tiles, tokens = 1 + trial % 7, 2 + trial % 5
        table = torch.randint(0, 9, (tiles, tokens), generator=generator)
        counts = torch.randint(1, tokens + 1, (tiles,), generator=generator)
        row = by_rank(table, counts, 9)
        assert row.tolist() == slow_row(table, counts.tolist(), 9)
        assert len(row) == row_length(counts.tolist())
        kept = table.where(torch.arange(tokens) < counts[:, None], -1)
        assert torch.equal(by_tile(row, tiles, tokens, 9), kept)
    assert by_rank(table, torch.full((tiles,), 2), 9).tolist() == table.T[:2].flatten().tolist()  # no marks if even


# -- bits -----------------------------------------------------------------------------------------


def test_the_length_is_paid_for(flex):
    bits = math.log2(flex.spec.codebook_sizes[0])
    assert flex.spec.codebook_sizes == (8 * 5 * 4 + 1,)
    for size, count in (((45, 38), 3), ((45, 38), 8), ((480, 200), 5)):
        codes = flex.encode(structured(flex, size), count)
        tokens = count * flex.pieces(size)
        signal = 8 if tokens < 128 else 16
        assert rate.tokens(flex.spec, codes).item() == tokens
        assert rate.nominal(flex.spec, codes).item() == pytest.approx(tokens * bits + signal)
        (data,) = bitstream.write(flex, codes)
        varints = sum(-(-n.bit_length() // 7) for n in size)
        assert len(data) == 12 + varints + signal // 8 + 1 + math.ceil(tokens * bits / 8) + 4
    counted = copy.deepcopy(flex)
    counted.counts += 1
    entropy = rate.entropy(counted, codes).item()
    assert entropy == pytest.approx(tokens * bits + signal)
    x = structured(flex, size)
    assert torch.equal(counted.decompress(counted.compress(x)), flex.decode(flex.encode(x)))


def test_lengths_out_of_bounds_are_refused_before_any_work(flex):
    codes = flex.encode(structured(flex, (96, 96)))
    for length in (3, 33):
        wrong = Codes(torch.zeros(1, 1, 40, dtype=torch.int64), codes.sizes, torch.tensor([length]))
        with pytest.raises(ValueError, match=f"4 to 32 tokens of image/flex, got {length}") as error:
            flex.decode(wrong)
        assert one_line(error)
    head = container.MAGIC + bytes([container.VERSION]) + flex.fingerprint

    def sealed(height, width, length, payload):
        body = head + b"".join(map(container._varint, (height, width, length))) + payload
        return body + container.zlib.crc32(body).to_bytes(4, "little")

    for size, length in (((1, 2**26), 5), ((1, 2**26), 2**23), ((96, 96), 33), ((96, 96), 2**40), ((96, 96), 20)):
        with pytest.raises(BitstreamError) as error:
            flex.decompress([sealed(*size, length, b"\0" * 9)])
        assert one_line(error)


# -- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image/flex", "image/rvq", "image/jpeg"])
def test_slope_is_the_best_of_all_settings(name):
    codec = tiny(name)
    x = torch.cat([structured(codec, (45, 38), seed) for seed in range(2)])
    gains = []
    for one in (x[:1], x[1:]):
        codes = [codec.encode(one, value) for value in codec.settings.values]
        gains.append([(psnr(one, codec.decode(c)), int(rate.tokens(codec.spec, c))) for c in codes])
    width = abs(gains[0][-1][0] - gains[0][0][0]) + 1e-3
    typical = width / (gains[0][-1][1] - gains[0][0][1])
    used = []
    for slope in (typical / 30, typical, 30 * typical):
        got = codec.encode(x, Target(slope=slope))
        for i, points in enumerate(gains):
            best = max(g - slope * n for g, n in points)
            n = int(rate.tokens(codec.spec, got[i]))
            reached = psnr(x[i : i + 1], codec.decode(got)[i : i + 1])
            assert reached - slope * n == pytest.approx(best, abs=1e-3)
        used.append(int(rate.tokens(codec.spec, got).sum()))
    assert used == sorted(used, reverse=True)
    assert used[0] > used[-1] or name == "image/rvq"  # whose random decoder gains nothing from more


def test_targets_encode_once_and_decode_batches(flex, monkeypatch):
    x = torch.cat([structured(flex, (45, 38), seed) for seed in range(3)])
    calls = {"_encode": 0, "_decode": 0}

    def counting(name):
        original = getattr(flex, name)

        def call(*given):
            calls[name] += 1
            return original(*given)

        return call

    for name in calls:
        monkeypatch.setattr(flex, name, counting(name))
    wanted = psnr(x, flex.decode(flex.encode(x, 4)))
    calls |= {"_encode": 0, "_decode": 0}
    flex.encode(x, Target(psnr=wanted - 1))
    assert calls["_encode"] == 1 and calls["_decode"] <= 5


def test_tiles_get_what_each_is_worth(flex):
    flex = copy.deepcopy(flex)
    pictures = smooth(80)
    flex.start(pictures)
    x = torch.full((1, 3, 96, 96), 0.6)
    x[:, :, 48:, :48] = pictures[3]
    curve = flex.curve(x)
    settings = len(flex.settings)
    assert curve.tokens[:settings] == [4 * n for n in flex.settings.values]
    for way in range(0, len(curve.tokens), 3):
        codes = curve.codes(way)
        assert int(rate.tokens(flex.spec, codes)) == curve.tokens[way]
        assert psnr(x, flex.decode(codes)) == pytest.approx(curve.psnr[way], abs=1e-3)
        again = bitstream.read(flex, bitstream.write(flex, codes))
        assert torch.equal(again.indices, codes.indices) and torch.equal(again.lengths, codes.lengths)
    even = list(zip(curve.tokens[:settings], curve.psnr[:settings], strict=True))
    wanted = (max(p for _, p in even) + even[0][1]) / 2
    codes = flex.encode(x, Target(psnr=wanted))
    assert psnr(x, flex.decode(codes)) >= wanted
    assert int(codes.lengths) < min(n for n, p in even if p >= wanted)
    slope = 0.05
    codes = flex.encode(x, Target(slope=slope))
    assert psnr(x, flex.decode(codes)) - slope * int(codes.lengths) > max(p - slope * n for n, p in even)
    assert (codes.indices == flex.end).any()  # the flat tiles ended early, the last of them with the row


def test_targets_that_do_not_fit_are_refused():
    x = structured(tiny("image/png"), (20, 20))
    with pytest.raises(ValueError, match="no setting") as error:
        tiny("image/png").encode(x, Target(slope=1))
    assert one_line(error)
    with pytest.raises(ValueError, match="image codecs") as error:
        tiny("audio/rvq").encode(torch.zeros(1, 1, 800), Target(slope=1))
    assert one_line(error)
    for given in ({"slope": 0}, {"slope": -1}, {"slope": 1, "psnr": 20}, {"slope": math.inf}):
        with pytest.raises(ValueError) as error:
            Target(**given)
        assert one_line(error)
    with pytest.raises(TargetError, match="out of reach") as error:
        tiny("image/flex").encode(halves(), Target(psnr=90))
    assert one_line(error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": 1}, {"tokens": 2.5}, {"tile": 60}, {"tile": True}, {"patch": 7}, {"width": 100}, {"depths": [1]},
        {"depths": 3}, {"levels": [64, 64, 8]}, {"levels": []}, {"levels": [2]}, {"nonsense": 1},
    ],
)  # fmt: skip
def test_numbers_that_make_no_codec(wrong):
    with pytest.raises(ValueError) as error:
        codecs.build("image/flex", **wrong)
    assert one_line(error)


# -- evaluation -----------------------------------------------------------------------------------


def gather(*curves):
    codec = tiny("image/flex")
    search = TargetSearch(CodecEntry("flex", codec), ("psnr", "slope"))
    for figures in curves:
        search.add(Curve(list(codec.settings.values), figures, None))
    return search


def test_targets_at_equal_tokens_by_hand():
    easy = [30.0, 31, 31.5, 31.6, 31.6, 31.6, 31.6, 31.6]
    hard = [10.0, 14, 17, 19, 20, 20.5, 20.7, 20.8]
    found = gather(easy, hard).at(4)
    assert found["fixed"].psnr.mean == pytest.approx((31.6 + 19) / 2)
    assert found["fixed"].psnr.p10 == pytest.approx(19 + 0.1 * 12.6)
    # equal PSNR: one token is enough for the easy one, so the hard one gets what is left of 8, and wants 20.7
    assert found["psnr"].tokens == pytest.approx(4) and found["psnr"].psnr.mean == pytest.approx(25.35)
    assert found["psnr"].psnr.p10 == pytest.approx(20.7 + 0.1 * 9.3)
    assert 20.5 < found["psnr"].value <= 20.7 and found["psnr"].out_of_reach == 0
    # equal slope: 2 + 5 tokens, whose last gain 1 dB each; the next gain 0.5 dB each, and both would make 9
    assert found["slope"].psnr.mean == pytest.approx((31 + 20) / 2) and found["slope"].tokens == 3.5
    assert 0.5 < found["slope"].value < 1
    assert found["slope"].psnr.mean > found["fixed"].psnr.mean


def test_a_target_never_spends_more_than_the_setting_beside_it():
    generator = torch.Generator().manual_seed(0)
    curves = [(20 * torch.rand(8, generator=generator)).cumsum(0).tolist() for _ in range(20)]
    search = gather(*curves)
    for setting in (1, 2, 4, 8):
        found = search.at(setting)
        assert found["psnr"].tokens <= setting and found["slope"].tokens <= setting
    assert search.at(8)["slope"].psnr.mean == pytest.approx(search.at(8)["fixed"].psnr.mean)
    perfect = gather([math.inf] * 8, curves[0]).at(4)
    assert perfect["fixed"].psnr.perfect == 1
    assert gather().at(4) == {}


class Few(Source):
    def __init__(self, *pictures):
        self.items_, self.name = [Item(f"p{i}", Modality.IMAGE, x, None) for i, x in enumerate(pictures)], "few"

    def __len__(self):
        return len(self.items_)

    def __getitem__(self, i):
        return self.items_[i]


def test_the_report_shows_targets_where_they_are_wanted(tmp_path, flex):
    codecs.save(flex, tmp_path / "flex")
    source = Few(halves(40, 40)[0], structured(flex, (40, 40), 1)[0])
    results = compare([str(tmp_path / "flex"), "image/jpeg"], source, tmp_path / "out")
    again = Results.read(tmp_path / "out")
    mine = [r for r in again.records if r.codec.endswith("flex")]
    assert all(set(r.targets) == {"fixed", "psnr", "slope"} for r in mine)
    assert all(r.targets == {} for r in again.records if r.codec == "image/jpeg")
    for record in mine:
        assert record.targets["fixed"].psnr.mean == pytest.approx(record.metrics["psnr"].mean, abs=1e-3)
        assert record.targets["fixed"].tokens == record.tokens.mean
    header = (tmp_path / "out" / "results.csv").read_text().splitlines()[0].split(",")
    assert {"target_fixed_psnr_p10", "target_psnr_psnr_p10", "target_slope_psnr"} <= set(header)
    html = results.report.read_text(encoding="utf-8")
    assert 'id="targets"' in html and "equal slope" in html and "<svg" in html.split('id="targets"')[1]
    assert len(list((tmp_path / "out" / "plots").glob("targets-*.svg"))) == 1


def test_targets_can_be_asked_for_or_left_out(tmp_path):
    source = Few(structured(tiny("image/jpeg"), (24, 24))[0])
    results = compare(["image/jpeg"], source, tmp_path / "slope", targets=["slope"])
    assert all(set(r.targets) == {"fixed", "slope"} for r in results.records)
    results = compare(["image/jpeg"], source, tmp_path / "none", targets=[])
    assert all(r.targets == {} for r in results.records)
    assert 'id="targets"' not in results.report.read_text(encoding="utf-8")
    for wrong in (["ssim"], "slopes", 3):
        with pytest.raises(ValueError, match="targets must be of psnr, slope") as error:
            compare(["image/jpeg"], source, tmp_path / "wrong", targets=wrong)
        assert one_line(error)


# -- the trained one ------------------------------------------------------------------------------


@pytest.mark.skipif(not (PACKS / "emoji64-test.tar").is_file(), reason="the data pack emoji64-test.tar is not there")
def test_shipped_emoji_flex_keeps_its_promises():
    if "emoji-flex" not in codecs.shipped():
        pytest.skip("emoji-flex does not ship")
    codec = codecs.load("emoji-flex")
    source = open_source("tar", path=str(PACKS / "emoji64-test.tar"))
    search = TargetSearch(CodecEntry("emoji-flex", codec), ("psnr", "slope"))
    for i in range(0, len(source), 4):
        search.add(search.attempt(source[i]))
    means = [search.at(setting)["fixed"].psnr.mean for setting in codec.settings.sweep]
    assert all(b > a for a, b in itertools.pairwise(means))
    found = search.at(16)
    assert found["psnr"].psnr.p10 >= found["fixed"].psnr.p10 + 1
    assert found["slope"].psnr.mean > found["fixed"].psnr.mean
