#!/bin/bash
# A Ray cluster inside one Slurm allocation, and one diffadapt command on it. From the repository's root, with `make setup` done there:
#   sbatch cluster/slurm.sh run quickstart --root /shared/diffadapt-data
#   sbatch --nodes=16 --partition=<PARTITION> cluster/slurm.sh sweep digits --root /shared/diffadapt-data
# Repository and root lie where all nodes see them. Before the time limit the job puts itself into the queue again and goes on where the
# store stands; Slurm does the same after preemption. The same line submitted again resumes too. A node that fails is done without
# (--no-kill). Options of sbatch beat those below.
#SBATCH --job-name=diffadapt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=diffadapt-%j.log
#SBATCH --signal=B:USR1@180
set -euo pipefail

# To be set with `sbatch --export=ALL,NAME=value` where the defaults do not fit:
venv=${DIFFADAPT_VENV:-$SLURM_SUBMIT_DIR/.venv}   # the environment, on a disk that all nodes see
ip=${DIFFADAPT_HEAD_IP:-}                         # the head's address in the network to use; default: its first
seconds=${DIFFADAPT_START_SECONDS:-300}           # how long the nodes may take to come up
requeue=${DIFFADAPT_REQUEUE:-1}                   # 0: end at the time limit instead of going into the queue again

(($#)) || { echo "What to run comes after the script: sbatch cluster/slurm.sh run quickstart --root /shared/diffadapt-data" >&2; exit 2; }
[[ -x $venv/bin/ray ]] || { echo "There is no ray in $venv/bin: run 'make setup' in $SLURM_SUBMIT_DIR, or set DIFFADAPT_VENV." >&2; exit 2; }
cd "$SLURM_SUBMIT_DIR"
export PATH="$venv/bin:$PATH"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} RAY_USAGE_STATS_ENABLED=0 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Of this job alone; it reaches the nodes in the environment that srun passes on.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
temp=/tmp/ray-$SLURM_JOB_ID
step=(srun --nodes=1 --ntasks=1 --cpus-per-task="$cpus")
[[ -n $ip ]] || ip=$("${step[@]}" --nodelist="$head" hostname -I | awk '{print $1}')

# Free ports on the node it runs on, outside the range of Ray's workers (10002-19999) and of outgoing connections (32768 on).
free_ports='
import random, socket, sys
held, ports = [], []
while len(ports) < int(sys.argv[1]):
    port = random.randrange(20001, 32000)
    s = socket.socket()
    try:
        s.bind(("", port))
    except OSError:
        continue
    held.append(s)
    ports.append(port)
print(*ports)
'
start_head='
set -e
read -r agent dashboard client < <(python -c "$free_ports" 3)
exec ray start --head --block --node-ip-address="$ip" --port="$port" --dashboard-port="$dashboard" --ray-client-server-port="$client" \
  --dashboard-agent-listen-port="$agent" --num-cpus="$cpus" --num-gpus="$gpus" --temp-dir="$temp" $DIFFADAPT_RAY_OPTIONS
'
start_worker='
set -e
read -r agent < <(python -c "$free_ports" 1)
exec ray start --block --address="$ip:$port" --dashboard-agent-listen-port="$agent" --num-cpus="$cpus" --num-gpus="$gpus" $DIFFADAPT_RAY_OPTIONS
'
port=$("${step[@]}" --nodelist="$head" python -c "$free_ports" 1)
export free_ports ip port cpus gpus temp DIFFADAPT_RAY_OPTIONS=${DIFFADAPT_RAY_OPTIONS:-}

steps=() driver=""
# The nodes of Ray are steps of this job: they are ended by the process ids of their srun, which passes the signal on.
clean_up() {
  trap - EXIT
  for pid in $driver "${steps[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in $driver "${steps[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$temp"
}
stopped=""
stop() {
  stopped=$1
  [[ -z $driver ]] || kill -TERM "$driver" 2>/dev/null || true
}
trap clean_up EXIT
trap 'stop TERM' TERM INT
trap 'stop USR1' USR1

alive() { kill -0 "$1" 2>/dev/null; }
refuse() { echo "$1" >&2; exit 1; }

"${step[@]}" --nodelist="$head" bash -c "$start_head" > /dev/null &
steps=($!)
for ((i = 0; ; i++)); do  # workers that come before the head would give up
  (exec 3<> "/dev/tcp/$ip/$port") 2>/dev/null && break
  alive "${steps[0]}" || refuse "Ray's head did not start on $head: its reason is above."
  ((i < seconds)) || refuse "Ray's head did not answer at $ip:$port within $seconds s: set DIFFADAPT_HEAD_IP to its address in the right network."
  [[ -z $stopped ]] || exit 1
  sleep 1
done
join() {
  "${step[@]}" --nodelist="${nodes[$1]}" bash -c "$start_worker" > /dev/null &
  steps[$1]=$!
}
for ((i = 1; i < ${#nodes[@]}; i++)); do join "$i"; done

# The command joins this cluster because RAY_ADDRESS names it; it starts once all nodes are there.
export RAY_ADDRESS="$ip:$port"
python - "${#nodes[@]}" "$seconds" << 'PYTHON' &
import logging, sys, time
import ray

wanted, seconds = int(sys.argv[1]), float(sys.argv[2])
end, found = time.monotonic() + seconds, 0
while time.monotonic() < end:
    try:
        if not ray.is_initialized():
            ray.init(logging_level=logging.CRITICAL, log_to_driver=False)
        found = sum(n["Alive"] for n in ray.nodes())
    except Exception:
        pass
    if found >= wanted:
        sys.exit(0)
    time.sleep(1)
sys.exit(f"{found} of {wanted} Ray nodes came up within {seconds:g} s: look at the nodes that are missing, or set DIFFADAPT_START_SECONDS.")
PYTHON
driver=$! tries=0
while alive "$driver"; do
  for i in "${!steps[@]}"; do  # Ray gives a node 30 s to start, which a busy head can exceed
    alive "${steps[i]}" && continue
    ((i > 0 && tries++ < 3 * ${#nodes[@]})) || refuse "Ray did not start on ${nodes[i]}: its reason is above."
    join "$i"
  done
  sleep 1
done
wait_for_driver() {  # `wait` returns early when a signal arrives
  code=0
  while :; do
    wait "$driver" && code=0 || code=$?
    kill -0 "$driver" 2>/dev/null || break
  done
  driver=""
}
wait_for_driver
if [[ -z $stopped ]]; then
  ((code == 0)) || exit "$code"
  echo "$(date '+%F %T') Ray runs on ${#nodes[@]} nodes, head $head: diffadapt $*"
  diffadapt "$@" &
  driver=$!
  wait_for_driver
fi

if [[ $stopped == USR1 && $requeue == 1 ]]; then
  echo "$(date '+%F %T') The time limit is near: the job goes into the queue again."
  clean_up
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
