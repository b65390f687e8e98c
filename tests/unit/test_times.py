"""Times that `jupyterhub-ctl offline --stop-at` understands."""

from datetime import datetime, timedelta

import click
import pytest

from debianized_jupyterhub.ctl.notices import Time


def read(text):
    return Time().convert(text, None, None)


@pytest.mark.parametrize("text, seconds", [("+90m", 5400), ("+2h", 7200), ("+30", 30)])
def test_from_now(text, seconds):
    assert abs((read(text) - datetime.now().astimezone()).total_seconds() - seconds) < 5


def test_time_of_day_is_the_next_one():
    for hour in range(24):
        moment = read(f"{hour}:07")
        assert (moment.hour, moment.minute) == (hour, 7)
        assert timedelta(0) < moment - datetime.now().astimezone() <= timedelta(hours=25)


@pytest.mark.parametrize("text", ["2099-12-24 18:00", "2099-12-24T18:00"])
def test_day_and_time(text):
    assert read(text).replace(tzinfo=None) == datetime(2099, 12, 24, 18)


@pytest.mark.parametrize("text", ["", "soon", "25:00", "12:60", "6 pm", "+0", "+5w", "+999999999d", "2099-02-30 12:00", "18:00:00"])
def test_what_is_no_time(text):
    with pytest.raises(click.BadParameter, match="is no time; write 18:00"):
        read(text)


def test_time_that_is_over():
    with pytest.raises(click.BadParameter, match="2001-01-01 12:00 is over"):
        read("2001-01-01 12:00")
