"""The window's own widgets. Each has an `objectName`, so that tests and scripts find it."""

from lora_studio.gui.widgets.banner import Banner, Toast, Toasts
from lora_studio.gui.widgets.bars import ProgressLine, Segment, SegmentBar
from lora_studio.gui.widgets.card import Card, Disclosure
from lora_studio.gui.widgets.choices import ComboBox, Pills
from lora_studio.gui.widgets.flow import FlowLayout
from lora_studio.gui.widgets.labels import ElidedLabel, ErrorLabel, StatTile, label
from lora_studio.gui.widgets.lines_edit import LinesEdit
from lora_studio.gui.widgets.names import identifier, set_role
from lora_studio.gui.widgets.number_edit import LineEdit, NumberEdit
from lora_studio.gui.widgets.rail import Overlay, Rail, RailEntry
from lora_studio.gui.widgets.tile_grid import TileGrid

__all__ = [
    "Banner",
    "Card",
    "ComboBox",
    "Disclosure",
    "ElidedLabel",
    "ErrorLabel",
    "FlowLayout",
    "LineEdit",
    "LinesEdit",
    "NumberEdit",
    "Overlay",
    "Pills",
    "ProgressLine",
    "Rail",
    "RailEntry",
    "Segment",
    "SegmentBar",
    "StatTile",
    "TileGrid",
    "Toast",
    "Toasts",
    "identifier",
    "label",
    "set_role",
]
