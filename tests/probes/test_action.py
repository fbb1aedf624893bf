"""Action segmentation: the network by its definition, questions put together of tasks, ensembles, and bad input."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from ethoray import store
from ethoray.embedding import Embedding
from ethoray.learning import Encoder
from ethoray.probes import ProbeError
from ethoray.probes._actions import question, rarity
from ethoray.probes._fitting import Track, Training, class_weights, moments, probabilities, table, trained
from ethoray.probes._segments import AttentionPooling, DilatedBlock, Segmenter, Sizes
from ethoray.probes.action import Action, segment
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task
from ethoray.store import Entry

CLASSES = ("rest", "walk", "groom")
POSTURE = Task("posture", "multiclass", classes=CLASSES, metric="f1")
SMALL = {"hidden": 12, "layers": 2, "lags": 1, "seconds": 2.0, "batch": 2, "epochs": 12, "lr": 1e-2, "members": 2}


def card(*tasks):
    return Card("toy", "mouse", 20.0, Skeleton(("nose",)), tasks)


def shown(name, x, labels, split="train", space="z"):
    entry = Entry(name, name, split, 20.0, len(x), ("a",), 2, ())
    return Embedding(entry, {space: x.astype(np.float32)}), labels


def world(recordings=9, frames=120, seed=0, noise=1.0, missing=True):
    """Recordings in which the class lasts for a while and shows in noisy features, and in how they change."""
    rng = np.random.default_rng(seed)
    where = rng.normal(size=(3, 4))
    for i in range(recordings):
        y = np.repeat(rng.integers(3, size=frames), rng.integers(10, 30, frames))[:frames]
        x = where[y] + noise * rng.normal(size=(frames, 4))
        labels = y.astype(np.float32)
        if missing:
            labels[5:9] = np.nan
        yield shown(f"r{i}", x, {"posture": labels}, "test" if i % 3 == 2 else "train")


def judged(recordings, probe, tasks=(POSTURE,), seed=0):
    judge = probe.judge(card(*tasks), seed)
    for embedding, labels in recordings:
        judge.see(embedding, labels)
    return judge


def backwards(function, jobs):
    return [function(job) for job in jobs[::-1]][::-1]


def test_attention_pooling_by_its_definition():
    torch.manual_seed(0)
    pool, x = AttentionPooling(6, 2), torch.randn(3, 5, 6)
    query = pool.query(pool.seed)
    for image in range(3):
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            weights = torch.exp(pool.key(x[image])[:, part] @ query[part] / 6**0.5)
            heads.append(query[part] + (weights / weights.sum()) @ pool.value(x[image])[:, part])
        found = torch.cat(heads)
        torch.testing.assert_close(pool(x)[image], found + torch.relu(pool.out(found)))
    shuffled = x[:, torch.randperm(5)]
    torch.testing.assert_close(pool(shuffled), pool(x))
    with pytest.raises(ValueError, match="do not divide"):
        AttentionPooling(6, 4)


def test_the_change_since_the_frame_before_stands_beside_a_frame():
    network = Segmenter(2, 3, Sizes(), tokens=False)
    network.blocks, network.head = torch.nn.ModuleList(), torch.nn.Identity()
    x, there = torch.randn(1, 4, 2), torch.ones(1, 4, dtype=torch.bool)
    seen = network(x, there)[0]
    torch.testing.assert_close(seen[:, :2], x[0])
    torch.testing.assert_close(seen[1:, 2:], x[0, 1:] - x[0, :-1])
    assert not seen[0, 2:].any()


def test_a_block_by_hand():
    torch.manual_seed(0)
    block = DilatedBlock(2, 3, 1, 2, 0.0).eval()
    x, there = torch.randn(1, 2, 9), torch.ones(1, 1, 9)
    y = x[0]
    for layer in block.convolutions:
        wide = torch.nn.functional.pad(y, (2, 2))
        taps = [layer.weight[:, :, k] @ wide[:, 2 * k : 2 * k + 9] for k in range(3)]
        y = torch.nn.functional.leaky_relu(sum(taps) + layer.bias[:, None])
    short = block.shortcut.weight[:, :, 0] @ x[0] + block.shortcut.bias[:, None]
    torch.testing.assert_close(block(x, there)[0], torch.nn.functional.leaky_relu(y + short))


def test_a_class_depends_on_no_more_than_the_reach():
    assert Sizes(layers=4, lags=2).reach == 60
    assert Sizes(layers=2, lags=4).reach == 24
    sizes = Sizes(hidden=4, layers=2, lags=1)
    torch.manual_seed(0)
    network = Segmenter(3, 2, sizes, tokens=False).double().eval()
    x = torch.randn(1, 41, 3, dtype=torch.float64, requires_grad=True)
    network(x, torch.ones(1, 41, dtype=torch.bool))[0, 20].sum().backward()
    touched = np.flatnonzero(x.grad[0].abs().sum(-1) > 0)
    assert (touched[0], touched[-1]) == (20 - sizes.reach - 1, 20 + sizes.reach)


def settings(**changes):
    values = {"sizes": Sizes(hidden=5, layers=2, lags=1), "epochs": 2, "batch": 2, "chunk": 7, "lr": 1e-2}
    values |= {"decay": 0.0, "patience": 5, "weights": (1.0, 1.0, 1.0), "background": False}
    return Training(**(values | changes))


@pytest.mark.parametrize("tokens", [False, True])
def test_chunks_and_neighbours_in_a_batch_do_not_change_what_is_predicted(tokens):
    rng = np.random.default_rng(0)
    shape = (4, 8) if tokens else (8,)
    tracks = [Track(f"t{n}", rng.normal(size=(n, *shape)).astype(np.float32), rng.integers(3, size=n)) for n in (9, 30)]
    network = trained(tracks, (), settings(), 0)
    whole = probabilities(network, tracks[1], settings(chunk=1000))
    np.testing.assert_allclose(probabilities(network, tracks[1], settings(chunk=7)), whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1)
    x, there = torch.zeros(2, 30, *shape), torch.zeros(2, 30, dtype=torch.bool)
    for row, track in enumerate(tracks):
        x[row, : len(track.x)], there[row, : len(track.x)] = torch.from_numpy(track.x), True
    x[0, 9:] = 5.0  # what lies outside of a recording is never seen
    with torch.no_grad():
        alone = probabilities(network, tracks[0], settings(chunk=1000))
        np.testing.assert_allclose(network(x, there)[0, :9].double().softmax(-1), alone, atol=1e-6)


def test_training_depends_on_its_seed_and_stops_at_the_best_epoch():
    tracks = [Track(e.entry.name, e.spaces["z"], y["posture"].astype(int)) for e, y in world(4, missing=False)]
    a, b, c = (trained(tracks, (), settings(), seed) for seed in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.head.weight, c.head.weight)
    stopped = trained(tracks[1:], tracks[:1], settings(epochs=6, patience=1, lr=10.0), 0)
    assert all(torch.isfinite(p).all() for p in stopped.parameters())


def test_classes_weigh_the_root_of_their_inverse_frequency():
    tracks = [
        Track("a", np.zeros((6, 1)), np.array([0, 0, 0, 0, 1, -100])),
        Track("b", np.zeros((3, 1)), np.zeros(3, int)),
    ]
    np.testing.assert_allclose(class_weights(tracks, 3), [np.sqrt(4 / 7), 2.0, 0.0])


def test_moments_leave_missing_values_out():
    x = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 5.0]])
    mean, deviation = moments([Track("a", x[:1], np.zeros(1)), Track("b", x[1:], np.zeros(2))])
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(deviation, [1, 0])
    scaled = settings(mean=mean, deviation=deviation).scaled(x)
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [0, 0]])


def test_binary_tasks_make_one_question_in_which_the_rarer_counts():
    asked = question(card(Task("attack"), Task("mount")), (), "")
    assert asked.classes == ("background", "attack", "mount")
    assert asked.background
    values = np.array([[0, 0], [1, 0], [1, 1], [np.nan, 1], [np.nan, 0], [0, 1], [1, 0]], np.float32)
    order = rarity([values])
    assert order.tolist() == [0, 1]
    assert asked.compose(values, order).tolist() == [0, 1, 1, 2, -100, 2, 1]
    assert asked.compose(values, np.array([1, 0])).tolist() == [0, 1, 2, 2, -100, 2, 1]


def test_a_named_background_becomes_the_first_class():
    asked = question(card(POSTURE), (), "walk")
    assert asked.classes == ("walk", "rest", "groom")
    values = np.array([[0.0], [1.0], [2.0], [np.nan]])
    assert asked.compose(values, np.array([0])).tolist() == [1, 0, 2, -100]


@pytest.mark.parametrize(
    ("tasks", "names", "background", "message"),
    [
        ((Task("speed", "regression", metric="mse"),), (), "", "no task that labels frames"),
        ((Task("strain", "binary", "recording"),), ("strain",), "", "'strain' does not name the class of a frame"),
        ((POSTURE, Task("attack")), (), "", "do not make one question"),
        ((POSTURE,), (), "sleep", "has no class 'sleep'"),
    ],
)
def test_tasks_that_make_no_question_are_named(tasks, names, background, message):
    with pytest.raises(SchemaError, match=message):
        Action(tasks=names, background=background).judge(card(*tasks), 0)


def test_the_score_is_the_macro_f1_of_averaged_probabilities():
    probe = Action(**SMALL)
    judge = judged(world(), probe)
    together, single = judge.scores()
    assert together.name == "posture/z"
    assert single.name == "posture/z@single"
    assert together.value > 0.8
    assert together.low <= together.value <= together.high
    assert together.recordings == 3
    true = np.concatenate([y["posture"] for e, y in world() if e.entry.split == "test"])
    assert together.tallies.sum() == np.isfinite(true).sum()
    about = judge.describe()["posture/z"]
    assert list(about["classes"]) == list(CLASSES)
    assert np.mean(list(about["classes"].values())) == pytest.approx(together.value)
    assert len(about["members"]) == 2
    assert about["frames"]["walk"] == (true == 1).sum()
    again = judged(world(), probe)
    again.map = backwards
    assert again.scores()[0].value == together.value


def test_tables_give_the_f1_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, chances = rng.integers(3, size=50), rng.random((50, 3))
    y[:5] = -100
    counts = table(Track("a", np.zeros((50, 1)), y), chances)
    from ethoray import metrics

    called = chances[5:].argmax(1)
    assert metrics.macro_f1(counts) == pytest.approx(f1_score(y[5:], called, average="macro"))
    assert metrics.foreground_f1(counts) == pytest.approx(f1_score(y[5:], called, average="macro", labels=[1, 2]))


def test_members_are_stopped_by_whole_recordings_and_each_by_others():
    judge = judged(world(recordings=21), Action(**SMALL, held_out=0.3))
    tracks = [Track(name, np.zeros((1, 1)), np.zeros(1)) for name in judge.features["train"]]
    sides = [judge._sides(tracks, [], member) for member in range(3)]
    for train, held in sides:
        assert {t.name for t in train} | {t.name for t in held} == set(judge.features["train"])
        assert not {t.name for t in train} & {t.name for t in held}
        assert len(held) == 4
    assert len({tuple(t.name for t in held) for _, held in sides}) == 3
    assert judge._sides(tracks, tracks[:1], 0) == (tracks, tracks[:1])
    assert judge._sides(tracks[:3], [], 0)[1] == []


def test_missing_features_and_unlabelled_recordings():
    recordings = list(world())
    recordings[0][0].spaces["z"][4:6, 1] = np.nan
    recordings[1][1]["posture"][:] = np.nan
    judge = judged(recordings, Action(**SMALL))
    assert np.isfinite(judge.scores()[0].value)
    assert "r1" not in judge.features["train"]


def test_without_test_recordings_or_a_second_class_there_is_no_score(caplog):
    assert judged([r for r in world() if r[0].entry.split == "train"], Action(**SMALL)).scores() == ()
    assert "no labelled test recording" in caplog.text
    recordings = list(world())
    for embedding, labels in recordings:
        if embedding.entry.split == "train":
            labels["posture"][:] = 0
    assert judged(recordings, Action(**SMALL)).scores() == ()
    assert "one class only" in caplog.text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda e, y: (e, {"posture": y["posture"][:-1]}), "r4"),
        (lambda e, y: (Embedding(e.entry, {"z": e.spaces["z"][:3]}), y), "spaces of other lengths"),
        (lambda e, y: (Embedding(e.entry, {"z": e.spaces["z"][:, :2]}), y), "unlike those of earlier"),
        (lambda e, y: (Embedding(e.entry, {"z": e.spaces["z"] + np.inf}), y), "infinite"),
    ],
)
def test_recordings_that_cannot_be_judged_are_named(broken, message):
    recordings = list(world())
    recordings[4] = broken(*recordings[4])
    with pytest.raises(ProbeError, match=message) as error:
        judged(recordings, Action(**SMALL))
    assert "r4" in str(error.value)


def test_too_much_is_refused():
    with pytest.raises(ProbeError, match="raise most"):
        judged(world(), Action(**SMALL, most=1000))


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"lr": 0.0}, {"dropout": 1.0}, {"held_out": 1.0}, {"members": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="action probe"):
        Action(**wrong)


class Eye(Encoder):
    """How bright every quarter of a picture is, up or down and left or right."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def fit(self, stream, budget, resume=None):
        return iter(())

    def embed(self, batch):
        return {}

    def patches(self, batch):
        pixels = batch.images[..., 0].float() / 255
        cut = pixels.unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 1, 2, 4, 3, 5).flatten(2, 3).flatten(3)
        bright, signs = 5 * cut.mean(-1), torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
        return torch.stack([bright, cut.std(-1), bright * signs[:, 0], bright * signs[:, 1]], -1)


