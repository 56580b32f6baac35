"""What PEFT sees of an adapter: settings to `LoraConfig`, injection, saved adapters and their arithmetic."""
