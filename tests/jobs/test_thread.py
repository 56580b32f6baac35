"""What only threads of this process can do."""

from __future__ import annotations

import subprocess
import sys
import threading

from lora_studio.jobs.spec import JobSpec
from lora_studio.jobs.thread import ThreadHost


def test_what_a_device_job_leaves_warm_is_there_for_the_next_on_the_same_thread() -> None:
    with ThreadHost() as host:
        jobs = [host.start(JobSpec("tests.jobs.tasks:warm_count", device=True)) for _ in range(2)]
        assert all(job.wait(30) for job in jobs)
    assert [job.result for job in jobs] == [{"count": 1, "thread": "engine"}, {"count": 2, "thread": "engine"}]


def test_other_jobs_have_nothing_warm() -> None:
    with ThreadHost() as host:
        jobs = [host.start(JobSpec("tests.jobs.tasks:warm_count")) for _ in range(2)]
        assert all(job.wait(30) for job in jobs)
    assert [job.result and job.result["count"] for job in jobs] == [1, 1]


def test_the_switch_interval_is_given_back() -> None:
    before = sys.getswitchinterval()
    with ThreadHost() as host:
        host.start(JobSpec("tests.jobs.tasks:silent", device=True)).wait(30)
    assert sys.getswitchinterval() == before


def test_no_thread_is_left_when_the_host_has_closed() -> None:
    before = set(threading.enumerate())
    with ThreadHost() as host:
        for device in (True, False):
            host.start(JobSpec("tests.jobs.tasks:patient", device=device))
    assert set(threading.enumerate()) <= before


def test_a_program_that_forgets_to_close_its_host_ends_all_the_same() -> None:
    script = (
        "from lora_studio.jobs.thread import ThreadHost; from lora_studio.jobs.spec import JobSpec\n"
        "ThreadHost().start(JobSpec('tests.jobs.tasks:silent', device=True)).wait(30)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_hosts_are_there_without_torch_or_qt() -> None:
    script = (
        "import sys, lora_studio.jobs.thread, lora_studio.jobs.process\n"
        "assert not {'torch', 'transformers', 'peft', 'PySide6', 'datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