def filmed(path, every=1):
    """A light goes on in one of four corners: at the top "walk", at the bottom "groom"."""

    def recordings():
        rng = np.random.default_rng(0)
        for i in range(6):
            y = np.repeat(rng.integers(3, size=6), 10)
            images = rng.integers(0, 40, (60, 16, 16, 1)).astype(np.uint8)
            for t in np.flatnonzero(y):
                side = slice(0, 6) if rng.random() < 0.5 else slice(10, 16)
                images[t, slice(0, 6) if y[t] == 1 else slice(10, 16), side] += 180
            kept = slice(0, None, every)
            yield Recording(
                f"film{i}", f"film{i}", 20.0, Skeleton(()), np.zeros((60, 1, 0, 2), np.float32)[kept],
                split="test" if i > 3 else "train", labels={"posture": y.astype(np.float32)[kept]}, images=images[kept],
            )  # fmt: skip

    about = Card("film", "none", 20.0, Skeleton(()), (POSTURE,), unit="pixel", split_rule="by film")
    return store.prepare(about, recordings(), str(path))


def test_an_image_encoder_is_judged_by_its_patches(tmp_path):
    dataset = filmed(tmp_path / "film")
    probe = Action(**{**SMALL, "heads": 1, "epochs": 30})
    answer = probe.examine(Eye(), dataset)
    assert [score.name for score in answer.scores] == ["posture/patches", "posture/patches@single"]
    assert answer.scores[0].value > 0.7
    with pytest.raises(ProbeError, match="more numbers than"):
        Action(**SMALL, most=10).examine(Eye(), dataset)


def test_embeddings_of_a_dataset_are_segmented_with_its_labels(toy):
    rows = [(e, toy.labels(e)) for e in toy.entries]
    name = next(task.name for task in toy.card.tasks if task.level == "frame")
    given = [Embedding(e, {"truth": np.asarray(labels[name], np.float32)[:, None]}) for e, labels in rows]
    judge = segment(toy, given, Action(tasks=(name,), **SMALL))
    score = judge.scores()[0]
    assert score.rule == "foreground_f1"
    assert score.value > 0.9
    partial = Embedding(given[0].entry, given[0].spaces, frames=np.arange(3))
    with pytest.raises(ProbeError, match="some frames only"):
        segment(toy, [partial], Action(tasks=(name,)))
