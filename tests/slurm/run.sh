#!/bin/bash
# docs/cohort.sbatch and docs/folds.sbatch on a Slurm of one machine that this script sets up: a
# cohort in shards and folds with their pooling, of which one shard and one fold are requeued while they run. Their
# results are compared, byte by byte, with those of one process that nothing stopped. Synthetic patients, tiny network.
#
#   apt-get install --no-install-recommends slurm-wlm munge      # Debian, as root; no systemd is needed
#   PATH=.venv/bin:$PATH bash tests/slurm/run.sh                 # from the folder of the project; a few minutes
#
# It starts munged, slurmctld and slurmd of its own, with all their files in a temporary folder, and ends them.
set -euo pipefail
PROJECT=$(cd "$(dirname "$0")/../.." && pwd)
WORK=$(mktemp -d /tmp/slurm_test.XXXXXX)
export SLURM_CONF=$WORK/slurm.conf PYTHONPATH=$PROJECT CUDA_VISIBLE_DEVICES="" LC_ALL=C.UTF-8
chmod 755 "$WORK"
mkdir "$WORK/state" "$WORK/spool"
trap 'kill $(jobs -p) 2>/dev/null; wait; echo "logs: $WORK"' EXIT

# --- Slurm -------------------------------------------------------------------------------------------------------
head -c 1024 /dev/urandom > "$WORK/munge.key"
chmod 600 "$WORK/munge.key"
cat > "$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$WORK/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,kill_invalid_depend
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/spool
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd.pid
ReturnToService=2
KillWait=5
MpiDefault=none
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
munged --foreground --force --key-file "$WORK/munge.key" --socket "$WORK/munge.socket" --pid-file "$WORK/munged.pid" \
    --seed-file "$WORK/munge.seed" --log-file "$WORK/munged.log" > "$WORK/munged.out" 2>&1 &
until [ -S "$WORK/munge.socket" ]; do sleep 0.2; done
slurmctld -D -f "$SLURM_CONF" > "$WORK/slurmctld.log" 2>&1 &
slurmd -D -f "$SLURM_CONF" > "$WORK/slurmd.log" 2>&1 &
until sinfo -h -o %T 2>/dev/null | grep -q idle; do sleep 0.5; done
sinfo

finish() {  # wait for the end of a job
    while [ -n "$(squeue -h -j "$1" 2>/dev/null)" ]; do sleep 1; done
}
requeue_once() {  # requeue element $1 of a job array as soon as file $2 is there
    until [ -e "$2" ]; do sleep 0.05; done
    scontrol requeue "$1"
    echo "requeued $1, when $2 was there"
}

# --- Patients, a network ------------------------------------------------------------------
cd "$WORK"
ln -s "$PROJECT"/*.py "$PROJECT"/*/ .  # what a clone holds, so that scripts run as from there
small="--cpus-per-task=1 --mem=0"
python -m dataset.synthetic patients --patients 12
python - <<'END'
from pathlib import Path

import numpy as np
from PIL import Image

for folder in sorted(Path("patients").glob("SYNTH_*")):
    paths = sorted((p for p in folder.glob("*.tif") if "mask" not in p.name), key=lambda p: int(p.stem.split("_")[-1]))
    Path("heads").mkdir(exist_ok=True)
    np.save(f"heads/{folder.name}.npy", np.stack([np.array(Image.open(path)) for path in paths[:8]]))
END
ls patients | grep SYNTH | sed -n 1,6p > six.txt
training="--data patients --patients six.txt --width 2 --epochs 3 --batch-size 8 --device cpu"

# --- Folds: two in an array, the second requeued in its second epoch; against one process --------------------------
job=$(sbatch --parsable --array=1-2 $small docs/folds.sbatch 2 runs/cv $training)
last=$(sbatch --parsable --dependency=afterok:$job $small docs/folds.sbatch 2 runs/cv $training)
requeue_once "${job}_2" runs/cv/fold_2/models/epoch_2.pt  # the state after epoch 1 is there
finish "$last"
grep -h "resumed after epoch" folds_*.log
python cross_validate.py --folds 2 --run runs/plain $training > plain_folds.log
for name in test_results.csv test_patients.csv test_lesions.csv {fold_1,fold_2}/{train,test}.csv; do
    cmp "runs/cv/$name" "runs/plain/$name"
done
python - <<'END'
import torch

for fold in (1, 2):
    one, other = (torch.load(f"runs/{run}/fold_{fold}/models/epoch_3.pt")["weights"] for run in ("cv", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in one)
END
echo "folds: pooled tables byte-equal, weights of the last epoch bit-equal"

# --- A cohort in three shards, the second requeued after its first scan; against one process -------------------------
options="heads --run runs/plain/fold_1 --device cpu"
job=$(sbatch --parsable --array=1-3 $small docs/cohort.sbatch $options --out slurm/masks)
last=$(sbatch --parsable --dependency=afterany:$job $small docs/cohort.sbatch $options --out slurm/masks)
second=$(ls heads | sed -n 2p)
requeue_once "${job}_2" "slurm/masks/${second%.npy}/${second%.npy}_mask.json"
finish "$last"
grep -h "slices done before" cohort_*.log
python predict_model.py $options --out plain/masks > plain_cohort.log
diff -r slurm plain
echo "cohort: all $(find plain -type f | wc -l) files byte-equal"
