#!/usr/bin/env bash
# The same command on each of NODES machines, with the address of one of them:
#
#     NODES=2 HEAD=node0.example PROCESSES=8 deploy/torchrun.sh --recipe imagenet --data s3://bucket/shards \
#         --output s3://bucket/runs
#
# A machine that is lost and comes back is taken in again. The first machine holds the meeting: without it all end, and
# go on when all are started again.
set -euo pipefail

# Otherwise a machine that comes back waits in vain for the address of the processes' store, which torch (2.14) tells
# those alone who were there when it began.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

exec torchrun \
    --nnodes "${NODES:?how many machines}" \
    --nproc-per-node "${PROCESSES:?how many processes on each: one for each accelerator}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "${HEAD:?the address of one of the machines}:${PORT:-29400}" \
    --rdzv-id "${JOB:-inceptionv4}" \
    --max-restarts 10 \
    -m inceptionv4 train --resume auto "$@"
