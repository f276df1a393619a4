"""The table of named classes and functions that codecs, losses, data sources and tasks share."""

from __future__ import annotations

import pytest

from tokenloom.registry import Registry


def test_register_adds_classes_and_functions():
    table: Registry = Registry("loss", {"l1": abs})

    @table.register("edges")
    def edges():
        return 1

    @table.register("own-kind_2")
    class Own:
        pass

    assert table["edges"] is edges and table["own-kind_2"] is Own and Own.name == "own-kind_2"
    assert list(table) == ["l1", "edges", "own-kind_2"]


def test_a_name_has_one_definition_which_a_reload_replaces():
    table: Registry = Registry("loss", {"l1": abs})
    with pytest.raises(ValueError, match=r"loss 'l1' is already registered by builtins\.abs"):
        table.register("l1")(max)

    def define():
        @table.register("edges")
        def edges():
            return 1

        return edges

    assert define() is not define() and len(table) == 2


def test_unknown_and_malformed_names():
    table: Registry = Registry("loss", {"l1": abs, "edges": max})
    with pytest.raises(ValueError, match=r"unknown loss 'edge' \(did you mean edges\?\)"):
        table["edge"]
    assert "edge" not in table and table.get("edge") is None
    for name in ("", "Edges", "a b", "a/b", "-a"):
        with pytest.raises(ValueError, match="a loss name must be lower-case letters, digits, - and _, got "):
            table.register(name)
