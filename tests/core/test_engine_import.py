"""The engine is imported by one thread at a time."""

import os
import subprocess
import sys
from pathlib import Path

RACE = """
import threading
from lora_studio.core.engine_import import import_engine

failures = []

def use(module, name):
    try:
        import_engine()
        exec(f"from {module} import {name}", {})
    except ImportError as error:
        failures.append(str(error))

wanted = [("transformers", "AutoConfig"), ("transformers", "AutoTokenizer"), ("peft", "LoraConfig"), ("torch", "nn")]
threads = [threading.Thread(target=use, args=pair) for pair in wanted]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failures)
"""


def test_threads_that_ask_at_once_all_get_a_whole_engine() -> None:
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_nothing_is_imported_before_somebody_asks() -> None:
    code = "import sys, lora_studio.core.engine_import; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


QUIET = """
import gc
from lora_studio.core.engine_import import import_engine, import_part

passes = []
gc.callbacks.append(lambda phase, info: passes.append(info["generation"]) if phase == "start" else None)
import_engine()
during = passes.count(2)
import sys
compiler = "torch._inductor.compile_fx" in sys.modules
model = [0]
model.append(model)
import_part("lora_studio.models.load")
later = gc.is_tracked(model) and any(found is model for found in gc.get_objects())
print(during, compiler, gc.isenabled(), len(gc.get_objects()) < 50_000, later)
"""


def test_the_collector_rests_and_the_compiler_stays_out_while_the_engine_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True, timeout=120)
    passes, compiler, enabled, few_to_go_through, later_ones_collectable = done.stdout.split()
    assert (passes, compiler) == ("0", "False")
    assert (enabled, few_to_go_through, later_ones_collectable) == ("True", "True", "True")


def test_no_package_that_fetches_code_is_asked_while_the_engine_comes_in(tmp_path: Path) -> None:
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('asked for')")
    code = "import sys, lora_studio.core.engine_import as door; door.import_engine(); sys.exit('bitsandbytes' not in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run([sys.executable, "-c", code], check=False, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_function_that_is_compiled_as_peft_comes_in_is_compiled_once_when_it_is_called() -> None:
    import torch

    from lora_studio.core.engine_import import compiled_when_called

    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compile_now = torch.compile
    with compiled_when_called("peft"):
        twice = torch.compile(lambda tensor: 2 * tensor, backend=backend)
    assert torch.compile is compile_now
    assert graphs == []
    for _ in range(2):
        assert twice(torch.ones(3)).tolist() == [2.0, 2.0, 2.0]
    assert len(graphs) == 1
