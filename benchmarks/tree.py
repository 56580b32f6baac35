"""How long the target tree of 100,000 modules takes to show, to filter and to tick: `python benchmarks/tree.py [MODULES]`.

Each figure is the median and the worst of several, in milliseconds, of an off-screen window of 1440 × 900.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication

from lora_studio.core.counts import count_by_module
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import Selection, compile_selection, resolve, selection_of
from lora_studio.gui.panels.tree.model import TargetModel
from lora_studio.gui.panels.tree.view import TargetView

_IN_LAYER = (("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")), ("mlp", ("gate_proj", "up_proj", "down_proj")))
_PER_LAYER = 12  # a layer, its two blocks, seven linears, two norms
_REPEATS = 9


def linear(name: str, size: int = 64) -> ModuleInfo:
    return ModuleInfo(name, "Linear", "linear", (size, size), size**2, size**2, size, size, targetable=True)


def large_tree(modules: int) -> ModuleTree:
    """Make a decoder of about this many modules."""
    found = [ModuleInfo("", "Decoder"), ModuleInfo("model", "Model"), ModuleInfo("model.layers", "ModuleList")]
    for layer in range(modules // _PER_LAYER):
        at = f"model.layers.{layer}"
        found.append(ModuleInfo(at, "Layer"))
        for block, linears in _IN_LAYER:
            found.append(ModuleInfo(f"{at}.{block}", block))
            found += [linear(f"{at}.{block}.{name}") for name in linears]
        found += [ModuleInfo(f"{at}.{name}", "RMSNorm") for name in ("input_layernorm", "post_attention_layernorm")]
    found.append(linear("lm_head"))
    return ModuleTree("Decoder", "decoder", sum(module.own_parameters for module in found), False, "lm_head", tuple(found))


class Bench:
    """A tree in a window, and the settings its ticks compile to."""

    def __init__(self, app: QApplication, tree: ModuleTree) -> None:
        self.app, self.tree = app, tree
        self.adapter = AdapterSettings()
        self.model = TargetModel()
        self.view = TargetView(self.model)
        self.wishes: list[tuple[list[str], bool]] = []
        self.model.ticks_edited.connect(lambda names, ticked: self.wishes.append((names, ticked)))

    def show(self) -> None:
        self.model.set_tree(self.tree, "layer")
        self.show_targets()
        self.view.open_first()
        self.view.resize(1440, 900)
        self.view.show()
        self.view.grab()

    def show_targets(self) -> None:
        resolution = resolve(self.adapter, self.tree)
        targets = resolution.by_name
        self.model.show_targets(
            {name: target.r for name, target in targets.items()},
            {name: target.lora_alpha for name, target in targets.items()},
            count_by_module(resolution.adapter, self.tree, resolution),
            (self.adapter.r, self.adapter.lora_alpha),
        )

    def commit(self) -> None:
        """What follows once the ticks are painted: compile, resolve, count."""
        names, ticked = self.wishes.pop()
        selection: Selection = selection_of(resolve(self.adapter, self.tree)).toggled(frozenset(names), ticked)
        compiled = compile_selection(selection, self.tree, self.adapter.r, self.adapter.lora_alpha)
        fields = {path.removeprefix("adapter."): value for path, value in compiled.changes().items()}
        self.adapter = AdapterSettings.model_validate({**self.adapter.model_dump(), **fields})
        self.show_targets()

    def filter(self, text: str) -> None:
        self.model.set_filter(text)
        self.view.restore()
        self.view.viewport().repaint()

    def tick_root(self) -> None:
        self.model.toggle([self.model.index(0, 0)])
        self.view.viewport().repaint()


def timed(name: str, action: Callable[[int], None], repeats: int = _REPEATS) -> None:
    """Run an action several times and print how long it took."""
    took = []
    for number in range(repeats):
        start = time.perf_counter()
        action(number)
        took.append(1000 * (time.perf_counter() - start))
    print(f"{name:<34} {statistics.median(took):8.1f} {max(took):8.1f}")


def main() -> None:
    app = QApplication([])
    tree = large_tree(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
    bench = Bench(app, tree)
    print(f"{len(tree.modules):,} modules{'median':>26} {'worst':>8}   ms")
    timed("lay out, count, first paint", lambda _: bench.show(), 1)
    names = ("q", "q_", "q_p", "q_proj", "layers.7?.mlp.*", "(k|v)_proj$", "no such name")
    for text in names:
        timed(f"filter {text!r}", lambda _, text=text: bench.filter(text), 3)
    bench.filter("")
    timed("tick the root, counts, paint", lambda _: bench.tick_root())
    timed("  then compile and resolve", lambda _: bench.commit(), 3)
    one = bench.model.nodes.node_of["model.layers.3.mlp.up_proj"]
    timed("tick one module", lambda _: bench.model.toggle([bench.model.index_of(one)]), 3)
    timed("  then compile and resolve", lambda _: bench.commit(), 3)


if __name__ == "__main__":
    main()
