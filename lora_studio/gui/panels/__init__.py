"""The side panels: base model, data and targets on the left; adapter, training and budget on the right."""

from lora_studio.gui.panels.adapter import AdapterPanel
from lora_studio.gui.panels.budget import BudgetPanel
from lora_studio.gui.panels.data import DataPanel
from lora_studio.gui.panels.model import ModelPanel
from lora_studio.gui.panels.targets import TargetsPanel
from lora_studio.gui.panels.training import TrainingPanel

__all__ = ["AdapterPanel", "BudgetPanel", "DataPanel", "ModelPanel", "TargetsPanel", "TrainingPanel"]
