#!/bin/bash
# A sweep on Slurm: one Ray over the nodes of an allocation, for as long as the sweep takes.
#   sbatch --nodes=4 slurm.sh sweep.yaml --store /shared/bikd
# Submit it again to go on: what is in the store is not done again.
#SBATCH --job-name=bikd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=4
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
# Slurm sends SIGTERM shortly before it kills: what is done then is in the store already.
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: sbatch slurm.sh SPEC --store URI [options of bikd sweep]" >&2
    exit 2
fi

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs of one node do not meet

# Nodes of one Ray know each other by a token.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 # seconds until all nodes are there

# The same command on each node: the head runs the sweep, the others work for it. It ends with
# `ray stop`, which is why the nodes are the job's alone (--exclusive). The others do not notice
# that, so Slurm ends them soon after (--wait), and what counts is how the sweep ended.
ended=$(mktemp)
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --wait=30 \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --disable-usage-stats \
    -- bash -c 'bikd sweep "${@:3}" --address "$2"; echo $? >"$1"' - "$ended" "$head:$port" "$@" ||
    true
code=$(cat "$ended")
rm "$ended"
exit "${code:-1}"
