import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError, bento

HEAD = "Bento annotation file\nMovie file(s): a.avi\n\n"
BODY = "Ch1----------\n>attack\nStart\tStop\tDuration\n{}\n\n>sniff\nStart Stop Duration\n\n"


def test_frames_are_counted_from_one_and_the_last_is_inside(tmp_path):
    path = tmp_path / "a.annot"
    head = "Annotation start frame: 2\nAnnotation stop frame: 6\nAnnotation framerate: 30\n\n"
    path.write_text(HEAD + head + BODY.format("3\t4\t2"))
    found = readers.labels(path, "a.csv")
    assert readers.sniff(path) is bento and found.fps == 30 and found.behaviours == ("attack", "sniff")
    np.testing.assert_array_equal(found.values["attack"], [np.nan, 0, 1, 1, 0, 0])
    assert np.nansum(found.values["sniff"]) == 0


def test_seconds_need_a_frame_rate(tmp_path):
    path = tmp_path / "a.annot"
    path.write_text(HEAD + "Annotation framerate: 10\n" + BODY.format("0.2 0.5 0.3"))
    assert np.flatnonzero(readers.labels(path, "a.csv").values["attack"]).tolist() == [2, 3, 4]
    path.write_text(HEAD + BODY.format("0.2 0.5 0.3"))
    with pytest.raises(ReadError, match="without an annotation framerate"):
        readers.labels(path, "a.csv")


@pytest.mark.parametrize(("bout", "message"), [("4 3 1", "from 4 to 3"), ("3", "cut off"), ("a 3", "'a' is not")])
def test_broken_bouts_name_the_line(tmp_path, bout, message):
    path = tmp_path / "a.annot"
    path.write_text(HEAD + "Annotation start frame: 1\n" + BODY.format(bout))
    with pytest.raises(ReadError, match=f"line 8.*{message}"):
        readers.labels(path, "a.csv")
