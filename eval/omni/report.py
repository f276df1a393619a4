"""Report of a multimodal model: its tables and generated exhibits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tokenloom.codecs.media.pillow import FORMATS

from ..compare.report import page as compare_report
from ..compare.results import Results
from ..drawing import enlarge
from ..render import Section, audio_file_uri, image_uri, render, write_page
from . import tables
from .records import ExhibitPart, OmniResults, PromptExhibit

if TYPE_CHECKING:
    from markupsafe import Markup

SIDE = 128
"""Side in pixels that small pictures are enlarged to."""


def write(results: OmniResults, folder: Path, comparison: Path) -> Path:
    """Write report.html to the folder of the exhibits: as a section of a comparison if there is one, else as a page."""
    section, path = _section(results, folder), folder / "report.html"
    if (comparison / "results.json").is_file():
        return compare_report.write(Results.read(comparison), [Section("generated", "Generated", section)], path)
    return write_page(path, "omni_page.html", results=results, section=section)


def _section(results: OmniResults, folder: Path) -> Markup:
    """Render the section, with the shipped measurements if the results have none."""
    shipped = None if results.records or results.bits else results.shipped
    measured = shipped or results
    exhibits: dict[str, list[PromptExhibit]] = {}
    for exhibit in results.exhibits:
        exhibits.setdefault(exhibit.title, []).append(exhibit)
    sides = {side: [r for r in measured.records if r.trained is side] for side in tables.TITLES}
    return render(
        "omni.html",
        results=results,
        measured=measured,
        shipped=shipped,
        exhibits=exhibits,
        record_tables={tables.TITLES[side].capitalize(): rows for side, rows in sides.items() if rows},
        bits=measured.bits and tables.lines(measured.bits),
        tables=tables,
        uri=lambda part: _uri(folder, part),
    )


def _uri(folder: Path, part: ExhibitPart) -> str:
    """Return a picture or a sound as a data URI."""
    if part.picture:
        with Image.open(folder / part.picture, formats=FORMATS) as image:
            return image_uri(enlarge(image, SIDE))
    return audio_file_uri(folder / str(part.sound))
