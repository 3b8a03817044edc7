"""Cron expressions in a time zone, over changes between summer and winter time.

The calendar is APScheduler's: it finds the next time on the wall clock. What instant that is, is decided here, as
cron daemons do it. A job at fixed hours runs once a day: a time that the change skips is moved on by as much, and one
that comes twice counts when it comes first. A job of every hour goes on through the change by the hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["Cron", "CronInZone"]

_FIELDS = ("second", "minute", "hour", "day", "month", "day_of_week")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_STEP = timedelta(seconds=1)
_CHANGE_AHEAD = timedelta(hours=3)


@dataclass(frozen=True)
class Cron:
    """A parsed expression: ``triggers`` are calendars of which any may fire."""

    expression: str
    zone: ZoneInfo
    triggers: tuple[CronTrigger, ...]
    every_hour: bool

    @classmethod
    def parse(cls, expression: str, timezone: str) -> Cron:
        """Read five fields, or six with seconds before them. Raises ConfigError."""
        try:
            zone = ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ConfigError(
                f"{timezone!r} is no time zone: write one such as Europe/Berlin or UTC"
            ) from error
        values = expression.split()
        if len(values) == 5:
            values = ["0", *values]
        if len(values) != 6:
            raise ConfigError(
                f"cron {expression!r} has {len(values)} fields: minute, hour, day of month, month, day of week, such "
                "as '0 2 * * *' for every night at two"
            )
        fields = dict(zip(_FIELDS, values, strict=True))
        fields["day_of_week"] = _weekdays(fields["day_of_week"])
        sets = [fields]
        if fields["day"] != "*" and fields["day_of_week"] != "*":
            # Of two restricted days, cron means either.
            sets = [fields | {"day_of_week": "*"}, fields | {"day": "*"}]
        try:
            triggers = tuple(CronTrigger(timezone=UTC, **each) for each in sets)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"cron {expression!r}: {error}") from error
        found = cls(expression, zone, triggers, re.match(r"\*(/1)?$", fields["hour"]) is not None)
        if found.next_after(datetime(2000, 1, 1, tzinfo=UTC)) is None:
            raise ConfigError(f"cron {expression!r} is a day that never comes")
        return found

    def next_after(self, instant: datetime) -> datetime | None:
        """The first time at or after an instant, in the zone; None when there is none any more."""
        after = instant.astimezone(UTC)
        here = after.astimezone(self.zone)
        # Just before the clocks go back, walls that read earlier are still to come.
        back = _offset(here) - _offset((after + _CHANGE_AHEAD).astimezone(self.zone))
        wall = here.replace(tzinfo=None) - max(back, timedelta(0))
        best: datetime | None = None
        while True:
            found = self._next_wall(wall)
            if found is None:
                return best and best.astimezone(self.zone)
            instants = self._instants(found)
            coming = [each for each in instants if each >= after]
            if coming and (best is None or coming[0] < best):
                best = coming[0]
            if best is not None and (not instants or instants[0] >= best):
                return best.astimezone(self.zone)
            wall = found + _STEP

    def _next_wall(self, wall: datetime) -> datetime | None:
        aware = wall.replace(tzinfo=UTC)
        found = [trigger.get_next_fire_time(None, aware) for trigger in self.triggers]
        return min((each.replace(tzinfo=None) for each in found if each is not None), default=None)

    def _instants(self, wall: datetime) -> list[datetime]:
        """When the wall clock reads this and a job is due: once as a rule, twice or never at a change."""
        first, second = (wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        exists = first.astimezone(self.zone).replace(tzinfo=None) == wall
        if not exists:
            return [] if self.every_hour else [first]
        return [first, second] if self.every_hour and second != first else [first]


class CronInZone(BaseTrigger):
    """A ``Cron`` as APScheduler takes it; each time comes up to ``jitter_s`` seconds later, at random."""

    def __init__(self, cron: Cron, jitter_s: float = 0.0) -> None:
        self.cron = cron
        self.jitter_s = jitter_s

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next time; after the one before, so that none is left out."""
        start = now
        if previous_fire_time is not None:
            # In UTC: adding to a time of a zone moves its wall clock, and forgets which of two equal times it was.
            start = min(now, previous_fire_time.astimezone(UTC) + timedelta(microseconds=1))
        found = self.cron.next_after(start)
        return found and self._apply_jitter(found.astimezone(UTC), self.jitter_s, now)


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def _weekdays(field: str) -> str:
    """Names for numbers: 0 and 7 are Sunday in a cron expression, and Monday and nothing to APScheduler."""
    if field in ("*", "?"):
        return "*"
    named = []
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            first, last = "0", "6"
        if not (first.isdecimal() and (not last or last.isdecimal()) and (not step or step.isdecimal())):
            named.append(part)
            continue
        begin, end = int(first), int(last or (6 if step else first))
        if begin > 7 or end > 7 or begin > end or step == "0":
            raise ConfigError(f"day of week {part!r}: 0 to 7 (0 and 7 are Sunday), or mon to sun")
        named += [_WEEKDAYS[day % 7] for day in range(begin, end + 1, int(step or 1))]
    return ",".join(named)
