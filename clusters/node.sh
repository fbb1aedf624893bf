#!/usr/bin/env bash
# How a virtual machine becomes a node; the files for ray up call it.
#
#   node.sh install [PACKAGE...]   Python 3.11, the versions of requirements.lock and this package, into ~/venv
#   node.sh serve                  the head: share $SHARED over NFS with private networks
#   node.sh mount                  a worker: mount it from $RAY_HEAD_IP
#   node.sh head [OPTION...]       start Ray's head; the dashboard and the jobs API listen on 127.0.0.1 only
#   node.sh worker [OPTION...]     start a worker of $RAY_HEAD_IP
#
# Nothing starts without a token, from RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
shared=${SHARED:-/srv/ethoray}
port=${RAY_PORT:-6379}

set_up() {
    python3 -m venv ~/.uv || { sudo apt-get -qq update && sudo apt-get -qqy install python3-venv && python3 -m venv ~/.uv; }
    ~/.uv/bin/pip install -q uv==0.13.9
    [[ -x ~/venv/bin/python ]] || ~/.uv/bin/uv venv -q --python 3.11 ~/venv
    ~/.uv/bin/uv pip install -q --python ~/venv -r "$here/requirements.lock" "$@"
    ~/.uv/bin/uv pip install -q --python ~/venv --no-deps --no-build-isolation -e "$here"
    cat > ~/.ethoray <<EOF
export PATH="\$HOME/venv/bin:\$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export ETHORAY_RUNS=$shared/runs ETHORAY_STORE=$shared/store MLFLOW_DISABLE_TELEMETRY=true
EOF
    grep -qxF '. ~/.ethoray' ~/.bashrc 2> /dev/null || echo '. ~/.ethoray' >> ~/.bashrc
}

serve() {
    sudo apt-get -qq update
    sudo apt-get -qqy install nfs-kernel-server
    sudo install -d -o "$(id -u)" -g "$(id -g)" "$shared" "$shared/runs" "$shared/store"
    local options network
    options="rw,sync,no_subtree_check,all_squash,anonuid=$(id -u),anongid=$(id -g)"
    for network in 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16; do
        echo "$shared $network($options)"
    done | sudo tee /etc/exports.d/ethoray.exports > /dev/null
    sudo exportfs -ra
}

attach() {
    mountpoint -q "$shared" && return
    command -v mount.nfs4 > /dev/null || { sudo apt-get -qq update && sudo apt-get -qqy install nfs-common; }
    sudo install -d "$shared"
    sudo mount -t nfs4 -o hard,noatime "$RAY_HEAD_IP:$shared" "$shared"
}

authenticated() {
    local file=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
    export RAY_AUTH_MODE=token
    [[ -n ${RAY_AUTH_TOKEN:-} ]] && return
    [[ -s $file ]] || { echo "no token in $file; where you type ray up, run ray get-auth-token --generate" >&2; exit 3; }
    chmod 600 "$file"
}

ready() {
    # shellcheck source=/dev/null
    if [[ -f ~/.ethoray ]]; then . ~/.ethoray; fi
    authenticated
    cd "$here"  # where jobs run that bring no --working-dir
    ulimit -n 65536 2> /dev/null || ulimit -n "$(ulimit -Hn)"
}

head_node() {
    ready
    local scaling=()
    if [[ -f ~/ray_bootstrap_config.yaml ]]; then scaling=(--autoscaling-config="$HOME/ray_bootstrap_config.yaml"); fi
    exec ray start --head --port="$port" --dashboard-host=127.0.0.1 --disable-usage-stats "${scaling[@]}" "$@"
}

worker_node() {
    ready
    exec ray start --address="$RAY_HEAD_IP:$port" --disable-usage-stats "$@"
}

verb=${1:-}
[[ $# -gt 0 ]] && shift
case $verb in
    install) set_up "$@" ;;
    serve) serve ;;
    mount) attach ;;
    head) head_node "$@" ;;
    worker) worker_node "$@" ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
