"""Runs in a reader's environment: transformers 4 and its PEFT, on merged folders and on adapters over their base."""

from common import compared, main  # type: ignore[import-not-found]


def versions() -> dict:
    import peft
    import torch
    import transformers

    return {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}


def merged(subject: dict) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(subject["merged"], torch_dtype=torch.float32).eval()
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([subject["ids"]])).logits[0]
    return {**compared(subject, found.numpy()), "tokenizer": tokenizer(subject)}


def adapter(subject: dict) -> dict:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(subject["base"], torch_dtype=torch.float32)
    model = PeftModel.from_pretrained(base, subject["adapter"]).eval()
    with torch.inference_mode():
        found = model(input_ids=torch.tensor([subject["ids"]])).logits[0]
    return compared(subject, found.numpy())


def tokenizer(subject: dict) -> bool:
    """Return whether texts, chat template and special tokens are read as they were meant."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(subject["merged"])
    chat = found.apply_chat_template(subject["messages"], add_generation_prompt=True, tokenize=False)
    return found(subject["text"]).input_ids == subject["text_ids"] and chat == subject["chat"] and found.eos_token == subject["eos_token"]


main({"merged": merged, "adapter": adapter}, versions)
