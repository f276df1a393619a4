"""Modelled rate: its bits against known values, the choice of training items, and its place in the reports."""

import csv
import json
import math

import pytest
import torch
from rich.console import Console
from support.codecs import MIDDLE, one_line, signals, tiny

from tokenloom import codecs
from tokenloom.cli.main import main
from tokenloom.codecs import rate
from tokenloom.codecs.types import Codes, CodeSpec, Modality
from tokenloom.data import Item, Source, open_source
from tokenloom.eval.compare import ModelledRate, compare, evaluate
from tokenloom.eval.compare.front import modelled_rate
from tokenloom.eval.compare.report import terminal
from tokenloom.eval.compare.report.text import problems
from tokenloom.eval.compare.results import Results
from tokenloom.eval.modelled import learner
from tokenloom.eval.modelled.layout import CodeLayout, windows
from tokenloom.eval.modelled.learner import BATCH_TOKENS, train

GRID = CodeSpec(Modality.IMAGE, (32, 8), (8, 8), 3, None, total=True, ordered=False, causal=False)
FREE = CodeSpec(Modality.TEXT, (64,), (), 0, None, total=True, ordered=False, causal=False)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Use a smaller transformer than in reports. These tests check the arithmetic around it."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"width": 64, "layers": 2, "heads": 2, "kv_heads": 1}.items():
            patch.setitem(learner.NETWORK, key, value)
        yield


def grids(count, seed=0, side=8):
    """Independent codes with equal probabilities."""
    g = torch.Generator().manual_seed(seed)
    values = torch.stack([torch.randint(n, (count, side, side), generator=g) for n in GRID.codebook_sizes], 1)
    return Codes(values, torch.tensor([[8 * side, 8 * side]]).expand(count, 2))


def pattern(count, seed=0):
    """Codes of maximal order-0 entropy that are a function of the first one."""
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(32, (count, 1), generator=g)
    first = ((start + 5 * torch.arange(64)) % 32).reshape(count, 8, 8)
    return Codes(torch.stack([first, first % 8], 1), torch.tensor([[64, 64]]).expand(count, 2))


def rows_of(spec, codes):
    return [CodeLayout(spec).row(codes, i) for i in range(len(codes))]


@pytest.fixture(scope="module")
def of_noise():
    return train(GRID, rows_of(GRID, grids(48)), 16 * BATCH_TOKENS, seed=0)


def test_codes_without_structure_cost_what_they_do_nominally(of_noise):
    """The rate is not below the entropy, up to the noise of 20 items, and little above it."""
    codes = grids(20, seed=9)
    share = of_noise.bits(codes).sum() / rate.nominal(GRID, codes).sum()
    assert 0.998 < share < 1.06


def test_codes_that_follow_from_each_other_cost_far_less_than_their_entropy():
    learned = train(GRID, rows_of(GRID, pattern(64)), 40 * BATCH_TOKENS, seed=0)
    codes = pattern(16, seed=5)
    order0 = 0.0
    for q, size in enumerate(GRID.codebook_sizes):
        p = codes.indices[:, q].flatten().bincount(minlength=size) / codes.indices[:, q].numel()
        order0 += float(-(p[p > 0] * p[p > 0].log2()).sum()) * codes.indices[:, q].numel()
    assert order0 > 0.95 * rate.nominal(GRID, codes).sum()
    assert learned.bits(codes).sum() < 0.5 * order0


def test_bits_are_those_of_the_transformer_called_by_hand(of_noise):
    """Slow twin: position by position, one item at a time, without packing, windows or kinds."""
    codes = grids(1, seed=4)
    values = codes.indices[0].flatten(1).T  # (positions, quantizers): raster, quantizers innermost
    ids = (values + torch.tensor([2, 34])).flatten()
    inputs = torch.cat([torch.tensor([0]), ids[:-1]])
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    places = (64 * y + x).flatten().repeat_interleave(2)
    with torch.no_grad():
        logits = of_noise.transformer.logits(of_noise.transformer(inputs[None], places[None])[0])
    bits = 0.0
    for i, wanted in enumerate(ids.tolist()):
        low, high = ((2, 34), (34, 42))[i % 2]
        bits -= logits[i, low:high].double().log_softmax(0)[wanted - low].item() / math.log(2)
    assert of_noise.bits(codes).item() == pytest.approx(bits, rel=1e-5)


