"""In the hands of torch: compiled, exported, quantised; and how weights go to and come from disk."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.modeling.positions import sinusoid_table

SOURCE = torch.tensor([[5, 6, 7, 8, 9, 2], [11, 4, 2, 0, 0, 0], [12, 3, 20, 21, 2, 0]])
MASK = (SOURCE != 0).long()
TARGET = torch.tensor([[1, 9, 8, 4], [1, 5, 17, 6], [1, 4, 6, 10]])
LABELS = torch.tensor([[9, 8, 4, 2], [5, 17, 2, -100], [4, 6, 10, 2]])
PADDED = {"input_ids": SOURCE, "attention_mask": MASK, "decoder_input_ids": TARGET}
UNPADDED = {"input_ids": SOURCE, "decoder_input_ids": TARGET}
LAYERS = {"encoder_layers": 1, "decoder_layers": 1}  # tracing takes its time, and every layer is traced alike
LEFT = {**PADDED, "decoder_attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])}
INPUTS = {"padding": PADDED, "no mask": UNPADDED, "padding of the target on the left": LEFT}
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler (g++)")
# torch.compile itself uses what torch has deprecated.
torch_warnings = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


# ---------------------------------------------------------------------------------------------------------- compiled


@pytest.fixture
def forget_graphs():
    """A graph compiled for one model must not serve the next test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def logits_of(model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


# The backend "eager" traces and runs the graph as it is, in seconds; "inductor", the default, makes C++ of it, in a minute.
backends = pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler])]
)


@backends
@pytest.mark.parametrize("given", ["padding", "no mask"])
@torch_warnings
def test_the_forward_pass_is_one_graph(make_model, forget_graphs, given, backend):
    model = make_model(attn_implementation="sdpa", **LAYERS)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    torch.testing.assert_close(logits_of(compiled, INPUTS[given]), logits_of(model, INPUTS[given]), **TOLERANCE)


@torch_warnings
def test_with_eager_attention_and_a_mask_of_the_target_too(make_model, forget_graphs):
    model = make_model(**LAYERS)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits_of(compiled, LEFT), logits_of(model, LEFT), **TOLERANCE)


@backends
@torch_warnings
def test_a_training_step_is_one_graph(make_model, forget_graphs, backend):
    """Loss and gradients; and once more with dropout, whose mask is torch's in a graph, to see that it runs."""
    inputs = {"input_ids": SOURCE, "attention_mask": MASK, "labels": LABELS}
    results = []
    for compiling in (False, True):
        model = make_model(attn_implementation="sdpa", **LAYERS).train()
        called = torch.compile(model, fullgraph=True, backend=backend) if compiling else model
        loss = called(**inputs).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (loss, gradients), (again, gradients_again) = results
    torch.testing.assert_close(again, loss, **TOLERANCE)
    torch.testing.assert_close(gradients_again, gradients, **TOLERANCE)
    model = make_model(attn_implementation="sdpa", dropout=0.3, attention_dropout=0.1, **LAYERS).train()
    torch.compile(model, fullgraph=True, backend=backend)(**inputs).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow  # flex attention compiles a kernel for each shape, a minute in all on a CPU
@needs_compiler
@pytest.mark.parametrize("given", ["padding", "padding of the target on the left"])
@torch_warnings
# transformers 5.23 builds block masks with a flag that torch 2.13 has deprecated.
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
# torch.compile, when it traces the vmap that fills them.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_flex_attention_is_eager(make_model, forget_graphs, given):
    real = (
        INPUTS[given].get("decoder_attention_mask", torch.ones_like(TARGET)).bool()
    )  # flex gives padding what it likes
    flex = logits_of(make_model(attn_implementation="flex_attention", **LAYERS), INPUTS[given])
    assert flex.isfinite().all()
    torch.testing.assert_close(flex[real], logits_of(make_model(**LAYERS), INPUTS[given])[real], **TOLERANCE)


# ---------------------------------------------------------------------------------------------------------- exported


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_torch_export(make_model, implementation):
    """One graph for every batch and both lengths; what it computes at other sizes than those it was made with."""
    model = make_model(attn_implementation=implementation, **LAYERS)
    size = torch.export.Dim.DYNAMIC
    shapes = {name: {0: size, 1: size} for name in PADDED} | {"use_cache": None}
    program = torch.export.export(model, (), {**PADDED, "use_cache": False}, dynamic_shapes=shapes)
    for inputs in (PADDED, {name: value[:2, :3] for name, value in PADDED.items()}):
        out = program.module()(**inputs, use_cache=False)
        torch.testing.assert_close(out.logits, logits_of(model, inputs), **TOLERANCE)


@pytest.mark.slow
def test_onnx(make_model, tmp_path):
    """transformers' own exporter; optimum's knows models by name, and none that transformers 5 can load."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    exporter = pytest.importorskip("transformers.exporters.exporter_onnx", reason="transformers before 5.23 has none")
    model = make_model(attn_implementation="sdpa", **LAYERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three packages, in versions that warn of each other
        exported = exporter.OnnxExporter().export(model, dict(PADDED), config=exporter.OnnxConfig(dynamic=True))
        exported.save_pretrained(tmp_path)
        for inputs in (PADDED, {name: value[:2, :3] for name, value in PADDED.items()}):
            logits = torch.as_tensor(exported(**inputs).logits)
            torch.testing.assert_close(logits, model(**inputs).logits.detach(), **TOLERANCE)
    assert (tmp_path / "model.onnx").is_file()


# --------------------------------------------------------------------------------------------------- to and from disk


@pytest.fixture
def filled_memory():
    """Memory that nobody filled reads as NaN, not as whatever a freed tensor happened to leave there."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shard", ["4KB", "50GB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_shards_and_whole_bit_for_bit(make_model, tmp_path, filled_memory, dtype, shard):
    model = make_model(attn_implementation="sdpa").to(dtype)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "4KB")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)  # the dtype is the checkpoint's
    assert loaded.dtype == dtype
    for stack in (loaded.model.encoder, loaded.model.decoder):
        assert torch.equal(stack.embed_positions.table, sinusoid_table(32, 16))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(logits_of(loaded, PADDED), logits_of(model.eval(), PADDED))


