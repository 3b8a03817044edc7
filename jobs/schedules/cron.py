"""Cron expressions in a time zone, with daylight saving changes handled as cron daemons do.

APScheduler finds the next wall-clock time; this module maps it to an instant. A job at fixed hours runs once a day: a
skipped time moves forward by the length of the gap, a repeated time counts at its first occurrence. An hourly job
continues every hour through the change.
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
    """A parsed expression. The job is due when any of ``triggers`` fires."""

    expression: str
    zone: ZoneInfo
    triggers: tuple[CronTrigger, ...]
    every_hour: bool

    @classmethod
    def parse(cls, expression: str, timezone: str) -> Cron:
        """Parse five fields, or six with seconds first. Raises ConfigError."""
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
        """Return the first due time at or after an instant, or None if there is no further one."""
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
        """Return the instants of a wall-clock time: one as a rule, two or none at a daylight saving change."""
        first, second = (wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        exists = first.astimezone(self.zone).replace(tzinfo=None) == wall
        if not exists:
            return [] if self.every_hour else [first]
        return [first, second] if self.every_hour and second != first else [first]


class CronInZone(BaseTrigger):
    """A ``Cron`` as an APScheduler trigger, delayed by a random time up to ``jitter_s`` seconds."""

    def __init__(self, cron: Cron, jitter_s: float = 0.0) -> None:
        self.cron = cron
        self.jitter_s = jitter_s

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the next fire time after the previous one."""
        start = now
        if previous_fire_time is not None:
            # In UTC: adding to a time of a zone moves its wall clock, and forgets which of two equal times it was.
            start = min(now, previous_fire_time.astimezone(UTC) + timedelta(microseconds=1))
        found = self.cron.next_after(start)
        return found and self._apply_jitter(found.astimezone(UTC), self.jitter_s, now)


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def _weekdays(field: str) -> str:
    """Translate weekday numbers to names: cron counts from Sunday (0 or 7), APScheduler from Monday."""
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
