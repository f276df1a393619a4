"""The color photographs that scikit-image bundles, which need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from PIL import Image
from torch import Tensor

from tokenloom.codecs import media
from tokenloom.codecs.media.images import read_image
from tokenloom.codecs.types import Modality
from tokenloom.errors import missing

from .source import BrokenItem, Item, Source, at_least, decode

PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", "the astronaut Eileen Collins in an orange suit before a flag"),
    "chelsea": ("chelsea.png", "the face of a tabby cat"),
    "coffee": ("coffee.png", "a cup of coffee with a spoon on a wooden table"),
    "rocket": ("rocket.jpg", "a rocket on its launch pad at night"),
    "hubble_deep_field": ("hubble_deep_field.jpg", "thousands of galaxies in a dark sky"),
    "retina": ("retina.jpg", "the retina of a human eye"),
    "immunohistochemistry": ("ihc.png", "stained tissue under a microscope"),
    "stereo_motorcycle": ("motorcycle_left.png", "a motorcycle in a garage"),
}


class Images(Source):
    """The eight color photographs of scikit-image, downscaled to at most `max_side` pixels; None: original sizes."""

    name = "images"
    modality = Modality.IMAGE

    def __init__(self, max_side: int | None = 512) -> None:
        self.max_side = None if max_side is None else at_least("max_side", max_side, 1)
        spec = find_spec("skimage")
        if spec is None or not spec.submodule_search_locations:
            raise missing("scikit-image", "eval", "data source images")
        self.folder = Path(next(iter(spec.submodule_search_locations or ()))) / "data"

    def __len__(self) -> int:
        return len(PHOTOGRAPHS)

    def __getitem__(self, i: int) -> Item:
        key = list(PHOTOGRAPHS)[self._check(i)]
        file, caption = PHOTOGRAPHS[key]
        try:
            data = (self.folder / file).read_bytes()
        except OSError as error:
            raise BrokenItem(f"{self.folder / file}: {error.strerror or error}") from error
        image = decode(data, Modality.IMAGE, self.folder / file).signal
        assert isinstance(image, Tensor)
        return Item(key, Modality.IMAGE, self._downscaled(image), None, caption)

    def _downscaled(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        if self.max_side is None or max(height, width) <= self.max_side:
            return image
        factor = self.max_side / max(height, width)
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        pixels = media.to_uint8(image).permute(1, 2, 0).numpy()
        return read_image(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
