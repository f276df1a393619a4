# ruff: noqa: E501
"""Mistakes of a first day, and their answers: one short line, status 2, nothing written, and the way out."""

from __future__ import annotations

import os
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tokenloom.cli import commands
from tokenloom.cli.main import main

MISTAKES = """
weave                                                        | unknown command 'weave'; known: codecs, encode
encod photo.png                                              | unknown command 'encod' (did you mean encode?)
decode -o a.png                                              | required: input
codecs --jsn                                                 | unknown option --jsn (did you mean --json?)
codecs natural-fsk                                           | unknown codec 'natural-fsk' (did you mean natural-fsq?)
export natural-fsq again                                     | unknown argument again
encode photo.png                                             | encode needs --codec; for image choose emoji-flex, emoji-fsq
encode photo.png -c natural-fsk                              | unknown codec 'natural-fsk' (did you mean natural-fsq?); tokenloom codecs lists all
encode photo.png -c jpeg                                     | did you mean image/jpeg
encode photo.png -c image/jpg                                | did you mean image/jpeg
encode photo.png -c image/opus                               | did you mean audio/opus
encode photo.png -c photo.png                                | named by its folder, photo.png is a file
encode photo.png -c pictures                                 | the folder pictures must hold config.yaml
encode photo.png -c image/fsq                                | image/fsq must be trained first
encode photo.png -c image/taming                             | image/taming needs another project's weights
encode photo.png -c omni-small                               | omni-small describes no codec: it is a model for text
encode photo.png -c image/jpeg --quality 30                  | unknown option --quality
encode photo.png -c image/jpeg --setting high                | quality of image/jpeg must be one of 1, 2, …, 100, got high
encode photo.png -c image/jpeg --setting -5                  | got -5
encode photo.png -c image/jpeg --bpp 0                       | must be a positive number, got 0
encode photo.png -c image/jpeg --bpp lots                    | --bpp: invalid float value: 'lots'
encode photo.png -c emoji-fsq --bpp 0.2                      | emoji-fsq has no setting, its rate is always 0.7786 bits per pixel; omit --bpp 0.2
encode photo.png -c emoji-fsq --psnr 30                      | emoji-fsq has no setting, its rate is always
encode photo.png -c image/png --bpp 3                        | image/png has no setting; omit --bpp 3
encode photo.png -c emoji-fsq --setting 3                    | emoji-fsq has no setting; omit --setting 3
encode photo.png -c image/jpeg --kbps 24                     | --kbps is for audio codecs, image/jpeg is for image
encode song.wav -c audio/opus --psnr 30                      | --psnr is for image codecs, audio/opus is for audio
encode photo.png -c audio/opus                               | audio/opus is for audio, photo.png is an image; for image choose
encode song.wav -c emoji-fsq --setting 3                     | emoji-fsq is for image, song.wav is audio; for audio choose
encode song.wav -c digits-rvq --setting 99                   | quantizers of digits-rvq must be one of (1, 2, 3, 4, 5, 6), got 99
encode photo.png -c https://hub.co/a/b                       | https://hub.co/a/b is an address; name a folder, a shipped name or a hub id
encode song.wav -c emoji-fsq                                 | emoji-fsq is for image, song.wav is audio; for audio choose
encode notes.txt -c image/jpeg                               | image/jpeg is for image, notes.txt is text
encode photo.jpg -c image/jpeg                               | there is no file photo.jpg
encode pictures -c image/jpeg                                | must be a file with an image, a sound or a text, pictures is a folder
encode cut.png -c image/jpeg -o new.tlm                      | cut.png cannot be read as an image
encode photo.png -c image/jpeg -o notes.txt                  | notes.txt exists; replace it with --force, or name another file with -o
encode cut.png -c image/jpeg                                 | cut.tlm exists; replace it with --force
generate a --to text -o notes.txt                            | notes.txt exists; replace it with --force
encode photo.png -c image/jpeg -o no/x.tlm                   | there is no folder no to write x.tlm to
encode photo.png -c image/jpeg -o photo.png                  | photo.png is the input
encode photo.png -c image/jpeg -o pictures                   | must be a file, pictures is a folder
encode photo.png -c image/jpeg -o ~nosuch/x.tlm              | no user has the home folder ~nosuch
encode photo.png -c image/jpeg -o LONG.tlm                   | at most 255 bytes, it has 304
encode photo.png notes.txt -c image/jpeg                     | unknown argument notes.txt
encode photo.png codec=image/jpeg                            | did you mean --codec image/jpeg?
encode photo.png -c ""                                       | argument -c/--codec: must not be empty
encode "" -c image/jpeg                                      | argument input: must not be empty
encode photo.png -c image/jpeg --device tpu                  | 'tpu'
encode -x.png -c image/jpeg                                  | -x.png is read as an option; the file of this name is ./-x.png
decode nosuch.tlm                                            | there is no file nosuch.tlm
decode photo.png                                             | photo.png: a container must start with
decode empty.tlm                                             | empty.tlm: a container must start with
decode cut.tlm -o a.png                                      | cut.tlm: the container is damaged
decode jpeg.tlm -o a.wav                                     | the name a.wav is for audio, but jpeg.tlm holds image
decode jpeg.tlm -o a.xyz                                     | the suffix must be one of .png
decode jpeg.tlm -o a.png -c image/png                        | written by image/jpeg, not by image/png
decode jpeg.tlm -o a.png -c emoji-fsk                        | did you mean emoji-fsq
decode fsq.tlm -o a.png --decoder difusion                   | unknown decoder 'difusion' (did you mean diffusion?)
decode jpeg.tlm -o a.png --decoder diffusion                 | no diffusion decoder for this image/jpeg
decode fsq.tlm -o a.png --decoder emoji-fsq                  | emoji-fsq describes no decoder: it is a codec
decode fsq.tlm -o a.png --steps 4                            | --steps 4 needs a decoder
export image/jpeg                                            | image/jpeg cannot be exported
export emoji-fsq --format ONX                                | unknown format 'ONX' (did you mean onnx?)
export emoji-fsq --format torch.export -o pictures           | which is not part of an export; choose another folder
export emoji-fsq --format torch.export -o photo.png          | must be a folder, photo.png is a file
generate hi --to video                                       | unknown channel or modality 'video'; the vocabulary has captions-bpe (text)
generate hi --to imgae                                       | (did you mean image?)
generate hi --to image -o heart.wav                          | the name heart.wav is for audio, but --to image generates image
generate hi --to image -o no/heart.png                       | there is no folder no to write heart.png to
generate hi -o no/any                                        | there is no folder no to write any to
generate hi --to image -n 0                                  | n must be an integer from 1 to 10000, got 0
generate hi --to image --steps 3                             | --steps 3 needs a decoder; add --decoder diffusion
generate hi --to image --temperature -1                      | temperature must be a number of at least 0
generate hi --to image --decoder difusion                    | did you mean diffusion
generate nosuch.png --to text                                | there is no file nosuch.png; a text must not end in .png
generate hi --model omni-smal                                | unknown model 'omni-smal' (did you mean omni-small?)
generate hi --model emoji-fsq                                | emoji-fsq describes no omni: it is a codec
generate hi --prompt x                                       | unknown option --prompt
talk hi -o a.png                                             | the output must be a sound file, a.png is for image
talk -o -                                                    | -o - needs inputs; the answers of a chat are files
talk nosuch.wav                                              | there is no file nosuch.wav; a text must not end in .wav
talk hi --to speech                                          | unknown channel or modality 'speech'
train steps=5                                                | no codec chosen
train codec=image/fsq                                        | no data chosen
train codec=fsq data=images                                  | unknown codec 'fsq' (did you mean image/fsq?)
train codec=image/fsq data=pictures                          | for own files: data=folder data.path=pictures
train codec=image/fsq data=folder data.path=picturs          | data.path 'picturs' does not exist
train codec=image/fsq data=folder data.path=my photos        | got 'photos'; quote a value with blanks: 'data.path=my photos'
train codec=image/fsq data=folder data.path=empty            | data.path 'empty' holds no image, sound or text
train codec=image/fsq data=folder data.path=sounds           | the codec is for image, but path sounds holds audio, such as the item 'b'
train codec=image/fsq data=images lr=1e-3                    | unknown key 'lr' (did you mean optimizer.lr
train codec=image/fsq data=images learning_rate=1e-3         | did you mean optimizer.lr?
train codec=image/fsq data=images batch=4                    | did you mean batch_size?
train codec=image/fsq data=images epochs=3                   | did you mean steps?
train codec=image/fsq data=images steps=abc                  | steps=abc is wrong: it must be a whole number
train codec=image/fsq data=images steps=0                    | steps must be an integer of at least 1, got 0
train codec=image/fsq data=images device=[cpu]               | device=[cpu] is wrong: it must be a text
train codec=image/fsq data=images losses=l1                  | losses=l1 is wrong: it has keys of its own, written key.name=value
train codec=image/fsq data=images stop_after=0               | stop_after must be an integer of at least 1, got 0
train codec=image/fsq data=images crop.size=0                | crop.size must be an integer of at least 1, got 0
train codec=image/fsq data=images optimizer.warmup=20000     | optimizer.warmup must be at most steps=10000, got 20000
train codec=image/fsq data=images losses.l3=1                | unknown key 'losses.l3'
train codec=image/fsq data=images codec.stride=3             | stride must be a power of two
train codec=image/fsq data=images hydra/sweeper=optuna       | not installed: pip install hydra-optuna-sweeper
train codec=image/fsq data=images --steps 5                  | unknown option --steps; keys are written steps=VALUE
train codec=image/fsq data=images steps 5                    | must have the form key=value, got 'steps'
train codec=image/fsq data=images resume=true out=r          | r/state.pt, which does not exist
train codec=image/fsq data=images out=photo.png              | out must be a folder, photo.png is a file
train codec=image/fsq data=images seed=1,2                   | seed=1,2 has several values
train codec=image/fsq data=folder data.path=pictures data.limit=0 | limit must be an integer of at least 1, got 0
compare codecs=image/jpeg,image/webp                         | write a list as 'codecs=[image/jpeg,image/webp]'
compare codecs=[image/jpeg, image/webp]                      | quote a value with blanks: 'codecs=[image/jpeg, image/webp]'
compare codecs=[] data=images                                | codecs is empty
compare codecs=[natural-fsk] data=images                     | did you mean natural-fsq
compare codecs=[image/jpeg,audio/opus] data=folder data.path=pictures out=o | pictures has no audio, which audio/opus would need
compare codecs=[image/jpeg,audio/opus] data=images out=o     | images has no audio, which audio/opus would need
compare codecs=[image/jpeg] data.path=pictures               | unknown key 'data.path'
compare codecs=[image/jpeg] data=folder data.path=pictures items=0 out=o | items must be an integer of at least 1, got 0
compare codecs=[image/jpeg] data=images anchor=image/webp    | unknown anchor 'image/webp'
compare codecs=[image/jpeg] data=images protocols=[rgb]      | unknown protocol 'rgb'
compare codecs=[image/jpeg] data=images anchor=[]            | anchor must not be empty
compare codecs=[image/jpeg] data=images out=                 | out must name a folder
compare codecs=[image/jpeg] data=folder data.path= out=o     | needs data.path, got an empty name
compare --codecs image/jpeg                                  | keys are written codecs=VALUE
evaluate image/jpeg image/webp                               | must have the form key=value, got 'image/webp'
evaluate image/jpeg data=folder data.path=sounds out=o       | sounds has no image, which image/jpeg would need
evaluate image/jpeg dta=images                               | unknown key 'dta' (did you mean data?)
evaluate omni-small data=images                              | unknown key 'data'
evaluate omni-small rows=[] out=o                            | rows must not be empty
evaluate omni-small rows=[speech] out=o                      | unknown row 'speech'
board nowhere                                                | there is no file nowhere
board pictures                                               | pictures has no results.json
board pictures -o board.txt                                  | the output must have the suffix .html, got 'board.txt'
board notes.txt                                              | notes.txt is damaged: 
doctor natural-fsk                                           | unknown codec 'natural-fsk' (did you mean natural-fsq?)
doctor image/fsq                                             | image/fsq must be trained first
doctor image/jpeg -o page.txt                                | the output must have the suffix .html, got 'page.txt'
doctor image/jpeg --only seam                                | unknown check 'seam' (did you mean seams
doctor image/jpeg --setting high                             | quality of image/jpeg must be one of 1, 2, …, 100, got high
doctor image/jpeg --seconds 0                                | --seconds must be positive, got 0
doctor image/jpeg --data nowhere                             | 'nowhere' does not exist
doctor image/jpeg --data sounds                              | 'sounds' holds no image
tokenize out=o                                               | no data chosen
tokenize data=images                                         | no codec chosen
tokenize data=images codec=natural-fsk out=o                 | did you mean natural-fsq
tokenize data=folder data.path=sounds codec=image/jpeg out=o | data=folder holds no image, which image/jpeg needs
tokenize data=images codec=image/png workers=-1 out=o        | workers must be an integer of at least 0, got -1
tokenize data=images codec=image/png engine=ray workers=0 out=o | workers must be an integer of at least 1, got 0
tokenize data=images codec=image/png shard_items=0 out=o     | shard_items must be an integer of at least 1, got 0
tokenize data=images codec=image/png format=csv out=o        | format must be one of webdataset, parquet, got 'csv'
tokenize data=images codec=image/png out=pictures            | holds other files
"""
"""A command and a part of its answer."""
ROWS = [row.split("|", 1) for row in MISTAKES.strip().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder with pictures, sounds, texts, containers, and damaged ones of these."""
    before, folder = os.getcwd(), tmp_path_factory.mktemp("mistakes")
    os.chdir(folder)
    y, x = np.mgrid[0:41, 0:53]
    picture = np.stack([3 * x, 4 * y, x + y], -1).astype(np.uint8)
    Image.fromarray(picture).save("photo.png")
    for name in ("pictures", "sounds", "mixed", "empty", "broken"):
        Path(name).mkdir()
    for i in range(2):
        Image.fromarray(np.roll(picture, 9 * i, 0)).save(f"pictures/{i}.png")
    Image.fromarray(picture).save("mixed/a.png")
    sound = 0.3 * np.sin(np.arange(9000) / 16)
    for name in ("song.wav", "sounds/a.wav", "sounds/b.wav", "mixed/b.wav"):
        soundfile.write(name, sound, 44_100)
    Path("notes.txt").write_text("naïve", encoding="utf-8")
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:60])
    Path("broken/cut.png").write_bytes(Path("cut.png").read_bytes())
    Path("-x.png").write_bytes(Path("photo.png").read_bytes())
    for source, codec, name in (("photo.png", "image/jpeg", "jpeg"), ("song.wav", "audio/flac", "flac"),
                                ("photo.png", "emoji-fsq", "fsq")):  # fmt: skip
        assert main(["encode", source, "-c", codec, "-o", f"{name}.tlm"]) == 0
    data = Path("jpeg.tlm").read_bytes()
    Path("cut.tlm").write_bytes(data[:100])
    Path("empty.tlm").write_bytes(b"")
    yield folder
    os.chdir(before)


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in Path().rglob("*")}


@pytest.mark.parametrize(("command", "answer"), [(c.strip(), a.strip()) for c, a in ROWS], ids=[c for c, _ in ROWS])
def test_a_mistake_is_answered_in_one_line(command: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents()
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        status = main(shlex.split(command.replace("LONG", "n" * 300)))
    out, line = capsys.readouterr()
    assert (status, out) == (2, "") and line.startswith("tokenloom: ") and line.count("\n") == 1, (status, out, line)
    assert answer in line
    assert len(line) <= 210
    assert contents() == before


@pytest.mark.parametrize("command", [name for name, row in commands.COMMANDS.items() if row.needs])
def test_a_bare_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents()
    assert main([command]) == 2
    out, lines = capsys.readouterr()
    first, *examples, last = lines.splitlines()
    assert out == "" and contents() == before
    assert first.startswith(f"tokenloom {command}: ") and first.endswith(", for example:")
    assert len(examples) == 3 and all(line.startswith(f"  tokenloom {command} ") for line in examples)
    assert last == f"tokenloom {command} --help explains all options and keys."


def test_there_are_enough_mistakes_of_each_command() -> None:
    counts = {name: sum(row[0].startswith(f"{name} ") for row in ROWS) for name in commands.COMMANDS}
    assert len(ROWS) >= 60 and min(counts.values()) >= 2
