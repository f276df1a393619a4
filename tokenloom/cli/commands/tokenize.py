"""`tokenloom tokenize`: turn a data set into shards of tokens."""

from __future__ import annotations

import argparse

from tokenloom import lazy
from tokenloom.cli import options

hydra_app = lazy.load("tokenloom.cli.hydra_app", "train")


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add(parser)
    parser.epilog = f"""\
key=value pairs:
  data=NAME            {", ".join(options.choices("data"))};
                       its own keys with a dot: data.path=photos.tar
  codec=NAME           a shipped name, a folder, a hub id, or a registered name;
                       its own keys with a dot: codec.sample_rate=16000;
                       my_codec.py:MyCodec is a class of your own file, which is run
  setting=VALUE        a value of the codec's setting, or a target: 'setting={{psnr: 30}}'
  format=webdataset    tar shards with KEY.npy, KEY.json and KEY.txt (the caption); or parquet
  shard_items=1000     items per shard
  batch_size=1         items of equal size that are encoded together, by codecs whose codes do not depend on it
  workers=4            processes; 0: only this one; default: one for each core
  device=auto          a GPU if there is one; or cpu, cuda, cuda:1, mps
  engine=local         or ray: the machines of RAY_ADDRESS, which share the data and the output
  out=FOLDER           folder for the shards and _index.json
Every key and its default: tokenloom tokenize --cfg job. After Ctrl-C or a kill, the same command continues with the
first missing shard. The bytes of the shards do not depend on workers and engine; tokenloom.data.tokens.read reads them.

examples:
  tokenloom tokenize data=tar data.path=photos.tar codec=natural-fsq out=tokens/photos
  tokenloom tokenize data=folder data.path=speech codec=digits-rvq setting=4 format=parquet out=tokens/speech
  tokenloom tokenize data=hub data.path=ylecun/mnist codec=image/jpeg 'setting={{psnr: 30}}' out=tokens/mnist
  tokenloom tokenize data=tar 'data.path=photos-*.tar' codec=natural-fsq engine=ray out=/shared/tokens
"""


def run(args: argparse.Namespace, rest: list[str]) -> int:
    return hydra_app.run("tokenize", rest, options.flags(args))
