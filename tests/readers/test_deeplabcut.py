from pathlib import Path

import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError, deeplabcut

DATA = Path("../shared/data")
POINTS = ("nose", "tail base")


def table(points=POINTS, coords=("x", "y", "likelihood"), frames=4, individuals=None):
    """Cells of a file whose numbers are 100 x column + frame, likelihoods 0.25 x frame."""
    columns = [(i, p, c) for i in individuals or [None] for p in points for c in coords]
    head = [["scorer", *["net"] * len(columns)]]
    if individuals:
        head.append(["individuals", *[c[0] for c in columns]])
    head += [["bodyparts", *[c[1] for c in columns]], ["coords", *[c[2] for c in columns]]]
    body = [
        [str(t), *[str(0.25 * t if c[2] == "likelihood" else 100.5 * (j + 1) + t) for j, c in enumerate(columns)]]
        for t in range(frames)
    ]
    return head + body


def write(path, cells, sep=",", end="\n", start=""):
    path.write_bytes((start + "".join(sep.join(row) + end for row in cells)).encode())
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "m1DLC_net.csv"


def test_one_animal_is_read_in_axis_order(file):
    found = readers.tracks(write(file, table()))
    assert found.keypoints.shape == (4, 1, 2, 2) and found.keypoints.dtype == np.float32
    assert found.names == POINTS and found.individuals == ("individual_0",)
    np.testing.assert_allclose(found.keypoints[2, 0], [[102.5, 203], [404, 504.5]])
    np.testing.assert_allclose(found.confidence[:, 0, 1], [0, 0.25, 0.5, 0.75])


def test_several_animals_are_an_axis(file):
    found = readers.tracks(write(file, table(individuals=["a", "b"])))
    assert found.keypoints.shape == (4, 2, 2, 2) and found.individuals == ("a", "b")
    np.testing.assert_allclose(found.keypoints[0, 1], [[703.5, 804], [1005, 1105.5]])


def test_every_dialect_gives_the_same_tracks(file):
    cells = table()
    plain = readers.tracks(write(file, cells))
    shifted = [["", *cells[0]], *[[str(i), *row] for i, row in enumerate(cells[1:])]]
    shifted[0][2:] = [f"net.{i}" for i in range(len(shifted[0]) - 2)]
    commas = [[cell.replace(".", ",") for cell in row] for row in cells]
    for given in (
        write(file, cells, end="\r\n", start="\ufeff"),
        write(file, cells, sep=";"),
        write(file, commas, sep=";"),
        write(file, cells, sep="\t"),
        write(file, shifted),
        write(file, cells[1:]),
        write(file, [*cells, [""]]),
    ):
        found = readers.tracks(given)
        np.testing.assert_array_equal(found.keypoints, plain.keypoints)
        np.testing.assert_array_equal(found.confidence, plain.confidence)


def test_three_coordinates_and_no_likelihood(file):
    found = readers.tracks(write(file, table(coords=("x", "y", "z"))))
    assert found.keypoints.shape == (4, 1, 2, 3) and found.confidence is None


def test_missing_and_half_missing_positions_are_masked_whole(file):
    cells = table()
    cells[3][1] = ""
    cells[4][4:6] = ["NaN", "NaN"]
    found = readers.tracks(write(file, cells))
    assert np.isnan(found.keypoints[0, 0, 0]).all() and np.isnan(found.keypoints[1, 0, 1]).all()
    assert np.isnan(found.keypoints).sum() == 4
    assert found.notes == ("1 keypoints with some but not all coordinates masked",)


def test_low_confidence_is_masked_and_counted(file):
    found = readers.tracks(write(file, table()), min_confidence=0.5)
    assert np.isnan(found.keypoints[:2]).all() and not np.isnan(found.keypoints[2:]).any()
    assert found.notes == ("4 of 8 keypoints below confidence 0.5 masked",)


def test_unique_bodyparts_are_no_animal(file):
    cells = table(individuals=["a", "single"])
    cells[2][7:] = ["box"] * 6
    cells[3][7:] = ["x", "y", "likelihood"] * 2
    cells = [row[:10] for row in cells]
    found = readers.tracks(write(file, cells))
    assert found.individuals == ("a",) and found.names == POINTS and "box" in found.notes[0]
    assert readers.tracks(write(file, table(individuals=["single"]))).individuals == ("single",)


