"""The description of the package on PyPI: README.md with absolute links, since PyPI has no files of the repository."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
REPOSITORY = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
FILES = f"{REPOSITORY}/blob/main/"
PICTURES = f"{REPOSITORY.replace('github.com', 'raw.githubusercontent.com')}/main/"


def absolute(readme: str) -> str:
    """Return the text with the addresses of pictures and files in the repository in place of relative links."""
    readme = re.sub(r'((?:<img src="|!\[[^\]]*\]\())(?![a-z]+:)', rf"\g<1>{PICTURES}", readme)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\g<1>{FILES}", readme)


setup(long_description=absolute((HERE / "README.md").read_text("utf-8")), long_description_content_type="text/markdown")
