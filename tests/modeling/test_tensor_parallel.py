"""One model split over two processes, each with half of the heads, inner units and vocabulary, is the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Run by both processes; the first prints what it found.
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from transformers.distributed.configuration_utils import DistributedConfig
from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration as Model

whole = Model.from_pretrained(sys.argv[1])
split = Model.from_pretrained(sys.argv[1], distributed_config=DistributedConfig(tp_size=2))
source, target = torch.randint(3, 23, (2, 9)), torch.randint(3, 23, (2, 7))
dist.broadcast(source, 0)
dist.broadcast(target, 0)
with torch.no_grad():
    logits = [model(source, decoder_input_ids=target).logits for model in (whole, split)]
outputs = [model.generate(source, max_new_tokens=8, num_beams=3).tolist() for model in (whole, split)]
for model in (whole, split):
    model.train()
    model(source, labels=target).loss.backward()
pairs = zip(whole.parameters(), split.named_parameters(), strict=True)
gradients = {
    name: (getattr(q.grad, "full_tensor", lambda: q.grad)() - p.grad).abs().max().item() for p, (name, q) in pairs
}
if dist.get_rank() == 0:
    shapes = {name: list(getattr(p, "to_local", lambda: p)().shape) for name, p in split.named_parameters()}
    logits = (logits[0] - logits[1]).abs().max().item()
    print(json.dumps({"logits": logits, "outputs": outputs, "gradients": gradients, "shapes": shapes}))
"""


@pytest.mark.slow  # two processes that each load torch: seven seconds
def test_split_over_two_processes_is_whole(make_model, tmp_path: Path):
    pytest.importorskip("transformers.distributed.configuration_utils", reason="older transformers split otherwise")
    # transformers 5.17 wants a vocabulary that divides.
    make_model(vocab_size=24).save_pretrained(tmp_path / "model")
    script = tmp_path / "split.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, str(script), str(tmp_path / "model")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["logits"] < 1e-5
    assert found["outputs"][0] == found["outputs"][1]
    assert max(found["gradients"].values()) < 1e-5
    decoder = "model.decoder.layers.1"
    assert found["shapes"][f"{decoder}.cross_attn.q_proj.weight"] == [8, 16]  # half of the heads
    assert found["shapes"][f"{decoder}.cross_attn.out_proj.weight"] == [16, 8]
    assert found["shapes"][f"{decoder}.feed_forward.fc1.bias"] == [12]
    assert found["shapes"]["model.encoder.embed_tokens.weight"] == [12, 16]
