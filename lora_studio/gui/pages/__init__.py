"""The pages in the middle of the window."""

from lora_studio.gui.pages.data import DataPage
from lora_studio.gui.pages.runs import RunsPage
from lora_studio.gui.pages.train import TrainPage

__all__ = ["DataPage", "RunsPage", "TrainPage"]
