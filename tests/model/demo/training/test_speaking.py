from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from malmm.model.demo.checkpoint import language_tokenizer, qformer_tokenizer
from malmm.model.demo.questions import questions
from malmm.model.demo.training.lessons import Tokens
from malmm.model.demo.training.speaking import Speaker, TimeLine
from malmm.model.demo.world import plan_scenes
from malmm.model.families.instructblip.language import LanguageModel

QUERIES, SIZE = 4, 16


def test_questions_in_one_row_have_the_loss_that_each_has_alone_in_the_shipped_code():
    """A film's questions share its query outputs and do not see each other, nor the padding."""
    torch.manual_seed(0)
    tokens = Tokens(qformer_tokenizer(), language_tokenizer())
    config = LlamaConfig(
        vocab_size=len(tokens.language),
        hidden_size=SIZE,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    speaker = Speaker(nn.Linear(SIZE, SIZE), LlamaForCausalLM(config)).eval()
    asked = [questions(plan_scenes(20, (1, 2)))[:4], questions(plan_scenes(9, (3, 4)))[:4]]
    query = torch.randn(2, QUERIES, SIZE)
    with torch.no_grad():
        loss, right = speaker.loss(query, tokens.answers(asked))
    assert right.shape == (2, 4)
    shipped = LanguageModel(speaker.projection, speaker.model, tokens.language)
    scores, count = 0.0, 0
    for film, of_film in enumerate(asked):
        for question in of_film:
            embeds, mask = shipped._prefix(query[film][None], shipped.prompt_ids([question.prompt]))
            scores += shipped._continuation_scores(embeds, mask, [question.answer])[0]
            count += len(tokens.language(question.answer, add_special_tokens=False)["input_ids"]) + 1
    assert abs(loss.item() + scores / count) < 1e-4


def test_windows_differ_by_what_they_show_and_by_their_place():
    line = TimeLine(QUERIES, SIZE)
    one, two = [[0, 0, 0], [6, 5, 5]], [[0, 0, 0], [0, 0, 0]]
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    shown = line(torch.tensor([one, two]), weights)
    assert shown.shape == (QUERIES, SIZE)
    torch.testing.assert_close(shown.var(1, unbiased=False), torch.ones(QUERIES), atol=1e-3, rtol=0)
    apart = torch.cdist(shown, shown) + torch.eye(QUERIES)
    assert (apart > 0.1).all()
