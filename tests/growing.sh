# A Ray head without CPUs whose autoscaler may start one node with a CPU (Ray's fake provider: a node
# is a process of this machine), in namespaces of its own as two_nodes.sh. Runs the commands of $1.
# Called by tests/test_clusters.py in `unshare --pid --net --mount`.
set -eu
ip link set lo up
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123456789abcdef0123456789abcdef
cat >"$SCRATCH/autoscaler.yaml" <<'END'
cluster_name: growing
max_workers: 1
idle_timeout_minutes: 0.2
provider: {type: fake_multinode, gcs_address: "127.0.0.1:6390"}
head_node_type: ray.head.default
available_node_types:
  ray.head.default: {resources: {CPU: 0}, max_workers: 0, node_config: {}}
  worker: {resources: {CPU: 1, object_store_memory: 104857600}, max_workers: 1, node_config: {}}
upscaling_speed: 1.0
auth: {}
docker: {}
file_mounts: {}
file_mounts_sync_continuously: false
cluster_synced_files: []
rsync_exclude: []
rsync_filter: []
initialization_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands: []
worker_start_ray_commands: []
END
RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 \
    ray start --head --node-ip-address=127.0.0.1 --port=6390 --num-cpus=0 --temp-dir="$SCRATCH/ray" \
    --autoscaling-config="$SCRATCH/autoscaler.yaml" --disable-usage-stats \
    >"$SCRATCH/start.log" 2>&1 || { cat "$SCRATCH/start.log"; exit 9; }
cd "$PROJECT"
eval "$1"
