"""The first page of the Export dialog: what to make, of which weights, how, where; with its size and time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QCheckBox, QFormLayout, QRadioButton, QSizePolicy, QVBoxLayout, QWidget

from lora_studio.core.errors import StudioError
from lora_studio.export.destination import check_destination, is_earlier_export
from lora_studio.export.export_format import EXPORT_FORMATS, ExportFormat
from lora_studio.export.formats import Offer, gguf_bytes, offers, seconds_for
from lora_studio.export.request import BYTES_OF_DTYPE, OUTTYPES, PLAIN_TYPES
from lora_studio.gui.export.parts import button, in_row, to_the_right
from lora_studio.gui.export.subject import ExportSubject
from lora_studio.gui.export.text import ExportSource, merged_bytes, roughly, weights_bytes
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_bytes
from lora_studio.gui.platform.text import tr
from lora_studio.gui.widgets import ComboBox, ElidedLabel, ErrorLabel, LineEdit, label
from lora_studio.models.quantization import NONE, SAID


class FormPage(QWidget):
    """Asks what is to be made.

    Args:
        subject: What is exported.
        form: What is chosen at first.
        asker: Asks for the destination.

    Signals:
        begin_asked: The export is to begin.
        dismissed: It is not.
        resized: Rows came or went.
    """

    begin_asked = Signal()
    dismissed = Signal()
    resized = Signal()

    def __init__(self, subject: ExportSubject, form: ExportFormat, asker: FileDialogs) -> None:
        super().__init__()
        self.setObjectName("export_form")
        self._subject = subject
        self._asker = asker
        self._base = subject.base_folder()
        self._facts = subject.facts()
        self._offers: dict[ExportFormat, Offer] = {}
        self._chose_place = False
        self._build(form)
        self._connect()
        self._look_at_weights()

    @property
    def form(self) -> ExportFormat:
        """What is to be made."""
        return EXPORT_FORMATS[self._forms.checkedId()]

    @property
    def source(self) -> ExportSource:
        """What is exported."""
        return self._subject.sources[self._source.currentIndex()]

    @property
    def dtype(self) -> str:
        """How merged weights are written; "keep" for the base's own."""
        return str(self._dtype.currentData()) if self.form == "merged" else "keep"

    @property
    def destination(self) -> Path:
        """The folder to make."""
        return Path(self._place.text().strip()).expanduser()

    @property
    def needs_converter(self) -> bool:
        """Whether llama.cpp's converter has to be fetched before."""
        return self._offers[self.form].needs_converter

    @property
    def arguments(self) -> dict[str, Any]:
        """The export task's arguments."""
        return {
            "source": str(self.source.path),
            "kind": self.form,
            "to": str(self.destination),
            "dtype": None if self.dtype == "keep" else self.dtype,
            "overwrite": self._replace.isChecked(),
            "outtype": str(self._outtype.currentData()),
            "into": str(self._into.currentData()) if self.form in ("merged", "gguf") else "auto",
        }

    def choose(self, form: ExportFormat, dtype: str = "") -> None:
        """Choose a form, and for merged weights a dtype."""
        self._forms.button(EXPORT_FORMATS.index(form)).setChecked(True)
        if dtype:
            self._dtype.setCurrentIndex(self._dtype.findData(dtype))

    def may_begin(self) -> bool:
        """See that the destination is a place of its own; what is wrong is said below its field."""
        self._problem.set_error("")
        self._replace.setVisible(is_earlier_export(self.destination))
        if not self.destination.is_absolute():
            self._problem.set_error(tr("Give the whole path of a folder to make."))
            return False
        try:
            needed = (self._subject.folder, self.source.path)
            check_destination(self.destination.resolve(), overwrite=self._replace.isChecked(), needed=needed)
        except StudioError as error:
            self._problem.set_error(error.message)
            return False
        return True

    def _build(self, form: ExportFormat) -> None:
        page = QFormLayout(self)
        page.setContentsMargins(0, 0, 0, 0)
        page.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self._rows = page
        page.addRow(tr("Adapter"), ElidedLabel(self._subject.told, "", "export_run"))
        page.addRow(tr("Base model"), ElidedLabel(self._subject.base, "", "export_base", Qt.TextElideMode.ElideMiddle))
        self._source = ComboBox("export_source", characters=24)
        self._source.addItems([source.title for source in self._subject.sources])
        page.addRow(tr("Weights of"), self._source)
        page.addRow(tr("Make"), self._build_forms(form))
        self._build_choices(page)
        self._size = label("", "", "export_size")
        self._time = label("", "note", "export_time")
        page.addRow(tr("Size"), in_row(self._size, self._time, stretch=True))
        self._place = LineEdit(name="export_place")
        self._browse = button(tr("Browse…"), "browse_button")
        page.addRow(tr("To"), in_row(self._place, self._browse))
        self._problem = ErrorLabel("export_problem")
        self._replace = QCheckBox(tr("Replace what is there"))
        self._replace.setObjectName("replace_existing")
        self._replace.hide()
        page.addRow("", self._problem)
        page.addRow("", self._replace)
        self._begin = button("", "begin_button", "primary")
        self._begin.setDefault(True)
        self._dismiss = button(tr("Cancel"), "dismiss_button")
        page.addRow(to_the_right(self._dismiss, self._begin))

    def _build_forms(self, form: ExportFormat) -> QWidget:
        titles: dict[ExportFormat, tuple[str, str]] = {
            "adapter": (tr("Adapter"), tr("small; loads on the base model in PEFT and vLLM")),
            "merged": (tr("Merged model"), tr("base and adapter in one; loads in transformers")),
            "gguf": (tr("GGUF model"), tr("base and adapter in one file for llama.cpp and Ollama")),
            "gguf-adapter": (tr("GGUF adapter"), tr("for llama.cpp, on a GGUF of the base model")),
            "mlx-adapter": (tr("MLX adapter"), tr("for mlx-lm on Apple machines, on the base model")),
        }
        self._forms = QButtonGroup(self)
        self._told: dict[ExportFormat, Any] = {}
        box = QWidget()
        layout = QVBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.setSpacing(1)
        for number, name in enumerate(EXPORT_FORMATS):
            choice = QRadioButton(titles[name][0])
            choice.setObjectName(f"form_{name}")
            choice.setAccessibleDescription(titles[name][1])
            choice.setChecked(name == form)
            self._forms.addButton(choice, number)
            note = label(titles[name][1], "note", f"form_{name}_note", wrap=True)
            note.setIndent(22)
            note.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
            self._told[name] = (note, titles[name][1])
            layout.addWidget(choice)
            layout.addWidget(note)
        return box

    def _build_choices(self, page: QFormLayout) -> None:
        self._dtype = ComboBox("export_dtype", characters=24)
        for value, title in self._dtypes():
            self._dtype.addItem(title, value)
        self._outtype = ComboBox("export_outtype", characters=24)
        for outtype in OUTTYPES:
            self._outtype.addItem(outtype if outtype in PLAIN_TYPES else tr("{type} (by llama-quantize)", type=outtype), outtype)
        self._outtype.setCurrentIndex(self._outtype.findData("f16"))
        self._into = ComboBox("export_into", characters=24)
        for title, value in self._bases():
            self._into.addItem(title, value)
        page.addRow(tr("Written as"), self._dtype)
        page.addRow(tr("Written as"), self._outtype)
        page.addRow(tr("Merged into"), self._into)

    def _bases(self) -> Iterator[tuple[str, str]]:
        """Return what can be merged into, the usual first."""
        subject, stored = self._subject, self._subject.stored
        if stored is not None:
            yield tr("the base model's weights in {bits}, unpacked", bits=stored.said), "auto"
            if subject.full_precision:
                yield tr("{name}, in full precision", name=subject.full_precision), "original"
            return
        yield tr("the base model in full precision"), "original"
        if subject.quantization != NONE:
            yield tr("the base model as it was held in {bits}, unpacked", bits=SAID[subject.quantization]), "dequantized"

    def _connect(self) -> None:
        self._source.currentIndexChanged.connect(self._look_at_weights)
        self._forms.idToggled.connect(lambda _id, chosen: self._show_form() if chosen else None)
        for choice in (self._dtype, self._outtype, self._into):
            choice.currentIndexChanged.connect(self._suggest)
        self._place.textEdited.connect(self._on_place_edited)
        self._browse.clicked.connect(self._on_browse)
        self._begin.clicked.connect(self.begin_asked)
        self._dismiss.clicked.connect(self.dismissed)

    def _look_at_weights(self) -> None:
        """Offer what can be made of these weights."""
        self._offers = offers(self._subject.weights(self.source), self._base)
        for number, name in enumerate(EXPORT_FORMATS):
            offer = self._offers[name]
            note, usual = self._told[name]
            self._forms.button(number).setEnabled(not offer.reason)
            note.setText(tr("Not here: {reason}", reason=offer.reason) if offer.reason else usual)
            note.setProperty("role", "warning" if offer.reason else "note")
        if self._offers[self.form].reason:
            self.choose("adapter")
        self._show_form()

    def _show_form(self) -> None:
        for choice, forms in ((self._dtype, ("merged",)), (self._outtype, ("gguf",)), (self._into, ("merged", "gguf"))):
            self._rows.setRowVisible(choice, self.form in forms and (choice is not self._into or choice.count() > 1))
        fetch = tr("Fetch llama.cpp's converter (3 MB) and export")
        self._begin.setText(tr("Merge") if self.form == "merged" else fetch if self.needs_converter else tr("Export"))
        self._suggest()
        self.resized.emit()

    def look_again(self) -> None:
        """Offer anew: what was missing may be here now."""
        self._look_at_weights()

    def _suggest(self) -> None:
        self._size.setText(self._size_text())
        seconds = seconds_for(self.form, self._base)
        self._time.setText("" if seconds is None else tr("takes {time}, compared and all", time=roughly(seconds)))
        if not self._chose_place:
            self._place.setText(str(self._subject.exports / self._name()))
        self._forget_problem()

    def _name(self) -> str:
        """Name the folder by what it is."""
        step = "" if self.source.path in (self._subject.folder,) else f"-{self.source.path.name}"
        how = {"merged": "" if self.dtype == "keep" else f"-{self.dtype}", "gguf": f"-{self._outtype.currentData()}"}.get(self.form, "")
        return f"{self.form}{how}{step}"

    def _size_text(self) -> str:
        if self.form in ("adapter", "gguf-adapter", "mlx-adapter"):
            return format_bytes(weights_bytes(self._subject.weights(self.source)))
        if self._facts is None or not self._facts.parameters:
            return tr("not known: the base model cannot be read")
        if self.form == "gguf":
            return tr("about {size}", size=format_bytes(gguf_bytes(self._facts.parameters, str(self._outtype.currentData()))))
        return tr("about {size}", size=format_bytes(merged_bytes(self._facts.parameters, self.dtype, self._facts.dtype)))

    def _dtypes(self) -> list[tuple[str, str]]:
        stored = self._facts.dtype if self._facts else ""
        keep = tr("as the base model ({dtype})", dtype=stored) if stored else tr("as the base model")
        if stored and stored not in BYTES_OF_DTYPE:
            keep = tr("float32, for the base model's {dtype}", dtype=stored)
        return [("keep", keep), ("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")]

    def _on_place_edited(self) -> None:
        self._chose_place = True
        self._forget_problem()

    def _forget_problem(self) -> None:
        """Another destination has to be allowed anew."""
        self._problem.set_error("")
        self._replace.setChecked(False)
        self._replace.hide()

    def _on_browse(self) -> None:
        parent = self._asker.open_folder(self, tr("Make the folder in"), self.destination.parent)
        if parent is not None:
            self._chose_place = True
            self._place.setText(str(parent / f"{self._subject.name}-{self.destination.name}"))
            self._forget_problem()
