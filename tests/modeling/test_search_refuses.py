"""What our search refuses, and cases that went wrong once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vanilla_transformer.modeling import Translator, beam_search
from vanilla_transformer.modeling.beam_search import Searcher, search
from vanilla_transformer.modeling.decoder_weights import DecoderWeights
from vanilla_transformer.modeling.forced_decoding import pad
from vanilla_transformer.modeling.length_penalty import length_divisor
from vanilla_transformer.modeling.lexical_constraints import RequiredPhrases
from vanilla_transformer.modeling.next_tokens import NextTokens
from vanilla_transformer.modeling.search_options import SearchOptions

SOURCES = [[5, 6, 7, 2], [8, 2], [9, 10, 11, 12, 13, 2], [4, 2]]


def encode(model):
    input_ids, mask = pad(SOURCES, 0, model.device)
    return [(model.model.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state, mask)]


def test_what_was_encoded_can_be_searched_twice(make_model):
    model = make_model()
    encoded = encode(model)
    before = [tensor.clone() for tensor in encoded[0]]
    options = SearchOptions(num_beams=3, max_length_ratio=1.5, coverage_penalty=0.2)
    first, second = (Searcher(model).search_encoded(encoded, options) for _ in range(2))
    assert first == second
    assert all(torch.equal(tensor, other) for tensor, other in zip(encoded[0], before, strict=True))


def test_logits_out_of_the_ordinary_are_normalised_all_the_same(make_model):
    for scale in (1e3, -1e3):
        model = make_model(share_embeddings="none", d_model=16).double()
        plain = model.lm_head.forward
        model.lm_head.forward = lambda states, plain=plain, scale=scale: (
            plain(states) + scale
        )  # the same for all tokens
        model.lm_head.register_forward_hook(lambda *_: None)  # so that it is called
        with torch.no_grad():
            following = NextTokens([DecoderWeights(model, 4)], encode(model), 1, lambda scores, written: None)
            scores, normalizers = following(
                torch.ones(4, 1, dtype=torch.long), None, torch.zeros(4, 1, 0, dtype=torch.long)
            )
        assert torch.allclose((scores - normalizers[..., None]).logsumexp(-1), torch.zeros(4, 1).double(), atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_many_leave_behind_the_first_step(make_model):
    model, options = make_model(), SearchOptions(num_beams=2, max_length_ratio=0.5)
    together = search(model, SOURCES, options)
    alone = [search(model, [source], options)[0] for source in SOURCES]
    assert [[one.token_ids for one in best] for best in together] == [[one.token_ids for one in best] for best in alone]


def test_hypotheses_of_a_bank_stand_in_the_order_of_their_scores():
    phrases = RequiredPhrases([(1,)], [9], 4, [2], torch.device("cpu"))
    scores = torch.arange(40.0).flip(0).view(1, 1, 40) * -0.1
    scores[0, 0, 1] = 0.5  # of the other bank, and the best of all
    best = (torch.tensor([[0.0, -0.1, -0.2, -0.3]]), torch.zeros(1, 4).long(), torch.tensor([[39, 38, 37, 36]]))
    sums, _, tokens = phrases.continuations(scores, torch.zeros(1, 1), best, 0)
    assert tokens[0, :3].tolist() == [1, 39, 38] and sums[0, :3].tolist() == pytest.approx([0.5, 0.0, -0.1])


@pytest.mark.parametrize("penalty", [1e3, -5e3])
def test_powers_that_cannot_be_held_are_refused(penalty):
    with pytest.raises(ValueError, match="length_penalty=.* must be a number from -20 to 20"):
        length_divisor(9, penalty, "hf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length_ratio": 1e308}, "max_length_ratio=1e\\+308 must be greater than 0 and at most 1000"),
        ({"num_beams": 4, "do_sample": True}, "num_beams=4 with do_sample: sampling needs no beams"),
        ({"temperature": 0.5}, "temperature=0.5 is for sampling: set do_sample=True"),
        ({"required": ((3,),) * 65}, "65 required phrases are more than 64"),
    ],
)
def test_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)


def test_models_on_several_devices_are_refused(make_model):
    model = make_model()
    model.hf_device_map = {"model.encoder": 0, "model.decoder": 1}
    with pytest.raises(ValueError, match="our search needs a model on one device: use model.generate"):
        search(model, SOURCES)
    elsewhere = SimpleNamespace(config=make_model().config, device=torch.device("meta"))
    with pytest.raises(ValueError, match="the models of an ensemble must be on one device: the first is on cpu"):
        Searcher([make_model(), elsewhere])


def test_ends_and_starts_that_the_model_does_not_have_are_refused(make_model):
    model = make_model()
    ids, mask = pad(SOURCES, 0, model.device)
    given = {"attention_mask": mask, "max_new_tokens": 4, "num_beams": 2, "custom_generate": "beam_search"}
    assert model.generate(ids, **given).shape[0] == 4
    with pytest.raises(ValueError, match=r"ends and begins as model.config says: eos_token_id=2, not \[2, 7\]"):
        model.generate(ids, eos_token_id=[2, 7], **given)
    with pytest.raises(ValueError, match="ends and begins as model.config says: decoder_start_token_id=1, not 5"):
        model.generate(ids, decoder_start_token_id=5, **given)


def test_an_ensemble_scores_what_it_wrote_as_it_wrote_it(make_model):
    models = [make_model(seed) for seed in (1, 2)]
    translator = Translator(models, SimpleNamespace(pad_token_id=0))
    written = [best[0] for best in search(models, SOURCES, SearchOptions(num_beams=3, max_new_tokens=6))]
    rows = translator._log_probs(SOURCES, [one.token_ids for one in written])
    for row, one in zip(rows, written, strict=True):
        assert row == pytest.approx(one.log_probs, abs=1e-5)
    alone = Translator(models[0], SimpleNamespace(pad_token_id=0))._log_probs(
        SOURCES, [one.token_ids for one in written]
    )
    assert sum(map(sum, alone)) != pytest.approx(sum(map(sum, rows)), abs=1e-3)


def test_weights_are_laid_out_once_for_a_frozen_translator_and_anew_for_another(make_translator, monkeypatch):
    made = []

    class Counting(DecoderWeights):
        def __init__(self, model, rows):
            made.append(rows)
            super().__init__(model, rows)

    monkeypatch.setattr(beam_search, "DecoderWeights", Counting)
    translator = make_translator()
    before = translator(["one two", "three"], num_beams=2)
    assert translator(["one two", "three"], num_beams=2) == before and len(made) == 2
    with torch.no_grad():
        translator.model.model.decoder.layers[0].feed_forward.fc1.weight.data.mul_(-30)
    changed = translator(["one two", "three"], num_beams=2)
    assert changed != before
    translator.freeze()
    made.clear()
    assert [translator(["one two", "three"], num_beams=2) for _ in range(3)] == [changed] * 3
    assert len(made) == 1
    translator("one two", num_beams=1)  # a single row is laid out in another way
    assert len(made) == 2
