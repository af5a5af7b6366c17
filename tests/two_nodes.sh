# Two Ray nodes on one machine, in namespaces of their own: nothing outside is seen, touched or
# left behind. The second node does not see PROJECT, and like another machine it has a folder of its
# own for what Ray sends it; neither sees the folders in HIDDEN. Runs the commands of $1 beside the
# first. Called by tests/test_clusters.py in `unshare --pid --net --mount`.
set -eu
ip link set lo up
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef
mkdir -p "$SCRATCH/bare" && cd "$SCRATCH/bare"
quietly() { "$@" >"$SCRATCH/start.log" 2>&1 || { cat "$SCRATCH/start.log"; exit 9; }; }
hiding() { # FOLDERS -- COMMAND
    unshare --mount bash -ec '
        while [[ $1 != -- ]]; do mount -t tmpfs none "$1"; shift; done
        shift
        exec "$@"' - "$@"
}
quietly hiding ${HIDDEN:-} -- ray start --head --node-ip-address=127.0.0.1 --port=6390 \
    --dashboard-port=8265 --num-cpus=1 --temp-dir="$SCRATCH/ray" --disable-usage-stats
quietly hiding ${HIDDEN:-} "$PROJECT" "$SCRATCH"/ray/session_2*/runtime_resources -- \
    ray start --address=127.0.0.1:6390 --num-cpus=1 --disable-usage-stats
cd "$PROJECT"
eval "$1"
