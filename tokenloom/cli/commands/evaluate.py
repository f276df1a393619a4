"""`tokenloom evaluate`: measure one codec at each of its settings, or a model."""

from __future__ import annotations

import argparse

from tokenloom import lazy
from tokenloom.cli import known, options

checkpoint = lazy.load("tokenloom.codecs.checkpoint")
hydra_app = lazy.load("tokenloom.cli.hydra_app", "eval")
overrides = lazy.load("tokenloom.cli.overrides", "eval")

EPILOG = f"""\
{known.MAPPING}
The key=value pairs are those of tokenloom compare.
A model for text, images and sound has other keys: packs=FOLDER of its test data, items, rows, sampling, device, seed,
out; tokenloom evaluate omni-small --cfg job lists them.
A diffusion decoder is compared with the plain decoder and with two controls, on the same codes. Its keys are
training={{name: …, path: …}} for the training split, train_items, settings and steps.

examples:
  tokenloom evaluate natural-fsq data=images
  tokenloom evaluate omni-small packs=data
  tokenloom evaluate runs/mine data=folder data.path=photos items=50 out=runs/mine/evaluation
  tokenloom evaluate runs/mine --modelled data=tar data.path=test.tar 'training={{name: tar, path: train.tar}}'
  tokenloom evaluate NAME-diffusion data=tar data.path=test.tar 'training={{name: tar, path: train.tar}}'
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("codec", type=known.codec, metavar="CODEC", help=known.HELP)
    parser.add_argument(
        "--modelled", action="store_true", help="also measure the bits under a small transformer trained on the codes"
    )
    options.add(parser, "CODEC")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    name, flags = args.codec, options.flags(args)
    for kind in ("omni", "decoder"):
        if isinstance(name, str) and checkpoint.describes(name, kind):
            if args.modelled:
                raise ValueError(f"--modelled needs a codec, {name} is a model")
            return hydra_app.run(kind, [f"model={overrides.literal(name)}", *rest], flags)
    modelled = ["modelled=true"] if args.modelled else []
    return hydra_app.run("evaluate", [f"codecs=[{overrides.plain('codecs', name)}]", *modelled, *rest], flags)
