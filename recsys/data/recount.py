"""Recount what the encoders counted: their counts and moments against the encoded training rows of a store.

Letters: E events, R rows of a table, T tags, K ids of a column, B bounds of buckets.
"""

import math
from collections.abc import Iterator

import numpy as np

from recsys.data.encoders import UNSEEN, Buckets, Standardiser, Vocabulary
from recsys.data.split import TRAIN
from recsys.data.store import Store
from recsys.schema import PADDING, ROLES, Role

_NEXT = "fit encoders on training rows only and build the store again"


def encoder_leaks(store: Store) -> Iterator[str]:
    """One finding for each column whose encoder did not see the training rows and no others, and for `label_mean`."""
    is_train_E = store.part_E == TRAIN
    rows_by_role = {
        "user": np.bincount(store.user_E[is_train_E], minlength=store.users),
        "item": np.bincount(store.item_E[is_train_E], minlength=store.items),
        "scene": is_train_E.astype("int64"),
    }
    for role in ROLES:
        yield from _field_leaks(store, role, rows_by_role[role])
        yield from _tag_leaks(store, role, rows_by_role[role])
        yield from _number_leaks(store, role, rows_by_role[role])
    yield from _label_leaks(store, is_train_E)


def _field_leaks(store: Store, role: Role, rows_R: np.ndarray) -> Iterator[str]:
    """Categories and buckets; `rows_R` says how many training rows show each row of the role's table."""
    fields = [c.name for c in store.schema.fields if c.role == role]
    for name, ids_R in zip(fields, store.sides[role].ids.T, strict=True):
        local_R = ids_R - store.schema.offset(name)
        held_K = np.bincount(local_R, rows_R, minlength=store.schema.size(name)).astype("int64")
        encoder = store.encoders.columns[name]
        if isinstance(encoder, Buckets):
            yield from _bucket_leaks(name, encoder, held_K)
            continue
        assert isinstance(encoder, Vocabulary)
        excess_K = _fitted_counts(encoder) - held_K
        excess_K[UNSEEN] = max(excess_K[UNSEEN], 0)  # missing values stand there too
        yield from _count_leaks(name, encoder, held_K, excess_K)


def _tag_leaks(store: Store, role: Role, rows_R: np.ndarray) -> Iterator[str]:
    for name, ids_RT in store.sides[role].tags.items():
        used_RT = ids_RT != PADDING
        rows_RT = np.broadcast_to(rows_R[:, None], ids_RT.shape)
        local = (ids_RT - store.schema.offset(name))[used_RT]
        held_K = np.bincount(local, rows_RT[used_RT], minlength=store.schema.size(name)).astype("int64")
        vocabulary = store.encoders.columns[name]
        assert isinstance(vocabulary, Vocabulary)
        excess_K = _fitted_counts(vocabulary) - held_K
        if rows_R[used_RT[:, -1]].any():  # a full row may have more tags than the store holds
            excess_K = np.minimum(excess_K, 0)
        yield from _count_leaks(name, vocabulary, held_K, excess_K)


def _fitted_counts(vocabulary: Vocabulary) -> np.ndarray:
    """How often the vocabulary claims to have seen each id, int64 (K,); the rare values together are `UNSEEN`."""
    counts = np.array(vocabulary.counts, dtype="int64")
    kept = counts >= vocabulary.min_count
    return np.append(counts[~kept].sum(), counts[kept])


def kept_value(vocabulary: Vocabulary, local: int) -> str:
    """The value that has an id, for messages."""
    if local == UNSEEN:
        return "rare values"
    kept = np.flatnonzero(np.array(vocabulary.counts) >= vocabulary.min_count)
    return repr(vocabulary.values[kept[local - 1]])


def _count_leaks(name: str, vocabulary: Vocabulary, held_K: np.ndarray, excess_K: np.ndarray) -> Iterator[str]:
    if excess_K.any():
        worst = int(np.abs(excess_K).argmax())
        yield (
            f"encoders: the counts of column {name!r} are off by {np.abs(excess_K).sum()} (such as "
            f"{kept_value(vocabulary, worst)}: {held_K[worst] + excess_K[worst]} counted, {held_K[worst]} in the "
            f"training rows); {_NEXT}."
        )


def _bucket_leaks(name: str, buckets: Buckets, held_K: np.ndarray) -> Iterator[str]:
    """Values below each bound and in all; a value that rounds up to the bound counts as either."""
    bound_B = np.append(buckets.boundaries, np.inf)
    below_B = np.cumsum(held_K[1:])
    counted = np.append(0, np.cumsum(buckets.counts, dtype="int64"))
    least_B, most_B = (counted[np.searchsorted(buckets.values, bound_B, side=side)] for side in ("left", "right"))
    excess_B = np.maximum(least_B - below_B, below_B - most_B)
    worst = int(excess_B.argmax())
    if excess_B[worst] > 0:
        yield (
            f"encoders: the buckets of column {name!r} are off by {excess_B[worst]} (such as values below "
            f"{bound_B[worst]:g}: {least_B[worst]} counted, {below_B[worst]} in the training rows); {_NEXT}."
        )


def _number_leaks(store: Store, role: Role, rows_R: np.ndarray) -> Iterator[str]:
    """Standardised training values have mean 0 and mean square 1; missing ones are the mean and add nothing."""
    numbers = [c.name for c in store.schema.numbers if c.role == role]
    for name, number_R in zip(numbers, store.sides[role].numbers.T, strict=True):
        fitted = store.encoders.columns[name]
        assert isinstance(fitted, Standardiser)
        z_R = number_R.astype("float64")
        if not fitted.standardise:
            z_R = (z_R - fitted.mean) / fitted.scale
        rows, count = int(rows_R.sum()), max(fitted.count, 1)
        mean, square = float((z_R * rows_R).sum() / count), float((z_R**2 * rows_R).sum() / count)
        due, slack = fitted.square / count / fitted.scale**2, _rounding(fitted, rows)
        if fitted.count > rows or abs(mean) > slack or abs(square - due) > slack:
            yield (
                f"encoders: the standardiser of column {name!r} saw {fitted.count} values; the {rows} training rows "
                f"have mean {mean:.2g} and mean square {square:.4g} by it, expected 0 and {due:.0f}; {_NEXT}."
            )


def _rounding(fitted: Standardiser, rows: int) -> float:
    """How far the moments of standardised values may be off by rounding alone, that of missing values included."""
    precision = np.finfo("float64" if fitted.standardise else "float32").eps
    return (1e-6 + 10 * float(precision) * abs(fitted.mean) / fitted.scale) * max(1.0, rows / max(fitted.count, 1))


def _label_leaks(store: Store, is_train_E: np.ndarray) -> Iterator[str]:
    label, count = store.schema.label, int(is_train_E.sum())
    if label.kind == "implicit":
        mean = 1 / (1 + label.negatives)
    else:
        mean = float(store.label_E[is_train_E].mean(dtype="float64"))
    if not math.isclose(store.schema.label_mean, mean, rel_tol=1e-9, abs_tol=1e-12):
        yield (
            f"encoders: `label_mean` is {store.schema.label_mean:.6g}, but the mean of the {count} training labels is "
            f"{mean:.6g}; {_NEXT}."
        )
