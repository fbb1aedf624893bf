"""The pages in reports/ are as they were written, from the scores beside them."""

from pathlib import Path

from ethoray.report import stamp

REPORTS = Path(__file__).resolve().parent.parent / "reports"


def test_no_page_is_stale():
    assert list(stamp.check(REPORTS)) == []
