"""``ray up`` against a simulated EC2, to its end.

The simulation (moto) makes instances and nothing that runs on them, so ssh and rsync are stand-ins that write down what
they were asked. What is reached: the key pair, the role, the security group and the subnet are made or found, the
head is launched, files are copied, the set-up and start commands are sent in order, ``ray down`` ends everything; and
a spot worker is launched with the configuration that ``ray up`` leaves on the head. What is not: machine images, the
commands' effect on a fresh machine (tests/clusters/test_node.py has the commands), prices and quotas.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.slow

STAND_IN = """#!{python}
import json, os, sys
calls = os.environ["CALLS"]
copied = {{}}
if sys.argv[0].endswith("rsync"):
    for word in sys.argv[1:]:
        if os.path.isfile(word):
            copied[word] = open(word).read()
with open(calls, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], copied]) + "\\n")
"""


@pytest.fixture(scope="module")
def ec2():
    """A simulated EC2 with a private subnet, and the environment that leads to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")  # Ray gives its role two of AWS's own policies
        yield from simulate()


def simulate():
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    client = boto3.client("ec2", region_name="us-west-2", endpoint_url=environment["AWS_ENDPOINT_URL"],
                          aws_access_key_id="test", aws_secret_access_key="test")  # fmt: skip
    network = client.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = client.create_subnet(VpcId=network, CidrBlock="10.9.1.0/24", AvailabilityZone="us-west-2a")["Subnet"]
    client.modify_subnet_attribute(SubnetId=subnet["SubnetId"], MapPublicIpOnLaunch={"Value": False})
    yield client, subnet["SubnetId"], environment
    server.stop()


@pytest.fixture(scope="module")
def launched(ec2, folder, tmp_path_factory):
    """The repository's aws.yaml brought up: the calls of ssh and rsync, and what to start more commands with."""
    client, subnet, environment = ec2
    place = tmp_path_factory.mktemp("up")
    tools, home = place / "bin", place / "home"
    tools.mkdir()
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    for name in ("ssh", "rsync"):
        (tools / name).write_text(STAND_IN.format(python=sys.executable))
        (tools / name).chmod(0o755)
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    text = (folder / "aws.yaml").read_text().replace("subnet-YOURS", subnet)
    text = re.sub(r"(ImageId: (?:&driver )?)resolve:ssm:\S+", rf"\g<1>{image}", text)
    config = place / "aws.yaml"
    config.write_text(text)
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, **environment}
    environment |= {
        "HOME": str(home),
        "CALLS": str(place / "calls"),
        "PATH": f"{tools}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def ray(*words: str) -> str:
        words = ("ray", *words)
        done = subprocess.run(words, env=environment, cwd=folder.parent, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    ray("up", "-y", "--no-config-cache", str(config))
    calls = [json.loads(line) for line in (place / "calls").read_text().splitlines()]
    return ray, config, calls, environment


def machines(client, name: str = "*") -> list[dict]:
    filters = [
        {"Name": "tag:ray-user-node-type", "Values": [name]},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    return [i for r in client.describe_instances(Filters=filters)["Reservations"] for i in r["Instances"]]


def test_one_head_runs_and_has_no_public_address(ec2, launched):
    client, subnet, _ = ec2
    (head,) = machines(client)
    assert head["InstanceType"] == "m7i.2xlarge" and head["SubnetId"] == subnet
    assert not head.get("PublicIpAddress") and head["PrivateIpAddress"].startswith("10.9.1.")


def test_the_security_group_lets_in_ssh_and_its_own_members_only(ec2, launched):
    client, _, _ = ec2
    (head,) = machines(client)
    (group,) = client.describe_security_groups(GroupIds=[g["GroupId"] for g in head["SecurityGroups"]])[
        "SecurityGroups"
    ]
    for rule in group["IpPermissions"]:
        own = [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
        assert own or (rule["FromPort"], rule["ToPort"]) == (22, 22), rule


def test_files_are_copied_then_node_sh_installs_shares_and_starts(ec2, launched):
    client, _, _ = ec2
    _, _, calls, _ = launched
    (head,) = machines(client)
    sent = [" ".join(words) for tool, words, _ in calls if tool == "ssh"]
    assert all(head["PrivateIpAddress"] in line for line in sent if "node.sh" in line)
    order = [
        next(i for i, line in enumerate(sent) if f"node.sh {verb}" in line) for verb in ("install", "serve", "head")
    ]
    assert order == sorted(order)
    copied = [words[-1].rpartition(":")[2] for tool, words, _ in calls if tool == "rsync"]
    assert any(target.endswith(".ray/auth_token") for target in copied)
    assert any("ethoray/requirements.lock" in target for target in copied)
    assert not any(".venv" in target or "ethoray/store" in target or "ethoray/runs" in target for target in copied)
    assert not any("0123456789abcdef" in line for line in sent)  # the token is on no command line


def test_the_head_could_launch_spot_workers_with_what_it_was_left(ec2, launched, monkeypatch):
    """The scaling process on the head reads ray_bootstrap_config.yaml; here its provider launches from that file."""
    client, subnet, environment = ec2
    _, _, calls, _ = launched
    left = [text for tool, _, copied in calls if tool == "rsync" for text in copied.values() if "cluster_name" in text]
    config = yaml.safe_load(left[-1])
    assert config["auth"].get("ssh_proxy_command") is None
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    from ray.autoscaler._private.aws import utils
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    utils.resource_cache.cache_clear()
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    kind = config["available_node_types"]["gpu_spot"]
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: "gpu_spot"}
    provider.create_node(kind["node_config"], tags, 1)
    (worker,) = machines(client, "gpu_spot")
    assert worker["InstanceType"] == "g6.2xlarge" and worker["SubnetId"] == subnet
    assert worker.get("InstanceLifecycle") == "spot" and not worker.get("PublicIpAddress")
    assert kind["resources"]["GPU"] == 1  # from EC2's own table of instance types


def test_ray_down_leaves_nothing_running(ec2, launched):
    ray, config, *_ = launched
    ray("down", "-y", str(config))
    assert machines(ec2[0]) == []
