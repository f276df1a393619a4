"""Answers that come while they are sampled, and conversations of several turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.codecs import one_line
from support.omni import CONTEXT, fresh, picture, sound

from tokenloom.models import Conversation, Omni, StreamedPiece, generate
from tokenloom.models.omni.prompts import excess


def together(pieces: list[StreamedPiece]) -> list[Any]:
    """Return the segments of an answer: sounds are joined from their pieces."""
    segments: list = []
    for piece in pieces:
        if piece.segment == len(segments):
            segments.append(piece.content)
        else:
            assert isinstance(piece.content, torch.Tensor)
            segments[-1] = torch.cat([segments[-1], piece.content], 1)
    return segments


@pytest.fixture(scope="module", params=["delay", "raster"])
def omni(request: pytest.FixtureRequest) -> Omni:
    return fresh(pattern=request.param)


@pytest.mark.filterwarnings("ignore:the context ended")
@pytest.mark.parametrize("to", ["audio", "image", "flexible", "text", None])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_pieces_are_the_whole(omni, to, guidance):
    """Also of sounds that the context cuts off."""
    for seed in range(12):
        options = {"seed": seed, "guidance": guidance, "temperature": 0.8}
        whole = omni.generate(["seven", picture()], to, best_of=1, **options)[0]
        tokens, bits = omni.statistics.tokens, omni.statistics.nominal
        pieces = list(omni.stream(["seven", picture()], to, **options))
        assert (omni.statistics.tokens, omni.statistics.seed) == (tokens, seed)
        assert omni.statistics.nominal == pytest.approx(bits) and omni.statistics.modelled
        segments = together(pieces)
        for one, other in zip(segments, [whole] if to else whole, strict=True):
            if isinstance(one, str):
                assert one == other
            else:
                assert one.shape == other.shape and (one - other).abs().max() <= 1e-6
        assert [piece.segment for piece in pieces if piece.last] == list(range(len(segments)))


def test_the_first_sound_comes_before_the_last_token(omni, monkeypatch):
    drawn, original = [], generate._Head.draw
    monkeypatch.setattr(generate._Head, "draw", lambda *a: drawn.append(1) or original(*a))
    counts = []
    for _ in omni.stream(["seven"], "audio", seed=0):
        counts.append(len(drawn))
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), "the caller's modes hold"
    quantizers, digits = 2, 4
    assert counts[0] <= digits + quantizers + 1 < counts[-1] == omni.statistics.tokens[0]
    assert len(counts) > 3


def test_an_answer_can_be_left(omni):
    pieces = omni.stream(["seven"], "audio", seed=0)
    next(pieces)
    del pieces
    omni.generate(["seven"], "audio", seed=0)


def test_wrong_calls_fail_before_sampling(omni):
    for options, says in (
        ({"best_of": 4}, "best_of must be 1 in a stream"),
        ({"to": "video"}, "unknown channel or modality 'video'"),
        ({"temperature": -1}, "temperature must be"),
        ({"seed": -1}, "got -1"),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            omni.stream(["x"], **options)
        assert says in str(error.value) and one_line(error)
    with pytest.raises(ValueError, match="a prompt of 203 tokens does not fit into the context of 160"):
        fresh(longest=400).stream(["x" * 200])
    with pytest.raises(ValueError, match="with the 12 tokens of pictures to come"):
        omni.stream(["x" * 150], "image")


def test_a_turn_sees_the_turns_before_it(omni):
    """The prompt of a turn is the document of all segments so far, with the sampled ids of the answers."""
    chat = Conversation(omni)
    list(chat.ask(["red", picture()], "image", seed=1))
    assert len(chat.history) == 3
    before = list(chat.history)
    answer = together(list(chat.ask(["blue"], "image", seed=2)))
    expected = omni.continue_document([*before, *omni.encode(["blue"])], "image", seed=2)
    assert torch.equal(answer[0], together(list(expected))[0])
    assert not torch.equal(answer[0], together(list(omni.stream(["blue"], "image", seed=2)))[0])
    assert len(chat.history) == 5


def test_an_answer_that_was_left_is_not_kept(omni):
    chat = Conversation(omni)
    pieces = chat.ask(["red"], "audio", seed=0)
    next(pieces)
    del pieces
    assert len(chat.history) == 1


def test_the_oldest_segments_are_dropped_where_the_context_ends(omni):
    chat, room = Conversation(omni), CONTEXT // 4
    list(chat.ask(["a" * 60], "image", seed=0))
    with pytest.warns(UserWarning, match="the oldest segment was dropped to leave room in the context of 160"):
        list(chat.ask(["b" * 60], "image", seed=0))
    assert [len(ids) for ids in chat.history] == [15, 62, 15]
    assert 1 + sum(map(len, chat.history)) - 15 + room <= CONTEXT
    list(chat.ask(["c"], "image", seed=0))
    with pytest.raises(ValueError, match="room must be"):
        Conversation(omni, room=0)
    with pytest.raises(ValueError, match="does not fit into the context"):
        chat.ask(["d" * 200], "image")
    assert len(chat.history) == 5, "a turn that is refused leaves no trace"


@pytest.mark.filterwarnings("ignore:the context ended")
def test_a_long_prompt_of_any_loses_its_oldest_segments(omni):
    with pytest.warns(UserWarning, match="the 2 oldest segments were left out of a prompt of 273 tokens"):
        recent = omni.generate(["a" * 100, sound(), "b" * 140], None, seed=0)[0]
    assert len(recent) == len(omni.generate(["b" * 140], None, seed=0)[0])
    with pytest.raises(ValueError, match="does not fit"):
        omni.generate(["a" * 100, "b" * 100], "text")


def test_excess_is_the_fewest_that_must_go():
    for most, count in ((100, 0), (61, 0), (60, 1), (51, 1), (50, 2), (31, 2), (1, 3), (0, 3)):
        assert excess([10, 20, 30], most) == count
