"""The program of the child that renders: says that it has started, then imports what renders.

Whoever waits for it can say by that whether it never started, or hangs in an import.
"""

from __future__ import annotations

import os


def main() -> None:
    """Say the step `import`, take it, and serve."""
    os.write(1, b'{"step": "import"}\n')
    from lora_studio.data.templates.render_child import serve

    serve()


if __name__ == "__main__":
    main()
