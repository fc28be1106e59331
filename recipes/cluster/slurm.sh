#!/bin/bash
# GRPO on whole nodes of a Slurm cluster: one torchrun a node, one process a GPU.
#
# Run      sbatch cluster/slurm.sh grpo --recipe grounding --out runs/grounding
#          sbatch --nodes 2 cluster/slurm.sh grpo --recipe grounding rollout.prompts=16 --out runs/grounding
# Again    Submit the same line once more: it goes on where the run stopped. Several at once wait for each other:
#          sbatch --dependency singleton cluster/slurm.sh grpo --recipe grounding --out runs/grounding
#
# Fifteen minutes before the time limit Slurm sends SIGTERM; the run finishes its step, saves and ends. torchrun would
# kill its processes 30 seconds after a signal, which is less than a step takes: it is told to wait.

#SBATCH --job-name rft3d
#SBATCH --nodes 1
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --time 24:00:00
#SBATCH --signal TERM@900
#SBATCH --output slurm-%x-%j.out

set -eu
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=800
export OMP_NUM_THREADS=4
export HF_HUB_OFFLINE=1

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:29500" \
  -m rft3d_cli "$@" --resume