def test_an_item_costs_the_same_alone_and_among_others(of_noise):
    codes = grids(5, seed=3)
    together = of_noise.bits(codes)
    alone = torch.cat([of_noise.bits(codes[i]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-3)


def test_padding_of_a_batch_and_quantizers_not_used_cost_nothing(of_noise):
    codes = grids(1, seed=6, side=4)
    padded = torch.zeros(1, 2, 8, 8, dtype=torch.int64)
    padded[..., :4, :4] = codes.indices
    padded[:, 1] = -1  # an item that uses one quantizer
    bits = of_noise.bits(Codes(padded, codes.sizes)).item()
    assert bits == pytest.approx(of_noise.bits(Codes(codes.indices[:, :1], codes.sizes)).item(), rel=1e-6)
    assert bits < 16 * 5.6


def test_side_information_is_charged(of_noise):
    plain = grids(2, seed=7)
    more = Codes(plain.indices, plain.sizes, None, {"scale": torch.ones(2, 3)})
    assert (of_noise.bits(more) - of_noise.bits(plain)).tolist() == pytest.approx([96, 96])


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    rows, codes = rows_of(GRID, pattern(16)), pattern(2, seed=5)
    state = torch.random.get_rng_state()
    a, b, c = (train(GRID, rows, 3 * BATCH_TOKENS, seed=seed).bits(codes) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 511, 512, 513, 1000, 1024, 1300])
def test_long_items_are_scored_once_and_with_half_a_context_before(length):
    scored = []
    for first, end, since in windows(length, 512):
        assert 0 < end - first <= 512
        assert first == 0 or since - first >= 256
        scored += range(since, end)
    assert scored == list(range(length))


def test_an_end_is_paid_for_where_lengths_vary():
    """Texts of 2 to 60 codes that are all 0: only their ends cost bits."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 61, (300,), generator=g)
    codes = Codes(torch.zeros(300, 1, 60, dtype=torch.int64), lengths[:, None], lengths)
    learned = train(FREE, rows_of(FREE, codes[:280]), 20 * BATCH_TOKENS, seed=0)
    bits = learned.bits(codes[280:]).mean().item()
    assert CodeLayout(FREE).row(codes, 0).shape == (4, lengths[0] + 1)
    assert math.log2(59) - 0.7 < bits < 30


def test_every_registered_codec_can_be_learned(codec):
    """Codes of two signals per codec, of a size that no stride divides, the bytes of JPEG included."""
    rows, codes = [], []
    for size in (MIDDLE[codec.spec.modality], tuple(n + 7 for n in MIDDLE[codec.spec.modality])):
        codes.append(codec.encode(signals(codec, size, batch=1)))
        rows.append(CodeLayout(codec.spec).row(codes[-1], 0))
        assert rows[-1].shape[1] == rate.tokens(codec.spec, codes[-1]) + (not codec.spec.stride)
    rows = [row[:, :700] for row in rows]  # enough to learn from here
    bits = train(codec.spec, rows, 1, seed=0).nats(rows)
    assert bits.isfinite().all() and (bits > 0).all()


def test_one_item_is_too_few_to_learn_from():
    with pytest.raises(ValueError, match="the modelled rate needs 2 items to learn from, got 1") as error:
        train(GRID, rows_of(GRID, grids(1)), BATCH_TOKENS, seed=0)
    assert one_line(error)


# -- in a comparison ----------------------------------------------------------------------------


class Few(Source):
    def __init__(self, items, name="few"):
        self.all, self.name = items, name

    def __len__(self):
        return len(self.all)

    def __getitem__(self, i):
        return self.all[i]


def pictures(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 3, 3, generator=g)
    big = torch.nn.functional.interpolate(small, (24, 32), mode="bilinear")
    return [Item(f"{seed}/{i}", Modality.IMAGE, x) for i, x in enumerate((big * 255).round() / 255)]


def texts(count):
    return [Item(str(i), Modality.TEXT, f"line {i} says {i * i}") for i in range(count)]


SMALL = ModelledRate(tokens=BATCH_TOKENS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three pictures under two codecs, learned from four others and one of the three."""
    training = Few(pictures(4, 1) + pictures(3)[:1], name="others")
    out = tmp_path_factory.mktemp("modelled")
    return compare(
        ["image/webp", "image/png"], Few(pictures(3)), out, modelled=ModelledRate(training, BATCH_TOKENS), seed=3
    )


def test_the_figure_stands_beside_the_other_rates(run):
    for record in run.records:
        assert record.n == record.rates["modelled"].n == 3
        bits = [item["modelled"] * 24 * 32 for item in record.items]
        nominal = [item["nominal"] * 24 * 32 for item in record.items]
        assert all(0 < b < 1.1 * n + 9 for b, n in zip(bits, nominal, strict=True))  # 9: the end of a file
        per_token = [b / item["tokens"] for b, item in zip(bits, record.items, strict=True)]
        assert record.bits_per_token["modelled"].mean == pytest.approx(sum(per_token) / 3)
    with (run.folder / "results.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert float(row["modelled"]) == pytest.approx(run.records[0].rates["modelled"].mean)
    assert float(row["bits_per_token_modelled"]) < 8.5
    assert Results.read(run.folder).records == run.records


def test_what_is_evaluated_is_not_learned_from(run):
    for record in run.records:
        facts = record.modelled
        assert facts.items + facts.items_held + facts.left_out <= 5  # fewer where they have tokens enough
        assert facts.items_held == 1 and facts.items >= 1
        assert (facts.tokens_seen, facts.steps, facts.seed) == (BATCH_TOKENS, 1, 3)
        assert facts.parameters > facts.parameters_of_embeddings > 0


def test_plots_report_and_table_show_it(run, capsys):
    assert (run.folder / "plots" / "image-psnr-modelled.png").is_file()
    page = run.report.read_text(encoding="utf-8")
    data = json.loads(page.split('id="image-curves">')[1].split('json">')[1].split("</script>")[0])
    assert [axis["name"] for axis in data["x"]] == ["coded", "nominal", "modelled"]
    assert "1,024 tokens in 1 steps" in page and "others" in page
    terminal.show(run, Console(width=200))
    said = " ".join(capsys.readouterr().out.split())
    assert "1,024 tokens in 1 steps, from" in said and "not evaluated (training data: others); seed 3" in said
    assert any("small transformer" in line for line in run.takeaways)


def test_without_training_data_a_fifth_is_evaluated_and_no_item_is_both(tmp_path):
    results = evaluate("text/bytes", Few(texts(11)), tmp_path, modelled=SMALL)
    assert results.seen == 2
    facts = results.records[0].modelled
    assert facts.items + facts.items_held == 9 and facts.left_out == 0
    said = results.environment.definitions["modelled rate"]["learned from"]
    assert said.startswith("the other 9 of the data's 11 items, of which 2 were drawn for evaluation")


def test_with_items_the_rest_is_learned_from(tmp_path):
    results = evaluate("text/bytes", Few(texts(6)), tmp_path, modelled=SMALL, items=2)
    facts = results.records[0].modelled
    assert (results.seen, facts.items + facts.items_held, facts.left_out) == (2, 4, 2)


def test_text_and_sound_have_it_in_their_units(tmp_path):
    lines, sounds = texts(4), list(open_source("phrases", count=3).items())
    sounds = [Item(s.key, s.modality, s.signal[:, :4000], s.sample_rate) for s in sounds]
    how = ModelledRate(Few(lines[1:] + sounds[1:]), BATCH_TOKENS)
    results = compare(["text/bytes", "audio/flac"], Few([lines[0], sounds[0]]), tmp_path, modelled=how)
    for record in results.records:
        assert record.rates["modelled"].mean == pytest.approx(
            record.bits_per_token["modelled"].mean * record.items[0]["tokens"]
            / (len(lines[0].signal) if record.modality == "text" else 4000 / sounds[0].sample_rate * 1000)
        )  # fmt: skip


def test_nothing_left_to_learn_from_is_absent_with_the_reason(tmp_path):

    same = Few(pictures(3))
    results = evaluate("image/png", same, tmp_path, modelled=ModelledRate(same, BATCH_TOKENS))
    assert results.records[0].rates["modelled"].mean is None
    (line,) = [line for line in problems(results) if "modelled" in line]
    assert line.endswith("the modelled rate needs 2 items to learn from, got 0; 3 are also evaluated")


@pytest.mark.parametrize(
    ("how", "items", "names", "said"),
    [
        (SMALL, 4, ["image/png"], "all 3 items of few are evaluated"),
        (
            ModelledRate(Few([Item("t", Modality.TEXT, "no picture")], "notes")),
            None,
            ["image/png"],
            "notes has no image",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_anything_is_measured(tmp_path, how, items, names, said):
    with pytest.raises(ValueError, match=said) as error:
        compare(names, Few(pictures(3)), tmp_path / "out", items=items, modelled=how)
    assert one_line(error) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"training": {"name": "images"}, "modelled": False}, "add modelled=true"),
        ({"training": "photos", "modelled": True}, "training must name a data source.*got 'photos'"),
        ({"training": None, "modelled": True, "budget": 0}, "budget must be an integer of at least 1, got 0"),
    ],
)
def test_keys_that_mean_nothing(keys, said):
    with pytest.raises(ValueError, match=said) as error:
        modelled_rate(**{"budget": BATCH_TOKENS, **keys})
    assert one_line(error)


def test_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    (tmp_path / "data").mkdir()
    for i, item in enumerate(pictures(5)):
        codecs.write(item.signal, tmp_path / "data" / f"{i}.png")
    given = ["data=folder", f"data.path={tmp_path / 'data'}", f"out={tmp_path / 'out'}", "budget=1000"]
    assert main(["evaluate", "image/png", "--modelled", *given, "items=1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "modelled bits" in out and "saw 1,024 tokens in 1 steps, from" in out
    assert main(["evaluate", "image/png", "--modelled", *given, "budget=few"]) == 2
    assert "budget" in capsys.readouterr().err


def test_text_with_a_learned_vocabulary():
    """BPE tokens cost fewer bits each after a longer training, because words repeat."""
    bpe = tiny("text/bpe")
    lines = [f"the quick brown fox jumps over {n} lazy dogs" for n in range(120)]
    layout = CodeLayout(bpe.spec)
    rows = [layout.row(bpe.encode([line]), 0) for line in lines]
    little, more = (train(bpe.spec, rows[:100], n * BATCH_TOKENS, seed=0).nats(rows[100:]).sum() for n in (1, 14))
    assert more < 0.7 * little
