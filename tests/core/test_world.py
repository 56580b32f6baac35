from __future__ import annotations

from collections.abc import Mapping

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.core.world import World, launch_command, refuse_other_world

LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def config(**training: object) -> RunConfig:
    return RunConfig().replace({f"training.{name}": value for name, value in training.items()})


def test_a_launcher_says_which_process_this_is() -> None:
    assert World.of({}) == World()
    assert World.of(LAUNCHED) == World(rank=3, size=4, local_rank=1, local_size=2, launched=True)
    assert World.of({"RANK": "1", "WORLD_SIZE": "2"}) == World(1, 2, 1, 2, launched=True)


@pytest.mark.parametrize("environ", [{"WORLD_SIZE": "many"}, {"RANK": "2", "WORLD_SIZE": "2"}, {**LAUNCHED, "LOCAL_RANK": "2"}])
def test_an_environment_that_makes_no_sense_is_refused(environ: Mapping[str, str]) -> None:
    with pytest.raises(InputError, match=r"environment.*torchrun"):
        World.of(environ)


@pytest.mark.parametrize(("wanted", "started"), [(1, 2), (2, 4), (2, 1)])
def test_other_processes_than_the_run_is_for_are_refused_with_both_numbers(wanted: int, started: int) -> None:
    with pytest.raises(InputError) as caught:
        refuse_other_world(config(num_processes=wanted), World(size=started, local_size=started, launched=True), environ={})
    told = str(caught.value)
    assert f"{started} process" in told
    assert f"for a run of {wanted}" in told
    assert f"training.num_processes to {started}" in told
    assert (f"--nproc-per-node {wanted}" in told) == (wanted > 1)
    refuse_other_world(config(num_processes=wanted), World(size=wanted, local_size=wanted), environ={})
    refuse_other_world(config(num_processes=wanted), World(size=started, local_size=started), resume=True, environ={})


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("variable", "named"), [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron")])
def test_frameworks_the_studio_was_not_tested_with_are_refused_with_the_reason(variable: str, named: str, resume: bool) -> None:
    refuse_other_world(config(), World(), resume, {variable: "false"})
    with pytest.raises(InputError, match=named):
        refuse_other_world(config(), World(), resume, {variable: "true"})


def test_what_accelerate_was_told_must_agree_with_the_run() -> None:
    refuse_other_world(config(distributed_type="fsdp2"), World(), environ={"ACCELERATE_USE_FSDP": "true"})
    with pytest.raises(InputError, match=r"FSDP.*ddp.*distributed_type to fsdp2"):
        refuse_other_world(config(), World(), environ={"ACCELERATE_USE_FSDP": "true"})


def test_the_command_names_a_launcher_only_for_several_processes() -> None:
    assert launch_command("my run.yaml").endswith(" -m lora_studio train 'my run.yaml'")
    assert launch_command("run.yaml", 8).endswith(" -m torch.distributed.run --standalone --nproc-per-node 8 -m lora_studio train run.yaml")
