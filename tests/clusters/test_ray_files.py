"""The files for ray up: Ray's own schema, offline, and what we promise beyond it."""

import copy
import re
from pathlib import Path

import pytest

pytest.importorskip("jsonschema")
NAMES = ["aws", "gcp", "azure", "on_premise"]
CLOUDS = NAMES[:3]


@pytest.fixture(params=NAMES)
def config(request, folder, documents):
    (config,) = documents(folder / f"{request.param}.yaml")
    return request.param, config


def test_ray_accepts_it(config, monkeypatch, folder):
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.chdir(folder.parent)
    ready = prepare_config(copy.deepcopy(config[1]))
    validate_config(ready)
    assert ready["max_workers"] >= sum(t.get("min_workers", 0) for t in ready["available_node_types"].values())


def test_ray_refuses_a_word_it_does_not_know(config):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = copy.deepcopy(config[1]) | {"idle_timeout": 5}
    with pytest.raises(ValidationError, match="idle_timeout"):
        validate_config(prepare_config(wrong))


def test_ray_starts_by_node_sh_and_nothing_else(config):
    for part in ("head", "worker"):
        commands = config[1][f"{part}_start_ray_commands"]
        assert commands[-1] == f"bash ~/ethoray/clusters/node.sh {part}"
        assert not [c for c in commands if "ray start" in c]
    assert not re.search(r"dashboard-host|0\.0\.0\.0", str(config[1]))


def test_the_token_travels_as_a_file_and_what_is_copied_exists(config, folder):
    mounts = config[1]["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    for local in set(mounts.values()) - {"~/.ray/auth_token"}:
        assert (folder.parent / local).exists(), local
    assert not {"store", "runs", ".venv", "."} & set(mounts.values())


def test_what_node_sh_needs_is_copied(config, folder):
    copied = {Path(remote).name for remote in config[1]["file_mounts"]}
    assert {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "platform", "clusters"} <= copied
    assert any("node.sh install" in c for c in config[1]["setup_commands"])


def test_idle_machines_end(config):
    assert 0 < config[1]["idle_timeout_minutes"] <= 15


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_has_a_cpu_head_gpu_workers_a_spot_option_and_no_public_address(name, folder, documents):
    (config,) = documents(folder / f"{name}.yaml")
    assert config["provider"]["use_internal_ips"] is True
    kinds = config["available_node_types"]
    assert config["head_node_type"] == "head" and set(kinds) == {"head", "gpu_spot", "gpu_on_demand"}
    assert "GPU" not in kinds["head"]["resources"]
    assert re.search(r"spot", str(kinds["gpu_spot"]["node_config"]), re.I)
    assert not re.search(r"spot", str(kinds["gpu_on_demand"]["node_config"]), re.I)
    for kind in kinds.values():
        text = str(kind["node_config"])
        assert "accessConfigs" not in text and "AssociatePublicIpAddress" not in text
    assert any("node.sh serve" in c for c in config["head_setup_commands"])
    assert any("node.sh mount" in c for c in config["worker_start_ray_commands"])


def test_ec2_disks_are_encrypted_and_metadata_wants_a_session(folder, documents):
    (config,) = documents(folder / "aws.yaml")
    for kind in config["available_node_types"].values():
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_duplicate_keys_are_refused(documents, tmp_path):
    import yaml

    (tmp_path / "twice.yaml").write_text("a: 1\nb: {c: 1, c: 2}\n")
    with pytest.raises(yaml.constructor.ConstructorError, match="duplicate"):
        documents(tmp_path / "twice.yaml")
