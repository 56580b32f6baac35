"""`python -m lora_studio` is the same program as `lora-studio`."""

from lora_studio.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
