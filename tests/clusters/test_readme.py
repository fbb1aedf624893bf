"""clusters/README.md and the files say the same, and its commands that need no cluster work."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "README.md").read_text()


def test_every_file_is_named_and_every_name_is_a_file(page, folder):
    named = set(re.findall(r"clusters/[\w./-]+\w", page)) - {"clusters/README.md"}
    assert [name for name in named if not (folder.parent / name).exists()] == []
    linked = set(re.findall(r"\]\(([\w./-]+)\)", page))
    assert [name for name in linked if not (folder / name).exists()] == []
    for path in folder.iterdir():
        if path.suffix in (".yaml", ".sbatch", ".sh", "") and path.is_file():
            assert path.name in page, path.name


@pytest.mark.parametrize("name", ["aws", "gcp", "azure", "on_premise"])
def test_the_two_commands_are_those_of_the_file(page, folder, name):
    head = (folder / f"{name}.yaml").read_text().split("cluster_name")[0]
    commands = [line.strip("# ") for line in head.splitlines() if line.startswith("#   ray ")]
    assert len(commands) == 2
    assert all(f"`{command}`" in page for command in commands)


def test_the_scripts_that_are_submitted_exist(page, folder):
    scripts = set(re.findall(r"(?:sweeps|datasets)/\w+\.py", page))
    assert scripts and all((folder.parent / script).exists() for script in scripts)


def test_ray_has_the_commands(page):
    import ray.scripts.scripts as scripts

    verbs = set(re.findall(r"`ray ([a-z-]+) ", page))
    assert {"up", "down", "exec", "get-auth-token", "dashboard", "rsync-down"} <= verbs
    assert verbs <= {name.replace("_", "-") for name in scripts.cli.commands} | {"job"}


def test_the_kubernetes_secret_is_made_with_what_the_manifests_ask_for(page, tmp_path):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    (block,) = re.findall(r"```bash\nkubectl create namespace.*?```", page, re.S)
    command = block.removesuffix("```").split("\n", 2)[2].strip() + " --dry-run=client -o yaml"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    secret = yaml.safe_load(done.stdout)
    assert secret["metadata"] == {"name": "ethoray", "namespace": "ethoray"} | secret["metadata"]
    assert set(secret["data"]) == {"auth_token", "postgres_password", "s3_user", "s3_password"}


def test_compose_wants_the_variables_that_are_exported(page, documents, folder):
    (line,) = re.findall(r"^export POSTGRES.*$", page, re.M)
    exported = {word.partition("=")[0] for word in re.sub(r"\$\([^)]*\)", "x", line).split()[1:]}
    wanted = set(re.findall(r"\$\{(\w+):\?", (folder / "compose.yaml").read_text()))
    assert exported == wanted
    assert line in (folder / "compose.yaml").read_text()


def test_a_slurm_command_is_that_of_the_script(page, folder):
    (command,) = re.findall(r"`(sbatch [^`]*)`", page)
    assert command in (folder / "slurm.sbatch").read_text()
    assert shlex.split(command)[0] == "sbatch"
