"""The certificate: what was written against what PEFT makes of base and adapter."""
