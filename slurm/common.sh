# shellcheck shell=bash
# What every batch file does first, with the repository as the current folder. Never run by itself.
# shellcheck source=slurm/site.env
. slurm/site.env
PROFILE=${PROFILE:-paper}
bpo_modules
if [[ $BPO_VENV ]]; then
    # shellcheck source=/dev/null
    . "$BPO_VENV/bin/activate"
fi
# shellcheck disable=SC2034 # the files that source this use it
read -ra step_options <<<"$BPO_SRUN"
# A store of paid calls is a database, which wants a disk of the node; the shards carry its content to the run's folder.
# shellcheck disable=SC2034
store=${BPO_STORE_DIR:-${TMPDIR:-/tmp}}/bpo-$SLURM_JOB_USER-$PROFILE

# The Hub is asked for nothing: models and data are in its cache already, and a node may have no way out.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
export TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
# Since Slurm 22.05 srun does not take --cpus-per-task over from sbatch: without this a task may get one core.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
# Not in the home folder: compiled kernels on a network disk go stale under several nodes.
export TRITON_CACHE_DIR=${TMPDIR:-/tmp}/bpo-triton-$SLURM_JOB_ID
if ((BPO_GPUS_PER_NODE == 0)); then
    export DS_ACCELERATOR=cpu
fi

commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
echo "== $SLURM_JOB_NAME, job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}, $(date '+%F %T %Z')"
echo "== nodes $SLURM_JOB_NODELIST, $SLURM_CPUS_PER_TASK cores per task, ${SLURM_GPUS_PER_NODE:-0} GPUs per node"
echo "== commit $commit, environment ${BPO_VENV:-of the site}, srun options: ${BPO_SRUN:-none}"
if [[ ${BPO_COMMIT:-$commit} != "$commit" ]]; then
    echo "== WARNING: submitted at commit $BPO_COMMIT; the code has changed since"
fi
