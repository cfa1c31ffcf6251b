"""Parts of a time, computed inside the graph in whole numbers as `recsys.data.cells.time_part` does."""

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Var

from recsys.schema import Time

DAY = 86400
LATEST = 2**53  # the whole numbers that a double holds


def known_moment(time: Var) -> Var:
    """Which times, int64, can be one; the others (the least int64 among them) are missing."""
    return op.and_(op.greater_or_equal(time, op.const(-LATEST)), op.less_or_equal(time, op.const(LATEST)))


def time_part(time: Var, part: str, declared: Time) -> Var:
    """Hour 0-23, weekday 0 (Monday) - 6, weekend 0/1 or month 1-12 of local time, int64, of the shape of `time`."""
    unit = 1000.0 if declared.unit == "ms" else 1.0
    seconds = op.div(op.cast(time, to=np.float64), op.const(unit))
    local = op.cast(op.floor(op.add(seconds, op.const(declared.utc_offset * 3600))), to=np.int64)
    if part == "hour":
        return op.mod(_floor_div(local, 3600), op.const(24))
    days = _floor_div(local, DAY)
    if part == "month":
        return _month(days)
    weekday = op.mod(op.add(days, op.const(3)), op.const(7))  # 1970-01-01 was a Thursday
    return weekday if part == "weekday" else op.cast(op.greater_or_equal(weekday, op.const(5)), to=np.int64)


def _floor_div(value: Var, by: int) -> Var:
    """Division rounded down; ONNX's own rounds to zero, its remainder has the sign of the divisor."""
    return op.div(op.sub(value, op.mod(value, op.const(by))), op.const(by))


def _month(days: Var) -> Var:
    """The month of a day since 1970, by counting years from 1 March of the year 0.

    The proleptic Gregorian calendar repeats every 400 years, 146,097 days; from March on, months begin on day
    (153 m + 2) / 5 of the year.
    """
    day = op.mod(op.add(days, op.const(719468)), op.const(146097))  # of its 400 years
    leap = op.sub(op.div(day, op.const(36524)), op.add(op.div(day, op.const(1460)), op.div(day, op.const(146096))))
    year = op.div(op.add(day, leap), op.const(365))
    before = op.sub(op.add(op.mul(year, op.const(365)), op.div(year, op.const(4))), op.div(year, op.const(100)))
    month = op.div(op.add(op.mul(op.sub(day, before), op.const(5)), op.const(2)), op.const(153))  # 0 is March
    return op.add(op.mod(op.add(month, op.const(2)), op.const(12)), op.const(1))
