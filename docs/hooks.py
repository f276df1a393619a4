"""MkDocs hooks: pages that live outside docs/, and links that work on the site as they do in the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md", "checkpoints/*/README.md")
"""Files of the repository that are pages of the site, under the same path."""
LINK = re.compile(r"(\]\()((?:\.\./)*[\w./-]+\.(?:md|png))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links that hold in the repository into links that hold on the site, where docs/ is the root."""
    path = page.file.src_uri
    outside = any(Path(path).match(pattern) for pattern in OUTSIDE)
    folder = posixpath.dirname(path if outside else f"docs/{path}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2])).removeprefix("docs/")
        return match[1] + posixpath.relpath(target, posixpath.dirname(path) or ".")

    return LINK.sub(moved, markdown)
