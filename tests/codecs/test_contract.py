"""The contract of codecs/codec.py, tested on every registered codec."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from support.codecs import MIDDLE, one_line, signals, structured

from tokenloom import codecs
from tokenloom.codecs import Codes, Modality, Target, TargetError, batches, bitstream, rate
from tokenloom.codecs.targets import psnr

SIZES = {
    Modality.IMAGE: [(1, 1), (1, 9), (7, 1), (13, 22), (33, 40)],
    Modality.AUDIO: [(1,), (2,), (7,), (479,), (1001,)],
    Modality.TEXT: [(0,), (1,), (20,), (60,)],
}
LARGE = {Modality.IMAGE: (96, 120), Modality.AUDIO: (24000,), Modality.TEXT: (100,)}


def equal_codes(a: Codes, b: Codes) -> bool:
    same = torch.equal(a.indices, b.indices) and torch.equal(a.sizes, b.sizes)
    return (
        same and (a.lengths is None) == (b.lengths is None) and (a.lengths is None or torch.equal(a.lengths, b.lengths))
    )


def own(codes: Codes, item: int) -> Codes:
    """Return one item of a batch without its padding."""
    one = codes[item]
    return one if one.lengths is None else Codes(one.indices[..., : int(one.lengths[0])], one.sizes, one.lengths)


def native_bytes(codes: Codes) -> bytes:
    return bytes(codes.indices[0, 0, : int(codes.lengths[0])].tolist())


def has_weights(codec) -> bool:
    return next(codec.parameters(), None) is not None


def byte_tokens(codec) -> bool:
    return codec.spec.codebook_sizes == (256,) and not codec.spec.stride


# -- signals there and back ---------------------------------------------------------------------


def test_spec_is_whole(codec):
    spec = codec.spec
    assert codec.name in codecs.names(spec.modality) and codec.name.startswith(f"{spec.modality}/")
    assert spec.codebook_sizes and all(2 <= n <= 2**14 or spec.modality is Modality.TEXT for n in spec.codebook_sizes)
    assert spec.channels == {Modality.TEXT: 0, Modality.IMAGE: 3}.get(spec.modality, spec.channels)
    assert (spec.sample_rate is not None) == (spec.modality is Modality.AUDIO)
    axes = 2 if spec.modality is Modality.IMAGE else 1
    assert len(spec.stride) in (0, axes)
    assert bool(spec.stride) == (has_weights(codec) and codec.span((1,) * axes) is None)
    assert not codec.training


def test_exact_sizes_down_to_one(codec):
    for size in SIZES[codec.spec.modality]:
        x = signals(codec, size)
        codes = codec.encode(x)
        assert codes.indices.dtype == codes.sizes.dtype == torch.int64 and len(codes) == 2
        y = codec.decode(codes)
        if codec.spec.modality is Modality.TEXT:
            assert y == x and codes.sizes[:, 0].tolist() == [len(t.encode()) for t in x]
            continue
        assert y.shape == x.shape and y.dtype == torch.float32 and codes.sizes.tolist() == [list(size)] * 2
        assert y.min() >= (0 if codec.spec.modality is Modality.IMAGE else -1) and y.max() <= 1


def test_extreme_signals(codec):
    """Silence, black, white, full scale, and noise at the edges of the range."""
    if codec.spec.modality is Modality.TEXT:
        x = ["", "\0", "🧵" * 9, "a\r\n\tb", "\u200b\ufeff", "العربية 日本語"]
        assert codec.decode(codec.encode(x)) == x
        return
    shape = (1, codec.spec.channels, *MIDDLE[codec.spec.modality])
    low = 0.0 if codec.spec.modality is Modality.IMAGE else -1.0
    noise = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(1)).float() * (1 - low) + low
    for x in (torch.zeros(shape), torch.full(shape, low), torch.ones(shape), noise):
        y = codec.decode(codec.encode(x))
        assert y.shape == x.shape and torch.isfinite(y).all() and y.min() >= low and y.max() <= 1


def test_batch_equals_single(codec):
    x = signals(codec, MIDDLE[codec.spec.modality], batch=3)
    together = codec.encode(x)
    decoded = codec.decode(together)
    for i in range(3):
        alone = codec.encode(x[i : i + 1])
        assert equal_codes(own(together, i), alone)
        if codec.spec.modality is Modality.TEXT:
            assert codec.decode(alone) == [decoded[i]]
        else:
            torch.testing.assert_close(codec.decode(alone)[0], decoded[i], rtol=0, atol=1e-5)


def test_same_input_same_codes_and_bytes(codec):
    x = signals(codec, MIDDLE[codec.spec.modality])
    strided = x if isinstance(x, list) else x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert equal_codes(codec.encode(x), codec.encode(strided))
    assert codec.compress(x) == codec.compress(strided)
    given = x if isinstance(x, list) else x.clone()
    codec.encode(x)
    assert given == x if isinstance(x, list) else torch.equal(given, x)


def test_encode_ignores_autocast_and_changes_no_state(codec):
    codec = copy.deepcopy(codec)
    x = signals(codec, MIDDLE[codec.spec.modality])
    before, state = codec.encode(x), {k: v.clone() for k, v in codec.state_dict().items()}
    plain = codec.decode(before)
    codec.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, decoded = codec.encode(x), codec.decode(before)
    assert equal_codes(codes, before)
    assert decoded == plain if isinstance(plain, list) else torch.equal(decoded, plain)
    assert all(torch.equal(v, state[k]) for k, v in codec.state_dict().items())
    assert not any(p.grad is not None for p in codec.parameters())


def test_unequal_sizes_share_a_batch(codec):
    small, large = SIZES[codec.spec.modality][-2:]
    first, second = structured(codec, small), structured(codec, large)
    data = codec.compress(first) + codec.compress(second)
    y = codec.decompress(data)
    if codec.spec.modality is Modality.TEXT:
        assert y == [*first, *second]
        return
    assert tuple(y.shape) == (2, codec.spec.channels, *(max(a, b) for a, b in zip(small, large, strict=True)))
    for i, size in enumerate((small, large)):
        inside = (i, slice(None), *map(slice, size))
        torch.testing.assert_close(y[inside], codec.decompress(data[i : i + 1])[0], rtol=0, atol=1e-5)
        outside = y[i].clone()
        outside[inside[1:]] = 0
        assert not outside.any()


# -- rates and bytes ----------------------------------------------------------------------------


def test_rates_agree_with_bytes(codec):
    for size in SIZES[codec.spec.modality]:
        x = structured(codec, size)
        codes = codec.encode(x)
        (data,) = codec.compress(x)
        nominal = rate.nominal(codec.spec, codes).item()
        assert rate.coded([data]).tolist() == [8.0 * len(data)]
        if byte_tokens(codec):
            assert nominal == 8 * len(native_bytes(codes))
            assert native_bytes(codes) in data and len(data) <= len(native_bytes(codes)) + 32
        else:
            assert 8 * len(data) <= nominal + 32 + 8 * 32
        again = bitstream.read(codec, [data])
        assert equal_codes(own(again, 0), own(codes, 0))
        back = codec.decompress([data])
        assert back == x if isinstance(x, list) else torch.equal(back, codec.decode(codes))


def test_nominal_is_positions_times_bits(learned):
    codes = learned.encode(structured(learned, MIDDLE[learned.spec.modality]))
    cells = math.prod(codes.indices.shape[2:])
    wanted = sum(cells * math.log2(n) for n in learned.spec.codebook_sizes)
    wanted += sum(rate.SIDE_BITS * value[0].numel() for value in codes.side.values())
    wanted += 0 if codes.lengths is None else 8  # below 128 tokens, their number takes a byte
    assert rate.nominal(learned.spec, codes).item() == pytest.approx(wanted)
    assert rate.tokens(learned.spec, codes).item() == cells * len(learned.spec.codebook_sizes)
    assert rate.entropy(learned, codes) is None


def test_units():
    audio, image = codecs.build("audio/opus"), codecs.build("image/jpeg")
    sound, picture = audio.encode(torch.zeros(1, 1, 12000)), image.encode(torch.zeros(1, 3, 10, 20))
    assert rate.kbps(torch.tensor([4000.0]), sound, audio.spec).item() == pytest.approx(8)
    assert rate.bits_per_pixel(torch.tensor([400.0]), picture).item() == pytest.approx(2)
    with pytest.raises(ValueError, match="audio"):
        rate.kbps(torch.tensor([1.0]), picture, image.spec)


# -- settings and targets -----------------------------------------------------------------------


def test_settings_are_consistent(codec):
    s = codec.settings
    assert s.default in s and 1 <= len(s.sweep) <= 8 and all(v in s for v in s.sweep)
    places = [s.values.index(v) for v in s.sweep]
    assert places == sorted(set(places)) and places[0] == 0 and places[-1] == len(s.values) - 1
    assert (len(s) > 1) == bool(s.name)
    assert s.describe() and "\n" not in s.describe()
    for stray in (True, False, "best", -1, 10**6, math.nan, (1,), [1], torch.tensor(1)):
        assert stray not in s


def test_every_setting_works(codec):
    x = structured(codec, {Modality.IMAGE: (9, 8), Modality.AUDIO: (601,), Modality.TEXT: (9,)}[codec.spec.modality])
    for setting in codec.settings.values:
        codes = codec.encode(x, setting)
        y = codec.decode(codes)
        assert y == x if isinstance(x, list) else y.shape == x.shape


def test_sweep_rises_in_rate(codec):
    x = structured(codec, LARGE[codec.spec.modality])
    bits = [rate.coded(codec.compress(x, s)).item() for s in codec.settings.sweep]
    assert bits == sorted(bits)
    assert len(bits) == 1 or bits[-1] > 1.5 * bits[0]
    default = codec.compress(x)
    assert default == codec.compress(x, codec.settings.default)


def figure(codec, x, codes, kind):
    if kind == "psnr":
        return psnr(x, codec.decode(codes))
    bits = rate.coded(bitstream.write(codec, codes))
    return (rate.bits_per_pixel(bits, codes) if kind == "bits_per_pixel" else rate.kbps(bits, codes, codec.spec)).item()


def kinds(codec):
    return {Modality.IMAGE: ("bits_per_pixel", "psnr"), Modality.AUDIO: ("kbps",)}.get(codec.spec.modality, ())


def test_targets_are_met_by_each_item(codec):
    if len(codec.settings) < 2:
        with pytest.raises(ValueError, match="no setting") as error:
            codec.encode(signals(codec, MIDDLE[codec.spec.modality]), Target(psnr=20))
        assert one_line(error)
        return
    x = signals(codec, MIDDLE[codec.spec.modality])
    values = codec.settings.values
    for kind in kinds(codec):
        some = values[:: max(1, len(values) // 5)]
        figures = [[figure(codec, one, codec.encode(one, s), kind) for s in some] for one in (x[:1], x[1:])]
        if kind == "psnr":  # an untrained decoder need not gain from more quantizers
            wanted = (min(map(max, figures)) + max(map(min, figures))) / 2
            wanted = min(wanted, *map(max, figures))
        else:
            wanted = (max(f[0] for f in figures) + min(f[-1] for f in figures)) / 2
        codes = codec.encode(x, Target(**{kind: wanted}))
        for i in range(2):
            one = x[i : i + 1]
            got = own(codes, i)
            if codec.spec.ordered and codec.spec.stride:
                got = Codes(got.indices[:, : int(got.quantizers()[0])], got.sizes)
            used = next(k for k, s in enumerate(values) if equal_codes(codec.encode(one, s), got))
            reached = figure(codec, one, codec.encode(one, values[used]), kind)
            if kind == "psnr":
                assert reached >= wanted
                assert used == 0 or figure(codec, one, codec.encode(one, values[used - 1]), kind) < wanted
            else:
                same = [k for k, s in enumerate(values[used:], used) if equal_codes(codec.encode(one, s), got)]
                assert reached <= wanted
                if same[-1] + 1 < len(values):
                    assert figure(codec, one, codec.encode(one, values[same[-1] + 1]), kind) > wanted
        together = codec.decode(codes)
        data = bitstream.write(codec, codes)
        torch.testing.assert_close(codec.decompress(data), together, rtol=0, atol=1e-5)


def test_targets_out_of_reach(codec):
    if len(codec.settings) < 2:
        pytest.skip("it has no setting")
    x = structured(codec, MIDDLE[codec.spec.modality])
    for kind, value in {"psnr": 200.0, "bits_per_pixel": 1e-6, "kbps": 1e-6}.items():
        with pytest.raises(TargetError if kind in kinds(codec) else ValueError) as error:
            codec.encode(x, Target(**{kind: value}))
        assert one_line(error)


@pytest.mark.parametrize("given", [{}, {"psnr": 20, "kbps": 3}, {"psnr": math.nan}, {"kbps": 0}, {"psnr": "high"}])
def test_targets_that_mean_nothing(given):
    with pytest.raises(ValueError) as error:
        Target(**given)
    assert one_line(error)


# -- what only some promise ---------------------------------------------------------------------


def test_total_codecs_decode_anything_in_range(codec):
    if not codec.spec.total:
        pytest.skip("file bytes do not all decode")
    generator = torch.Generator().manual_seed(3)
    for trial in range(200):
        if codec.spec.stride:
            size = [int(torch.randint(1, 20, (), generator=generator)) for _ in codec.spec.stride]
            grid, lengths = codec.spec.grid(tuple(size)), None
        elif codec.spec.modality is Modality.IMAGE:
            size = [int(torch.randint(1, 100, (), generator=generator)) for _ in range(2)]
            low, high = codec.span(tuple(size))
            grid = (int(torch.randint(low, high + 1, (), generator=generator)),)
            lengths = torch.tensor(grid)
        else:
            count = trial % 30
            grid, size, lengths = (count,), [count], torch.tensor([count])
        rows = [torch.randint(n, (1, 1, *grid), generator=generator) for n in codec.spec.codebook_sizes]
        side = codec.encode(structured(codec, tuple(size))).side if codec.side_shapes(tuple(size)) else {}
        codes = Codes(torch.cat(rows, 1), torch.tensor([size]), lengths, side)
        y = codec.decode(codes)
        if isinstance(y, list) and not byte_tokens(codec):
            codes = Codes(codes.indices, torch.tensor([[len(y[0].encode())]]), lengths)
        assert isinstance(y[0], str) if isinstance(y, list) else (list(y.shape[2:]) == size and torch.isfinite(y).all())
        assert isinstance(codec.decompress(bitstream.write(codec, codes)), list | torch.Tensor)


def test_prefixes_decode(codec):
    if not codec.spec.ordered:
        pytest.skip("its codes have no order")
    if not codec.spec.stride:
        pytest.skip("its tokens have an order, its one quantizer has none: see test_flex.py")
    x = signals(codec, MIDDLE[codec.spec.modality])
    full = codec.encode(x)
    for count in codec.settings.values:
        few = codec.encode(x, count)
        assert torch.equal(few.indices, full.indices[:, :count]) and few.quantizers().tolist() == [count] * 2
        padded = torch.full_like(full.indices, -1)
        padded[:, :count] = few.indices
        assert torch.equal(codec.decode(few), codec.decode(Codes(padded, full.sizes)))
        assert rate.nominal(codec.spec, few).tolist() == rate.nominal(codec.spec, Codes(padded, full.sizes)).tolist()
    mixed = full.indices.clone()
    fewest = codec.settings.values[0]
    mixed[1, fewest:] = -1
    codes = Codes(mixed, full.sizes)
    assert codes.quantizers().tolist() == [len(codec.spec.codebook_sizes), fewest]
    y = codec.decode(codes)
    torch.testing.assert_close(y[:1], codec.decode(full[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(y[1:], codec.decode(codec.encode(x[1:], fewest)), rtol=0, atol=1e-5)
    again = bitstream.read(codec, bitstream.write(codec, codes))
    assert torch.equal(again.indices, mixed)


def test_embed_is_what_decode_uses(learned):
    codes = learned.encode(signals(learned, MIDDLE[learned.spec.modality]))
    latents = learned.embed(codes)
    assert latents.dtype == torch.float32 and tuple(latents.shape[2:]) == tuple(codes.indices.shape[2:])
    with torch.no_grad():
        y = learned.synthesize(latents)
    crop = y[(..., *(slice(n) for n in codes.sizes[0].tolist()))]
    low = 0.0 if learned.spec.modality is Modality.IMAGE else -1.0
    torch.testing.assert_close(learned.decode(codes), crop.clamp(low, 1), rtol=0, atol=1e-6)


def test_latents_beyond_an_items_grid_are_zero(learned):
    if not learned.spec.stride:
        pytest.skip("its tokens have no grid")
    small, large = SIZES[learned.spec.modality][-2:]
    codes = batches.collate([learned.encode(structured(learned, size)) for size in (small, large)])
    latents = learned.embed(codes)
    grid = learned.spec.grid(small)
    inside = (0, slice(None), *map(slice, grid))
    assert torch.equal(latents[inside], learned.embed(learned.encode(structured(learned, small)))[0])
    latents[inside] = 0
    assert not latents[0].any()


def test_learned_codes_are_local(learned):
    """A change has no effect far away: the receptive field is finite, and audio codecs are causal."""
    if not learned.spec.stride or codecs.codec.imports(type(learned)):
        pytest.skip("a one-dimensional token sees a whole tile, a published architecture the whole signal")
    audio = learned.spec.modality is Modality.AUDIO
    x = structured(learned, (1600,) if audio else (160, 24))
    other = x.clone()
    (other[..., 1504:] if audio else other[:, :, 152:]).fill_(0.9)
    a, b = learned.encode(x).indices, learned.encode(other).indices
    different = (a != b).flatten(0, 1).any(0)
    first = int((different if audio else different.any(1)).nonzero().min())
    change = (1504 if audio else 152) / learned.spec.stride[0]
    if audio:
        assert learned.spec.causal and change <= first < change + 3
    else:
        assert change - learned.receptive_field / 2 / learned.spec.stride[0] - 1 <= first <= change


def test_codes_that_vary(learned):
    """Codes vary, so the other tests are not vacuous."""
    codes = learned.encode(structured(learned, LARGE[learned.spec.modality]))
    rows = codes.indices[0] if learned.context is None else codes.indices[0, :1]  # high frequencies are mostly 0
    assert all(len(row.unique()) > 4 for row in rows)
