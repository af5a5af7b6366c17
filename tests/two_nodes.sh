# Two Ray nodes on one machine, in namespaces of their own: nothing outside is seen, touched or
# left behind. The second node does not see PROJECT, and like another machine it has a folder of its
# own for what Ray sends it. Runs the commands of $1 on the first.
# Called by tests/test_clusters.py in `unshare --pid --net --mount`.
set -eu
ip link set lo up
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef
mkdir -p "$SCRATCH/bare" && cd "$SCRATCH/bare"
quietly() { "$@" >"$SCRATCH/start.log" 2>&1 || { cat "$SCRATCH/start.log"; exit 9; }; }
quietly ray start --head --node-ip-address=127.0.0.1 --port=6390 --dashboard-port=8265 \
    --num-cpus=1 --temp-dir="$SCRATCH/ray" --disable-usage-stats
hide='for folder in "$PROJECT" "$SCRATCH"/ray/session_2*/runtime_resources; do
    mount -t tmpfs none "$folder"; done; exec "$@"'
quietly unshare --mount bash -ec "$hide" - \
    ray start --address=127.0.0.1:6390 --num-cpus=1 --disable-usage-stats
cd "$PROJECT"
eval "$1"
