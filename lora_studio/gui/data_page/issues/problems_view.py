"""The problems of the data as banners."""

from __future__ import annotations

from collections import Counter

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from lora_studio.gui.data_page.issues.problems import Problem
from lora_studio.gui.widgets import Banner


class ProblemsView(QWidget):
    """One banner a problem; a banner whose problem stays is kept, and the keyboard with it.

    Signals:
        cured: The button of a problem was pressed; carries the `Problem`.
    """

    cured = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("problems")
        self._shown: dict[str, Problem] = {}
        self._banners: dict[str, Banner] = {}
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(6)

    @property
    def shown(self) -> tuple[Problem, ...]:
        """The problems told now."""
        return tuple(self._shown.values())

    def show_problems(self, problems: list[Problem]) -> None:
        """Tell of these, in this order."""
        wanted = _told_apart(problems)
        had_keyboard = any(self._banners[identity].action.hasFocus() for identity in self._banners.keys() - wanted.keys())
        for identity in self._banners.keys() - wanted.keys():
            banner = self._banners.pop(identity)
            self._layout.removeWidget(banner)
            banner.hide()
            banner.deleteLater()
        self._shown = wanted
        for position, (identity, problem) in enumerate(wanted.items()):
            banner = self._banners.get(identity) or self._new_banner(identity)
            banner.show_message(problem.level, problem.text, problem.action, problem.other.action if problem.other else "")
            if self._layout.indexOf(banner) != position:
                self._layout.insertWidget(position, banner)
        self.setVisible(bool(problems))
        if had_keyboard:
            self._keep_keyboard()

    def _keep_keyboard(self) -> None:
        """Hand the keyboard on to the next cure, or to the page: Qt would give it to the first field of the window."""
        left = [banner.action for banner in self._banners.values() if banner.action.text()]
        area = self.parentWidget()
        while area is not None and not isinstance(area, QScrollArea):
            area = area.parentWidget()
        target = left[0] if left else area
        if target is not None:
            target.setFocus()

    def _new_banner(self, identity: str) -> Banner:
        banner = Banner(name=f"problem_{identity}")
        banner.action_clicked.connect(lambda: self.cured.emit(self._shown[identity]))
        banner.other_clicked.connect(lambda: self.cured.emit(self._shown[identity].other))
        self._banners[identity] = banner
        return banner


def _told_apart(problems: list[Problem]) -> dict[str, Problem]:
    """Return each problem a name of its own: several may be of one kind."""
    counts: Counter[str] = Counter()
    detected: dict[str, Problem] = {}
    for problem in problems:
        counts[problem.id] += 1
        detected[problem.id if counts[problem.id] == 1 else f"{problem.id}_{counts[problem.id]}"] = problem
    return detected
