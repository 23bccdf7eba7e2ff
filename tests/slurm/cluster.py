"""A real SLURM of one node on this machine, from Debian's packages; no systemd, no accounting."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

CONFIGURATION = """\
ClusterName=tiny
SlurmctldHost=localhost
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=3600
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")


def is_missing() -> str | None:
    """Return why no SLURM can be started here; None if one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing; `make test-slurm` installs them on Debian"
    return None if os.geteuid() == 0 else "root is needed to start slurmctld and slurmd"


class Cluster:
    """The daemons, and what a test asks of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start munge, the controller and the node; return when the node is idle."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(folder=self.folder, host=socket.gethostname().split(".")[0])
        )
        os.environ["SLURM_CONF"] = str(configuration)
        self._start_munge()
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D", "-N", "localhost")
        wait_for(lambda: ask("sinfo", "-h", "-o", "%t") == "idle", 60, "an idle node")

    def _start_munge(self) -> None:
        folders = [Path(name) for name in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge")]
        key = folders[-1] / "munge.key"
        for folder in folders:
            folder.mkdir(exist_ok=True)
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
        subprocess.run(["chown", "-R", "munge:munge", *map(str, folders)], check=True)
        if not Path("/run/munge/munge.socket.2").exists() or ask("munge", "-n") == "":
            self._daemon("runuser", "-u", "munge", "--", "munged", "--foreground", "--force")
            wait_for(lambda: ask("munge", "-n") != "", 20, "munge")

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("w") as log:
            self._started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    def stop(self) -> None:
        """Cancel what runs, and end the daemons."""
        subprocess.run(["scancel", "--user", "root"], check=False)
        deadline = time.monotonic() + 20
        while ask("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._started):
            os.killpg(daemon.pid, signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)


def ask(*command: str) -> str:
    """Run a command; return what it printed, empty where it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.1)


def facts(job: str) -> dict[str, str]:
    """Return what SLURM knows of a job, or of one task of an array."""
    words = (word.partition("=") for word in ask("scontrol", "--oneliner", "show", "job", job).split())
    return {key: value for key, _, value in words}


def state(job: str) -> str:
    """Return a job's state, such as RUNNING."""
    return facts(job).get("JobState", "")


def release(job: str) -> None:
    """Let a requeued job start soon; SLURM would have it wait for two minutes.

    Not at once: a node that has just killed a job refuses to launch it again within the same second.
    """
    known = facts(job)
    begins = known.get("StartTime", "Unknown")
    if known.get("JobState") != "PENDING" or begins in ("Unknown", "N/A"):
        return
    if datetime.fromisoformat(begins) - datetime.now() > timedelta(seconds=5):
        ask("scontrol", "update", f"jobid={job}", "starttime=now+2")


FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def ended(job: str) -> bool:
    """Tell whether a job is over for good; one that waits after a requeue is told to start."""
    release(job)
    if state(job) not in FINAL:
        return False
    time.sleep(1.0)  # a job that is being requeued shows its former end for a moment
    return state(job) in FINAL