def is_tied(model) -> bool:
    weight = model.lm_head.weight
    return weight is model.model.encoder.embed_tokens.weight is model.model.decoder.embed_tokens.weight


@pytest.mark.parametrize(
    "options, tolerance",
    [
        ({"device_map": "auto"}, 0.0),
        ({"device_map": "cpu"}, 0.0),
        ({"device_map": {"": "cpu"}}, 0.0),
        ({"low_cpu_mem_usage": True}, 0.0),
        ({"dtype": "auto"}, 0.0),
        ({"dtype": torch.bfloat16}, 0.2),
        ({"dtype": "float16"}, 0.03),
    ],
)
def test_how_it_may_be_loaded(make_model, tmp_path, filled_memory, options, tolerance):
    model = make_model(attn_implementation="sdpa")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, **options)
    wanted = {torch.bfloat16: torch.bfloat16, "float16": torch.float16}.get(options.get("dtype"), torch.float32)
    assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}
    assert loaded.model.encoder.embed_positions.table.isfinite().all() and is_tied(loaded)
    torch.testing.assert_close(logits_of(loaded, PADDED).float(), logits_of(model, PADDED), atol=tolerance, rtol=0.0)


def test_layers_that_stay_on_disk(make_model, tmp_path):
    """What does not fit into memory is read from disk when its turn comes; a layer is never cut in two."""
    model = make_model(attn_implementation="sdpa")
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": "24kB"}, offload_folder=tmp_path / "offload"
    )
    assert "disk" in loaded.hf_device_map.values()
    assert any(parameter.is_meta for parameter in loaded.parameters())
    torch.testing.assert_close(logits_of(loaded, PADDED), logits_of(model, PADDED), **TOLERANCE)


def test_new_tokens_in_tokenizer_and_model(make_model, toy: Path, tmp_path):
    """The three matrices stay one, old logits stay, the new rows are trained, saved and loaded."""
    tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
    model = make_model(vocab_size=len(tokenizer), attn_implementation="sdpa")
    inputs = dict(tokenizer("the red cat", text_target="die rote Katze", return_tensors="pt"))
    before = logits_of(model, inputs)
    assert tokenizer.add_tokens(["Schnabeltier", "Eichhörnchen"]) == 2
    model.resize_token_embeddings(len(tokenizer))
    assert is_tied(model) and model.config.vocab_size == len(tokenizer) == model.lm_head.out_features
    torch.testing.assert_close(logits_of(model, inputs)[..., :-2], before, **TOLERANCE)
    new = dict(tokenizer("the Schnabeltier", text_target="ein Eichhörnchen", return_tensors="pt"))
    ids = tokenizer.convert_tokens_to_ids(["Schnabeltier", "Eichhörnchen"])
    assert ids[0] in new["input_ids"] and ids[1] in new["labels"]
    model.train()(**new).loss.backward()
    assert (model.lm_head.weight.grad[ids].abs().sum(-1) > 0).all()

    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert is_tied(loaded) and again("the Schnabeltier")["input_ids"] == new["input_ids"][0].tolist()
    assert torch.equal(logits_of(loaded, new), logits_of(model, new))


INT8 = """
import sys
import torch
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForSeq2SeqLM, TorchAoConfig
import vanilla_transformer.modeling

folder, inputs = sys.argv[1], torch.load(sys.argv[2], weights_only=True)
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
quantized = AutoModelForSeq2SeqLM.from_pretrained(
    folder, device_map="cpu", quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
)
layer = quantized.model.encoder.layers[0]
assert type(layer.self_attn.q_proj.weight).__name__ != "Parameter", type(layer.self_attn.q_proj.weight)
assert quantized.lm_head.weight is quantized.model.encoder.embed_tokens.weight
with torch.no_grad():
    exact, logits = model(**inputs).logits, quantized(**inputs).logits
    error = (exact - logits).abs().max()
    assert 0 < error < 0.05 * exact.abs().max(), error
    quantized.save_pretrained(folder + "-int8")
    again = AutoModelForSeq2SeqLM.from_pretrained(folder + "-int8", device_map="cpu")
    assert torch.equal(again(**inputs).logits, logits)
quantized.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], num_beams=2, max_new_tokens=4)
"""


def test_int8_weights_of_torchao(make_model, tmp_path):
    """In a process of its own: where torch has no CUDA, torchao warns as soon as it is imported."""
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    make_model(d_model=64, d_ff=128, attn_implementation="sdpa").save_pretrained(tmp_path / "model")
    torch.save(PADDED, tmp_path / "inputs.pt")
    command = [sys.executable, "-c", INT8, str(tmp_path / "model"), str(tmp_path / "inputs.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