def test_keypoints_are_ignored_by_name(file):
    assert readers.tracks(write(file, table()), ignore=("NOSE",)).names == ("tail base",)
    with pytest.raises(ReadError, match="no keypoint is left"):
        readers.tracks(file, ignore=POINTS)


def broken(change):
    cells = table()
    change(cells)
    return cells


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (table(frames=0), "followed by no frame"),
        (table(points=("nose", "nose")), r"line 3, column 5: x of keypoint 'nose' stands in column 2 too"),
        (table(coords=("x", "likelihood")), "keypoint 'nose' has no column 'y'"),
        (table(coords=("x", "y", "certainty")), r"line 3, column 4: .*'certainty'"),
        (broken(lambda c: c[5].__setitem__(2, "abc")), r"line 6, column 3 \('nose' y\): 'abc' is not a number"),
        (broken(lambda c: c[5].pop()), r"line 6: 6 cells, the header has 7"),
        (broken(lambda c: c[1].pop()), "header rows of 6, 7"),
        (broken(lambda c: c[2].__setitem__(2, "likelihood")), r"column 4: likelihood of keypoint 'nose'"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_place(file, cells, message):
    with pytest.raises(ReadError, match=message) as caught:
        readers.tracks(write(file, cells))
    assert str(file) in str(caught.value)


def test_a_keypoint_without_one_of_the_coordinates_is_named(file):
    cells = [row[:5] + row[6:] for row in table()]
    with pytest.raises(ReadError, match="keypoint 'tail base' has no column 'y'"):
        readers.tracks(write(file, cells))


def test_unknown_files_are_an_error_that_lists_what_is_read(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x00\x01binary")
    with pytest.raises(ReadError, match=r"begins b'\\x00\\x01binary'.*BORIS.*DeepLabCut"):
        readers.tracks(tmp_path / "a.bin")
    with pytest.raises(ReadError, match=r"cannot read .*No such file"):
        readers.tracks(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ReadError, match="it is empty"):
        readers.tracks(tmp_path / "empty.csv")


def test_a_file_cut_within_its_header_is_not_tracks(file):
    write(file, table()[:2])
    with pytest.raises(ReadError, match="unknown format"):
        readers.tracks(file)


def test_ensembles_of_lightning_pose_are_read_past_their_spread(file):
    coords = ("x", "y", "likelihood", "x_ens_median", "y_ens_median", "x_ens_var", "y_posterior_var")
    found = readers.tracks(write(file, table(coords=coords)))
    assert found.keypoints.shape == (4, 1, 2, 2) and found.names == POINTS
    np.testing.assert_allclose(found.keypoints[1, 0, 1], [805, 905.5])


def test_columns_of_picture_paths_are_passed_over(file):
    cells = table()
    paths = [["", ""]] * 3 + [["m1", f"img{t:03}, of m\u00fcll.png"] for t in range(4)]
    shifted = [[row[0], *more, *row[1:]] for row, more in zip(cells, paths, strict=True)]
    text = "\n".join(",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in shifted)
    for encoding in ("utf-8", "latin-1", "utf-16"):
        file.write_bytes(text.encode(encoding))
        np.testing.assert_allclose(readers.tracks(file).keypoints[2, 0], [[102.5, 203], [404, 504.5]])


@pytest.mark.parametrize("empty", ["nan", "NaN", "NAN", "NA", "N/A", "null", "None", ""])
def test_every_word_for_nothing_is_missing(file, empty):
    cells = table()
    cells[4][1:3] = [empty, empty]
    found = readers.tracks(write(file, cells))
    assert np.isnan(found.keypoints[1, 0, 0]).all() and found.notes == ()


def test_a_file_cut_within_its_last_line_is_an_error(file):
    write(file, table(frames=200))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ReadError, match=r"line 203: \d cells, the header has 7; is the file cut off"):
        readers.tracks(file)


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("mouse_pair_ethome/*.csv", (5700, 2, 7, 2)),
        ("mouse_freezing_behaviordepot/demo1/*.csv", (6000, 1, 8, 2)),
        ("mouse_freezing_behaviordepot/demo6/*.csv", (17918, 1, 4, 2)),
        ("mouse_oft_rearing/*DeepCut*.csv", (1998, 1, 18, 2)),
    ],
)
def test_real_tracks_are_read(pattern, shape):
    (path,) = DATA.glob(pattern)
    found = readers.tracks(path)
    assert readers.sniff(path) is deeplabcut and found.keypoints.shape == shape
    assert np.isfinite(found.keypoints).all() and found.confidence.max() <= 1
