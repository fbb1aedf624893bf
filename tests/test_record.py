import json
from dataclasses import replace

import pytest
import torch

from ethoray import record, store
from ethoray.batch import Windows
from ethoray.experiment import Experiment, run
from ethoray.learning import Budget, Progress
from ethoray.methods.bams import BAMS
from ethoray.methods.pca import PCA
from ethoray.probes import Score
from ethoray.probes.linear import Linear
from ethoray.testing import toy_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture
def experiment(dataset):
    return Experiment(Windows(dataset.uri, seconds=4.0, batch_size=2), PCA(components=3), (Linear(),), Budget(steps=4))


def test_an_experiment_survives_json(experiment):
    nested = replace(experiment, method=BAMS(targets=("body_dx",), features="generic"), seed=3)
    for one in (experiment, nested):
        document = json.loads(json.dumps(record.to_json(one)))
        assert record.from_json(document) == one


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("method", "name"), "pcaa", "did you mean 'pca'"),
        (("method", "compnents"), 3, "compnents"),
        (("probes", 0, "name"), "liner", "linear"),
    ],
)
def test_an_unknown_name_is_refused(experiment, path, value, message):
    document = json.loads(json.dumps(record.to_json(experiment)))
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(record.RecordError, match=message):
        record.from_json(document)


def test_the_key_follows_what_decides_the_result_and_nothing_else(experiment, dataset, tmp_path):
    key = record.key(experiment, dataset)
    same = replace(
        experiment,
        data=replace(experiment.data, dataset="elsewhere", stream="ray"),
        budget=replace(experiment.budget, log_every=3, save_every=7, device="cpu"),
    )
    assert record.key(same, dataset) == key and len(key) == 16
    other_data = toy_dataset(tmp_path / "other", seed=5)
    others = [
        record.key(replace(experiment, seed=1), dataset),
        record.key(replace(experiment, method=PCA(components=4)), dataset),
        record.key(replace(experiment, budget=Budget(steps=5)), dataset),
        record.key(replace(experiment, data=replace(experiment.data, seconds=5.0)), dataset),
        record.key(experiment, other_data),
    ]
    assert len({key, *others}) == 6


def test_a_damaged_checkpoint_is_named_and_not_loaded(tmp_path):
    record.save_state(tmp_path, {"encoder/w": torch.arange(6.0), "step": torch.tensor(3)})
    path = tmp_path / "checkpoint.safetensors"
    state = record.load_state(tmp_path)
    assert state is not None and torch.equal(state["encoder/w"], torch.arange(6.0))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(record.RecordError, match=r"checkpoint\.safetensors.*checksum"):
        record.load_state(tmp_path)
    path.write_bytes(bytes(content[: len(content) // 2]))
    with pytest.raises(record.RecordError, match="damaged"):
        record.load_state(tmp_path)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    record.save_state(tmp_path, {"encoder/w": torch.zeros(6), "step": torch.tensor(3)})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(record.RecordError, match=r"checkpoint\.safetensors: cannot be written \(No space left"):
        record.save_state(tmp_path, {"encoder/w": torch.ones(6), "step": torch.tensor(6)})
    monkeypatch.undo()
    state = record.load_state(tmp_path)
    assert state is not None and int(state["step"]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_metrics_after_the_checkpoint_are_forgotten_and_torn_lines_ignored(tmp_path):
    lines = [{"step": s, "seconds": s / 10, "loss": 1.0} for s in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"step": 4')
    assert [x["step"] for x in record.read_metrics(tmp_path)] == [10, 20, 30]
    diary = record.Diary(tmp_path, 20)
    assert [x["step"] for x in record.read_metrics(tmp_path)] == [10, 20]
    assert diary.before == 2.0


def test_a_folder_belongs_to_one_experiment(experiment, dataset, tmp_path):
    record.begin(tmp_path, experiment, dataset)
    record.begin(tmp_path, experiment, dataset)
    with pytest.raises(record.RecordError, match="holds another experiment"):
        record.begin(tmp_path, replace(experiment, seed=9), dataset)


def test_a_path_that_cannot_be_a_folder_is_an_error_before_any_work(experiment, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(record.RecordError, match="cannot be created"):
        run(experiment, tmp_path / "file" / "run")


def test_provenance_names_code_packages_machine_and_data(dataset):
    found = record.provenance(dataset)
    assert found["dataset"]["key"] == dataset.key and found["packages"]["torch"]
    assert {"commit", "dirty", "command", "python", "host", "started"} <= set(found)
    assert store.open(dataset.uri).key == dataset.key


def test_the_key_follows_the_precision_and_not_whether_the_loss_is_compiled(experiment, dataset):
    key = record.key(experiment, dataset)
    same = [Budget(steps=4, compile=True), Budget(steps=4, precision="float32")]
    assert {record.key(replace(experiment, budget=budget), dataset) for budget in same} == {key}
    assert record.key(replace(experiment, budget=Budget(steps=4, precision="bfloat16")), dataset) != key


def test_a_record_from_before_precision_was_a_choice_can_be_read(experiment, dataset, tmp_path):
    record.begin(tmp_path, experiment, dataset)
    path = tmp_path / "experiment.json"
    document = json.loads(path.read_text())
    for name in ("precision", "compile"):
        del document["budget"][name]
    path.write_text(json.dumps(document))
    old, _ = record.load(tmp_path)
    assert old == experiment and record.key(old, dataset) == document["key"]
    record.begin(tmp_path, experiment, dataset)  # and goes on in its folder


def test_scores_keep_the_last_look_at_every_monitor(tmp_path):
    looks = [
        {"loss": 3.0, "gradient_norm": 9.0},
        {"loss": 2.0, "gradient_norm": 8.0, "monitor/short/rank": 4.0, "monitor/perplexity": 7.0},
        {"loss": 1.0, "gradient_norm": 7.0, "monitor/short/rank": 5.0},
        {"loss": 0.5, "gradient_norm": 6.0},
    ]
    diary = record.Diary(tmp_path, 0)
    for step, metrics in enumerate(looks, start=1):
        diary.write(Progress(step, 4, metrics, float(step), False, dict))
    score = Score("strain", "short", "f1", 0.5, 0.4, 0.6, 3)
    record.finish(tmp_path, [score], parameters=1)
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["monitors"] == {"short/rank": 5.0, "perplexity": 7.0, "gradient_norm": 6.0}
    assert document["cost"]["steps"] == 4


def test_a_run_without_a_pause_has_no_monitors(tmp_path):
    record.finish(tmp_path, [], parameters=0)
    assert json.loads((tmp_path / "scores.json").read_text())["monitors"] == {}
