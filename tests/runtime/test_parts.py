"""What config.json may say of a linear map."""

from __future__ import annotations

import json
from typing import Any

import pytest

from surgery.runtime import LoadError
from surgery.runtime.entries import read_entry
from surgery.runtime.parts import LINEAR_METHODS, part_shapes


@pytest.mark.parametrize(
    ("method", "entry"),
    [
        ("sorsa", {"rank": 128, "scale": 1}),
        ("sorsa", {"scale": 0.5, "rank": 1}),
        ("pissa", {"rank": 2, "scale": -2.0}),
        ("hra", {"reflections": 8}),
        ("goft", {}),
        ("qgoft", {}),
        ("core", {"blocks": [4, 1], "offset": 0}),
        ("diagonal", {"blocks": [4, 2], "offset": 7, "shared": 2}),
    ],
)
def test_a_well_formed_entry_is_returned_as_a_copy(method: str, entry: dict[str, Any]) -> None:
    read = read_entry("here", method, entry)

    assert read == entry
    assert read is not entry


@pytest.mark.parametrize(
    ("method", "text", "where"),
    [
        ("sorsa", '{"scale": 1}', "here.rank"),
        ("sorsa", '{"rank": 4}', "here.scale"),
        ("sorsa", '{"rank": 0, "scale": 1}', "here.rank"),
        ("sorsa", '{"rank": -1, "scale": 1}', "here.rank"),
        ("sorsa", '{"rank": 4.0, "scale": 1}', "here.rank"),
        ("sorsa", '{"rank": true, "scale": 1}', "here.rank"),
        ("sorsa", '{"rank": "4", "scale": 1}', "here.rank"),
        ("pissa", '{"rank": 4, "scale": NaN}', "here.scale"),
        ("pissa", '{"rank": 4, "scale": 1e39}', "here.scale"),
        ("pissa", '{"rank": 4, "scale": Infinity}', "here.scale"),
        ("pissa", '{"rank": 4, "scale": 1' + "0" * 400 + "}", "here.scale"),
        ("pissa", '{"rank": 4, "scale": false}', "here.scale"),
        ("pissa", '{"rank": 4, "scale": null}', "here.scale"),
        ("pissa", '{"rank": 4, "scale": 1, "alpha": 2}', "here"),
        ("hra", '{"reflections": 0}', "here.reflections"),
        ("hra", "{}", "here.reflections"),
        ("goft", '{"rank": 4}', "here"),
        ("qgoft", "[]", "here"),
        ("goft", "null", "here"),
        ("lora", "{}", "here"),
        ("core", '{"offset": 0}', "here.blocks"),
        ("core", '{"blocks": [], "offset": 0}', "here.blocks"),
        ("core", '{"blocks": 4, "offset": 0}', "here.blocks"),
        ("core", '{"blocks": [4, 0], "offset": 0}', "here.blocks"),
        ("core", '{"blocks": [4, true], "offset": 0}', "here.blocks"),
        ("core", '{"blocks": [4]}', "here.offset"),
        ("core", '{"blocks": [4], "offset": -1}', "here.offset"),
        ("core", '{"blocks": [4], "offset": false}', "here.offset"),
        ("core", '{"blocks": [4], "offset": 0, "shared": 1}', "here"),
        ("diagonal", '{"blocks": [4], "offset": 0}', "here.shared"),
    ],
)
def test_a_malformed_entry_is_refused_where_it_is_wrong(method: str, text: str, where: str) -> None:
    with pytest.raises(LoadError) as raised:
        read_entry("here", method, json.loads(text))

    assert raised.value.where == where
    assert raised.value.found and raised.value.expected and raised.value.hint


def test_shapes_follow_the_weight_as_out_by_in() -> None:
    assert part_shapes("sorsa", {"rank": 2, "scale": 1}, 5, 3) == {
        "sorsa_u": (5, 2),
        "sorsa_s": (2,),
        "sorsa_vt": (2, 3),
    }
    assert part_shapes("pissa", {"rank": 2, "scale": 1}, 5, 3) == {
        "pissa_a": (2, 3),
        "pissa_b": (5, 2),
    }
    assert part_shapes("hra", {"reflections": 8}, 5, 3) == {"hra_u": (3, 8)}
    assert part_shapes("goft", {}, 5, 3) == {"goft_angles": (2,)}
    assert part_shapes("qgoft", {}, 5, 3) == {"qgoft_blocks": (2, 2, 2)}
    assert part_shapes("core", {"blocks": [2, 1], "offset": 1}, 5, 3) == {"core_blocks": (5,)}
    pairs = {"blocks": [2, 2], "offset": 1, "shared": 2}
    assert part_shapes("diagonal", pairs, 5, 3) == {"singular_values": (2,)}


def test_blocks_stay_within_the_outputs_and_share_evenly() -> None:
    with pytest.raises(LoadError, match="at most 5"):
        part_shapes("core", {"blocks": [2, 2], "offset": 2}, 5, 3)
    with pytest.raises(LoadError, match="multiples of 2"):
        part_shapes("diagonal", {"blocks": [2, 3], "offset": 0, "shared": 2}, 5, 3)


def test_orthonormal_factors_are_no_wider_than_their_weight() -> None:
    with pytest.raises(LoadError, match="at most 3"):
        part_shapes("sorsa", {"rank": 4, "scale": 1}, 5, 3)


def test_a_lora_may_have_any_rank() -> None:
    assert part_shapes("pissa", {"rank": 8, "scale": 1}, 5, 3) == {
        "pissa_a": (8, 3),
        "pissa_b": (5, 8),
    }


def test_the_table_names_what_the_shapes_name() -> None:
    for name, method in LINEAR_METHODS.items():
        entry: dict[str, Any] = dict.fromkeys(method.counts, 1) | dict.fromkeys(method.numbers, 1.0)
        entry |= {key: [2, 1] for key in method.sizes} | dict.fromkeys(method.places, 1)
        assert tuple(part_shapes(name, entry, 4, 4)) == method.parts
