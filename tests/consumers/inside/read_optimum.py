"""Runs in a reader's environment: optimum-intel's conversion to OpenVINO, and its model, told to keep and compute float32."""

from importlib.metadata import version

from common import compared, main  # type: ignore[import-not-found]


def versions() -> dict:
    return {name: version(name) for name in ("optimum-intel", "openvino", "transformers", "torch")}


def merged(subject: dict) -> dict:
    import torch
    from optimum.intel import OVModelForCausalLM

    exact = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY", "KV_CACHE_PRECISION": "f32"}
    model = OVModelForCausalLM.from_pretrained(subject["merged"], export=True, load_in_8bit=False, device="CPU", ov_config=exact)
    ids = torch.tensor([subject["ids"]])
    return compared(subject, model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy())


main({"merged": merged}, versions)
