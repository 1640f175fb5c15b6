"""What has to be the same on all nodes, and how it is told where it is not."""

from dataclasses import replace

import pytest

from whisq.work.site import Identity

MINE = Identity("1.2.3", "0123456789ab", "3.11.2", "2.60.0")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        ({"whisq": "1.2.4"}, ["whisq 1.2.4, expected 1.2.3"]),
        ({"python": "3.12.0"}, ["Python 3.12.0, expected 3.11.2"]),
        ({"ray": "2.59.0", "python": "3.12.0"}, ["Python 3.12.0, expected 3.11.2", "Ray 2.59.0, expected 2.60.0"]),
        ({"source": "ba9876543210"}, ["whisq 1.2.3 of another source (ba9876543210), expected 0123456789ab"]),
    ],
)
def test_what_differs_is_said(changed: dict[str, str], told: list[str]) -> None:
    assert MINE.differences(replace(MINE, **changed)) == told
