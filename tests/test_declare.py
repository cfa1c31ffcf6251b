from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from recsys.declare import MISSING, declare, differences, nearest


@dataclass(frozen=True, kw_only=True)
class Wheel:
    size: float
    spokes: int = 32


@dataclass(frozen=True, kw_only=True)
class Bike:
    name: str
    kind: Literal["road", "city"] = "city"
    front: Wheel | None = None
    gears: tuple[int, ...] = ()
    span: tuple[float, float] | None = None
    bell: bool = False
    price: str | int | float | None = None
    path: str | tuple[str, ...] | dict[str, str] = ""
    parts: dict[str, Wheel] = field(default_factory=dict)
    serials: list[int] | list[str] = field(default_factory=list)
    extra: Any = None

    def __post_init__(self):
        if len(self.gears) > 3:
            raise ValueError(f"`gears` must be at most 3, got {len(self.gears)}.")


def test_every_kind_of_value():
    given = {
        "name": "b",
        "kind": "road",
        "front": {"size": 28},
        "gears": [1, 2],
        "span": [1, 2.5],
        "bell": True,
        "price": 3,
        "path": ["a", "b"],
        "parts": {"rear": {"size": 27.5, "spokes": 28}},
        "serials": ["x"],
        "extra": object,
    }
    assert declare(Bike, given, "bike") == Bike(
        name="b",
        kind="road",
        front=Wheel(size=28.0),
        gears=(1, 2),
        span=(1.0, 2.5),
        bell=True,
        price=3,
        path=("a", "b"),
        parts={"rear": Wheel(size=27.5, spokes=28)},
        serials=["x"],
        extra=object,
    )
    built = declare(Bike, {"name": "b", "front": {"size": 28}}, "bike")
    assert isinstance(built.front.size, float)
    assert declare(Bike, built, "bike") is built


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nmae": "x"}, "`bike` has no option 'nmae': did you mean 'name'? Valid: bell, "),
        ({5: "x"}, "`bike` has no option 5"),
        ({"name": 3}, "`bike.name` must be str, got 3."),
        ({"name": None}, "`bike.name` must be str, got None."),
        ({"kind": "raod"}, "`bike.kind` must be one of its choices, got 'raod': did you mean 'road'?"),
        ({"front": 28}, "`bike.front` must be a mapping of options, got 28."),
        ({"front": {}}, "`bike.front` needs the option 'size'."),
        ({"front": {"size": 28, "spoke": 3}}, "`bike.front` has no option 'spoke': did you mean 'spokes'?"),
        ({"front": {"size": True}}, "`bike.front.size` must be float, got True."),
        ({"front": {"size": 28, "spokes": 3.5}}, "`bike.front.spokes` must be int, got 3.5."),
        ({"front": {"size": 28, "spokes": False}}, "`bike.front.spokes` must be int, got False."),
        ({"gears": "12"}, "`bike.gears` must be a list, got '12'."),
        ({"gears": [1, "2"]}, "`bike.gears[1]` must be int, got '2'."),
        ({"gears": [1, 2, 3, 4]}, "`bike`: `gears` must be at most 3, got 4."),
        ({"span": [1]}, "`bike.span` must be a list of 2 values, got [1]."),
        ({"bell": 1}, "`bike.bell` must be bool, got 1."),
        ({"price": [1]}, "`bike.price` must be str or int or float, got [1]."),
        ({"price": True}, "`bike.price` must be str or int or float, got True."),
        # Bug: these said that a text was wanted, although a list or a mapping would have done.
        ({"path": 3}, "`bike.path` must be str or list or dict, got 3."),
        ({"path": ["a", 3]}, "`bike.path[1]` must be str, got 3."),
        ({"path": {"train": 3}}, "`bike.path.train` must be str, got 3."),
        ({"path": {3: "x"}}, "`bike.path.3` must be str, got 3."),
        ({"parts": {"rear": {"size": "x"}}}, "`bike.parts.rear.size` must be float, got 'x'."),
        ({"parts": ["rear"]}, "`bike.parts` must be a mapping, got ['rear']."),
        ({"serials": 5}, "`bike.serials` must be list, got 5."),
    ],
)
def test_messages_name_the_option_the_rule_and_the_value(options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        declare(Bike, {"name": "b", **options}, "bike")
    assert str(error.value).startswith(message)


def test_a_missing_option_and_no_mapping_at_all():
    with pytest.raises(ValueError, match="`bike` needs the option 'name'"):
        declare(Bike, {}, "bike")
    with pytest.raises(ValueError, match=r"`bike` must be a mapping of options, got \['name'\]"):
        declare(Bike, ["name"], "bike")


def test_nearest():
    assert nearest("itm", ["item", "user"]) == "did you mean 'item'? Valid: item, user."
    assert nearest("zzz", ["item", "user"]) == "Valid: item, user."
    assert nearest("zzz", []) == "Valid: (none)."


def test_differences_of_several_mappings():
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == {}
    assert differences({"a": {"b": 1}}, {"a": 2}) == {"a": ({"b": 1}, 2)}
    assert differences({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 3}, "c": 4}) == {
        "a.b": (1, MISSING, 3),
        "c": (MISSING, MISSING, 4),
    }
