"""The one date on which chat templates are rendered, in calibration and in evaluation: some write today's date into the
prompt, and the same command has to give the same file tomorrow."""

from __future__ import annotations

import datetime

CHAT_DATE = datetime.date(2026, 1, 1)


def strftime_now(form: str) -> str:
    """Return the date as a chat template asks for the current time, which it calls `strftime_now`: at midnight."""
    return FixedClock.now().strftime(form)


class FixedClock:
    """Stands in for the class datetime.datetime where only its `now` is asked."""

    @staticmethod
    def now() -> datetime.datetime:
        return datetime.datetime.combine(CHAT_DATE, datetime.time())
