"""The schema: what a dataset's columns mean, said once for training, the exported graph and serving.

Standard library only, so that whoever serves a model can read the contract without this package's stack.

A `FeatureSchema` is first *declared* (by a data configuration) and then *fitted*: `sizes` counts the rows that
each field takes in the one shared embedding table. Row 0 of that table is padding; each field's first row stands
for every unseen or missing value.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys.declare import MISSING, declare, differences, listed, nearest

Role = Literal["user", "item", "scene"]
ROLES: tuple[Role, ...] = ("user", "item", "scene")
CONTEXT: tuple[Role, ...] = ("user", "scene")  # what all candidates of one request share
ITEM: tuple[Role, ...] = ("item",)
PADDING = 0
HISTORY = "history."
# What exported graphs and the table of test rows call their own.
RESERVED = ("ids", "numbers", "score", "label", "candidates", "k", "top", "seen_items", "top_items", "top_scores")


def _check_name(name: str) -> None:
    """Raise ValueError for a name that an exported graph could not give an input."""
    if "/" in name or name.startswith(HISTORY) or name in RESERVED:
        raise ValueError(
            f"column {name!r}: names must not hold '/', begin with {HISTORY!r} or be one of {', '.join(RESERVED)}, "
            "which bundles use themselves; give it another name by the table's `rename`."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One feature column.

    `role` says whose it is: the user's, the item's, or the moment's (scene). `kind` says how it is read:

    - `category`: a string or an integer of any size; values seen fewer than `min_count` times in training
      share the unseen row.
    - `number`: clipped to `clip`, then log(1 + x) with `log1p` (negative values count as 0), then standardised
      by the training mean and deviation, or cut into `buckets` quantile buckets.
    - `tags`: several values in a cell, a list or a text split at `sep`; the first `length` are kept.

    `part` derives the column from the timestamp. `missing=drop` drops behaviour rows without a value; `fill`
    replaces missing values; otherwise they reach the unseen row (category), the mean (number) or no tag.
    """

    name: str
    role: Role
    kind: Literal["category", "number", "tags"]
    part: Literal["hour", "weekday", "weekend", "month"] | None = None
    min_count: int = 1
    missing: Literal["keep", "drop"] = "keep"
    fill: str | int | float | None = None
    standardise: bool = True
    log1p: bool = False
    clip: tuple[float, float] | None = None
    buckets: int | None = None
    sep: str = "|"
    length: int = 8

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.min_count < 1:
            raise ValueError(f"column {self.name!r}: `min_count` must be at least 1, got {self.min_count}.")
        if self.length < 1:
            raise ValueError(f"column {self.name!r}: `length` must be at least 1, got {self.length}.")
        if self.buckets is not None and self.buckets < 2:
            raise ValueError(f"column {self.name!r}: `buckets` must be at least 2, got {self.buckets}.")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ValueError(f"column {self.name!r}: `clip` must be [low, high] with low < high, got {self.clip}.")
        if self.kind != "number" and (self.buckets or self.clip or self.log1p):
            raise ValueError(f"column {self.name!r}: `buckets`, `clip` and `log1p` are for numbers, not {self.kind}.")
        if self.kind == "number" and isinstance(self.fill, str):
            raise ValueError(f"column {self.name!r}: `fill` must be a number, got {self.fill!r}.")
        if self.fill is not None and self.missing == "drop":
            raise ValueError(f"column {self.name!r}: choose `fill` or `missing=drop`, not both.")
        if self.part and (self.role != "scene" or self.kind != "category"):
            raise ValueError(f"column {self.name!r}: a time `part` has role scene and kind category.")

    @property
    def is_field(self) -> bool:
        """Whether a row holds exactly one id of this column (a category, or a number cut into buckets)."""
        return self.kind == "category" or self.buckets is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """The timestamp column: numbers in `unit` since 1970 (UTC), or text. `utc_offset` (hours) gives local time."""

    column: str
    unit: Literal["s", "ms"] = "s"
    utc_offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is learned.

    - `binary`: `column` holds 0 or 1.
    - `threshold`: positive when `column` >= `positive_from`.
    - `rating`: the value of `column` itself; `positive_from` says which ratings count as liked.
    - `implicit`: every row is positive; each epoch draws `negatives` fresh unseen items for every row.

    Values outside `range` are dropped and counted. `oracle` names a column with the true probability, where a
    simulation knows it; it is never a feature and only serves to report the best possible result.
    """

    kind: Literal["binary", "threshold", "rating", "implicit"]
    column: str | None = None
    positive_from: float | None = None
    range: tuple[float, float] | None = None
    negatives: int = 4
    oracle: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "implicit" and self.column is None:
            raise ValueError(f"a label of kind {self.kind!r} needs `column`.")
        if self.kind == "threshold" and self.positive_from is None:
            raise ValueError("a label of kind 'threshold' needs `positive_from`.")
        if self.negatives < 1:
            raise ValueError(f"`negatives` must be at least 1, got {self.negatives}.")

    @property
    def ranks(self) -> bool:
        """Whether the label says which items a user liked, so that rankings can be judged."""
        return self.kind != "rating" or self.positive_from is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The user's past positive items, oldest first: the most recent `length` strictly before the event.

    `columns` are item columns (categories or tags) shown for each past item. Before means before in time, or in
    the column `order`, which the behaviour table and the history table (where there is one) must both have; a dataset
    with neither time nor order takes the order of its rows.
    """

    columns: tuple[str, ...]
    length: int = 50
    order: str | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"`length` must be at least 1, got {self.length}.")
        if not self.columns:
            raise ValueError("`columns` must name at least one item column.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSchema:
    """The columns of a dataset and, once fitted, their places in the shared embedding table.

    `sizes` maps each field and tags column to its number of rows, the unseen row included (1 until fitted).
    `label_mean` is the mean training label (with negatives counted in), the starting point of every model's bias.
    `encoders` is a hash of the fitted encoders: two schemas are equal only if they number all values alike.
    `title` names the column of the items table by which people know an item; it is shown to them, never a feature.

    >>> schema = FeatureSchema.parse({
    ...     "user": "shopper", "item": "sku", "label": {"kind": "binary", "column": "bought"},
    ...     "columns": {"shopper": {"role": "user", "kind": "category"},
    ...                 "sku": {"role": "item", "kind": "category"}},
    ...     "sizes": {"shopper": 3, "sku": 5}})
    >>> schema.offset("shopper"), schema.offset("sku"), schema.rows
    (1, 4, 9)
    """

    user: str
    item: str
    label: Label
    columns: tuple[Column, ...]
    time: Time | None = None
    history: History | None = None
    title: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    label_mean: float = 0.5
    encoders: str = ""

    def __post_init__(self) -> None:
        if self.user == self.item:
            raise ValueError(f"`user` and `item` must be different columns, got {self.user!r} twice.")
        if not self.columns:
            raise ValueError("`columns` must declare at least one column.")
        for name in (self.user, self.item, *([self.time.column] if self.time else [])):
            _check_name(name)
        for key, role in ((self.user, "user"), (self.item, "item")):
            column = next((c for c in self.columns if c.name == key), None)
            if column and (column.role, column.kind) != (role, "category"):
                raise ValueError(f"column {key!r} is the {role} key: its role is {role} and its kind category.")
        if not self.fields:
            raise ValueError("`columns` must declare at least one category column (or a number with `buckets`).")
        if any(c.part for c in self.columns) and self.time is None:
            raise ValueError("columns with a time `part` need `time: {column: ...}`.")
        for name in self.history.columns if self.history else ():
            column = self.column(name)
            if column.role != "item" or not (column.is_field or column.kind == "tags"):
                raise ValueError(f"history column {name!r} must be a category or tags column with role item.")

    @staticmethod
    def parse(mapping: Mapping[str, Any], where: str = "schema") -> "FeatureSchema":
        """Read a declaration (columns as a mapping by name, null for one to do without) or what `to_dict` writes."""
        columns = mapping.get("columns", {})
        if isinstance(columns, Mapping):
            columns = {name: options for name, options in columns.items() if options is not None}
            for name, options in columns.items():
                if not isinstance(options, Mapping):
                    raise ValueError(f"`{where}.columns.{name}` must be a mapping of options, got {options!r}.")
            columns = [{"name": name, **options} for name, options in columns.items()]
        parsed = tuple(declare(Column, c, f"{where}.columns.{c.get('name', '?')}") for c in columns)
        return declare(FeatureSchema, {**mapping, "columns": parsed}, where)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only: what `parse` reads back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def fingerprint(self) -> str:
        """A hash of everything in the schema."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def column(self, name: str) -> Column:
        """The column called `name`. Raises ValueError naming the nearest one."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ValueError(f"the schema has no column {name!r}: {nearest(name, [c.name for c in self.columns])}")

    @property
    def fields(self) -> tuple[Column, ...]:
        """The columns of `Batch.ids_BF` in order: the user's, the item's, the scene's."""
        return tuple(c for role in ROLES for c in self.columns if c.role == role and c.is_field)

    @property
    def numbers(self) -> tuple[Column, ...]:
        """The columns of `Batch.numbers_BN` in order: the user's, the item's, the scene's."""
        return tuple(
            c for role in ROLES for c in self.columns if c.role == role and c.kind == "number" and not c.is_field
        )

    @property
    def tags(self) -> tuple[Column, ...]:
        """The tags columns, each an entry of `Batch.lists` under its own name."""
        return tuple(c for role in ROLES for c in self.columns if c.role == role and c.kind == "tags")

    @property
    def histories(self) -> tuple[Column, ...]:
        """The item columns that the history repeats, each an entry of `Batch.lists` (see `history_name`)."""
        return tuple(self.column(name) for name in self.history.columns) if self.history else ()

    def size(self, name: str) -> int:
        """Rows of the table that belong to a column."""
        return self.sizes.get(name, 1)

    def offset(self, name: str) -> int:
        """First row of a column in the shared table: the row of its unseen values."""
        offset = PADDING + 1
        for column in (*self.fields, *self.tags):
            if column.name == name:
                return offset
            offset += self.size(column.name)
        raise ValueError(f"column {name!r} has no rows in the embedding table.")

    @property
    def rows(self) -> int:
        """Rows of the shared embedding table, padding included."""
        return PADDING + 1 + sum(self.size(c.name) for c in (*self.fields, *self.tags))

    def fitted(self, *, sizes: Mapping[str, int], label_mean: float, encoders: str) -> "FeatureSchema":
        """This schema with the table sizes, the label mean and the encoders' hash learned from the training rows."""
        return dataclasses.replace(self, sizes=dict(sizes), label_mean=label_mean, encoders=encoders)


def history_name(column: str) -> str:
    """The key of a history column in `Batch.lists`."""
    return HISTORY + column


def schema_difference(there: FeatureSchema, here: FeatureSchema) -> str:
    """What differs between two schemas, in words for a message about the first; "" when they are equal."""
    if there == here:
        return ""
    parts = []
    for name, (a, b) in differences(_by_name(there), _by_name(here)).items():
        if MISSING in (a, b) and name.startswith("column "):
            parts.append(f"{name} is missing {'there' if a == MISSING else 'here'}")
        else:
            parts.append(f"{name}: {a} there, {b} here")
    return listed(parts) or "the columns stand in another order, or their values are numbered differently"


def _by_name(schema: FeatureSchema) -> dict[str, Any]:
    """A schema as a mapping whose keys say what they are, without the hash of its encoders."""
    content = schema.to_dict()
    columns = {f"column {column['name']!r}": column for column in content.pop("columns")}
    sizes = {f"size of {name!r}": size for name, size in content.pop("sizes").items()}
    return columns | {key: value for key, value in content.items() if key != "encoders"} | sizes
