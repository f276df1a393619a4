"""HTML reports: templates, and files embedded as data URIs.

A report is one file that loads nothing else. The templates, the style and the script are in `templates/`.
"""

from __future__ import annotations

import base64
import functools
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from tokenloom import files, lazy
from tokenloom.codecs import media

from .charts import MARKERS
from .gallery.files import SECONDS
from .serialize import to_plain

if TYPE_CHECKING:
    from markupsafe import Markup

jinja2 = lazy.load("jinja2", "eval")
markupsafe = lazy.load("markupsafe", "eval")

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """Additional section of the report of a comparison."""

    anchor: str
    """Id of the `<section>` element, the target of the link in the navigation."""
    title: str
    """Text of that link."""
    html: Markup
    """The element."""


def render(template: str, **values: Any) -> Markup:
    """Render a template of `templates/`. Values are escaped unless they are Markup."""
    return markupsafe.Markup(_environment().get_template(template).render(**values))


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template to a file and return its path."""
    files.write(path, render(template, **values))
    return path


def asset(name: str) -> Markup:
    """Return the text of a style or script of `templates/`."""
    return markupsafe.Markup((FOLDER / name).read_text(encoding="utf-8"))


@functools.cache
def _environment() -> Any:
    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.globals |= {"asset": asset, "markers": MARKERS, "seconds": SECONDS}
    environment.filters["plain"] = to_plain
    environment.tests["infinite"] = math.isinf
    return environment


# -- embedded files -------------------------------------------------------------------------------


def data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def image_uri(image: Image.Image, **options: Any) -> str:
    """Return an image as a data URI of a WebP file, written with the options of Pillow; default: lossless."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **(options or {"lossless": True}))
    return data_uri(buffer.getvalue(), "image/webp")


def audio_uri(waveform: Tensor, sample_rate: int) -> str:
    """Return a waveform (channels, samples) as a data URI of a 16-bit FLAC file."""
    return data_uri(media.encode_audio(waveform, sample_rate, format="FLAC", subtype="PCM_16"), "audio/flac")


def audio_file_uri(path: Path) -> str:
    """Return an audio file as a data URI; see `audio_uri`."""
    return audio_uri(media.read(path), media.sample_rate(path))
