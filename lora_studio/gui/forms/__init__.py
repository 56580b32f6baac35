"""Forms made from `RunConfig`: a field's type gives its editor, its constraints the range, its description the tooltip."""

from lora_studio.gui.forms.fields import FieldSpec
from lora_studio.gui.forms.form import Form
from lora_studio.gui.forms.row import FieldRow

__all__ = ["FieldRow", "FieldSpec", "Form"]
