# What Slurm gives a job, for two nodes: namespaces with a network, processes and a /tmp of their
# own each, and one shared disk. Called by tests/test_deploy.py in `unshare --pid --net --mount`:
# fake_slurm.sh SCRIPT ARGUMENTS runs a batch script as sbatch would on its first node.
set -eu
mkdir -p "$SCRATCH/bin" "$SCRATCH/tmp"
cat >"$SCRATCH/bin/scontrol" <<'END'
#!/bin/bash
printf '10.77.0.1\n10.77.0.2\n'
END
cat >"$SCRATCH/bin/srun" <<'END'
#!/bin/bash
set -eu
patience=infinity
while [[ $1 == --* ]]; do
    [[ $1 == --wait=* ]] && patience=1 # enough here
    shift
done
ip link set lo up
ip link add near type veth peer name far
ip addr add 10.77.0.1/24 dev near
ip link set near up
unshare --net --pid --fork --kill-child --mount-proc --mount bash -ec '
    until ip link show far >/dev/null 2>&1; do sleep 0.1; done
    mount -t tmpfs none "$RAY_TMPDIR"
    ip link set lo up && ip addr add 10.77.0.2/24 dev far && ip link set far up
    exec "$@"' - "$@" >"$SCRATCH/second.log" 2>&1 &
second=$!
while ip link show far >/dev/null 2>&1; do  # until it is in the other namespace
    ip link set far netns $second 2>/dev/null || true
    sleep 0.1
done
"$@"
sleep $patience
kill -9 $second
exit 137 # as of a task that was killed
END
chmod +x "$SCRATCH"/bin/*
export PATH="$SCRATCH/bin:$PATH" RAY_TMPDIR="$SCRATCH/tmp"
export SLURM_JOB_ID=4711 SLURM_JOB_NODELIST='node[1-2]' SLURM_JOB_NUM_NODES=2 SLURM_CPUS_PER_TASK=1
cd "$PROJECT"
bash "$@"
