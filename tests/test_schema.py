import numpy as np
import pytest

from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task, check_labels

SKELETON = Skeleton(("nose", "tail"), ((0, 1),), "nose", "tail")


def recording(**changes):
    given = {
        "name": "r",
        "subject": "m",
        "fps": 30,
        "skeleton": SKELETON,
        "keypoints": np.zeros((5, 1, 2, 2)),
    }
    return Recording(**(given | changes))


def test_a_recording_names_its_individuals_and_holds_float32():
    made = recording(keypoints=np.zeros((5, 3, 2, 3)), labels={"t": [0, 1, 0, 1, 0], "s": 2})
    assert made.individuals == ("individual_0", "individual_1", "individual_2")
    assert made.keypoints.dtype == made.labels["t"].dtype == np.float32
    assert made.labels["s"] == 2.0 and made.frames == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoints": np.zeros((5, 2, 2))}, "must be"),
        ({"keypoints": np.zeros((0, 1, 2, 2))}, "must be"),
        ({"keypoints": np.zeros((5, 1, 3, 2))}, "3 keypoints in the array, 2 in the skeleton"),
        ({"keypoints": np.full((5, 1, 2, 2), np.inf)}, "infinite"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"name": "a/b"}, "recording 'a/b'"),
        ({"split": ""}, "split"),
        ({"individuals": ("a", "b")}, "1 individuals in the array"),
        ({"confidence": np.zeros((5, 1))}, "confidence"),
        ({"labels": {"t": np.zeros(4)}}, "labels of task 't' have 4 frames, the track has 5"),
        ({"start": -1}, "cannot begin at frame -1"),
        ({"neural": np.zeros((4, 3))}, "neural must be"),
        ({"neural": np.zeros((5, 0))}, "neural must be"),
        ({"images": np.zeros((5, 8, 8, 1), np.float32)}, "images are uint8"),
        ({"images": np.zeros((5, 8, 8, 2), np.uint8)}, "images are uint8"),
        ({"skeleton": Skeleton(()), "keypoints": np.zeros((5, 1, 0, 2))}, "keypoints must be"),
    ],
)
def test_a_recording_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(SchemaError, match=message):
        recording(**changes)


def test_video_needs_no_keypoints():
    images = np.zeros((5, 8, 8, 3), np.uint8)
    film = recording(skeleton=Skeleton(()), keypoints=np.zeros((5, 1, 0, 2)), images=images, neural=np.ones((5, 4)))
    assert film.frames == 5 and film.images is images
    assert film.neural is not None and film.neural.dtype == np.float32


def test_a_half_missing_keypoint_is_named():
    keypoints = np.zeros((5, 1, 2, 2))
    keypoints[3, 0, 1, 0] = np.nan
    with pytest.raises(SchemaError, match="frame 3, individual 0, keypoint 'tail'"):
        recording(keypoints=keypoints)


@pytest.mark.parametrize(
    "arguments",
    [(("a", "a"),), (("a", "b"), ((0, 2),)), (("a", "b"), (), "a", None), (("a", "b"), (), "a", "c")],
)
def test_a_skeleton_that_contradicts_itself_is_refused(arguments):
    with pytest.raises(SchemaError):
        Skeleton(*arguments)


@pytest.mark.parametrize(
    "fields",
    [{"kind": "regression"}, {"kind": "multiclass"}, {"kind": "ordinal"}, {"level": "window"}, {"name": "a/b"}],
)
def test_a_task_that_cannot_be_scored_is_refused(fields):
    with pytest.raises(SchemaError):
        Task(**({"name": "t"} | fields))


def test_a_card_knows_its_tasks():
    card = Card("toy", "mouse", 30, SKELETON, (Task("groom"),))
    assert card.task("groom").higher_is_better
    with pytest.raises(SchemaError, match="it has groom"):
        card.task("grom")
    with pytest.raises(SchemaError, match="named twice"):
        Card("toy", "mouse", 30, SKELETON, (Task("groom"), Task("groom")))


@pytest.mark.parametrize("labels", [{"other": 1.0}, {"t": 1.0}, {"s": np.zeros(5)}, {"t": np.full(5, 2.0)}])
def test_labels_that_do_not_fit_the_card_are_refused(labels):
    with pytest.raises(SchemaError, match="recording 'r'"):
        check_labels((Task("t"), Task("s", level="recording")), recording(labels=labels))


def test_unlabelled_frames_are_allowed():
    check_labels((Task("t"), Task("s")), recording(labels={"t": np.full(5, np.nan)}))
