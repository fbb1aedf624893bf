from pathlib import Path

import h5py
import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError

DATA = Path("../shared/data")

COLUMNS = [("net", p, c) for p in ("nose", "tail") for c in ("x", "y", "likelihood")]


def frame(path, pickled, values, **attributes):
    with h5py.File(path, "w") as file:
        group = file.create_group("df_with_missing")
        group.attrs["pandas_type"] = b"frame_table"
        group.attrs["non_index_axes"] = np.bytes_(pickled)
        for key, value in attributes.items():
            group.attrs[key] = np.bytes_(value)
        rows = np.zeros(len(values), dtype=[("index", "i8"), ("values_block_0", "f8", values.shape[1:])])
        rows["values_block_0"] = values
        group["table"] = rows
    return path


def names(columns=COLUMNS):
    """The steps of a text pickle of [(1, columns)]."""
    cells = "".join("(" + "".join(f"V{level}\n" for level in column) + "ta" for column in columns)
    return f"(lp0\n(I1\n(lp1\n{cells}tp2\na.".encode()


def test_a_table_is_read_without_loading_its_pickles(tmp_path):
    values = np.arange(18.0).reshape(3, 6) / 20
    found = readers.tracks(frame(tmp_path / "a.h5", names(), values, info=b"cos\nmkdir\n(S'owned'\ntR."))
    assert found.keypoints.shape == (3, 1, 2, 2) and found.names == ("nose", "tail")
    np.testing.assert_allclose(found.keypoints[1, 0, 1], values[1, 3:5])
    np.testing.assert_allclose(found.confidence[:, 0, 0], values[:, 2])


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReadError, match=r"non_index_axes .*GLOBAL.*refused"):
        readers.tracks(frame(tmp_path / "a.h5", b"cos\nmkdir\n(S'owned'\ntR.", np.zeros((3, 6))))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (names(COLUMNS[:5]), "names 5 columns and holds 6"),
        (names([*COLUMNS[:5], COLUMNS[4]]), "twice"),
        (names([*COLUMNS[:5], ("net", "tail", "weight")]), "column 6"),
        (b"(lp0\n", "non_index_axes"),
    ],
)
def test_wrong_columns_are_errors(tmp_path, pickled, message):
    with pytest.raises(ReadError, match=message):
        readers.tracks(frame(tmp_path / "a.h5", pickled, np.zeros((3, 6))))


def test_negative_confidence_is_an_error(tmp_path):
    with pytest.raises(ReadError, match="confidence is negative"):
        readers.tracks(frame(tmp_path / "a.h5", names(), np.full((3, 6), -1.0)))


def fixed(path, columns, values):
    """A data frame as pandas' fixed format lays it out: every level's names once, and a label a column."""
    with h5py.File(path, "w") as file:
        group = file.create_group("df_with_missing")
        group.attrs["pandas_type"] = b"frame"
        group["block0_values"] = values
        for n, level in enumerate(zip(*columns, strict=True)):
            names = sorted(set(level))
            group[f"block0_items_level{n}"] = np.array(names, dtype="S")
            group[f"block0_items_label{n}"] = [names.index(name) for name in level]
    return path


def test_the_fixed_layout_is_read_from_its_plain_arrays(tmp_path):
    values = np.arange(18.0).reshape(3, 6) / 20
    found = readers.tracks(fixed(tmp_path / "a.h5", COLUMNS, values))
    assert found.names == ("nose", "tail") and found.individuals == ("individual_0",)
    np.testing.assert_allclose(found.keypoints[2, 0, 1], values[2, 3:5])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["df_with_missing/block0_items_label1"][...] = 7
    with pytest.raises(ReadError, match="block0_items_label1 points outside its 2 names"):
        readers.tracks(tmp_path / "a.h5")


@pytest.mark.parametrize("layout", ["fixed", "table"])
def test_unique_bodyparts_are_no_animal(tmp_path, layout):
    columns = [("net", i, p, c) for i in ("a", "b") for p in ("nose", "tail") for c in ("x", "y", "likelihood")]
    columns += [("net", "single", p, c) for p in ("corner", "feeder") for c in ("x", "y", "likelihood")]
    values = np.arange(18.0 * 2).reshape(2, 18)
    write = fixed if layout == "fixed" else lambda path, named, cells: frame(path, names(named), cells)
    path = write(tmp_path / "a.h5", columns, values)
    found = readers.tracks(path)
    assert found.individuals == ("a", "b") and found.names == ("nose", "tail")
    assert found.notes == ("2 unique bodyparts left out, they are no animal: corner, feeder",)
    assert readers.layout(path).notes == found.notes and readers.layout(path).frames == 2
    np.testing.assert_allclose(found.keypoints[1, 1, 0], [24, 25])


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
@pytest.mark.parametrize(
    ("name", "shape"),
    [("madlc_100frames", (100, 2)), ("madlc_901frames", (901, 2)), ("square_arena_451frames", (451, 1))],
)
def test_real_files_are_read(name, shape):
    found = readers.tracks(DATA / f"mouse_pair_deepof/{name}.h5")
    assert found.keypoints.shape == (*shape, 14, 2) and found.names[0] == "Nose"
